//! When a case is run again, how often, and how many such runs a machine has.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};
use twtrace::host::Host;

use crate::witness;

/// What a tracer said of itself that it missed, by counter.
pub type Trouble = BTreeMap<String, u64>;

/// What the kernel makes and twtrace can only count: runs of a program that the kernel skipped, births and ends that no
/// program saw, records that found the ring full. After these the result says that it is not exact, and the case is run
/// again.
///
/// Anything else is twtrace's own fault, or that of the case, and stays a failure: ends that were missed (`stale`) though no
/// program was skipped, failed reads and stacks, records that could not be decoded, tables that were too small. The one
/// exception: where [`witness`] has counted that the kernel leaves tracepoints out, an end may be missed without a skip.
const OF_THE_KERNEL: [&str; 7] = ["missed_runs", "unseen", "unseen_births", "unseen_ends", "unborn", "found", "lost"];

/// How often one case is run, at most.
pub const MOST: u32 = 4;

/// How many runs again one machine has, over all cases. The guests of five kernels, on emulated processors, needed 0 to 6 of
/// about 230 cases, most where tasks preempt programs (7.2).
pub const BUDGET: usize = 10;
/// Attempts on PREEMPT_RT, where softirqs are preempted as well.
pub const BUDGET_REALTIME: usize = 30;

/// Every run again of this process, in words.
static RETRIES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What a summary says that was missed, without what follows from it: a minisock whose end was skipped stays in the table, and
/// is stale once its address is born again.
pub fn trouble_of(summary: &Value) -> Trouble {
    let count = |of: &Value| of.as_u64().unwrap_or(0);
    let counts = |name: &str| summary[name].as_object().into_iter().flatten();
    let skipped_ends: u64 =
        counts("missed_runs_by").filter(|(program, _)| program.starts_with("death_")).map(|(_, of)| count(of)).sum();
    let all = counts("trouble").map(|(name, of)| (name.clone(), count(of)));
    all.filter(|(name, count)| name != "stale" || *count > skipped_ends).collect()
}

/// True if a failure may be what the kernel made: there is some trouble, and all of it is of that kind.
pub fn is_of_the_kernel<'a>(trouble: impl IntoIterator<Item = &'a str>) -> bool {
    Machine::this().made(trouble)
}

/// What follows from a failure.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Another try.
    Again,
    /// A skip with this reason: each try failed, and each said that the kernel had skipped events. With PREEMPT_RT, that is all
    /// that can be asked.
    Skip(String),
    /// The outcome is a failure.
    Fail,
}

/// What follows from a failure at this try, by what the tracer says that it missed.
pub fn next<'a>(attempts: u32, trouble: impl IntoIterator<Item = &'a str>) -> Next {
    Machine::this().next(attempts, trouble)
}

thread_local! {
    static WITHIN: Cell<u32> = const { Cell::new(0) };
}

/// Notes that a case begins again by itself, since the machine did not let it make what it wanted to look at. It counts as
/// an attempt, and not against the budget: nothing was missed.
pub fn note_within(what: &str) {
    crate::line(&format!("again: {what}"));
    WITHIN.set(WITHIN.get() + 1);
}

/// How often the case of this thread began again by itself, since the last call.
pub fn take_within() -> u32 {
    WITHIN.take()
}

/// Notes that something is run again, and says so.
pub fn note(what: &str, trouble: &str) {
    crate::line(&format!("again: {what}: the tracer says that it missed {trouble}"));
    RETRIES.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{what} {trouble}"));
}

/// Notes a run that told all that was made, and says that it missed some of others': it passes, and has taken from the budget.
/// A tracer that always says so would use that up.
pub fn note_others(missed: &str) {
    note("passed, but of other traffic", missed);
}

/// What a case came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// All was as it should be.
    Good,
    /// The test was not passed: [`Next::Skip`].
    Skipped(String),
    /// The test was not passed: [`Next::Fail`].
    Failed(String),
}

/// What has to be known of the machine to judge a failure.
#[derive(Clone, Copy)]
struct Machine {
    /// The kernel leaves tracepoints out.
    is_silent: bool,
    /// The kernel is PREEMPT_RT.
    is_realtime: bool,
}

impl Machine {
    fn this() -> Self {
        Self { is_silent: witness::silent().is_some(), is_realtime: Host::default().is_realtime() }
    }

    fn made<'a>(self, trouble: impl IntoIterator<Item = &'a str>) -> bool {
        let mut names = trouble.into_iter().peekable();
        names.peek().is_some() && names.all(|name| OF_THE_KERNEL.contains(&name) || (self.is_silent && name == "stale"))
    }

    fn next<'a>(self, attempts: u32, trouble: impl IntoIterator<Item = &'a str>) -> Next {
        match self.made(trouble) {
            true if attempts < MOST => Next::Again,
            true if self.is_realtime => {
                Next::Skip(format!("PREEMPT_RT: each of {attempts} runs missed events, and said so"))
            }
            _ => Next::Fail,
        }
    }
}

/// Runs a case until it succeeds, fails for a reason of its own, or has been run [`MOST`] times. Answers how often.
pub fn until_good(
    run: impl FnMut() -> (Result<(), String>, Trouble),
    note: impl FnMut(&str, &Trouble),
) -> (Ended, u32) {
    until(run, note, Machine::this)
}

