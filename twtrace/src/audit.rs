//! A thread beside the run that looks through the kernel's own minisocks, again and again: for those that no program told of,
//! and for lives that ended unseen. It goes through one namespace after the other and rests in between, so that the run never
//! waits for it and its share of a CPU is bounded, however many namespaces and sockets there are; what it costs instead is time,
//! and how long ago the last look ended is told.

use std::{
    collections::BTreeMap,
    io, mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    bpf::{Ends, Looker},
    host::{
        Host, clock,
        netns::{self, Netns, Place},
    },
    model::event::Life,
};

/// How many times as long as it had a CPU the thread rests: 5 % of one while a look lasts. A walk through the sockets of a
/// namespace is one call into the kernel, which goes through those of all namespaces: 0.3 ms for an empty table of 262,144
/// buckets, some 0.1 s for a million sockets.
const REST: u32 = 20;
/// How long it works before it rests: a shorter rest would not be worth the wake-up.
const TURN: Duration = Duration::from_millis(5);
/// Lives that are kept for whoever asks next; those of more are counted all the same.
const MOST: usize = 1 << 17;

/// What looks have found since somebody last asked, and in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Minisocks that no birth told, as far as the filters let them through.
    pub lives: Vec<Life>,
    /// Lives that ended unseen, the same.
    pub ended: Vec<Life>,
    /// All ends that no program saw, whatever the filters say, since the start.
    pub unseen_ends: u64,
    /// Minisocks that a look entered and then found to be dead already, since the start: they are counted as seeded.
    pub withdrawn: u64,
    /// Dead ones among those that the first look entered.
    pub withdrawn_first: u64,
    /// When the last whole look ended, nanoseconds of `CLOCK_MONOTONIC`; `None`: there was none.
    pub ended_ns: Option<u64>,
    /// How many whole looks there were.
    pub looks: u64,
}

impl Found {
    fn add(&mut self, ends: Ends) {
        self.unseen_ends += ends.unseen;
        self.withdrawn += ends.withdrawn;
        keep(&mut self.ended, ends.lives);
    }
}

fn keep(all: &mut Vec<Life>, more: Vec<Life>) {
    let room = MOST.saturating_sub(all.len());
    all.extend(more.into_iter().take(room));
}

/// The first look: it is made where it is asked for, before there is a thread, which will end it: nobody reads events yet, and
/// asking about each minisock takes a while. Returns how many namespaces could not be looked into.
///
/// # Errors
/// If the programs cannot be told.
pub(crate) fn first(
    looker: &mut Looker,
    namespaces: &BTreeMap<u32, Place>,
    each: &mut (dyn FnMut(Life) + Send),
) -> Result<usize, crate::bpf::BpfError> {
    looker.begin()?;
    let mut missed = 0;
    for place in namespaces.values() {
        // One that is gone has no sockets any more.
        if let Some(netns) = place.open() {
            missed += usize::from(looker.walk(&netns, each).is_err());
        }
    }
    Ok(missed)
}

/// The thread. It ends when this is dropped.
pub struct Auditor {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

/// Where requests and answers lie. The lock is held for moments.
#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Looks that were asked for, and those that were made or given up.
    asked: u64,
    answered: u64,
    /// The one that is asked for is the last, and somebody waits for it.
    is_urgent: bool,
    /// Namespaces to be looked into beside those that can be found.
    more: Vec<Netns>,
    found: Found,
    /// Why there will be no more.
    failed: Option<String>,
    is_over: bool,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Auditor {
    /// Starts the thread, which ends the first look and then waits to be asked.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn spawn(host: Host, looker: Looker) -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let of_thread = Arc::clone(&desk);
        let work = move || work(&host, looker, &of_thread);
        let thread = thread::Builder::new().name("twtrace-audit".to_owned()).spawn(work)?;
        Ok(Self { desk, thread: Some(thread) })
    }

    /// Asks for a look, unless one is under way. Never blocks.
    pub fn ask(&self) {
        let mut state = self.desk.lock();
        if state.asked == state.answered {
            state.asked += 1;
            self.desk.changed.notify_all();
        }
    }

    /// Asks for a look at once, without rests, for which somebody will wait; one that is under way is given up. `more`: namespaces
    /// that nobody may find.
    pub fn hurry(&self, more: Vec<Netns>) {
        let mut state = self.desk.lock();
        state.asked += 1;
        (state.is_urgent, state.more) = (true, more);
        self.desk.changed.notify_all();
    }

    /// True if what was asked for is done, or cannot be done.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let state = self.desk.lock();
        state.asked == state.answered || state.failed.is_some()
    }

    /// Waits until what was asked for is done.
    pub fn wait(&self) {
        let mut state = self.desk.lock();
        while state.asked != state.answered && state.failed.is_none() {
            state = self.desk.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What has been found since the last call. Never blocks.
    ///
    /// # Errors
    /// If there can be no more looks.
    pub fn take(&self) -> Result<Found, String> {
        let mut state = self.desk.lock();
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        let (lives, ended) = (mem::take(&mut state.found.lives), mem::take(&mut state.found.ended));
        Ok(Found { lives, ended, ..state.found })
    }
}

impl Drop for Auditor {
    fn drop(&mut self) {
        self.desk.lock().is_over = true;
        self.desk.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It holds the iterator's program. A panic of its has been shown.
            let _ = thread.join();
        }
    }
}

/// What to do next.
enum Next {
    On,
    GiveUp,
    End,
}

