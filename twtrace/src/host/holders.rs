//! Who has the port that a bind(), listen() or connect() did not get: one look at the namespace's sockets, and one at the
//! descriptors of all processes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    Host,
    diag::{self, Entry, TCP_LISTEN, TCP_TIME_WAIT},
    netns::{self, Netns},
    processes,
};
use crate::model::{
    event::{Comm, Task, Tuple},
    holder::{Candidate, HeldBy, Holder},
};

/// `TCP_TIMEWAIT_LEN` of include/net/tcp.h, milliseconds.
const TIME_WAIT_MS: u64 = 60_000;
/// How long the descriptors of all processes may be looked at for the holder's.
const BUDGET: Duration = Duration::from_secs(1);
/// How often at most the machine is searched for namespaces.
const SEARCH: Duration = Duration::from_secs(1);
/// Threads of the asking process that are looked at for its namespace.
const THREADS: usize = 64;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// What was wanted: a whole connection, or a local end.
    pub tuple: Tuple,
    /// The connection is wanted, not the port alone.
    pub is_connection: bool,
    /// The process that wanted it: its namespace is looked into first.
    pub asker: Option<u32>,
}

/// Where namespaces were last found. No file is kept open: a namespace lives as long as one is.
#[derive(Debug, Default)]
pub struct Finder {
    host: Host,
    places: BTreeMap<u32, PathBuf>,
    searched: Option<Instant>,
}

impl Finder {
    /// One for this machine.
    #[must_use]
    pub fn new(host: Host) -> Self {
        Self { host, ..Self::default() }
    }

    /// Who has it now; `None`: nobody, or the namespace is not to be found.
    ///
    /// # Errors
    /// Those of setns(2) and of netlink.
    pub fn find(&mut self, question: &Question) -> io::Result<Option<Holder>> {
        let Some(netns) = self.open(question) else { return Ok(None) };
        let host = &self.host;
        let found = netns.run(|| {
            let entry = if question.is_connection {
                diag::find(&question.tuple)?.filter(|entry| entry.state != TCP_LISTEN)
            } else {
                in_the_way(diag::at_port(question.tuple.lport)?, &question.tuple)
            };
            // /proc/sys/net is the namespace of whoever opens the file.
            Ok(entry.map(|entry| (entry, host.sysctl("net/ipv4/tcp_fin_timeout"))))
        })?;
        let Some((entry, fin_timeout_s)) = found else { return Ok(None) };
        Ok(Some(self.describe(&entry, fin_timeout_s, question.asker)))
    }

    fn open(&mut self, question: &Question) -> Option<Netns> {
        let is_it = |path: PathBuf| Netns::open(path).ok().filter(|netns| netns.inum() == question.netns);
        let threads = question.asker.map(|pid| self.host.path(&format!("proc/{pid}/task")));
        let threads = threads.and_then(|path| fs::read_dir(path).ok()).into_iter().flatten().take(THREADS);
        let asker = threads.filter_map(|thread| is_it(thread.ok()?.path().join("ns/net"))).next();
        if asker.is_some() {
            return asker;
        }
        if let Some(known) = self.places.get(&question.netns).cloned().and_then(is_it) {
            return Some(known);
        }
        if self.searched.is_none_or(|searched| searched.elapsed() >= SEARCH) {
            self.places = netns::held(&self.host);
            self.places.append(&mut netns::places(&self.host));
            self.searched = Some(Instant::now());
        }
        self.places.get(&question.netns).cloned().and_then(is_it)
    }

    fn describe(&self, entry: &Entry, fin_timeout_s: Option<u64>, asker: Option<u32>) -> Holder {
        let by = by(entry);
        if by == HeldBy::TimeWait {
            let left_ms = u64::from(entry.left_ms);
            let whole = if entry.state == TCP_TIME_WAIT { Some(TIME_WAIT_MS) } else { fin_timeout_s.map(|s| s * 1000) };
            // A timer that was armed for longer has another length than it seems.
            let held_ms = whole.and_then(|whole| whole.checked_sub(left_ms));
            return Holder { by, task: None, held_ms, expires_in_ms: Some(left_ms) };
        }
        Holder { by, task: self.owner(entry.inode, asker), held_ms: None, expires_in_ms: None }
    }

