//! Who opens connections that live too short to be found by one look: sock_diag names the inode of a socket but not its
//! process, /proc names the process of an inode but not its connection, and neither at the same time.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::IpAddr,
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

/// The processes that open connections, each with the number of new ones that it was seen to hold: a sample, by which they can
/// be compared. For the calling thread's namespace; `listens`: ports whose connections were accepted.
///
/// # Errors
/// Those of sock_diag.
pub fn opening(
    host: &Host,
    listens: &HashSet<u16>,
    processes: &[Process],
    budget: Duration,
) -> io::Result<HashMap<u32, u64>> {
    let until = Instant::now() + budget;
    let few = |process: &&Process| process.sockets > 0 && process.whole && process.descriptors <= DESCRIPTORS;
    let pids: Vec<u32> = processes.iter().filter(few).take(MOST).map(|process| process.pid).collect();
    let open = StateFlags::all().difference(StateFlags::LISTEN | StateFlags::TIME_WAIT);
    let opened = || {
        diag::dump(&open, Detail::Header, HashSet::new, |seen: &mut HashSet<u32>, entry| {
            if entry.inode != 0 && !listens.contains(&entry.tuple.lport) {
                seen.insert(entry.inode);
            }
        })
    };
    let old = opened()?;
    let (holders, is_over) = (Mutex::new(HashMap::new()), AtomicBool::new(false));
    let seen = thread::scope(|scope| {
        let watch = || {
            while !is_over.load(Ordering::Relaxed) {
                for &pid in &pids {
                    let sockets = processes::sockets(host, pid);
                    lock(&holders).extend(sockets.into_iter().map(|inode| (inode, pid)));
                }
            }
        };
        thread::Builder::new().name("twtrace-fds".to_owned()).spawn_scoped(scope, watch)?;
        let mut seen = HashSet::new();
        let mut listing = Ok(());
        while listing.is_ok() && Instant::now() < until {
            listing = opened().map(|inodes| seen.extend(inodes.difference(&old)));
        }
        is_over.store(true, Ordering::Relaxed);
        listing.map(|()| seen)
    })?;
    let holders = lock(&holders);
    let mut counts = HashMap::new();
    for pid in seen.iter().filter_map(|inode| holders.get(inode)) {
        *counts.entry(*pid).or_default() += 1;
    }
    Ok(counts)
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
