//! twtrace held against the kernel's own counters, for one network namespace. Pure: two looks in, differences out.
//!
//! The identities are those of include/net/inet_timewait_sock.h and net/ipv4/inet_timewait_sock.c; what TcpExt TW counts
//! changed in 5.18 (births instead of expiries), which the self-test finds out on the spot.

use twtrace_common::counter::Own;

use super::report::{Counter, Reconciled};
use crate::model::kernel::{KernelCounters, TwCounts};

/// The kernel's counters and twtrace's, taken together while neither moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The kernel's.
    pub kernel: KernelCounters,
    /// twtrace's, for the same namespace.
    pub own: Own,
}

/// Whether a look was taken at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing moved between two readings.
    Still,
    /// Traffic did not pause long enough: differences may be events in flight.
    Moving,
}

/// What moved between the two looks. `refusal`: refusals are watched.
#[must_use]
pub fn reconcile(start: &Look, end: &Look, tw_counts: Option<TwCounts>, refusal: bool) -> Vec<Reconciled> {
    let moved = |now: u64, then: u64| now.cast_signed().wrapping_sub(then.cast_signed());
    let row =
        |counter, kernel: i64, twtrace: i64| Reconciled { counter, kernel, twtrace, diff: kernel - twtrace, slack: 0 };
    let (k0, k1, t0, t1) = (&start.kernel, &end.kernel, &start.own, &end.own);
    let mut rows = Vec::new();
    let tw = moved(k1.tw + k1.tw_killed, k0.tw + k0.tw_killed);
    match tw_counts {
        Some(TwCounts::Births) => rows.push(row(Counter::Tw, tw, moved(t1.born, t0.born))),
        Some(TwCounts::Expiries) => rows.push(row(Counter::Tw, tw, moved(t1.expired, t0.expired))),
        None => {}
    }
    rows.push(row(Counter::TwRecycled, moved(k1.tw_recycled, k0.tw_recycled), moved(t1.taken, t0.taken)));
    if refusal {
        let overflow = moved(k1.overflow, k0.overflow);
        rows.push(row(Counter::TimeWaitOverflow, overflow, moved(t1.refused, t0.refused)));
    }
    let expected = k0.sockstat_tw.cast_signed() + moved(t1.born, t0.born) - moved(t1.died, t0.died);
    rows.push(row(Counter::SockstatTw, k1.sockstat_tw.cast_signed(), expected));
    rows
}

/// The end of a run: twtrace's counters stand still, the kernel's were read before and after they came to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bracket {
    /// The kernel's counters just before the programs stopped.
    pub before: KernelCounters,
    /// The kernel's counters just after.
    pub after: KernelCounters,
    /// twtrace's, which did not move any more.
    pub own: Own,
    /// How many events may have been counted by one side only, at the start and at the end.
    pub under_way: u64,
}

/// What moved between the start and a bracket: each of twtrace's counts has to lie between the kernel's two.
#[must_use]
pub fn bracket(start: &Look, end: &Bracket, tw_counts: Option<TwCounts>, refusal: bool) -> Vec<Reconciled> {
    let Bracket { before, after, own, under_way } = *end;
    let rows = |kernel| reconcile(start, &Look { kernel, own }, tw_counts, refusal);
    let under_way = i64::try_from(under_way).unwrap_or(i64::MAX);
    // Births and ends between the two readings, none of which is more: sockstat.tw may have gone up and down.
    let moved = (after.tw + after.tw_killed + after.tw_recycled)
        .saturating_sub(before.tw + before.tw_killed + before.tw_recycled)
        .saturating_add(after.sockstat_tw.abs_diff(before.sockstat_tw));
    let both = rows(before).into_iter().zip(rows(after));
    both.map(|(early, late)| {
        let extra = if late.counter == Counter::SockstatTw { i64::try_from(moved).unwrap_or(i64::MAX) } else { 0 };
        let low = early.kernel.min(late.kernel).saturating_sub(extra);
        let high = early.kernel.max(late.kernel).saturating_add(extra);
        let kernel = late.twtrace.clamp(low, high);
        let apart = kernel - late.twtrace;
        let diff = apart.signum() * (apart.abs() - under_way).max(0);
        Reconciled { kernel, diff, slack: (high - low).saturating_add(under_way), ..late }
    })
    .collect()
}