    /// The process that has the socket open; often it is the one that asks.
    fn owner(&self, inode: u32, asker: Option<u32>) -> Option<Task> {
        if inode == 0 {
            return None;
        }
        let pid = match asker.filter(|&pid| processes::sockets(&self.host, pid).contains(&inode)) {
            Some(pid) => pid,
            None => *processes::census(&self.host, &HashSet::from([inode]), BUDGET).owners.get(&inode)?,
        };
        let name = processes::comm(&self.host, pid)?;
        let mut comm = [0; twtrace_common::COMM_LEN];
        // The last byte of a name is always NUL.
        let last = comm.len() - 1;
        comm.iter_mut().take(last).zip(name.bytes()).for_each(|(to, from)| *to = from);
        Some(Task { pid, comm: Comm(comm) })
    }
}

fn by(entry: &Entry) -> HeldBy {
    match entry.state {
        TCP_LISTEN => HeldBy::Listener,
        _ if entry.minisock => HeldBy::TimeWait,
        _ => HeldBy::Socket,
    }
}

/// The socket that is the likeliest reason why nobody else gets the local end.
fn in_the_way(entries: Vec<Entry>, wanted: &Tuple) -> Option<Entry> {
    let candidate = |entry: &Entry| Candidate { tuple: entry.tuple, by: by(entry), left_ms: entry.left_ms };
    let conflicts = |entry: &Entry| candidate(entry).conflicts(wanted.laddr, wanted.lport);
    entries.into_iter().filter(conflicts).max_by_key(|entry| candidate(entry).weight())
}

/// How long an answer is good for the same question.
const FRESH: Duration = Duration::from_secs(1);
/// The most looks in a second, in the long run.
const LOOKS: u32 = 20;
/// A look is paid for with so many times what it took: a tenth of a CPU, in the long run. The kernel goes through all
/// sockets.
const REST: u32 = 9;
/// So much may be owed, that is a second of looking: one call's failure is seldom alone.
const CREDIT: Duration = Duration::from_secs(10);
/// Questions whose answers are kept.
const KEPT: usize = 64;

/// Asks the [`Finder`] not more than it may: a program that tries in a loop asks the same thing thousands of times.
#[derive(Debug)]
pub struct Paced {
    finder: Finder,
    known: HashMap<(u32, Tuple, bool), (Instant, Option<Holder>)>,
    /// When all looks so far are paid for.
    paid_at: Option<Instant>,
}

impl Paced {
    /// One for this machine.
    #[must_use]
    pub fn new(host: Host) -> Self {
        Self { finder: Finder::new(host), known: HashMap::new(), paid_at: None }
    }

    /// Who has it now, or had it within the last second; `None`: nobody, or it was not looked.
    pub fn find(&mut self, question: &Question) -> Option<Holder> {
        let began = Instant::now();
        let key = (question.netns, question.tuple, question.is_connection);
        if let Some((at, holder)) = self.known.get(&key)
            && began.duration_since(*at) < FRESH
        {
            return holder.map(|holder| later(holder, began.duration_since(*at)));
        }
        if self.paid_at.is_some_and(|paid| paid > began + CREDIT) {
            return None;
        }
        let holder = self.finder.find(question).unwrap_or_else(|error| {
            log::debug!("who has port {}: {error}", question.tuple.lport);
            None
        });
        let now = Instant::now();
        let price = (now.duration_since(began) * REST).max(Duration::from_secs(1) / LOOKS);
        self.paid_at = Some(self.paid_at.unwrap_or(now).max(now) + price);
        if self.known.len() >= KEPT {
            self.known.retain(|_, (at, _)| now.duration_since(*at) < FRESH);
        }
        if self.known.len() < KEPT {
            self.known.insert(key, (now, holder));
        }
        holder
    }
}

/// A holder a little later.
fn later(holder: Holder, by: Duration) -> Holder {
    let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
    Holder {
        held_ms: holder.held_ms.map(|held| held.saturating_add(ms)),
        expires_in_ms: holder.expires_in_ms.map(|left| left.saturating_sub(ms)),
        ..holder
    }
}

#[cfg(test)]
mod tests;
