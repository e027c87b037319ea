//! From the kernel's monotonic clock to the time on the wall.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// How far the wall clock is ahead of `CLOCK_MONOTONIC`. Measured by host::clock; true until the wall clock is set or
/// the machine sleeps, which a run looks for whenever it empties the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds.
    pub offset_ns: i128,
}

impl Clock {
    /// The wall time of a monotonic time. Times beyond the calendar (years -9999 to 9999) stop at its ends.
    #[must_use]
    pub fn wall(self, mono_ns: u64) -> Timestamp {
        let nanos = self.offset_ns.saturating_add(mono_ns.into());
        let end = if nanos < 0 { Timestamp::MIN } else { Timestamp::MAX };
        Timestamp::from_nanosecond(nanos).unwrap_or(end)
    }
}

/// A wall time as RFC 3339 in UTC, always with nine digits behind the second.
#[derive(Clone, Copy)]
pub(crate) struct Stamp(pub Timestamp);

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.9}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_and_time_add_up() {
        let clock = Clock { offset_ns: 1_700_000_000_000_000_000 };
        assert_eq!(format!("{:.9}", clock.wall(123_456_789)), "2023-11-14T22:13:20.123456789Z");
    }

    #[test]
    fn nothing_is_beyond_the_calendar() {
        assert_eq!(Clock { offset_ns: i128::MAX }.wall(u64::MAX), Timestamp::MAX);
        assert_eq!(Clock { offset_ns: i128::MIN }.wall(0), Timestamp::MIN);
    }
}
