//! How long a slow reader is waited for.

use std::time::Duration;

/// Waits as long as there is progress. Times are since any moment, the same for all calls.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    limit: Duration,
    taken: u64,
    since: Duration,
}

impl Patience {
    /// Patience from `now` on, for a reader that has taken so many bytes; over after `limit` without one more.
    #[must_use]
    pub fn new(limit: Duration, taken: u64, now: Duration) -> Self {
        Self { limit, taken, since: now }
    }

    /// True if the reader has taken nothing for too long.
    pub fn is_over(&mut self, taken: u64, now: Duration) -> bool {
        if taken != self.taken {
            (self.taken, self.since) = (taken, now);
        }
        now.saturating_sub(self.since) >= self.limit
    }

    /// How long nothing has been taken.
    #[must_use]
    pub fn waited(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_reader_that_never_reads_is_given_up_after_the_limit() {
        let mut patience = Patience::new(s(10), 500, s(100));
        assert!(!patience.is_over(500, s(109)));
        assert_eq!(patience.waited(s(109)), s(9));
        assert!(patience.is_over(500, s(110)));
    }

    #[test]
    fn a_slow_reader_is_waited_for_however_long_it_takes() {
        // A page each four seconds is 1 kB/s: two hours for 7 MB.
        let mut patience = Patience::new(s(10), 0, s(0));
        assert!((1..1800).all(|page| !patience.is_over(page * 4096, s(page * 4))));
        assert!(!patience.is_over(1799 * 4096, s(1799 * 4 + 9)));
        assert!(patience.is_over(1799 * 4096, s(1799 * 4 + 10)));
    }

    #[test]
    fn no_patience_is_over_at_once() {
        assert!(Patience::new(s(0), 0, s(5)).is_over(0, s(5)));
    }
}
