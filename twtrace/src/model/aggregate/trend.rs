//! Where a destination's ports are going: full in so many seconds, or not at all.

use serde::{Serialize, Serializer};

/// Ticks over which growth is measured: long enough to bridge one without an event, short enough to follow a burst.
const WINDOW: usize = 6;

/// How things stood at a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Point {
    /// Milliseconds; may wrap around, as only differences count.
    at_ms: u32,
    in_use: u32,
    /// May wrap around too.
    born: u32,
}

/// The last few ticks of a destination.
#[derive(Clone, Debug, Default)]
pub struct Trend {
    points: [Point; WINDOW],
    len: u8,
}

/// What comes of a destination's ports at the present rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Forecast {
    /// They do not run out.
    Steady,
    /// They run out in so many seconds.
    In(f64),
    /// None is left.
    Exhausted,
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
    /// Enters a tick.
    pub fn tick(&mut self, at_ns: u64, in_use: u32, born: u64) {
        let len = usize::from(self.len);
        let place = if len < WINDOW {
            self.len += 1;
            len
        } else {
            self.points.rotate_left(1);
            WINDOW - 1
        };
        self.points[place] = Point { at_ms: (at_ns / 1_000_000) as u32, in_use, born: born as u32 };
    }

    /// Forgets the births: their count starts anew.
    pub fn reset(&mut self) {
        self.len = 0;
    }

    /// First and last point, and the seconds between them.
    fn span(&self) -> Option<(Point, Point, f64)> {
        let points = &self.points[..usize::from(self.len)];
        let (first, last) = (*points.first()?, *points.last()?);
        let seconds = f64::from(last.at_ms.wrapping_sub(first.at_ms)) / 1e3;
        (seconds > 0.0).then_some((first, last, seconds))
    }

    /// Of `available` ports, when there will be none left. Connections leave a minisock of `time_wait_s` seconds each;
    /// `open` are held by connections themselves. `None` before the second tick.
    #[must_use]
    pub fn forecast(&self, available: u32, open: u32, time_wait_s: f64) -> Option<Forecast> {
        let (first, last, seconds) = self.span()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A second a tick, this many births in each, lives of a minute.
    fn after(ticks: u32, per_s: u32) -> Trend {
        let mut trend = Trend::default();
        for tick in 0..=ticks {
            let in_use = per_s * tick.min(60);
            trend.tick(u64::from(tick) * 1_000_000_000, in_use, u64::from(per_s * tick));
        }
        trend
    }

    #[test]
    fn one_look_tells_nothing() {
        assert_eq!(after(0, 10).forecast(200, 0, 60.0), None);
    }

    #[test]
    fn a_steady_climb_ends_when_the_ports_do() {
        assert_eq!(after(15, 10).forecast(200, 0, 60.0), Some(Forecast::In(5.0)));
        assert_eq!(after(20, 10).forecast(200, 0, 60.0), Some(Forecast::Exhausted));
    }

    #[test]
    fn what_settles_below_the_limit_is_steady() {
        // Three a second come to 180 minisocks.
        assert_eq!(after(15, 3).forecast(200, 0, 60.0), Some(Forecast::Steady));
        assert_eq!(after(15, 3).forecast(200, 30, 60.0), Some(Forecast::In(155.0 / 3.0)));
        assert_eq!(after(90, 3).forecast(200, 0, 60.0), Some(Forecast::Steady));
    }
}
