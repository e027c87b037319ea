//! Who opens connections that live too short to be found by one look, and where they go. sock_diag names the inode of a
//! socket but not its process, /proc names the process of an inode but not its connection, and neither at the same time: both
//! are listed again and again.

pub mod fresh;

use std::{
    collections::{HashMap, HashSet},
    fs, io,
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
    diag::{self, Detail, Entry, StateFlags},
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
/// The most connections that are told apart.
const CONNECTIONS: usize = 1 << 17;
/// So many new connections to one place are enough to say that they go there.
const ENOUGH: u64 = 50;

/// Which connections are watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Services whose clients are looked for.
    pub remotes: HashSet<Remote>,
    /// All services: it is not known where connections go.
    pub all: bool,
    /// Local ports of connections that were accepted: those that are listened on.
    pub listens: HashSet<u16>,
}

/// What came while it was watched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Watched {
    /// The process that opened most of the new connections to a service, as far as that was seen.
    pub openers: HashMap<Remote, u32>,
    /// New connections, by the service that they go to.
    pub came: HashMap<Remote, Came>,
    /// How often sockets were listed.
    pub looks: u32,
    /// Processes of this namespace whose sockets came and went.
    pub changing: Vec<u32>,
}

/// Connections to one service that were not there at the first look.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Came {
    /// How many were seen: a floor, since what lives between two looks is not.
    pub sockets: u64,
    /// How many of them are open at a time: the mean of all looks but the first.
    pub open: f64,
}

/// Watches the calling thread's namespace for at most so long.
///
/// A connection is new if its tuple was not there at the first look: what is kept open is never told as short. Inode numbers
/// are not used again so soon, so what was seen in both lists belongs together.
///
/// # Errors
/// Those of sock_diag.
pub fn watch(host: &Host, wanted: &Wanted, processes: &[Process], budget: Duration) -> io::Result<Watched> {
    let until = Instant::now() + budget;
    let mut seen = Seen::default();
    seen.look(wanted)?;
    let changing = changing(host, processes, budget / 3);
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
        if !changing.is_empty() {
            thread::Builder::new().name("twtrace-fds".to_owned()).spawn_scoped(scope, watch)?;
        }
        let listed = listed(&mut seen, wanted, &holders, changing.is_empty(), until);
        is_over.store(true, Ordering::Relaxed);
        listed
    })?;
    let openers = seen.openers(&lock(&holders));
    let looks = seen.looks.saturating_sub(1).max(1);
    let came = seen
        .came
        .into_iter()
        .map(|(remote, (sockets, open))| (remote, Came { sockets, open: open as f64 / f64::from(looks) }));
    let changing = changing.into_iter().filter(|pid| is_here(host, *pid)).collect();
    Ok(Watched { openers, came: came.collect(), looks: seen.looks, changing })
}

/// Whether a process is in the calling thread's network namespace.
fn is_here(host: &Host, pid: u32) -> bool {
    let link = |path: &str| fs::read_link(host.path(path)).ok();
    let here = link("proc/thread-self/ns/net");
    here.is_some() && here == link(&format!("proc/{pid}/ns/net"))
}

/// Lists sockets again and again, until it is known who opens what is wanted.
fn listed(
    seen: &mut Seen,
    wanted: &Wanted,
    holders: &Mutex<HashMap<u32, u32>>,
    nobody: bool,
    until: Instant,
) -> io::Result<()> {
    while Instant::now() < until {
        seen.look(wanted)?;
        if nobody && !wanted.all {
            return Ok(());
        }
        let openers = seen.openers(&lock(holders));
        let is_known = |remote: &Remote| openers.contains_key(remote);
        let busiest = seen.came.iter().max_by_key(|(_, (sockets, _))| *sockets);
        let is_plain = !wanted.all
            || busiest.is_some_and(|(remote, (sockets, _))| *sockets >= ENOUGH && (nobody || is_known(remote)));
        if is_plain && wanted.remotes.iter().all(is_known) {
            return Ok(());
        }
        if nobody {
            // Nobody runs beside this who would be waited for.
            thread::sleep(TURN / 3);
        }
    }
    Ok(())
}

/// What the looks have shown.
#[derive(Default)]
struct Seen {
    looks: u32,
    /// Every connection so far, from this side.
    known: HashSet<(IpAddr, u16, Remote)>,
    /// New connections by service: how many, and in how many looks all of them together were open.
    came: HashMap<Remote, (u64, u64)>,
    /// Sockets of the first look.
    old: HashSet<(IpAddr, u16, Remote)>,
    /// Inodes of new connections.
    inodes: HashMap<u32, Remote>,
}

