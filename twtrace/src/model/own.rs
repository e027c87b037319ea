//! What twtrace itself costs: two readings, and what lies between them.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// What a program has cost since it was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runs {
    /// Name of the program.
    pub name: Cow<'static, str>,
    /// How often it ran while runs were timed.
    pub runs: u64,
    /// What that took, nanoseconds, the timing itself included.
    pub run_ns: u64,
}

/// The costs so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Every program that is attached; `None` if this kernel does not time them.
    pub programs: Option<Vec<Runs>>,
    /// Events found.
    pub seen: u64,
    /// Events that found the ring full.
    pub lost: u64,
    /// Processor time, all threads, nanoseconds.
    pub cpu_ns: u64,
    /// The most bytes that waited in the ring since the reading before.
    pub ring_used: Option<u64>,
    /// Bytes of the ring.
    pub ring_size: u64,
    /// Memory that is resident, bytes.
    pub rss_bytes: Option<u64>,
}

/// What twtrace costs, of the time since the reading before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Own {
    /// Length of the interval, nanoseconds.
    pub interval_ns: u64,
    /// Events found.
    pub events: u64,
    /// Events that found the ring full.
    pub lost: u64,
    /// All programs, nanoseconds; `None` if this kernel does not time them.
    pub bpf_ns: Option<u64>,
    /// Each program that ran, the costliest first.
    pub programs: Vec<Runs>,
    /// Processor time, all threads, nanoseconds.
    pub cpu_ns: u64,
    /// The most bytes that waited in the ring.
    pub ring_used: Option<u64>,
    /// Bytes of the ring.
    pub ring_size: u64,
    /// Memory that is resident now, bytes.
    pub rss_bytes: Option<u64>,
}

impl Own {
    /// What lies between two readings.
    #[must_use]
    pub fn between(then: &Reading, now: &Reading) -> Self {
        let mut programs = Vec::new();
        for after in now.programs.iter().flatten() {
            let before = then.programs.iter().flatten().find(|before| before.name == after.name);
            let (runs, run_ns) = before.map_or((0, 0), |before| (before.runs, before.run_ns));
            let runs = after.runs.saturating_sub(runs);
            if runs > 0 {
                programs.push(Runs { name: after.name.clone(), runs, run_ns: after.run_ns.saturating_sub(run_ns) });
            }
        }
        programs.sort_by_key(|program| std::cmp::Reverse(program.run_ns));
        Self {
            interval_ns: now.at_ns.saturating_sub(then.at_ns),
            events: now.seen.saturating_sub(then.seen),
            lost: now.lost.saturating_sub(then.lost),
            bpf_ns: now.programs.as_ref().map(|_| programs.iter().map(|program| program.run_ns).sum()),
            programs,
            cpu_ns: now.cpu_ns.saturating_sub(then.cpu_ns),
            ring_used: now.ring_used,
            ring_size: now.ring_size,
            rss_bytes: now.rss_bytes,
        }
    }

    /// What an event cost in the programs, nanoseconds; `None` if there was none.
    #[must_use]
    pub fn bpf_ns_per_event(&self) -> Option<f64> {
        (self.events > 0).then(|| Some(self.bpf_ns? as f64 / self.events as f64)).flatten()
    }

    /// Events in a second; `None` if no time has passed.
    #[must_use]
    pub fn events_per_s(&self) -> Option<f64> {
        (self.interval_ns > 0).then(|| self.events as f64 * 1e9 / self.interval_ns as f64)
    }

    /// The share of one processor that the programs took.
    #[must_use]
    pub fn bpf_share(&self) -> Option<f64> {
        self.share(self.bpf_ns?)
    }

    /// The share of one processor that twtrace itself took.
    #[must_use]
    pub fn cpu_share(&self) -> Option<f64> {
        self.share(self.cpu_ns)
    }

    fn share(&self, ns: u64) -> Option<f64> {
        (self.interval_ns > 0).then(|| ns as f64 / self.interval_ns as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at_ns: u64, programs: &[(&'static str, u64, u64)], seen: u64) -> Reading {
        let programs = programs.iter().map(|&(name, runs, run_ns)| Runs { name: name.into(), runs, run_ns }).collect();
        Reading { at_ns, programs: Some(programs), seen, cpu_ns: at_ns / 10, ..Reading::default() }
    }

    #[test]
    fn what_lies_between_is_told_costliest_first() {
        let then = reading(1_000, &[("a", 5, 100), ("b", 7, 900), ("idle", 3, 50)], 10);
        let own = Own::between(&then, &reading(2_000, &[("a", 15, 700), ("b", 8, 950), ("idle", 3, 50)], 14));
        let named = |name: &'static str, runs, run_ns| Runs { name: name.into(), runs, run_ns };
        assert_eq!(own.programs, [named("a", 10, 600), named("b", 1, 50)]);
        assert_eq!((own.events, own.bpf_ns, own.bpf_ns_per_event()), (4, Some(650), Some(162.5)));
        assert_eq!((own.bpf_share(), own.cpu_share()), (Some(0.65), Some(0.1)));
        assert_eq!(own.events_per_s(), Some(4e6));
    }

    #[test]
    fn nothing_is_made_of_nothing() {
        let own = Own::between(&Reading::default(), &Reading::default());
        assert_eq!((own.bpf_ns, own.bpf_ns_per_event(), own.events_per_s(), own.cpu_share()), (None, None, None, None));
    }
}
