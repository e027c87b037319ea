//! From the programs' counters to the totals that are shown.

use twtrace_common::{
    counter::{self, Counters},
    record::kind,
};

use super::{
    audit::Audit,
    event::{Cause, Denial, Detail, Event, Refusal, Substate},
    report::{Missed, Totals},
    trouble::Trouble,
};

/// What is known beside the counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Events that the kernel ran no program for.
    pub missed: Missed,
    /// Minisocks that were found alive although no program had told of their birth.
    pub alive_unseen: u64,
    /// Lives that were found to be over although no program had told of their end.
    pub unseen_ends: u64,
    /// Minisocks that are counted as seeded, and were dead before they were entered.
    pub withdrawn: u64,
    /// How long ago the last whole look through the kernel's minisocks ended, milliseconds; `None`: there was none.
    pub looked_ms_ago: Option<u64>,
    /// Ends of minisocks of whose birth no program had told.
    pub unborn: u64,
    /// Connections that the peer closed first and whose counts were evicted before they were read.
    pub passive_evicted: u64,
    /// Records that could not be decoded.
    pub garbage: u64,
    /// Events that came during the self-test and could not be kept.
    pub early_lost: u64,
    /// Ticks that came due and were not told, because the output had no room.
    pub ticks_skipped: u64,
    /// Events as user space counts them, where it filters what the programs let through: see [`note`].
    pub sifted: Option<Box<Counters>>,
    /// Lines that a slow output did not take, and records that it left in the ring at the end.
    pub sink_dropped: u64,
}

impl Beside {
    /// Takes what looks through the kernel's minisocks have found until now.
    pub fn looked(&mut self, audit: &Audit, now_ns: u64) {
        (self.alive_unseen, self.unseen_ends, self.withdrawn) = (audit.unseen, audit.unseen_ends, audit.withdrawn);
        self.looked_ms_ago = audit.at_ns.map(|at| now_ns.saturating_sub(at) / 1_000_000);
    }
}

/// The totals at this moment.
#[must_use]
pub fn totals(counters: &Counters, beside: &Beside) -> Totals {
    let sum = |values: &[u64; kind::COUNT]| values.iter().sum::<u64>();
    // What the programs count has passed their filters alone.
    let passed = beside.sifted.as_deref().unwrap_or(counters);
    Totals {
        born_time_wait: passed.born_time_wait,
        born_fin_wait2: passed.born_fin_wait2,
        turned: beside.turn.then_some(passed.turned),
        rearmed: beside.rearm.then_some(passed.rearmed),
        died: std::iter::once(Cause::Unknown(0))
            .chain(Cause::ALL.iter().copied())
            .map(|cause| (cause, passed.died[usize::from(cause.raw())]))
            .collect(),
        refused: beside
            .refusal
            .then(|| Refusal::ALL.iter().map(|&reason| (reason, passed.refused[usize::from(reason.raw())])).collect()),
        no_port: beside.no_port.then_some(passed.no_port),
        no_port_bound: beside.no_port.then_some(passed.no_port_bound),
        reuse_denied: beside.reuse_denied.then(|| {
            Denial::ALL.iter().map(|&reason| (reason, passed.reuse_denied[usize::from(reason.raw())])).collect()
        }),
        no_bind: beside.no_bind.then_some(passed.no_bind),
        holders_unknown: beside.holders_unknown,
        live: beside.seeded.then(|| live(counters, beside)),
        looked_ms_ago: beside.looked_ms_ago,
        seen: sum(&counters.seen),
        emitted: sum(&passed.emitted),
        filtered: sum(&counters.filtered) + beside.sifted.as_deref().map_or(0, |sifted| sum(&sifted.filtered)),
        lost: sum(&counters.lost),
        ticks_skipped: beside.ticks_skipped,
        missed: beside.missed.clone(),
        trouble: trouble(&counters.trouble, beside),
    }
}

