//! Reads the facts: two looks at the counters, and the sockets between them. Nothing is changed, and what cannot be read
//! is said.

mod places;
mod watch;

use std::{
    collections::{HashMap, HashSet},
    io, thread,
    time::{Duration, Instant, SystemTime},
};

use super::{
    facts::{Facts, Machine, Namespace, SYSCTLS, time_wait_ms},
    places::Place,
};
use crate::{
    doctor::finding::Missed,
    host::{
        Host,
        conntrack::{self, Stats, nat},
        counters::{Snmp, Sockstat, TcpLimits},
        limits::Limits,
        meminfo,
        netns::{self, Netns},
        occupancy,
        openers::fresh,
        processes, slab,
        sockets::{self, Frame, Sockets},
        sysctl_files,
    },
    show::human::Many,
};

/// The shortest time between the two looks.
pub const WINDOW: Duration = Duration::from_millis(500);
/// How long descriptors may be looked through.
const CENSUS: Duration = Duration::from_millis(400);
/// How long the table of tracked connections may be read, in each namespace whose NAT refused one.
const NAT: Duration = Duration::from_millis(300);
/// How long those who get new sockets may be looked for where connections are reset.
const RESETTERS: Duration = Duration::from_millis(250);
/// The counter of connections that their own end reset.
const ABORTS: &str = "TCPAbortOnData";
/// The most sockets whose owner is looked for: listeners, one of each destination, and samples of each state.
const OWNERS: usize = 1 << 16;
/// The most command lines that are read.
const COMMANDS: usize = 1024;

/// Which namespaces are looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// The caller's, and all others that can be found.
    Everywhere,
    /// One, by its inode number.
    One(u32),
}

/// Looks, and looks again. No namespace is kept open between two looks, so none lives longer for it.
#[derive(Debug)]
pub struct Gatherer<'a> {
    host: &'a Host,
    place: Where,
    /// By namespace.
    last: HashMap<u32, Last>,
}

/// The counters of the last look, and when that was.
type Last = (Instant, Snmp, Option<Stats>);

impl<'a> Gatherer<'a> {
    /// Has not looked yet.
    #[must_use]
    pub fn new(host: &'a Host, place: Where) -> Self {
        Self { host, place, last: HashMap::new() }
    }

    /// Looks at the counters, if that was never done, and at everything else; waits until so much time has passed since the
    /// last look at the counters, and looks at them again.
    ///
    /// # Errors
    /// If the namespace that was asked for is not there, or cannot be looked into.
    pub fn look(&mut self, window: Duration) -> io::Result<Facts> {
        let (places, mut missed) = namespaces(self.host, self.place)?;
        if self.last.is_empty() {
            self.last = first(self.host, &places)?;
        }
        let mut seen = Vec::new();
        for (index, netns) in places.iter().enumerate() {
            match netns.run(|| look(self.host, netns.inum())) {
                Ok(look) => seen.push((index, netns, look)),
                Err(error) if index == 0 => return Err(error),
                Err(error) => missed.push(unseen(netns.inum(), &error)),
            }
        }
        let mut machine = machine(self.host, seen.iter().map(|(.., look)| &look.sockets), &mut missed);
        self.watch(&mut seen, &mut machine, &mut missed);
        let until = Instant::now() + RESETTERS;
        for (_, netns, look) in &mut seen {
            let left = until.saturating_duration_since(Instant::now());
            let before = self.last.get(&netns.inum()).and_then(|(_, before, _)| before.get("TcpExt", ABORTS));
            let is_reset = || Ok(counters(self.host)?.get("TcpExt", ABORTS) > before);
            if before.is_some() && !left.is_zero() && netns.run(is_reset).unwrap_or(false) {
                let listeners = look.sockets.listeners.iter().map(|listener| listener.inode).collect();
                look.fresh = fresh::fresh(self.host, netns.inum(), &listeners, &machine.census.processes, left);
            }
        }
        let oldest = self.last.values().map(|(at, ..)| at.elapsed()).max().unwrap_or_default();
        thread::sleep(window.saturating_sub(oldest));
        let mut namespaces = Vec::new();
        let mut last = HashMap::new();
        for (index, netns, look) in seen {
            let host = self.host;
            let read = netns.run(|| Ok((counters(host)?, Sockstat::read(host).ok(), conntrack::read(host))));
            let (after, sockstat, conntrack) = match read {
                Ok(read) => read,
                Err(error) if index == 0 => return Err(error),
                Err(error) => {
                    missed.push(unseen(netns.inum(), &error));
                    continue;
                }
            };
            let tracked = conntrack.as_ref().and_then(|table| table.stats);
            // One that is new has not moved yet.
            let (window, before, tracked_before) = match self.last.remove(&netns.inum()) {
                Some((at, before, tracked)) => (at.elapsed(), before, tracked),
                None => (Duration::ZERO, after.clone(), tracked),
            };
            last.insert(netns.inum(), (Instant::now(), after.clone(), tracked));
            // Only where it is of use: a big table takes its time.
            let is_clashing = tracked.is_some_and(|stats| stats.clashes() > 0);
            let nat = is_clashing.then(|| netns.run(|| Ok(nat::read(host, NAT))).ok().flatten()).flatten();
            namespaces.push(Namespace { window, before, after, sockstat, conntrack, tracked_before, nat, ..look });
        }
        self.last = last;
        self.locate(&mut namespaces)?;
        let alone = self.place != Where::Everywhere;
        Ok(Facts { kernel: self.host.kernel_release(), namespaces, alone, machine, trace: None, missed })
    }
}