fn work(host: &Host, mut looker: Looker, desk: &Desk) {
    let home = match Netns::current() {
        Ok(home) => home,
        Err(error) => {
            desk.lock().failed = Some(format!("the network namespace of its thread: {error}"));
            desk.changed.notify_all();
            return;
        }
    };
    let ends = looker.end(false);
    let mut state = desk.lock();
    state.found.withdrawn_first = ends.withdrawn;
    state.found.add(ends);
    (state.found.ended_ns, state.found.looks) = (Some(clock::monotonic_ns()), 1);
    drop(state);
    loop {
        let mut state = desk.lock();
        while state.asked == state.answered && !state.is_over {
            state = desk.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_over {
            return;
        }
        let (number, is_urgent, more) = (state.asked, mem::take(&mut state.is_urgent), mem::take(&mut state.more));
        drop(state);
        let result = look((host, &home), &mut looker, desk, number, is_urgent, &more);
        let mut state = desk.lock();
        match result {
            Ok(Next::End) => return,
            Ok(Next::On) => state.answered = number,
            Ok(Next::GiveUp) => {}
            Err(error) => state.failed = Some(error.to_string()),
        }
        let has_failed = state.failed.is_some();
        drop(state);
        desk.changed.notify_all();
        if has_failed {
            return;
        }
    }
}

/// One look through all namespaces.
fn look(
    (host, home): (&Host, &Netns),
    looker: &mut Looker,
    desk: &Desk,
    number: u64,
    is_urgent: bool,
    more: &[Netns],
) -> Result<Next, crate::bpf::BpfError> {
    let mut pace = Pace::new(is_urgent);
    let (mut namespaces, _) = netns::find(host);
    more.iter().for_each(|netns| drop(namespaces.remove(&netns.inum())));
    looker.begin()?;
    let mut into = |netns: &Netns| {
        let mut lives = Vec::new();
        if let Err(error) = looker.visit(netns, home, &mut |life| lives.push(life)) {
            log::debug!("namespace {}: {error}", netns.inum());
        }
        if !lives.is_empty() {
            keep(&mut desk.lock().found.lives, lives);
        }
        pace.rest(desk, number)
    };
    for netns in more {
        match into(netns) {
            Next::On => {}
            other => return Ok(other),
        }
    }
    // Each is opened when its turn comes: so no descriptors are held, and no namespace lives longer for it.
    for netns in namespaces.values().filter_map(Place::open) {
        match into(&netns) {
            Next::On => {}
            other => return Ok(other),
        }
    }
    let ends = looker.end(is_urgent);
    let mut state = desk.lock();
    state.found.add(ends);
    (state.found.ended_ns, state.found.looks) = (Some(clock::monotonic_ns()), state.found.looks + 1);
    Ok(Next::On)
}

/// Work and rest in turns.
struct Pace {
    is_urgent: bool,
    /// What this thread has had of a CPU. Not the time that went by: on a busy machine the thread waits for its turn, and is no
    /// burden meanwhile.
    cpu: fn() -> Duration,
    /// What it had when this turn began.
    since: Duration,
}

impl Pace {
    fn new(is_urgent: bool) -> Self {
        Self { is_urgent, cpu: clock::thread_cpu, since: clock::thread_cpu() }
    }

    /// Rests, if it is time to; says whether to go on.
    fn rest(&mut self, desk: &Desk, number: u64) -> Next {
        let worked = (self.cpu)().saturating_sub(self.since);
        let mut until = Instant::now();
        if !self.is_urgent && worked >= TURN {
            until += worked * REST;
        }
        let mut state = desk.lock();
        loop {
            if state.is_over {
                return Next::End;
            }
            if state.asked != number {
                return Next::GiveUp;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = desk.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if worked >= TURN {
            self.since = (self.cpu)();
        }
        Next::On
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CPU's clock that stands still.
    fn cpu() -> Duration {
        Duration::from_secs(1000)
    }

    fn worked(is_urgent: bool, worked: Duration) -> Pace {
        Pace { is_urgent, cpu, since: cpu() - worked }
    }

    #[test]
    fn it_rests_in_proportion_to_its_work_unless_somebody_waits() {
        let desk = Desk::default();
        desk.lock().asked = 1;
        let rested = |mut pace: Pace| {
            let began = Instant::now();
            assert!(matches!(pace.rest(&desk, 1), Next::On));
            (began.elapsed(), pace.since)
        };
        // Nothing is measured but that it rests at least as long as it should.
        let (rest, since) = rested(worked(false, TURN));
        assert!(rest >= TURN * REST && since == cpu(), "a new turn has begun");
        // It would rest for hours.
        assert_eq!(rested(worked(true, TURN * 100_000)).1, cpu());
        let short = TURN / 2;
        assert_eq!(rested(worked(false, short)).1, cpu() - short, "the turn goes on");
    }

    #[test]
    fn a_look_is_given_up_for_a_new_one_and_at_the_end() {
        let desk = Desk::default();
        desk.lock().asked = 2;
        let long = || worked(false, TURN * 100_000);
        assert!(matches!(long().rest(&desk, 1), Next::GiveUp));
        desk.lock().is_over = true;
        assert!(matches!(long().rest(&desk, 2), Next::End));
    }

    #[test]
    fn what_nobody_takes_is_bounded_and_counted() {
        let life =
            Life { id: Some(1), netns: None, tuple: None, substate: None, role: None, closer: None, preexisting: None };
        let mut found = Found::default();
        for _ in 0..3 {
            found.add(Ends { unseen: MOST as u64, lives: vec![life; MOST], withdrawn: 1 });
        }
        assert_eq!((found.ended.len(), found.unseen_ends, found.withdrawn), (MOST, 3 * MOST as u64, 3));
    }
}
