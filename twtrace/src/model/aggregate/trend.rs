//! Where a destination's ports are going: full in so many seconds, or not at all.

use arrayvec::ArrayVec;
use serde::{Serialize, Serializer};

/// Ticks over which growth is measured: long enough to bridge one without an event, short enough to follow a burst.
const WINDOW: usize = 6;

/// When the last ticks were: the same for all destinations.
#[derive(Clone, Debug, Default)]
pub struct Ticks {
    /// Nanoseconds of `CLOCK_MONOTONIC`, newest last.
    at_ns: ArrayVec<u64, WINDOW>,
}

impl Ticks {
    /// One more; says how long after the last it is, seconds: 0 for the first.
    pub fn tick(&mut self, at_ns: u64) -> f64 {
        slide(&mut self.at_ns, at_ns);
        self.span_s(2).unwrap_or(0.0)
    }

    /// Between the first and the last of so many, seconds.
    fn span_s(&self, ticks: usize) -> Option<f64> {
        let first = self.at_ns.get(self.at_ns.len().checked_sub(ticks)?)?;
        Some(self.at_ns.last()?.saturating_sub(*first) as f64 / 1e9)
    }
}

/// How things stood at a tick.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    in_use: u32,
    /// May wrap around, as only differences count.
    born: u32,
}

/// The last few ticks of a destination, each of which it was told.
#[derive(Clone, Debug, Default)]
pub struct Trend {
    points: ArrayVec<Point, WINDOW>,
}

/// What comes of a destination's ports at the present rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Forecast {
    /// Ports do not run out.
    Steady,
    /// Ports run out in so many seconds.
    In(f64),
    /// None is left.
    Exhausted,
}

impl Forecast {
    /// The word used in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::In(_) => "filling",
            Self::Exhausted => "full",
        }
    }
}

impl Serialize for Forecast {
    /// Seconds; null for never.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Steady => serializer.serialize_none(),
            Self::In(seconds) => serializer.serialize_f64((seconds * 10.0).round() / 10.0),
            Self::Exhausted => serializer.serialize_f64(0.0),
        }
    }
}

impl Trend {
    /// Of a destination for which no port was held at the tick before its first.
    pub fn from_nothing() -> Self {
        let mut trend = Self::default();
        trend.points.push(Point { in_use: 0, born: 0 });
        trend
    }

    /// Enters a tick.
    pub fn tick(&mut self, in_use: u32, born: u64) {
        slide(&mut self.points, Point { in_use, born: born as u32 });
    }

    /// First and last point, and the seconds between them.
    fn span(&self, ticks: &Ticks) -> Option<(Point, Point, f64)> {
        // The point before the first tick of all belongs to none.
        let count = self.points.len().min(ticks.at_ns.len());
        let (first, last) = (*self.points.get(self.points.len() - count)?, *self.points.last()?);
        let seconds = ticks.span_s(count)?;
        (seconds > 0.0).then_some((first, last, seconds))
    }

    /// Of `available` ports, when there will be none left. Connections leave a minisock of `time_wait_s` seconds each;
    /// `open` are held by connections themselves. `None` before the second tick.
    #[must_use]
    pub fn forecast(&self, ticks: &Ticks, available: u32, open: u32, time_wait_s: f64) -> Option<Forecast> {
        let (first, last, seconds) = self.span(ticks)?;
        if last.in_use >= available {
            return Some(Forecast::Exhausted);
        }
        let growth = (f64::from(last.in_use) - f64::from(first.in_use)) / seconds;
        // Little's law: so many minisocks there will be once as many end as are born.
        let settles_at = f64::from(last.born.wrapping_sub(first.born)) / seconds * time_wait_s + f64::from(open);
        if growth <= 0.0 || settles_at < f64::from(available) {
            return Some(Forecast::Steady);
        }
        Some(Forecast::In(f64::from(available - last.in_use) / growth))
    }
}

/// Enters one, where need be in place of the oldest.
fn slide<T>(window: &mut ArrayVec<T, WINDOW>, newest: T) {
    if window.is_full() {
        window.remove(0);
    }
    window.push(newest);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is foretold of 200 ports after so many ticks of a second, this many births in each, lives of a minute.
    fn after(ticks: u32, per_s: u32, open: u32) -> Option<Forecast> {
        let (mut all, mut trend) = (Ticks::default(), Trend::default());
        for tick in 0..=ticks {
            all.tick(u64::from(tick) * 1_000_000_000);
            trend.tick(per_s * tick.min(60), u64::from(per_s * tick));
        }
        trend.forecast(&all, 200, open, 60.0)
    }

    #[test]
    fn one_look_tells_nothing() {
        assert_eq!(after(0, 10, 0), None);
    }

    #[test]
    fn a_steady_climb_ends_when_the_ports_do() {
        assert_eq!(after(15, 10, 0), Some(Forecast::In(5.0)));
        assert_eq!(after(20, 10, 0), Some(Forecast::Exhausted));
    }

    #[test]
    fn what_settles_below_the_limit_is_steady() {
        // Three a second come to 180 minisocks.
        assert_eq!(after(15, 3, 0), Some(Forecast::Steady));
        assert_eq!(after(15, 3, 30), Some(Forecast::In(155.0 / 3.0)));
        assert_eq!(after(90, 3, 0), Some(Forecast::Steady));
    }

    #[test]
    fn one_that_is_new_has_grown_since_the_tick_before() {
        let (mut all, mut trend) = (Ticks::default(), Trend::from_nothing());
        all.tick(0);
        assert_eq!(trend.forecast(&all, 200, 0, 60.0), None);
        all.tick(5_000_000_000);
        trend.tick(50, 50);
        // Ten a second: 600 minisocks would be there once as many end as are born.
        assert_eq!(trend.forecast(&all, 200, 0, 60.0), Some(Forecast::In(15.0)));
        assert_eq!(trend.forecast(&all, 28_232, 0, 60.0), Some(Forecast::Steady));
    }

    #[test]
    fn the_point_before_all_ticks_is_none_of_them() {
        let (mut all, mut trend) = (Ticks::default(), Trend::from_nothing());
        for tick in 0..10 {
            all.tick(tick * 1_000_000_000);
            trend.tick(100, 0);
            let wanted = (tick > 0).then_some(Forecast::Steady);
            assert_eq!(trend.forecast(&all, 200, 100, 60.0), wanted, "{tick}");
        }
    }

    #[test]
    fn one_that_came_later_is_measured_since_then() {
        let (mut all, mut trend) = (Ticks::default(), Trend::default());
        for tick in 0..10 {
            all.tick(tick * 1_000_000_000);
            if tick >= 8 {
                trend.tick(100 + 10 * (tick as u32 - 8), 1000 * tick);
            }
        }
        assert_eq!(trend.forecast(&all, 200, 0, 60.0), Some(Forecast::In(9.0)));
    }
}
