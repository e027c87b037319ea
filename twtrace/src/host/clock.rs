//! The kernel's clocks.

use std::time::Duration;

use rustix::time::{ClockId, clock_getres, clock_gettime};

/// Timer ticks per second, CONFIG_HZ.
///
/// The resolution of the coarse clocks is one tick (`hrtimer_resolution` and KTIME_LOW_RES of
/// kernel/time/posix-timers.c), so no configuration file has to be found.
#[must_use]
pub fn hz() -> u32 {
    let tick = clock_getres(ClockId::MonotonicCoarse);
    let nanos = tick.tv_sec.saturating_mul(1_000_000_000).saturating_add(tick.tv_nsec).max(1);
    u32::try_from((1_000_000_000 + nanos / 2) / nanos).unwrap_or(u32::MAX).max(1)
}

/// `CLOCK_MONOTONIC`, nanoseconds: the clock of every record (`bpf_ktime_get_ns`).
#[must_use]
pub fn monotonic_ns() -> u64 {
    nanos(ClockId::Monotonic)
}

/// What has to be added to `CLOCK_MONOTONIC` to get the wall clock, nanoseconds, now.
#[must_use]
pub fn wall_offset_ns() -> i64 {
    Reading::best().offset_ns()
}

/// How far the wall clock is ahead of `CLOCK_MONOTONIC`, kept true.
///
/// Both clocks run at one rate, for the kernel slews them together (`timekeeping_adjust` of kernel/time/timekeeping.c). The
/// distance changes when somebody sets the wall clock (clock_settime(2), adjtimex(2) with ADJ_SETOFFSET), at a leap second,
/// and while the machine sleeps. Between such steps it is a constant here, whatever the readings say: each is off by up to
/// the time that it took.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    known: Reading,
}

impl WallClock {
    /// As things stand.
    #[must_use]
    pub fn new() -> Self {
        Self { known: Reading::best() }
    }

    /// What has to be added to `CLOCK_MONOTONIC`, nanoseconds.
    #[must_use]
    pub fn offset_ns(&self) -> i64 {
        self.known.offset_ns()
    }

    /// Looks again. True if the wall clock was set meanwhile.
    pub fn is_set(&mut self) -> bool {
        let is_set = Reading::now().contradicts(&self.known);
        if is_set {
            self.known = Reading::best();
        }
        is_set
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new()
    }
}

/// The wall clock between two looks at `CLOCK_MONOTONIC`, nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Reading {
    before: u64,
    wall: u64,
    after: u64,
}

impl Reading {
    fn now() -> Self {
        Self { before: monotonic_ns(), wall: nanos(ClockId::Realtime), after: monotonic_ns() }
    }

    /// The shortest of a few: this thread may lose its CPU between two looks.
    fn best() -> Self {
        let first = Self::now();
        (0..4).map(|_| Self::now()).fold(first, |best, next| if next.took() < best.took() { next } else { best })
    }

    fn took(&self) -> u64 {
        self.after.saturating_sub(self.before)
    }

    fn offset_ns(&self) -> i64 {
        let middle = self.before + self.took() / 2;
        i64::try_from(i128::from(self.wall) - i128::from(middle)).unwrap_or(0)
    }

    /// True if the clock must have been set between the two.
    fn contradicts(&self, other: &Self) -> bool {
        self.offset_ns().abs_diff(other.offset_ns()) > self.took() + other.took()
    }
}

/// Processor time of this process, nanoseconds.
pub(super) fn process_ns() -> u64 {
    nanos(ClockId::ProcessCPUTime)
}

/// Processor time of the calling thread.
#[must_use]
pub fn thread_cpu() -> Duration {
    Duration::from_nanos(nanos(ClockId::ThreadCPUTime))
}

fn nanos(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let nanos = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    u64::try_from(nanos).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hz_is_one_that_linux_can_be_built_with() {
        assert!([100, 250, 300, 1000].contains(&hz()), "{}", hz());
    }

    #[test]
    fn a_clock_that_was_set_is_told_from_a_reading_that_took_long() {
        let reading = |before, wall, took| Reading { before, wall, after: before + took };
        let known = reading(1_000, 1_700_000_000_000_001_050, 100);
        assert_eq!(known.offset_ns(), 1_700_000_000_000_000_000);
        // 10 ms between the looks, and the wall clock read at the first, at the last.
        assert!(!reading(5_000_000, 1_700_000_000_005_000_000, 10_000_000).contradicts(&known));
        assert!(!reading(5_000_000, 1_700_000_000_015_000_000, 10_000_000).contradicts(&known));
        assert!(reading(5_000_000, 1_700_000_000_006_000_000, 100).contradicts(&known), "1 ms ahead");
        assert!(reading(5_000_000, 1_700_000_000_004_000_000, 100).contradicts(&known), "1 ms back");
        assert!(reading(5_000_000, 0, 100).contradicts(&known));
    }

    #[test]
    fn a_clock_that_nobody_sets_stays_as_it_is() {
        let mut clock = WallClock::new();
        let offset_ns = clock.offset_ns();
        // Whoever sets this machine's clock right now would be noticed, too.
        let set = (0..1_000).filter(|_| clock.is_set()).count();
        assert!(set == 0 || clock.offset_ns() != offset_ns);
        // One that was set is noticed once.
        clock.known.wall += 3_600_000_000_000;
        assert!(clock.is_set() && !clock.is_set());
    }

    #[test]
    fn wall_clock_is_monotonic_plus_offset() {
        let wall = i128::from(monotonic_ns()) + i128::from(wall_offset_ns());
        let other = i128::from(nanos(ClockId::Realtime));
        assert!((wall - other).abs() < 1_000_000_000, "{wall} {other}");
    }
}
