//! From the programs' counters to the totals that are shown.

use twtrace_common::{
    counter::{Counters, Trouble},
    record::kind,
};

use super::{
    event::{Cause, Denial, Refusal},
    report::Totals,
};

/// What is known beside the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Turns are watched.
    pub turn: bool,
    /// Re-arms are watched.
    pub rearm: bool,
    /// Refusals are watched.
    pub refusal: bool,
    /// connect() calls that fail are watched.
    pub no_port: bool,
    /// What such calls were denied is watched.
    pub reuse_denied: bool,
    /// bind() and listen() calls that fail are watched.
    pub no_bind: bool,
    /// Ports of which it could not be found out who has them.
    pub holders_unknown: u64,
    /// Minisocks could be listed at the start.
    pub seeded: bool,
    /// Events that the kernel ran no program for, because a program was running on that CPU; `None`: it does not count them.
    pub missed_runs: Option<u64>,
    /// Minisocks that were found alive although no program had told of their birth.
    pub alive_unseen: u64,
    /// Ends of minisocks of whose birth no program had told.
    pub unborn: u64,
    /// Records that could not be decoded.
    pub garbage: u64,
    /// Events that came during the self-test and could not be kept.
    pub early_lost: u64,
    /// Ticks that came due and were not told, because the output had no room.
    pub ticks_skipped: u64,
    /// Lines that a slow output did not take, and records that it left in the ring at the end.
    pub sink_dropped: u64,
}

/// The totals at this moment.
#[must_use]
pub fn totals(counters: &Counters, beside: &Beside) -> Totals {
    let sum = |values: &[u64; kind::COUNT]| values.iter().sum();
    let (born, died) = (counters.seen[usize::from(kind::BORN)], counters.seen[usize::from(kind::DIED)]);
    Totals {
        born_time_wait: counters.born_time_wait,
        born_fin_wait2: counters.born_fin_wait2,
        turned: beside.turn.then_some(counters.turned),
        rearmed: beside.rearm.then_some(counters.rearmed),
        died: std::iter::once(Cause::Unknown(0))
            .chain(Cause::ALL.iter().copied())
            .map(|cause| (cause, counters.died[usize::from(cause.raw())]))
            .collect(),
        refused: beside.refusal.then(|| {
            Refusal::ALL.iter().map(|&reason| (reason, counters.refused[usize::from(reason.raw())])).collect()
        }),
        no_port: beside.no_port.then_some(counters.no_port),
        no_port_bound: beside.no_port.then_some(counters.no_port_bound),
        reuse_denied: beside.reuse_denied.then(|| {
            Denial::ALL.iter().map(|&reason| (reason, counters.reuse_denied[usize::from(reason.raw())])).collect()
        }),
        no_bind: beside.no_bind.then_some(counters.no_bind),
        holders_unknown: beside.holders_unknown,
        live: beside.seeded.then(|| (counters.seeded + born).saturating_sub(died)),
        seen: sum(&counters.seen),
        emitted: sum(&counters.emitted),
        filtered: sum(&counters.filtered),
        lost: sum(&counters.lost),
        ticks_skipped: beside.ticks_skipped,
        missed_runs: beside.missed_runs,
        trouble: trouble(&counters.trouble, beside),
    }
}

/// What went wrong, by name; zeroes are left out.
fn trouble(trouble: &Trouble, beside: &Beside) -> Vec<(&'static str, u64)> {
    let Trouble {
        lives_full,
        conns_full,
        closing_full,
        denied_full,
        passive_full,
        seeds_full,
        read_failed,
        stack_failed,
        stale,
        unseen_births,
        // Other protocols' minisocks and the self-test's are nobody's loss.
        not_tcp: _,
        self_test_lost: _,
    } = *trouble;
    [
        ("lives_full", lives_full),
        ("conns_full", conns_full),
        ("closing_full", closing_full),
        ("denied_full", denied_full),
        ("passive_full", passive_full),
        ("seeds_full", seeds_full),
        ("read_failed", read_failed),
        ("stack_failed", stack_failed),
        ("stale", stale),
        ("unseen_births", unseen_births),
        ("missed_runs", beside.missed_runs.unwrap_or(0)),
        ("unseen", beside.alive_unseen + beside.unborn),
        ("garbage", beside.garbage),
        ("early_lost", beside.early_lost),
        ("sink_dropped", beside.sink_dropped),
    ]
    .into_iter()
    .filter(|&(_, count)| count != 0)
    .collect()
}