impl Gatherer<'_> {
    /// Says of each namespace how it is reached, and who is in it.
    fn locate(&self, namespaces: &mut [Namespace]) -> io::Result<()> {
        let host = self.host;
        let own = Netns::current()?;
        let map = places::Map::of(host, own.inum());
        // Read by a thread of the namespace: /proc/sys shows it its own.
        let is_initial = own.run(|| Ok(is_initial(host))).unwrap_or(false);
        for namespace in namespaces {
            namespace.place =
                Place { host_is_elsewhere: !is_initial, ..map.place(host, namespace.inum, namespace.place.initial) };
            namespace.boots = namespace.inum == own.inum() || namespace.place.initial == Some(true);
            namespace.inhabitants = map.inhabitants(namespace.inum);
        }
        Ok(())
    }
}

/// Whether the calling thread is in the initial network namespace: no other shows what is the machine's
/// (net/ipv4/sysctl_net_ipv4.c: `ipv4_table` is registered for `init_net` alone).
fn is_initial(host: &Host) -> bool {
    host.path("proc/sys/net/ipv4/tcp_max_orphans").exists()
}

/// The first look at the counters of each namespace. One that cannot be looked into is told of at the second.
fn first(host: &Host, places: &[Netns]) -> io::Result<HashMap<u32, Last>> {
    let mut first = HashMap::new();
    for (index, netns) in places.iter().enumerate() {
        match netns.run(|| Ok((counters(host)?, conntrack::counts(host)))) {
            Ok((snmp, tracked)) => drop(first.insert(netns.inum(), (Instant::now(), snmp, tracked))),
            Err(error) if index == 0 => return Err(error),
            Err(_) => {}
        }
    }
    Ok(first)
}

/// The counters of the calling thread's namespace.
fn counters(host: &Host) -> io::Result<Snmp> {
    Snmp::read(host).map_err(io::Error::other)
}

/// Told as a negative number where the namespace shares the hash of the initial one.
fn hash_slots(host: &Host) -> Option<u64> {
    let slots: i64 = host.read("proc/sys/net/ipv4/tcp_ehash_entries").ok()?.trim().parse().ok()?;
    Some(slots.unsigned_abs())
}

/// Why namespaces could not be opened, and what to do, if it is for want of descriptors: each that is open takes one, and the
/// limit is the hard one already (`limits::raise_descriptors`).
fn too_few(limit: Option<u64>, open: usize, unopened: usize) -> Option<(String, String)> {
    /// What doctor has open besides, at most.
    const BESIDES: u64 = 32;
    let limit = limit.filter(|&limit| open as u64 + BESIDES >= limit)?;
    let needed = (open + unopened) as u64 + BESIDES;
    Some((
        format!("this process may have {limit} open files, and looking into all of them takes up to {needed}"),
        format!("raise the limit: ulimit -n {}", needed.next_power_of_two()),
    ))
}

/// What to do about what only root may see.
fn as_root(purpose: &str) -> String {
    if rustix::process::geteuid().is_root() {
        "there is no more to be had: the kernel refuses it even root, as in a container".to_owned()
    } else {
        format!("run twtrace as root{purpose}")
    }
}

fn unseen(inum: u32, error: &io::Error) -> Missed {
    Missed {
        what: format!("network namespace {inum}"),
        why: error.to_string(),
        remedy: as_root(" to look into other namespaces"),
    }
}