/// What a comparison says of a run: `None`, if only what moved meanwhile may hide a difference.
#[must_use]
pub fn agrees(rows: &[Reconciled]) -> Option<bool> {
    if rows.iter().any(|row| row.diff != 0) {
        return Some(false);
    }
    rows.iter().all(|row| row.slack == 0).then_some(true)
}

/// Two comparisons of the same look at the kernel, with twtrace's counters from before it and from after it: a difference
/// is what is beyond both.
#[must_use]
pub fn between(before: Vec<Reconciled>, after: &[Reconciled]) -> Vec<Reconciled> {
    let mut rows = before;
    for (row, later) in rows.iter_mut().zip(after) {
        let (low, high) = (row.diff.min(later.diff), row.diff.max(later.diff));
        row.diff = if low > 0 { low } else { high.min(0) };
        row.twtrace = row.kernel - row.diff;
    }
    rows
}

/// Differences in the middle of a run, as they come and go. An event reaches the kernel's counter and twtrace's one after the
/// other; what comes between them looks like a difference, and is none. One is told when it has held over two looks at rest.
#[derive(Clone, Debug, Default)]
pub struct Suspicion {
    rows: Vec<Suspect>,
}

#[derive(Clone, Copy, Debug)]
struct Suspect {
    counter: Counter,
    /// -1 or 1: which of the two counts more.
    sign: i64,
    /// Looks at rest that have shown it.
    looks: u32,
}

/// How many looks at rest a difference has to hold.
const HOLDS: u32 = 2;

/// A comparison in the middle of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// What is sure: a difference that has not held yet is not in it.
    pub rows: Vec<Reconciled>,
    /// There may be a difference beside it.
    pub comparing: bool,
}

