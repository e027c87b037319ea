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
    let (before, wall, after) = (monotonic_ns(), nanos(ClockId::Realtime), monotonic_ns());
    let middle = before / 2 + after / 2;
    i64::try_from(i128::from(wall) - i128::from(middle)).unwrap_or(0)
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
    fn wall_clock_is_monotonic_plus_offset() {
        let wall = i128::from(monotonic_ns()) + i128::from(wall_offset_ns());
        let other = i128::from(nanos(ClockId::Realtime));
        assert!((wall - other).abs() < 1_000_000_000, "{wall} {other}");
    }
}
