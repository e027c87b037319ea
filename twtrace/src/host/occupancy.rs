//! Looks at who holds the ports of every network namespace: its limits, and the sockets that sock_diag lists.

mod poller;

pub use poller::{Answer, Poller, Request};

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    ops::RangeInclusive,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    Host, clock,
    diag::{self, Detail, Entry, StateFlags, TCP_ESTABLISHED},
    netns::{self, Netns},
};
use crate::model::{
    occupancy::{Destination, Held, Namespace, Occupancy, choosable},
    wanted::Wanted,
};

/// How often the machine is searched for namespaces: each process has to be asked.
const SEARCH: Duration = Duration::from_secs(10);
/// How often at most, if it seems that there is another.
const SEARCH_AGAIN: Duration = Duration::from_secs(1);

/// Where namespaces were last found. No file is kept open: a namespace lives as long as one is.
#[derive(Debug, Default)]
pub struct Places {
    found: BTreeMap<u32, PathBuf>,
    /// Those that were named, and not found.
    absent: BTreeSet<u32>,
    searched: Option<Instant>,
    wanted: Wanted,
}

impl Places {
    /// Places for a run with these filters: other namespaces are not looked into, other sockets not counted.
    #[must_use]
    pub fn wanting(wanted: Wanted) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Opens every namespace. The machine is searched if it was not for a while, or if one is named in `wanted` that is not
    /// known, or is not any more where it was.
    fn open(&mut self, host: &Host, wanted: &[u32]) -> Vec<Netns> {
        let is_due = |after| self.searched.is_none_or(|searched| searched.elapsed() >= after);
        let is_new = wanted.iter().any(|inum| !self.found.contains_key(inum) && !self.absent.contains(inum));
        if is_due(SEARCH) || is_new && is_due(SEARCH_AGAIN) {
            self.search(host, wanted);
        }
        let mut open = self.open_found();
        let moved = |searched: Instant| searched.elapsed() >= SEARCH_AGAIN && open.len() < self.found.len();
        if self.searched.is_some_and(moved) {
            self.search(host, wanted);
            open = self.open_found();
            // What cannot be opened at once is not looked for again before the next search.
            let is_open: BTreeSet<u32> = open.iter().map(Netns::inum).collect();
            self.found.retain(|inum, _| is_open.contains(inum));
        }
        open
    }

    fn search(&mut self, host: &Host, wanted: &[u32]) {
        self.found = netns::held(host);
        self.found.append(&mut netns::places(host));
        self.found.retain(|inum, _| self.wanted.netns(*inum));
        self.absent = wanted.iter().copied().filter(|inum| !self.found.contains_key(inum)).collect();
        self.searched = Some(Instant::now());
    }

    /// Those that are where they were found: the process may be gone, or have entered another.
    fn open_found(&self) -> Vec<Netns> {
        let open = self.found.iter().filter_map(|(inum, path)| {
            let netns = Netns::open(path.clone()).ok()?;
            (netns.inum() == *inum).then_some(netns)
        });
        open.collect()
    }
}

/// Looks into every namespace that can be found. One that cannot be looked into is left out. `wanted`: numbers of
/// namespaces that there must be.
pub fn look(host: &Host, places: &mut Places, wanted: &[u32]) -> Occupancy {
    let at_ns = clock::monotonic_ns();
    let mut namespaces = BTreeMap::new();
    for netns in places.open(host, wanted) {
        match netns.run(|| look_into(host, &places.wanted)) {
            Ok(namespace) => drop(namespaces.insert(netns.inum(), namespace)),
            Err(error) => log::debug!("namespace {}: {error}", netns.inum()),
        }
    }
    Occupancy { at_ns, took_ns: clock::monotonic_ns().saturating_sub(at_ns), namespaces }
}

/// The calling thread's namespace.
fn look_into(host: &Host, wanted: &Wanted) -> io::Result<Namespace> {
    let (range, reserved) = local_ports(host)?;
    let listeners = diag::dump(&StateFlags::LISTEN, Detail::Header, BTreeSet::new, |listeners, entry| {
        listeners.insert(entry.tuple.lport);
    })?;
    let others = StateFlags::all().difference(StateFlags::LISTEN | StateFlags::TIME_WAIT);
    let is_own = |lport| range.contains(&lport) && !listeners.contains(&lport);
    let held = diag::dump(&others, Detail::Header, HashMap::new, |held, entry| {
        if is_own(entry.tuple.lport) && wanted.opened(&entry.tuple) {
            hold(held, entry);
        }
    })?;
    Ok(Namespace {
        available: choosable(&range, &reserved, &listeners),
        range,
        tw_limit: host.sysctl("net/ipv4/tcp_max_tw_buckets"),
        tw_reuse: host.sysctl("net/ipv4/tcp_tw_reuse").and_then(|value| u8::try_from(value).ok()),
        listeners,
        held,
    })
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

/// Counts the port that a full socket holds.
fn hold(held: &mut HashMap<Destination, Held>, entry: &Entry) {
    if entry.minisock {
        return;
    }
    let Entry { tuple, state, .. } = *entry;
    let held = held.entry(Destination { laddr: tuple.laddr, raddr: tuple.raddr, rport: tuple.rport }).or_default();
    *(if state == TCP_ESTABLISHED { &mut held.established } else { &mut held.other }) += 1;
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