impl Suspicion {
    /// True if a difference was seen that no look at rest has taken back.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.rows.is_empty()
    }

    /// Takes one comparison, made at rest or not.
    #[must_use]
    pub fn weigh(&mut self, mut rows: Vec<Reconciled>, rest: Rest) -> Compared {
        let mut comparing = false;
        for row in &mut rows {
            let suspect = self.suspect(row, rest);
            let holds = suspect.is_some_and(|suspect| suspect.looks >= HOLDS && suspect.sign == row.diff.signum());
            if suspect.is_some() && !holds {
                comparing = true;
                (row.twtrace, row.diff) = (row.kernel, 0);
            }
        }
        Compared { rows, comparing }
    }

    /// What is held against a row after this look.
    fn suspect(&mut self, row: &Reconciled, rest: Rest) -> Option<Suspect> {
        let sign = row.diff.signum();
        let known = self.rows.iter_mut().find(|suspect| suspect.counter == row.counter);
        match (known, rest) {
            (None, _) if sign == 0 => None,
            (None, _) => {
                let suspect = Suspect { counter: row.counter, sign, looks: u32::from(rest == Rest::Still) };
                self.rows.push(suspect);
                Some(suspect)
            }
            (Some(suspect), Rest::Moving) => Some(*suspect),
            (Some(_), Rest::Still) if sign == 0 => {
                self.rows.retain(|suspect| suspect.counter != row.counter);
                None
            }
            (Some(suspect), Rest::Still) => {
                suspect.looks = if suspect.sign == sign { suspect.looks.saturating_add(1) } else { 1 };
                suspect.sign = sign;
                Some(*suspect)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_no_difference() {
        let row = |diff| Reconciled { counter: Counter::Tw, kernel: 10, twtrace: 10 - diff, diff, slack: 0 };
        let told = |a, b| between(vec![row(a)], &[row(b)]).first().map(|row| (row.diff, row.twtrace));
        assert_eq!(told(2, -1), Some((0, 10)));
        assert_eq!(told(2, 1), Some((1, 9)));
        assert_eq!(told(-3, -5), Some((-3, 13)));
        assert_eq!(told(0, -5), Some((0, 10)));
    }

    /// What is shown after each of these looks: the difference, and whether there may be another.
    fn shown(looks: &[(i64, Rest)]) -> Vec<(i64, bool)> {
        let mut suspicion = Suspicion::default();
        let row = |diff| Reconciled { counter: Counter::Tw, kernel: 10, twtrace: 10 - diff, diff, slack: 0 };
        looks
            .iter()
            .map(|&(diff, rest)| {
                let Compared { rows, comparing } = suspicion.weigh(vec![row(diff), row_of(Counter::SockstatTw)], rest);
                assert_eq!(rows[0].diff, rows[0].kernel - rows[0].twtrace);
                assert_eq!(rows[1], row_of(Counter::SockstatTw));
                (rows[0].diff, comparing)
            })
            .collect()
    }

    fn row_of(counter: Counter) -> Reconciled {
        Reconciled { counter, kernel: 3, twtrace: 3, diff: 0, slack: 0 }
    }

    #[test]
    fn a_difference_that_comes_and_goes_is_never_shown() {
        use Rest::{Moving, Still};
        let flicker = [(0, Moving), (1, Moving), (0, Moving), (-2, Moving), (0, Still), (0, Moving)];
        let none = (0, false);
        let maybe = (0, true);
        assert_eq!(shown(&flicker), [none, maybe, maybe, maybe, none, none]);
        // Once at rest, and gone at the next: an event that took its time.
        assert_eq!(
            shown(&[(1, Still), (0, Still), (1, Still), (-1, Still), (0, Still)]),
            [maybe, none, maybe, maybe, none]
        );
    }

    #[test]
    fn a_difference_that_holds_over_two_looks_at_rest_is_shown() {
        use Rest::{Moving, Still};
        assert_eq!(shown(&[(1, Still), (1, Still), (1, Still)]), [(0, true), (1, false), (1, false)]);
        assert_eq!(
            shown(&[(-5, Moving), (-5, Still), (-4, Moving), (-5, Still)]),
            [(0, true), (0, true), (0, true), (-5, false)]
        );
        // It stays on the screen under load, and goes at a look at rest that takes it back.
        assert_eq!(
            shown(&[(2, Still), (2, Still), (3, Moving), (0, Moving), (0, Still)]),
            [(0, true), (2, false), (3, false), (0, true), (0, false)]
        );
    }

    #[test]
    fn never_at_rest_is_never_sure() {
        assert_eq!(shown(&[(7, Rest::Moving); 5]), [(0, true); 5]);
        assert_eq!(shown(&[(0, Rest::Moving); 5]), [(0, false); 5]);
    }

    fn look(tw: u64, tw_recycled: u64, overflow: u64, sockstat_tw: u64, own: [u64; 5]) -> Look {
        let [born, died, expired, taken, refused] = own;
        Look {
            kernel: KernelCounters { tw, tw_killed: 1, tw_recycled, overflow, sockstat_tw },
            own: Own { born, died, expired, taken, refused },
        }
    }

    #[test]
    fn equal_movement_is_no_difference() {
        let start = look(100, 5, 7, 3, [0; 5]);
        let end = look(120, 6, 9, 13, [20, 10, 9, 1, 2]);
        let rows = reconcile(&start, &end, Some(TwCounts::Births), true);
        assert_eq!(rows.iter().map(|row| row.diff).collect::<Vec<_>>(), [0, 0, 0, 0]);
        assert_eq!(rows[3].kernel, 13);
    }

    #[test]
    fn before_5_18_tw_counts_expiries() {
        let start = look(100, 0, 0, 0, [0; 5]);
        let end = look(109, 0, 0, 11, [20, 9, 9, 0, 0]);
        let rows = reconcile(&start, &end, Some(TwCounts::Expiries), false);
        assert_eq!(rows.iter().map(|row| row.diff).collect::<Vec<_>>(), [0, 0, 0]);
    }

    #[test]
    fn one_missed_birth_shows_twice() {
        let start = look(0, 0, 0, 0, [0; 5]);
        let end = look(2, 0, 0, 2, [1, 0, 0, 0, 0]);
        let rows = reconcile(&start, &end, Some(TwCounts::Births), true);
        let diffs: Vec<_> = rows.iter().map(|row| (row.counter, row.diff)).collect();
        assert_eq!(diffs[0], (Counter::Tw, 1));
        assert_eq!(diffs[3], (Counter::SockstatTw, 1));
    }

    /// What is told of counters that moved from `before` to `after` (TcpExt TW and sockstat tw) while twtrace had counted
    /// `own` births and no ends: difference and slack of the two.
    fn bracketed(before: [u64; 2], after: [u64; 2], own: u64, under_way: u64) -> [(i64, i64); 2] {
        let start = look(100, 0, 0, 5, [0; 5]);
        let kernel = |[tw, sockstat_tw]: [u64; 2]| look(tw, 0, 0, sockstat_tw, [0; 5]).kernel;
        let own = look(0, 0, 0, 0, [own, 0, 0, 0, 0]).own;
        let end = Bracket { before: kernel(before), after: kernel(after), own, under_way };
        let rows = bracket(&start, &end, Some(TwCounts::Births), false);
        [0, 2].map(|row| (rows[row].diff, rows[row].slack))
    }

    #[test]
    fn what_stands_still_is_compared_exactly() {
        assert_eq!(bracketed([130, 35], [130, 35], 30, 0), [(0, 0), (0, 0)]);
        assert_eq!(bracketed([130, 35], [130, 35], 29, 0), [(1, 0), (1, 0)]);
    }

    #[test]
    fn a_count_between_the_kernels_two_is_no_difference() {
        for own in 30..=34 {
            assert_eq!(bracketed([130, 35], [134, 39], own, 0).map(|(diff, _)| diff), [0, 0], "{own}");
        }
        assert_eq!(bracketed([130, 35], [134, 39], 27, 0)[0], (3, 4));
        assert_eq!(bracketed([130, 35], [134, 39], 40, 0)[0], (-6, 4));
        // One event on each of two CPUs may be on one side only.
        assert_eq!(bracketed([130, 35], [134, 39], 28, 2)[0], (0, 6));
        assert_eq!(bracketed([130, 35], [134, 39], 27, 2)[0], (1, 6));
    }

    #[test]
    fn what_went_up_and_down_between_two_readings_is_no_difference() {
        // Four were born and four ended: the number of those alive may have been 39 when twtrace stopped.
        assert_eq!(bracketed([130, 35], [134, 35], 34, 0), [(0, 4), (0, 8)]);
    }

    #[test]
    fn only_a_comparison_at_rest_is_exact() {
        let row = |diff, slack| Reconciled { slack, diff, ..row_of(Counter::Tw) };
        assert_eq!(agrees(&[row(0, 0), row(0, 0)]), Some(true));
        assert_eq!(agrees(&[row(0, 0), row(0, 3)]), None);
        assert_eq!(agrees(&[row(1, 0), row(0, 3)]), Some(false));
    }

    #[test]
    fn what_cannot_be_told_is_left_out() {
        let start = look(0, 0, 0, 0, [0; 5]);
        let names: Vec<_> = reconcile(&start, &start, None, false).iter().map(|row| row.counter).collect();
        assert_eq!(names, [Counter::TwRecycled, Counter::SockstatTw]);
    }
}
