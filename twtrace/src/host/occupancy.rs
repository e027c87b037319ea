//! Looks at who holds the ports of every network namespace: its limits, and the sockets that sock_diag lists.

mod poller;

pub use poller::{Answer, Poller, Request};

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use super::{
    Host, clock,
    counters::Sockstat,
    diag::{self, Detail, Entry, Families, StateFlags, TCP_ESTABLISHED},
    netns::{self, Netns, Place},
};
use crate::model::{
    occupancy::{Destination, Held, Namespace, Occupancy, choosable},
    wanted::Wanted,
};

/// How often the machine is searched for namespaces: each process has to be asked.
const SEARCH: Duration = Duration::from_secs(10);
/// How often at most, if it seems that there is another.
const SEARCH_AGAIN: Duration = Duration::from_secs(1);

/// The most destinations of one namespace that are told apart, some 100 bytes each: a crawler has more, and runs out of ports
/// towards none of them. The tables have 100,000 rows.
const MOST: usize = 1 << 16;
/// Of how many destinations a look may tell; one namespace is always looked into whole.
const ROOM: usize = 1 << 17;

/// How long a look takes at most, but for the last namespace of it: the first is waited for.
const LONGEST: Duration = Duration::from_millis(1500);

/// Where namespaces were last found. No file is kept open: a namespace lives as long as one is.
#[derive(Debug, Default)]
pub struct Places {
    found: BTreeMap<u32, Place>,
    /// Namespaces that were named, and not found.
    absent: BTreeSet<u32>,
    searched: Option<Instant>,
    wanted: Wanted,
    /// Whose turn it is: the first of those found that is not below. Those that are named come before.
    next: u32,
    /// Where the thread belongs that looks; `None`: it starts one for each namespace.
    home: Option<Netns>,
}

impl Places {
    /// Places for a run with these filters: other namespaces are not looked into, other sockets not counted.
    #[must_use]
    pub fn wanting(wanted: Wanted) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// A look for a thread that does nothing else, and that may be moved into each namespace for a while.
    #[must_use]
    pub fn moving(self) -> Self {
        Self { home: Netns::current().ok(), ..self }
    }

    /// Finds every namespace. The machine is searched if it was not for a while, or if one is named in `wanted` that is not
    /// known.
    fn find(&mut self, host: &Host, wanted: &[u32]) {
        let is_due = |after| self.searched.is_none_or(|searched| searched.elapsed() >= after);
        let is_new = wanted.iter().any(|inum| !self.found.contains_key(inum) && !self.absent.contains(inum));
        if is_due(SEARCH) || is_new && is_due(SEARCH_AGAIN) {
            self.search(host, wanted);
        }
    }

    /// All of them in the order in which it is their turn.
    fn turns(&self, wanted: &[u32]) -> Vec<u32> {
        let (before, after): (Vec<u32>, Vec<u32>) = self.found.keys().partition(|inum| **inum < self.next);
        let named = wanted.iter().filter(|inum| self.found.contains_key(inum));
        let rest = after.iter().chain(&before).filter(|inum| !wanted.contains(inum));
        named.chain(rest).copied().collect()
    }

    /// Opens one, if it is where it was found: the process may be gone, or have entered another namespace. If it is not there,
    /// the machine is searched again, at most once a second; what is not found then is forgotten until the next search.
    fn open(&mut self, host: &Host, inum: u32, wanted: &[u32]) -> Option<Netns> {
        if let Some(netns) = self.found.get(&inum).and_then(Place::open) {
            return Some(netns);
        }
        if self.searched.is_none_or(|searched| searched.elapsed() >= SEARCH_AGAIN) {
            self.search(host, wanted);
        }
        let found = self.found.get(&inum).and_then(Place::open);
        if found.is_none() {
            self.found.remove(&inum);
        }
        found
    }

    fn search(&mut self, host: &Host, wanted: &[u32]) {
        self.found = netns::find(host).0;
        self.found.retain(|inum, _| self.wanted.netns(*inum));
        self.absent = wanted.iter().copied().filter(|inum| !self.found.contains_key(inum)).collect();
        self.searched = Some(Instant::now());
    }
}

