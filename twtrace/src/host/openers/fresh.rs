//! Which processes get new sockets: a sample, where connections leave nothing else behind.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use super::{DESCRIPTORS, MOST};
use crate::host::{
    Host,
    processes::{self, Process},
};

/// New sockets that a process was seen to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fresh {
    /// How many: a sample, for those that live shorter than a look takes are missed.
    pub sockets: u64,
    /// The process holds a socket that listens too, so they may be connections that it accepted.
    pub listens: bool,
}

/// The processes of a network namespace that get new sockets, by which they can be compared; `listeners`: inode numbers of the
/// sockets that listen there.
#[must_use]
pub fn fresh(
    host: &Host,
    inum: u32,
    listeners: &HashSet<u32>,
    processes: &[Process],
    budget: Duration,
) -> HashMap<u32, Fresh> {
    let until = Instant::now() + budget;
    let is_there = |pid: u32| {
        let metadata = fs::metadata(host.path(&format!("proc/{pid}/ns/net")));
        metadata.is_ok_and(|metadata| metadata.ino() == u64::from(inum))
    };
    let few = |process: &&Process| process.whole && process.descriptors <= DESCRIPTORS;
    let pids = processes.iter().filter(few).map(|process| process.pid).filter(|pid| is_there(*pid)).take(MOST);
    let mut seen: Vec<(u32, HashSet<u32>, Fresh)> =
        pids.map(|pid| (pid, processes::sockets(host, pid), Fresh::default())).collect();
    for (_, old, fresh) in &mut seen {
        fresh.listens = !old.is_disjoint(listeners);
    }
    while !seen.is_empty() && Instant::now() < until {
        for (pid, old, fresh) in &mut seen {
            for inode in processes::sockets(host, *pid) {
                fresh.sockets += u64::from(old.insert(inode));
            }
        }
    }
    seen.retain(|(.., fresh)| fresh.sockets > 0);
    seen.into_iter().map(|(pid, _, fresh)| (pid, fresh)).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;
    use crate::host::netns::Netns;

    /// This test's own process is the one that gets new sockets, here and in no other namespace.
    #[test]
    fn who_gets_new_sockets_is_seen() {
        let host = Host::default();
        let inum = Netns::current().unwrap().inum();
        let own = std::process::id();
        let census = processes::census(&host, &HashSet::new(), Duration::from_secs(10));
        let process: Vec<Process> = census.processes.into_iter().filter(|process| process.pid == own).collect();
        let is_over = AtomicBool::new(false);
        let (seen, elsewhere) = thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = TcpListener::bind("127.0.0.1:0");
                }
            });
            let look = |inum| fresh(&host, inum, &HashSet::new(), &process, Duration::from_millis(200));
            let seen = (look(inum), look(inum.wrapping_add(1)));
            is_over.store(true, Ordering::Relaxed);
            seen
        });
        assert!(seen.get(&own).is_some_and(|fresh| fresh.sockets > 0 && !fresh.listens), "{seen:?}");
        assert_eq!(elsewhere, HashMap::new());
    }
}
