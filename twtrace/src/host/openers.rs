//! Who opens connections that live too short to be found by one look: sock_diag names the inode of a socket but not its
//! process, /proc names the process of an inode but not its connection, and neither at the same time.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Host,
    diag::{self, Detail, StateFlags},
    processes::{self, Process},
};

/// A service: remote address and port.
pub type Remote = (IpAddr, u16);

/// The most processes that are watched.
const MOST: usize = 256;
/// Processes with more descriptors take too long to be looked through again and again.
const DESCRIPTORS: u64 = 1024;
/// Between two looks at the same process: it has to run to change anything.
const TURN: Duration = Duration::from_millis(3);

/// The processes that open connections to these services, as far as that can be found out in this time. For the calling
/// thread's namespace.
///
/// Sockets and the descriptors of processes whose sockets change are listed at the same time, again and again; what has been
/// seen in both belongs together, for inode numbers are not used again so soon.
///
/// # Errors
/// Those of sock_diag.
pub fn find(
    host: &Host,
    wanted: &HashSet<Remote>,
    processes: &[Process],
    budget: Duration,
) -> io::Result<HashMap<Remote, u32>> {
    let until = Instant::now() + budget;
    let changing = changing(host, processes, budget / 3);
    if changing.is_empty() {
        return Ok(HashMap::new());
    }
    let (holders, is_over) = (Mutex::new(HashMap::new()), AtomicBool::new(false));
    thread::scope(|scope| {
        let watch = || {
            while !is_over.load(Ordering::Relaxed) {
                for &pid in &changing {
                    let sockets = processes::sockets(host, pid);
                    lock(&holders).extend(sockets.into_iter().map(|inode| (inode, pid)));
                }
            }
        };
        thread::Builder::new().name("twtrace-fds".to_owned()).spawn_scoped(scope, watch)?;
        let found = listed(wanted, &holders, until);
        is_over.store(true, Ordering::Relaxed);
        found
    })
}

/// Lists sockets again and again, until each service's is one that somebody was seen to hold.
fn listed(
    wanted: &HashSet<Remote>,
    holders: &Mutex<HashMap<u32, u32>>,
    until: Instant,
) -> io::Result<HashMap<Remote, u32>> {
    let (mut found, mut remotes) = (HashMap::new(), HashMap::new());
    let open = StateFlags::all().difference(StateFlags::LISTEN | StateFlags::TIME_WAIT);
    while found.len() < wanted.len() && Instant::now() < until {
        let seen = diag::dump(&open, Detail::Header, Vec::new, |seen, entry| {
            let remote = (entry.tuple.raddr, entry.tuple.rport);
            if entry.inode != 0 && wanted.contains(&remote) {
                seen.push((entry.inode, remote));
            }
        })?;
        remotes.extend(seen);
        let holders = lock(holders);
        found = remotes.iter().filter_map(|(inode, remote)| Some((*remote, *holders.get(inode)?))).collect();
    }
    Ok(found)
}

/// New sockets that a process was seen to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fresh {
    /// How many: a sample, for those that live shorter than a look takes are missed.
    pub sockets: u64,
    /// It holds a socket that listens too, so they may be connections that it accepted.
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those whose sockets come and go.
fn changing(host: &Host, processes: &[Process], budget: Duration) -> Vec<u32> {
    let until = Instant::now() + budget;
    let few = |process: &&Process| process.sockets > 0 && process.whole && process.descriptors <= DESCRIPTORS;
    let pids = processes.iter().filter(few).take(MOST).map(|process| process.pid);
    let mut still: Vec<(u32, HashSet<u32>)> = pids.map(|pid| (pid, processes::sockets(host, pid))).collect();
    let mut changing = Vec::new();
    while !still.is_empty() && Instant::now() < until {
        thread::sleep(TURN);
        still.retain(|(pid, sockets)| {
            let is_still = Instant::now() >= until || processes::sockets(host, *pid) == *sockets;
            if !is_still {
                changing.push(*pid);
            }
            is_still
        });
    }
    changing
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::host::netns::Netns;

    /// Its own process is the one that gets new sockets, here and in no other namespace.
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
