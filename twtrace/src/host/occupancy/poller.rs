//! A thread that looks when it is asked, and not more than it may: whoever asks never waits.

use std::{
    collections::BTreeSet,
    io, mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{Host, Places, clock, look};
use crate::model::{occupancy::Occupancy, wanted::Wanted};

/// How many times as long as it had a CPU for a look the thread rests after it: 2 % of one. The kernel goes through all sockets of the
/// machine for each namespace, TIME_WAITs too: 20 ms where there are 200,000, a look each second would be most of what
/// the tables cost.
const REST: u32 = 50;
/// After how long a look ends, and the next goes on with the next namespace: what was found is shown, the thread rests.
const BUDGET: Duration = Duration::from_millis(20);
/// How long the thread is waited for at the first look, for which the run waits: see `Feed::begin`.
const FIRST: Duration = Duration::from_secs(1);
/// The most ids that wait for an answer.
const MOST: usize = 4096;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Inode numbers of network namespaces that there must be, for events told of them: if one is not known, the machine
    /// is searched for it, at most once a second, and once in ten if it is not found.
    pub namespaces: Vec<u32>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The last look.
    pub occupancy: Occupancy,
}

/// A thread that looks at namespaces. It ends soon after this is dropped.
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

    /// A poller for a run with filters.
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
    let mut places = Places::wanting(wanted).moving();
    let mut budget = FIRST;
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
        drop(state);

        let began = clock::thread_cpu();
        let occupancy = look(host, &mut places, &wanted, budget);
        // The long first one is not paid off: the next would be minutes later.
        let took = clock::thread_cpu().saturating_sub(began);
        let took = if budget == FIRST { took.min(BUDGET) } else { took };
        let until = Instant::now() + took * REST;
        budget = BUDGET;

        let mut state = desk.lock();
        match &mut state.answer {
            // Nobody has come for the last one.
            Some(answer) => answer.occupancy.follow(occupancy),
            none => *none = Some(Answer { occupancy }),
        }
        while !state.is_over
            && let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            state = desk.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_when_asked_and_ends_when_dropped() {
        let mut poller = Poller::spawn(Host::at("/nonexistent")).unwrap();
        assert_eq!(poller.take(), None);
        poller.ask(Request { namespaces: vec![7] });
        let deadline = Instant::now() + Duration::from_secs(60);
        let answer = loop {
            match poller.take() {
                Some(answer) => break answer,
                None if Instant::now() < deadline => thread::yield_now(),
                None => panic!("no answer"),
            }
        };
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
        let mut waiting = BTreeSet::from([1]);
        put(&mut waiting, vec![1, 2]);
        assert_eq!(waiting, BTreeSet::from([1, 2]));
        put(&mut waiting, (0..2 * MOST as u64).collect());
        assert_eq!(waiting.len(), MOST);
    }
}