/// Looks into the namespaces that can be found, at least one: when it has taken `budget` of a CPU, or 1.5 s, the look ends, and
/// the next goes on where this one ended. One that cannot be looked into is left out. `wanted`: numbers of namespaces that
/// there must be; they come first.
pub fn look(host: &Host, places: &mut Places, wanted: &[u32], budget: Duration) -> Occupancy {
    let (at_ns, began, cpu) = (clock::monotonic_ns(), Instant::now(), clock::thread_cpu());
    let (mut namespaces, mut left_out, mut room) = (BTreeMap::new(), BTreeMap::new(), ROOM);
    places.find(host, wanted);
    for inum in places.turns(wanted) {
        if !namespaces.is_empty()
            && (clock::thread_cpu().saturating_sub(cpu) >= budget || began.elapsed() >= LONGEST || room == 0)
        {
            break;
        }
        if !wanted.contains(&inum) {
            places.next = inum.wrapping_add(1);
        }
        let Some(netns) = places.open(host, inum, wanted) else { continue };
        let looked = match &places.home {
            Some(home) => netns.visit(home, || look_into(host, &places.wanted, inum)),
            None => netns.run(|| look_into(host, &places.wanted, inum)),
        };
        match looked {
            Ok((namespace, over)) => {
                room = room.saturating_sub(namespace.held.len());
                namespaces.insert(inum, namespace);
                if over > 0 {
                    left_out.insert(inum, over);
                }
            }
            Err(error) => log::debug!("namespace {inum}: {error}"),
        }
    }
    let others = places.found.keys().copied().filter(|inum| !namespaces.contains_key(inum)).collect();
    Occupancy { at_ns, took_ns: clock::monotonic_ns().saturating_sub(at_ns), namespaces, others, left_out }
}

/// The calling thread's namespace, which has this number, and how many of its connections are left out.
fn look_into(host: &Host, wanted: &Wanted, netns: u32) -> io::Result<(Namespace, u64)> {
    let (range, reserved) = local_ports(host)?;
    // What is not there need not be looked for: with many namespaces most are idle, or know no IPv6. (MPTCP's subflows are
    // counted as TCP's.)
    let families = Sockstat::read(host).map_or(Families { v4: true, v6: true }, |counts| Families {
        v4: counts.inuse > 0,
        v6: counts.inuse6.is_none_or(|inuse| inuse > 0),
    });
    let listeners = diag::dump_of(families, &StateFlags::LISTEN, Detail::Header, BTreeSet::new, |listeners, entry| {
        listeners.insert(entry.tuple.lport);
    })?;
    let others = StateFlags::all().difference(StateFlags::LISTEN | StateFlags::TIME_WAIT);
    let is_own = |lport| range.contains(&lport) && !listeners.contains(&lport);
    let (held, left_out) =
        diag::dump_of(families, &others, Detail::Header, Default::default, |(held, left_out), entry| {
            if is_own(entry.tuple.lport) && wanted.opened(&entry.tuple, netns) {
                *left_out += u64::from(!hold(held, entry, MOST));
            }
        })?;
    let namespace = Namespace {
        available: choosable(&range, &reserved, &listeners),
        range,
        tw_limit: host.sysctl("net/ipv4/tcp_max_tw_buckets"),
        tw_reuse: host.sysctl("net/ipv4/tcp_tw_reuse").and_then(|value| u8::try_from(value).ok()),
        listeners,
        held,
    };
    Ok((namespace, left_out))
}

/// `ip_local_port_range` and `ip_local_reserved_ports` of the calling thread's namespace.
///
/// # Errors
/// If the range cannot be read.
pub fn local_ports(host: &Host) -> io::Result<(RangeInclusive<u16>, Vec<RangeInclusive<u16>>)> {
    // /proc/sys/net is the namespace of whoever opens the file.
    let sysctl = |name: &str| host.read(&format!("proc/sys/net/ipv4/{name}"));
    let text = sysctl("ip_local_port_range").map_err(io::Error::other)?;
    let range = range(&text).ok_or_else(|| io::Error::other(format!("ip_local_port_range is {text:?}")))?;
    let reserved = sysctl("ip_local_reserved_ports").map(|text| ranges(&text)).unwrap_or_default();
    Ok((range, reserved))
}

/// Counts the port that a full socket holds. `false`: there are `most` destinations, and this is another.
fn hold(held: &mut HashMap<Destination, Held>, entry: &Entry, most: usize) -> bool {
    if entry.minisock {
        return true;
    }
    let Entry { tuple, state, .. } = *entry;
    let to = Destination { laddr: tuple.laddr, raddr: tuple.raddr, rport: tuple.rport };
    if held.len() >= most && !held.contains_key(&to) {
        return false;
    }
    let held = held.entry(to).or_default();
    *(if state == TCP_ESTABLISHED { &mut held.established } else { &mut held.other }) += 1;
    true
}

/// `ip_local_port_range`: two numbers.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_ascii_whitespace().map(str::parse);
    match (words.next(), words.next(), words.next()) {
        (Some(Ok(low)), Some(Ok(high)), None) if low <= high => Some(low..=high),
        _ => None,
    }
}

/// `ip_local_reserved_ports`: numbers and ranges, e.g. `8080,9000-9010`. What is neither is passed over.
fn ranges(text: &str) -> Vec<RangeInclusive<u16>> {
    let part = |part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        Some(low.parse().ok()?..=high.parse().ok()?)
    };
    text.trim().split(',').filter_map(part).collect()
}

#[cfg(test)]
mod tests;
