//! Several measurements of one thing.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Several measurements of one thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Adds one.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut values = self.0.clone();
        values.sort_unstable_by(f64::total_cmp);
        values
    }

    /// The one in the middle; NaN if there is none.
    pub fn median(&self) -> f64 {
        let values = self.sorted();
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The smallest; NaN if there is none.
    pub fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    /// The largest; NaN if there is none.
    pub fn most(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }

    /// Each divided by that of the other that was taken in the same round.
    pub fn per(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(this, other)| this / other).collect())
    }

    /// Each in another unit.
    pub fn per_each(&self, unit: f64) -> Self {
        self.0.iter().map(|value| value / unit).collect()
    }

    /// Each added to that of the other that was taken in the same round.
    pub fn plus(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(this, other)| this + other).collect())
    }
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// `median (least .. most)`, with as many digits as asked for: `{:.2}`.
impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("–");
        }
        let digits = f.precision().unwrap_or(0);
        write!(f, "{:.digits$} ({:.digits$} .. {:.digits$})", self.median(), self.least(), self.most())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_shows_median_and_spread() {
        let sample: Sample = [3.0, 1.0, 2.5].into_iter().collect();
        assert_eq!(format!("{sample:.1}"), "2.5 (1.0 .. 3.0)");
        assert_eq!(Sample::default().to_string(), "–");
    }

    #[test]
    fn ratios_are_of_one_round_each() {
        let (this, other): (Sample, Sample) = ([1.0, 6.0].into_iter().collect(), [2.0, 3.0].into_iter().collect());
        assert_eq!(this.per(&other), [0.5, 2.0].into_iter().collect());
    }
}