/// Counts an event that the filters of user space let through, as the programs count it. What waits in the ring is not
/// counted yet, and what the ring had no room for never is.
pub fn note(counters: &mut Counters, event: &Event) {
    fn add(place: Option<&mut u64>) {
        if let Some(place) = place {
            *place += 1;
        }
    }
    match event.detail {
        Detail::Born { .. } if event.life.substate == Some(Substate::FinWait2) => counters.born_fin_wait2 += 1,
        Detail::Born { .. } => counters.born_time_wait += 1,
        Detail::Turned { .. } => counters.turned += 1,
        Detail::Rearmed { .. } => counters.rearmed += 1,
        Detail::Died { cause, .. } => add(counters.died.get_mut(usize::from(cause.raw()))),
        Detail::Refused { reason, .. } => add(counters.refused.get_mut(usize::from(reason.raw()))),
        Detail::NoPort { .. } => {
            counters.no_port += 1;
            counters.no_port_bound += u64::from(event.life.tuple.and_then(|tuple| tuple.port()).is_some());
        }
        Detail::ReuseDenied { reason, .. } => add(counters.reuse_denied.get_mut(usize::from(reason.raw()))),
        Detail::NoBind { .. } => counters.no_bind += 1,
    }
}

/// Entries of the table of lives, less those that are known to be over: every end but those that the table did not have took one
/// away. If the table was full at times, nobody knows which births and ends those were that it had no room for.
fn live(counters: &Counters, beside: &Beside) -> u64 {
    let (born, died) = (counters.seen[usize::from(kind::BORN)], counters.seen[usize::from(kind::DIED)]);
    let over = beside.withdrawn + beside.unseen_ends + counters.trouble.stale;
    let entered = (counters.seeded + born).saturating_sub(over);
    let ended = if counters.trouble.lives_full == 0 { died.saturating_sub(counters.unborn) } else { died };
    entered.saturating_sub(ended)
}

/// What went wrong, by name; zeroes are left out.
fn trouble(trouble: &counter::Trouble, beside: &Beside) -> Vec<(Trouble, u64)> {
    let counter::Trouble {
        lives_full,
        conns_full,
        closing_full,
        denied_full,
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
        (Trouble::LivesFull, lives_full),
        (Trouble::ConnsFull, conns_full),
        (Trouble::ClosingFull, closing_full),
        (Trouble::DeniedFull, denied_full),
        (Trouble::PassiveEvicted, beside.passive_evicted),
        (Trouble::SeedsFull, seeds_full),
        (Trouble::ReadFailed, read_failed),
        (Trouble::StackFailed, stack_failed),
        (Trouble::Stale, stale),
        (Trouble::UnseenBirths, unseen_births),
        (Trouble::MissedRuns, beside.missed.runs.unwrap_or(0)),
        (Trouble::Unseen, beside.alive_unseen + beside.unborn),
        (Trouble::UnseenEnds, beside.unseen_ends),
        (Trouble::Garbage, beside.garbage),
        (Trouble::EarlyLost, beside.early_lost),
        (Trouble::SinkDropped, beside.sink_dropped),
    ]
    .into_iter()
    .filter(|&(_, count)| count != 0)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(seeded: u64, born: u64, died: u64) -> Counters {
        let mut counters = Counters { seeded, ..Counters::default() };
        counters.seen[usize::from(kind::BORN)] = born;
        counters.seen[usize::from(kind::DIED)] = died;
        counters
    }

    fn live(counters: &Counters, beside: &Beside) -> Option<u64> {
        totals(counters, &Beside { seeded: true, ..beside.clone() }).live
    }

    #[test]
    fn ends_that_were_missed_are_no_lives() {
        let mut counters = counters(10, 20, 5);
        assert_eq!(live(&counters, &Beside::default()), Some(25));
        // Each of these lives has left the table, or is known to be over.
        let beside = Beside { unseen_ends: 3, withdrawn: 1, ..Beside::default() };
        assert_eq!(live(&counters, &beside), Some(21));
        counters.trouble.stale = 2;
        assert_eq!(live(&counters, &beside), Some(19));
        // Of the ends, four were of minisocks that the table never had.
        counters.unborn = 4;
        assert_eq!(live(&counters, &beside), Some(23));
        assert_eq!(totals(&counters, &beside).live, None, "what is older could not be listed");
        let named = totals(&counters, &beside).trouble;
        assert_eq!(named, [(Trouble::Stale, 2), (Trouble::UnseenEnds, 3)]);
    }

    #[test]
    fn where_the_table_was_full_every_end_counts() {
        let mut counters = counters(0, 20, 20);
        (counters.trouble.lives_full, counters.unborn) = (5, 5);
        assert_eq!(live(&counters, &Beside::default()), Some(0));
    }
}
