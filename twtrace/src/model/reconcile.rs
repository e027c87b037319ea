//! twtrace held against the kernel's own counters, for one network namespace. Pure: two looks in, differences out.
//!
//! The identities are those of include/net/inet_timewait_sock.h and net/ipv4/inet_timewait_sock.c; what TcpExt TW counts
//! changed in 5.18 (births instead of expiries), which the self-test finds out on the spot.

use twtrace_common::counter::Own;

use super::report::Reconciled;
use crate::{host::counters::KernelCounters, selftest::TwCounts};

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
    let row = |counter, kernel: i64, twtrace: i64| Reconciled { counter, kernel, twtrace, diff: kernel - twtrace };
    let (k0, k1, t0, t1) = (&start.kernel, &end.kernel, &start.own, &end.own);
    let mut rows = Vec::new();
    let tw = moved(k1.tw + k1.tw_killed, k0.tw + k0.tw_killed);
    match tw_counts {
        Some(TwCounts::Births) => rows.push(row("TcpExt.TW+TWKilled", tw, moved(t1.born, t0.born))),
        Some(TwCounts::Expiries) => rows.push(row("TcpExt.TW+TWKilled", tw, moved(t1.expired, t0.expired))),
        None => {}
    }
    rows.push(row("TcpExt.TWRecycled", moved(k1.tw_recycled, k0.tw_recycled), moved(t1.taken, t0.taken)));
    if refusal {
        let overflow = moved(k1.overflow, k0.overflow);
        rows.push(row("TcpExt.TCPTimeWaitOverflow", overflow, moved(t1.refused, t0.refused)));
    }
    let expected = k0.sockstat_tw.cast_signed() + moved(t1.born, t0.born) - moved(t1.died, t0.died);
    rows.push(row("sockstat.tw", k1.sockstat_tw.cast_signed(), expected));
    rows
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_no_difference() {
        let row = |diff| Reconciled { counter: "TW", kernel: 10, twtrace: 10 - diff, diff };
        let told = |a, b| between(vec![row(a)], &[row(b)]).first().map(|row| (row.diff, row.twtrace));
        assert_eq!(told(2, -1), Some((0, 10)));
        assert_eq!(told(2, 1), Some((1, 9)));
        assert_eq!(told(-3, -5), Some((-3, 13)));
        assert_eq!(told(0, -5), Some((0, 10)));
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
        assert_eq!(diffs[0], ("TcpExt.TW+TWKilled", 1));
        assert_eq!(diffs[3], ("sockstat.tw", 1));
    }

    #[test]
    fn what_cannot_be_told_is_left_out() {
        let start = look(0, 0, 0, 0, [0; 5]);
        let names: Vec<_> = reconcile(&start, &start, None, false).iter().map(|row| row.counter).collect();
        assert_eq!(names, ["TcpExt.TWRecycled", "sockstat.tw"]);
    }
}