fn until(
    mut run: impl FnMut() -> (Result<(), String>, Trouble),
    mut note: impl FnMut(&str, &Trouble),
    machine: impl Fn() -> Machine,
) -> (Ended, u32) {
    let mut attempts = 1;
    loop {
        let (result, trouble) = run();
        let Err(error) = result else { return (Ended::Good, attempts) };
        match machine().next(attempts, trouble.keys().map(String::as_str)) {
            Next::Again => note(&error, &trouble),
            Next::Skip(why) => return (Ended::Skipped(why), attempts),
            Next::Fail if trouble.is_empty() => return (Ended::Failed(error), attempts),
            Next::Fail => {
                return (Ended::Failed(format!("{error}; the tracer says that it missed {trouble:?}")), attempts);
            }
        }
        attempts += 1;
    }
}

/// Whether this machine kept to its budget.
pub fn budget() -> Result<(), String> {
    let budget = if Host::default().is_realtime() { BUDGET_REALTIME } else { BUDGET };
    within(&RETRIES.lock().unwrap_or_else(PoisonError::into_inner), budget)
}

fn within(retries: &[String], budget: usize) -> Result<(), String> {
    if retries.len() <= budget {
        return Ok(());
    }
    Err(format!("{} runs again, and {budget} are allowed: {}", retries.len(), retries.join("; ")))
}

/// The rules themselves. This binary has no unit tests, and its rules decide what counts as passed.
pub fn rules() -> Result<(), String> {
    let trouble = |names: &[&str]| -> Trouble { names.iter().map(|name| ((*name).to_owned(), 2)).collect() };
    let expect = |what: &str, is_so: bool| if is_so { Ok(()) } else { Err(format!("not so: {what}")) };

    // What each run meets, and how it ends; the last is repeated.
    let tried_where = |is_silent: bool, is_realtime: bool, runs: &[(bool, &[&str])]| {
        let mut notes = 0;
        let mut at = 0;
        let (ended, attempts) = until(
            || {
                let (is_good, names) = runs[at.min(runs.len() - 1)];
                at += 1;
                (if is_good { Ok(()) } else { Err("differs".to_owned()) }, trouble(names))
            },
            |_, _| notes += 1,
            || Machine { is_silent, is_realtime },
        );
        (ended == Ended::Good, attempts, notes, matches!(ended, Ended::Skipped(_)))
    };
    let tried = |runs: &[(bool, &[&str])]| {
        let (is_good, attempts, notes, _) = tried_where(false, false, runs);
        (is_good, attempts, notes)
    };
    expect("what succeeds is run once", tried(&[(true, &["missed_runs"])]) == (true, 1, 0))?;
    expect("a failure without trouble is one", tried(&[(false, &[]), (true, &[])]) == (false, 1, 0))?;
    for own in OF_THE_KERNEL {
        expect(own, tried(&[(false, &[own]), (true, &[])]) == (true, 2, 1))?;
    }
    for other in ["stale", "read_failed", "stack_failed", "garbage", "unusable", "lives_full", "sink_dropped", "new"] {
        expect(other, tried(&[(false, &[other]), (true, &[])]) == (false, 1, 0))?;
        expect(other, tried(&[(false, &["missed_runs", other]), (true, &[])]) == (false, 1, 0))?;
    }
    let skipped = |death: u64, stale: u64| {
        let by = json!({"birth_fentry": 9, "death_fentry": death});
        trouble_of(&json!({"trouble": {"missed_runs": 9 + death, "stale": stale}, "missed_runs_by": by}))
    };
    let sound = Machine { is_silent: false, is_realtime: false };
    expect("an end that was skipped may be stale", sound.made(skipped(2, 2).keys().map(String::as_str)))?;
    expect("no other may", !sound.made(skipped(2, 3).keys().map(String::as_str)))?;
    let silent = |runs: &[(bool, &[&str])]| tried_where(true, false, runs);
    expect("without tracepoints any may", silent(&[(false, &["stale"]), (true, &[])]) == (true, 2, 1, false))?;
    expect("but nothing else", silent(&[(false, &["stale", "read_failed"])]) == (false, 1, 0, false))?;
    let realtime = |runs: &[(bool, &[&str])]| tried_where(false, true, runs);
    expect("PREEMPT_RT may miss, and say so", realtime(&[(false, &["unseen"])]) == (false, MOST, MOST - 1, true))?;
    expect("and nothing else", realtime(&[(false, &["stale"])]) == (false, 1, 0, false))?;
    expect("not in silence", realtime(&[(false, &[])]) == (false, 1, 0, false))?;
    let later = [(false, &["unseen"] as &[_]), (false, &[])];
    expect("not in silence once", realtime(&later) == (false, 2, 1, false))?;
    expect("a later run has its own trouble", tried(&[(false, &["unseen"]), (false, &["stale"])]) == (false, 2, 1))?;
    expect("there is an end", tried(&[(false, &["unseen"])]) == (false, MOST, MOST - 1))?;

    let retries = vec!["storm".to_owned(); 4];
    expect("the budget may be used up", within(&retries[..3], 3).is_ok())?;
    expect(
        "no more than that",
        within(&retries, 3).is_err_and(|why| why.starts_with("4 runs again, and 3 are allowed")),
    )
}