impl Seen {
    fn look(&mut self, wanted: &Wanted) -> io::Result<()> {
        // Its own states: what waits for nothing but a timer says nothing of who opens.
        let open = StateFlags::all().difference(StateFlags::LISTEN | StateFlags::TIME_WAIT);
        let entries = diag::dump(&open, Detail::Header, Vec::new, |seen, entry: &Entry| {
            let remote = (entry.tuple.raddr, entry.tuple.rport);
            let is_wanted = wanted.all || wanted.remotes.contains(&remote);
            if is_wanted && !entry.minisock && !wanted.listens.contains(&entry.tuple.lport) {
                seen.push((entry.inode, (entry.tuple.laddr, entry.tuple.lport, remote)));
            }
        })?;
        self.add(entries);
        Ok(())
    }

    fn add(&mut self, entries: impl IntoIterator<Item = (u32, (IpAddr, u16, Remote))>) {
        let is_first = self.looks == 0;
        self.looks = self.looks.saturating_add(1);
        for (inode, connection) in entries {
            if is_first {
                self.old.insert(connection);
                continue;
            }
            if self.old.contains(&connection) {
                continue;
            }
            let (.., remote) = connection;
            let is_new = self.known.len() < CONNECTIONS && self.known.insert(connection);
            let (sockets, open) = self.came.entry(remote).or_default();
            *sockets += u64::from(is_new);
            *open += 1;
            if inode != 0 && self.inodes.len() < CONNECTIONS {
                self.inodes.insert(inode, remote);
            }
        }
    }

    /// The process that holds most of the new connections to each service; of several, the lowest.
    fn openers(&self, holders: &HashMap<u32, u32>) -> HashMap<Remote, u32> {
        let mut votes: HashMap<Remote, HashMap<u32, u32>> = HashMap::new();
        for (inode, remote) in &self.inodes {
            if let Some(pid) = holders.get(inode) {
                *votes.entry(*remote).or_default().entry(*pid).or_default() += 1;
            }
        }
        let most = |pids: HashMap<u32, u32>| {
            pids.into_iter().max_by_key(|&(pid, count)| (count, std::cmp::Reverse(pid))).map(|(pid, _)| pid)
        };
        votes.into_iter().filter_map(|(remote, pids)| Some((remote, most(pids)?))).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Processes whose sockets come and go.
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
    use super::*;

    const BUSY: Remote = (IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)), 80);
    const KEPT: Remote = (IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 3)), 5432);

    fn socket(inode: u32, lport: u16, remote: Remote) -> (u32, (IpAddr, u16, Remote)) {
        (inode, ([10, 0, 0, 1].into(), lport, remote))
    }

    #[test]
    fn what_is_kept_open_did_not_come() {
        let mut seen = Seen::default();
        let pool = || (0..20).map(|n| socket(100 + n, 2000 + n as u16, KEPT));
        for look in 0..5 {
            seen.add(pool().chain([socket(200 + look, 3000 + look as u16, BUSY)]));
        }
        // The busy one of the first look too.
        assert_eq!(seen.came, HashMap::from([(BUSY, (4, 4))]));
        assert_eq!(seen.openers(&(100..300).map(|inode| (inode, inode / 100)).collect()), HashMap::from([(BUSY, 2)]));
    }

    #[test]
    fn the_opener_is_who_holds_most_of_what_came() {
        let mut seen = Seen::default();
        seen.add([]);
        seen.add((1..=5).map(|n| socket(n, n as u16, BUSY)));
        // The same connections again are none that are new, but they are open.
        seen.add((1..=5).map(|n| socket(n, n as u16, BUSY)));
        assert_eq!(seen.came[&BUSY], (5, 10));
        let holders = HashMap::from([(1, 70), (2, 60), (3, 60), (4, 50)]);
        assert_eq!(seen.openers(&holders), HashMap::from([(BUSY, 60)]));
        assert_eq!(seen.openers(&HashMap::new()), HashMap::new());
    }

    #[test]
    fn sockets_without_a_process_have_no_opener() {
        let mut seen = Seen::default();
        seen.add([]);
        seen.add([socket(0, 1, BUSY), socket(0, 2, BUSY)]);
        assert_eq!(seen.came[&BUSY], (2, 2));
        assert_eq!(seen.openers(&HashMap::from([(0, 9)])), HashMap::new());
    }
}