/// The one that was asked for, or the caller's and then the others.
fn namespaces(host: &Host, place: Where) -> io::Result<(Vec<Netns>, Vec<Missed>)> {
    let own = Netns::current()?;
    match place {
        Where::One(inum) if inum == own.inum() => Ok((vec![own], Vec::new())),
        Where::One(inum) => {
            let mut places = netns::held(host);
            places.append(&mut netns::places(host));
            let gone = || io::Error::new(io::ErrorKind::NotFound, "no process and no name under /run/netns holds it");
            let netns = Netns::open(places.remove(&inum).ok_or_else(gone)?)?;
            if netns.inum() == inum { Ok((vec![netns], Vec::new())) } else { Err(gone()) }
        }
        Where::Everywhere => {
            let (mut others, unopened) = netns::all(host);
            others.remove(&own.inum());
            let missed = (unopened > 0).then(|| {
                let limit = Limits::read(host).descriptors;
                let (why, remedy) = too_few(limit, others.len(), unopened)
                    .unwrap_or_else(|| ("they cannot be opened".to_owned(), as_root(" to look into other namespaces")));
                Missed { what: format!("the network namespaces of {}", Many(unopened as u64, "process")), why, remedy }
            });
            let namespaces = std::iter::once(own).chain(others.into_values()).collect();
            Ok((namespaces, missed.into_iter().collect()))
        }
    }
}

/// The calling thread's namespace, but for the counters.
fn look(host: &Host, inum: u32) -> io::Result<Namespace> {
    let sysctls = SYSCTLS.into_iter().map(|name| (name, host.sysctl(name))).collect();
    let (range, reserved) = occupancy::local_ports(host)?;
    let time_wait_ms = time_wait_ms(host.sysctl("net/ipv4/tcp_tw_timeout"));
    let frame = Frame { range: range.clone(), reserved: reserved.clone(), time_wait_ms };
    let at = Some(SystemTime::now());
    let sockets = sockets::look(&frame)?;
    let place = Place { initial: Some(is_initial(host)), ..Place::default() };
    Ok(Namespace { at, place, reserved, sockets, hash_slots: hash_slots(host), ..Namespace::new(inum, sysctls, range) })
}

fn machine<'a>(host: &Host, sockets: impl Iterator<Item = &'a Sockets>, missed: &mut Vec<Missed>) -> Machine {
    let mut listeners = HashSet::new();
    let wanted: HashSet<u32> = sockets
        .inspect(|sockets| listeners.extend(sockets.listeners.iter().map(|listener| listener.inode)))
        .flat_map(|sockets| {
            let listeners = sockets.listeners.iter().map(|listener| listener.inode);
            let opened = sockets.opened.values().filter_map(|ends| ends.inode);
            listeners.chain(opened).chain(sockets.samples.iter().map(|sample| sample.inode))
        })
        .filter(|inode| *inode != 0)
        .take(OWNERS)
        .collect();
    let census = processes::census(host, &wanted, CENSUS);
    if census.unreadable > 0 {
        missed.push(Missed {
            what: format!("the descriptors and sockets of {}", Many(census.unreadable as u64, "process")),
            why: "they are another user's".to_owned(),
            remedy: as_root(""),
        });
    }
    if census.cut {
        missed.push(Missed {
            what: "the owners of some sockets".to_owned(),
            why: "there are too many descriptors to go through in time".to_owned(),
            remedy: "ask for one of them: ss -tnp".to_owned(),
        });
    }
    let slabs = slab::read(host).map_err(|error| {
        missed.push(Missed {
            what: "what the kernel's caches of minisocks hold".to_owned(),
            why: error.to_string(),
            remedy: as_root(""),
        });
    });
    let files = sysctl_files::read(host);
    for (file, why) in &files.unread {
        missed.push(Missed {
            what: format!("what {} sets at boot", file.display()),
            why: why.clone(),
            remedy: as_root(""),
        });
    }
    let listening: HashSet<u32> = census.owners.iter().filter(|it| listeners.contains(it.0)).map(|it| *it.1).collect();
    let command = |pid: u32| Some((pid, processes::command(host, pid)?));
    let commands = listening.into_iter().take(COMMANDS).filter_map(command).collect();
    let (memory, tcp) = (meminfo::memory_bytes(host), TcpLimits::read(host));
    Machine { memory, slabs: slabs.ok(), census, files, tcp, commands, nginxes: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_descriptors_are_named_with_how_many_would_do() {
        let (why, remedy) = too_few(Some(1024), 1000, 3000).unwrap_or_default();
        assert_eq!(why, "this process may have 1024 open files, and looking into all of them takes up to 4032");
        assert_eq!(remedy, "raise the limit: ulimit -n 4096");
        // Far from the limit, or without one, it is for another reason.
        assert_eq!(too_few(Some(1024), 10, 3000), None);
        assert_eq!(too_few(None, 4000, 3), None);
    }
}
