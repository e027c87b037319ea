//! How long things took: a histogram that keeps one digit or two, and costs nothing until something is entered.

use hdrhistogram::{Counter, Histogram};

/// Nanoseconds of one step: what a histogram counts in.
const STEP_NS: u64 = 1_000;

/// Lengths of time, entered in nanoseconds and kept in microseconds: with two digits to 1 %, in 10 KB for a minute; with
/// one to 10 %, in a tenth of that. Counts stop at the largest `C`.
#[derive(Clone, Debug)]
pub struct Times<const DIGITS: u8 = 2, C: Counter = u32>(Option<Box<Histogram<C>>>);

impl<const DIGITS: u8, C: Counter> Default for Times<DIGITS, C> {
    fn default() -> Self {
        Self(None)
    }
}

/// One bar of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// From here, nanoseconds, inclusive.
    pub from_ns: u64,
    /// To here, nanoseconds, exclusive.
    pub to_ns: u64,
    /// How many.
    pub count: u64,
}

impl<const DIGITS: u8, C: Counter> Times<DIGITS, C> {
    /// Enters one length of time.
    pub fn enter(&mut self, ns: u64) {
        if self.0.is_none() {
            // It refuses more than five digits and nothing else.
            self.0 = Histogram::new(DIGITS).ok().map(Box::new);
        }
        if let Some(histogram) = &mut self.0 {
            // A histogram that grows by itself refuses only what needs more memory than there is.
            let _ = histogram.record(ns / STEP_NS);
        }
    }

    /// Enters all of another's.
    pub fn add(&mut self, other: &Self) {
        match (&mut self.0, &other.0) {
            (_, None) => {}
            (Some(own), Some(other)) => {
                let _ = own.add(other.as_ref());
            }
            (own @ None, Some(other)) => *own = Some(other.clone()),
        }
    }

    /// Takes all of another's off, each of which must have been entered. `None`: one was not, and nothing is changed for
    /// certain.
    pub fn take_off(&mut self, other: &Self) -> Option<()> {
        match (&mut self.0, &other.0) {
            (_, None) => Some(()),
            (Some(own), Some(other)) => own.subtract(other.as_ref()).ok(),
            (None, Some(_)) => None,
        }
    }

    /// How many were entered.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, |histogram| histogram.len())
    }

    /// The length that this share (0 to 1) of them does not exceed, nanoseconds; `None` if there are none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let histogram = self.0.as_ref().filter(|histogram| !histogram.is_empty())?;
        let value = histogram.value_at_quantile(share);
        Some(histogram.median_equivalent(value).saturating_mul(STEP_NS))
    }

    /// The counts in at most `most` bars whose widths grow by one factor, the finest that fits; from the first that is
    /// not empty to the last.
    #[must_use]
    pub fn bars(&self, most: usize) -> Vec<Bar> {
        const FACTORS: [f64; 8] = [1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 4.0, 10.0];
        let Some(histogram) = self.0.as_ref().filter(|histogram| !histogram.is_empty()) else { return Vec::new() };
        let (low, high) = (histogram.min().max(1) as f64, histogram.max().max(1) as f64);
        let bars = |factor: f64| (high / low).ln() / factor.ln() + 2.0;
        let factor = FACTORS.into_iter().find(|&factor| bars(factor) <= most as f64).unwrap_or(FACTORS[7]);
        // Bounds are powers of the factor, so that equal lengths stand in equal bars whatever else was entered.
        let first = (low.ln() / factor.ln()).floor() as i32;
        let bound = |step: i32| factor.powi(first + step).round().max(1.0) as u64;
        let mut found: Vec<Bar> = Vec::new();
        for step in 0..i32::try_from(most).unwrap_or(i32::MAX) {
            let (from, to) = (if first + step <= 0 { 0 } else { bound(step) }, bound(step + 1));
            if from > histogram.max() {
                break;
            }
            if to > from {
                let (from_ns, to_ns) = (from.saturating_mul(STEP_NS), to.saturating_mul(STEP_NS));
                found.push(Bar { from_ns, to_ns, count: 0 });
            }
        }
        for recorded in histogram.iter_recorded() {
            let ns = recorded.value_iterated_to().saturating_mul(STEP_NS);
            let at = found.partition_point(|bar| bar.to_ns <= ns).min(found.len().saturating_sub(1));
            if let Some(bar) = found.get_mut(at) {
                bar.count += recorded.count_at_value().as_u64();
            }
        }
        while found.first().is_some_and(|bar| bar.count == 0) {
            found.remove(0);
        }
        while found.last().is_some_and(|bar| bar.count == 0) {
            found.pop();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_entered_is_not_zero() {
        let times = <Times>::default();
        assert_eq!((times.count(), times.quantile(0.5), times.quantile(1.0)), (0, None, None));
        assert_eq!(times.bars(10), []);
    }

    #[test]
    fn a_minute_is_told_to_one_percent() {
        let mut times = Times::<2>::default();
        for _ in 0..99 {
            times.enter(60_480_000_000);
        }
        times.enter(64_000_000_000);
        let median = times.quantile(0.5).unwrap();
        assert!(median.abs_diff(60_480_000_000) < 600_000_000, "{median}");
        let p99 = times.quantile(0.99).unwrap();
        assert!(p99.abs_diff(60_480_000_000) < 600_000_000, "{p99}");
        assert!(times.quantile(1.0).unwrap().abs_diff(64_000_000_000) < 640_000_000);
    }

    #[test]
    fn two_together_are_their_sum() {
        let (mut a, mut b) = (<Times>::default(), Times::default());
        a.enter(1_000_000);
        b.enter(9_000_000);
        b.add(&a);
        a.add(&b);
        assert_eq!((a.count(), b.count()), (3, 2));
    }

    proptest! {
        #[test]
        fn bars_hold_everything_once(values in prop::collection::vec(0..u64::MAX, 1..200), most in 1..60_usize) {
            let mut times = <Times>::default();
            values.iter().for_each(|&ns| times.enter(ns));
            let bars = times.bars(most);
            prop_assert!(bars.len() <= most);
            prop_assert_eq!(bars.iter().map(|bar| bar.count).sum::<u64>(), times.count());
            prop_assert!(bars.windows(2).all(|pair| pair[0].to_ns == pair[1].from_ns));
        }

        #[test]
        fn bars_stand_where_their_values_are(values in prop::collection::vec(1_000_000..100_000_000_000_u64, 1..100)) {
            let mut times = <Times>::default();
            values.iter().for_each(|&ns| times.enter(ns));
            let bars = times.bars(40);
            let (least, most) = (values.iter().min().unwrap(), values.iter().max().unwrap());
            // A value is kept to 1 %, so it may stand that far off.
            prop_assert!(bars[0].from_ns <= least + least / 50);
            prop_assert!(bars[bars.len() - 1].to_ns >= most - most / 50);
        }
    }
}
