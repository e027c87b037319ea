//! A thread that looks when it is asked, and not more than it may: whoever asks never waits.

use std::{
    collections::{BTreeSet, HashMap},
    io, mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{Host, Places, look};
use crate::{
    host::cgroup,
    model::{occupancy::Occupancy, wanted::Wanted},
};

/// How many times as long as a look took the thread rests after it: 0.4 % of a CPU. The kernel goes through all sockets of
/// the machine for each namespace, TIME_WAITs too: 20 ms where there are 200,000, a look each second would be most of what
/// the tables cost.
const REST: u32 = 250;
/// How often the cgroup tree is walked for ids that are not known.
const WALK: Duration = Duration::from_secs(5);
/// The most ids of either kind that wait for an answer.
const MOST: usize = 4096;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Inode numbers of network namespaces that there must be, for events told of them: if one is not known, the machine
    /// is searched for it, at most once a second, and once in ten if it is not found.
    pub namespaces: Vec<u32>,
    /// Cgroup v2 ids whose paths are wanted.
    pub cgroups: Vec<u64>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The last look.
    pub occupancy: Occupancy,
    /// Paths by cgroup id, as in /proc/PID/cgroup; `None`: there is no such cgroup any more. Those that are not here are
    /// answered later: the tree is not walked for each.
    pub cgroups: Vec<(u64, Option<String>)>,
}

/// A thread that looks at namespaces and cgroups. It ends soon after this is dropped.
#[derive(Debug)]
pub struct Poller(Arc<Desk>);

/// Where requests and answers lie. The lock is held for moments, never while something is looked at.
#[derive(Debug, Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_asked: bool,
    namespaces: BTreeSet<u32>,
    cgroups: BTreeSet<u64>,
    answer: Option<Answer>,
    is_over: bool,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Poller {
    /// Starts the thread, which waits to be asked.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn spawn(host: Host) -> io::Result<Self> {
        Self::spawn_for(host, Wanted::default())
    }

    /// The same for a run with filters.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn spawn_for(host: Host, wanted: Wanted) -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let of_thread = Arc::clone(&desk);
        thread::Builder::new().name("twtrace-look".to_owned()).spawn(move || work(&host, &of_thread, wanted))?;
        Ok(Self(desk))
    }

    /// Asks for a look. Never blocks: while one is under way, or the thread rests after one, what is asked is put to what
    /// was asked before.
    pub fn ask(&mut self, request: Request) {
        let mut state = self.0.lock();
        state.is_asked = true;
        put(&mut state.namespaces, request.namespaces);
        put(&mut state.cgroups, request.cgroups);
        drop(state);
        self.0.changed.notify_one();
    }

    /// The answer that has come since the last call. Never blocks.
    pub fn take(&mut self) -> Option<Answer> {
        self.0.lock().answer.take()
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.changed.notify_one();
    }
}

fn put<T: Ord>(waiting: &mut BTreeSet<T>, more: Vec<T>) {
    for id in more {
        if waiting.len() < MOST {
            waiting.insert(id);
        }
    }
}

/// The thread: waits for a request, looks, answers, rests.
fn work(host: &Host, desk: &Desk, wanted: Wanted) {
    let (mut places, mut paths) = (Places::wanting(wanted), Paths::default());
    loop {
        let mut state = desk.lock();
        while !state.is_asked && !state.is_over {
            state = desk.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_over {
            return;
        }
        state.is_asked = false;
        let wanted: Vec<u32> = mem::take(&mut state.namespaces).into_iter().collect();
        let mut ids = mem::take(&mut state.cgroups);
        drop(state);

        let began = Instant::now();
        let occupancy = look(host, &mut places, &wanted);
        let cgroups = paths.of(&mut ids, || cgroup::root(host).map(|root| cgroup::paths(&root)).unwrap_or_default());
        let until = Instant::now() + began.elapsed() * REST;

        let mut state = desk.lock();
        // What nobody has taken yet is not lost with the answer that it came in.
        let mut answered = state.answer.take().map(|answer| answer.cgroups).unwrap_or_default();
        answered.extend(cgroups);
        answered.truncate(MOST);
        state.answer = Some(Answer { occupancy, cgroups: answered });
        state.cgroups.append(&mut ids);
        while !state.is_over
            && let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            state = desk.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The cgroups of the last walk.
#[derive(Debug, Default)]
struct Paths {
    known: HashMap<u64, String>,
    walked: Option<Instant>,
}

impl Paths {
    /// Answers what can be answered now, and leaves the rest in `ids`.
    fn of(
        &mut self,
        ids: &mut BTreeSet<u64>,
        walk: impl FnOnce() -> HashMap<u64, String>,
    ) -> Vec<(u64, Option<String>)> {
        let is_due = self.walked.is_none_or(|walked| walked.elapsed() >= WALK);
        let walks = is_due && ids.iter().any(|id| !self.known.contains_key(id));
        if walks {
            self.known = walk();
            self.walked = Some(Instant::now());
        }
        let mut answers = Vec::new();
        ids.retain(|id| {
            let path = self.known.get(id).cloned();
            let is_answered = path.is_some() || walks;
            if is_answered {
                answers.push((*id, path));
            }
            !is_answered
        });
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    fn tree() -> HashMap<u64, String> {
        HashMap::from([(1, "/".to_owned()), (5, "/a".to_owned())])
    }

    #[test]
    fn the_tree_is_walked_for_what_is_not_known_and_not_too_often() {
        let mut paths = Paths::default();
        let mut wanted = ids(&[5, 9]);
        assert_eq!(paths.of(&mut wanted, tree), [(5, Some("/a".to_owned())), (9, None)]);
        assert!(wanted.is_empty());
        // Known ones need no walk; others wait for the next.
        let mut wanted = ids(&[1, 9]);
        assert_eq!(paths.of(&mut wanted, || panic!("too soon")), [(1, Some("/".to_owned()))]);
        assert_eq!(wanted, ids(&[9]));
        paths.walked = Instant::now().checked_sub(WALK);
        assert_eq!(paths.of(&mut ids(&[1]), || panic!("for nothing")), [(1, Some("/".to_owned()))]);
        assert_eq!(paths.of(&mut wanted, || HashMap::from([(9, "/b".to_owned())])), [(9, Some("/b".to_owned()))]);
        assert!(wanted.is_empty());
    }

    #[test]
    fn it_answers_when_asked_and_ends_when_dropped() {
        let mut poller = Poller::spawn(Host::at("/nonexistent")).unwrap();
        assert_eq!(poller.take(), None);
        poller.ask(Request { namespaces: vec![7], cgroups: vec![9] });
        let deadline = Instant::now() + Duration::from_secs(60);
        let answer = loop {
            match poller.take() {
                Some(answer) => break answer,
                None if Instant::now() < deadline => thread::yield_now(),
                None => panic!("no answer"),
            }
        };
        assert_eq!(answer.cgroups, [(9, None)]);
        assert!(answer.occupancy.namespaces.is_empty() && answer.occupancy.at_ns > 0);
        let desk = Arc::clone(&poller.0);
        drop(poller);
        // Ours, until the thread has let go of its own.
        while Arc::strong_count(&desk) > 1 {
            assert!(Instant::now() < deadline, "the thread does not end");
            thread::yield_now();
        }
    }

    #[test]
    fn requests_add_up_and_are_bounded() {
        let mut waiting = ids(&[1]);
        put(&mut waiting, vec![1, 2]);
        assert_eq!(waiting, ids(&[1, 2]));
        put(&mut waiting, (0..2 * MOST as u64).collect());
        assert_eq!(waiting.len(), MOST);
    }
}
