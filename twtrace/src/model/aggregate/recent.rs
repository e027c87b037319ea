//! How long connect() took of late, for a destination: there may be 100,000 of them, so it has to be small.

use arrayvec::ArrayVec;

use super::times::Times;

/// How many a window keeps as they are. Few destinations get more in one, and the smallest histogram takes more memory than
/// all else that is known of a destination.
const FEW: usize = 6;

/// How long a window is, nanoseconds: latencies are shown beside the fill, so they must be as fresh.
pub(super) const WINDOW_NS: u64 = 10_000_000_000;

/// Nanoseconds in a microsecond, which is what latencies are kept in.
const US: u64 = 1000;

/// Latencies of connect(), of this window or, if there are none yet, of the one before.
#[derive(Debug, Default)]
pub(super) struct Recent {
    now: Kept,
    before: Option<Quantiles>,
}

/// The latencies of a window.
#[derive(Debug)]
enum Kept {
    /// All of them, microseconds, in no order.
    Few(ArrayVec<u32, FEW>),
    Many(Times<1, u16>),
}

/// Microseconds.
#[derive(Clone, Copy, Debug)]
struct Quantiles {
    median: u32,
    p99: u32,
}

impl Default for Kept {
    fn default() -> Self {
        Self::Few(ArrayVec::new())
    }
}

impl Recent {
    /// Enters one, nanoseconds.
    pub fn enter(&mut self, connect_ns: u64) {
        match &mut self.now {
            Kept::Few(few) => {
                let Err(full) = few.try_push(microseconds(connect_ns)) else { return };
                let mut many = Times::default();
                few.iter().chain([&full.element()]).for_each(|&us| many.enter(u64::from(us) * US));
                self.now = Kept::Many(many);
            }
            Kept::Many(many) => {
                many.enter(connect_ns);
                if many.count() >= u16::MAX.into() {
                    // So many make a window of their own, and none is counted short.
                    self.roll();
                }
            }
        }
    }

    /// A window is over.
    pub fn roll(&mut self) {
        self.before = self.now.quantiles();
        self.now = Kept::default();
    }

    /// Half of them took no longer, and 99 % took no longer, nanoseconds; to 10 % if there are many.
    pub fn median_and_p99(&self) -> Option<(u64, u64)> {
        let Quantiles { median, p99 } = self.now.quantiles().or(self.before)?;
        Some((u64::from(median) * US, u64::from(p99) * US))
    }
}

impl Kept {
    fn quantiles(&self) -> Option<Quantiles> {
        match self {
            Self::Few(few) => {
                let mut few = few.clone();
                few.sort_unstable();
                // 99 % of so few are all of them.
                let (&median, &p99) = few.get(few.len().saturating_sub(1) / 2).zip(few.last())?;
                Some(Quantiles { median, p99 })
            }
            Self::Many(many) => {
                let (median, p99) = many.quantile(0.5).zip(many.quantile(0.99))?;
                Some(Quantiles { median: microseconds(median), p99: microseconds(p99) })
            }
        }
    }
}

/// 71 minutes at most.
fn microseconds(ns: u64) -> u32 {
    u32::try_from(ns / US).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(latencies: impl IntoIterator<Item = u64>) -> Recent {
        let mut recent = Recent::default();
        latencies.into_iter().for_each(|ns| recent.enter(ns));
        recent
    }

    #[test]
    fn few_are_told_exactly() {
        assert_eq!(of([]).median_and_p99(), None);
        assert_eq!(of([90_999]).median_and_p99(), Some((90_000, 90_000)));
        assert_eq!(of([70_000, 10_000, 20_000, 3_000_000]).median_and_p99(), Some((20_000, 3_000_000)));
    }

    #[test]
    fn a_window_without_any_shows_the_one_before_and_then_nothing() {
        let mut recent = of([5_000]);
        recent.roll();
        assert_eq!(recent.median_and_p99(), Some((5_000, 5_000)));
        recent.enter(7_000);
        assert_eq!(recent.median_and_p99(), Some((7_000, 7_000)));
        recent.roll();
        recent.roll();
        assert_eq!(recent.median_and_p99(), None);
    }

    #[test]
    fn as_many_as_can_be_counted_make_a_window() {
        let mut recent = of((0..u64::from(u16::MAX)).map(|_| 5_000));
        assert!(matches!(&recent.now, Kept::Few(few) if few.is_empty()));
        recent.enter(9_000);
        assert_eq!(recent.median_and_p99(), Some((9_000, 9_000)));
    }

    proptest! {
        #[test]
        fn they_stand_where_they_belong(mut latencies in prop::collection::vec(20_000..10_000_000_000_u64, 1..40)) {
            let (median, p99) = of(latencies.iter().copied()).median_and_p99().unwrap();
            latencies.sort_unstable();
            let near = |seen: u64, real: u64| seen.abs_diff(real) <= real / 10 + US;
            prop_assert!(near(median, latencies[(latencies.len() - 1) / 2]), "{}", median);
            prop_assert!(near(p99, latencies[latencies.len() - 1]), "{}", p99);
        }
    }
}
