//! `--self-stats`: what twtrace itself costs, tick by tick.

use twtrace_common::counter::Counters;

use crate::{
    bpf::Timing,
    host::{Host, clock},
    model::own::{Own, Reading},
    tracer::Tracer,
};

/// Of a shorter time no costs are told, nanoseconds.
const MOMENT_NS: u64 = 50_000_000;

/// Measures while it lives.
pub(super) struct Meter {
    /// `None`: this kernel does not time programs.
    timing: Option<Timing>,
    ring_size: u64,
    host: Host,
    last: Option<Reading>,
    /// The most that waited in the ring since the last reading, bytes.
    fullest: Option<u64>,
}

impl Meter {
    /// Begins to measure.
    pub(super) fn new(ring_size: u32) -> Self {
        let timing = Timing::begin().ok();
        Self { timing, ring_size: ring_size.into(), host: Host::default(), last: None, fullest: None }
    }

    /// Looks at the ring, which is about to be emptied.
    pub(super) fn look(&mut self, tracer: &Tracer) {
        self.fullest = self.fullest.max(tracer.ring.used());
    }

    /// The costs since the last time; `None` the first, and if that was a moment ago, which says little of a CPU.
    pub(super) fn read(&mut self, tracer: &Tracer, counters: &Counters) -> Option<Own> {
        let at_ns = clock::monotonic_ns();
        if self.last.as_ref().is_some_and(|last| at_ns.saturating_sub(last.at_ns) < MOMENT_NS) {
            return None;
        }
        let now = Reading {
            at_ns,
            programs: self.timing.as_ref().map(|_| tracer.runs()),
            seen: counters.seen.iter().sum(),
            lost: counters.lost.iter().sum(),
            cpu_ns: Host::own_cpu_ns(),
            ring_used: self.fullest.take(),
            ring_size: self.ring_size,
            rss_bytes: self.host.own_rss(),
        };
        let own = self.last.as_ref().map(|then| Own::between(then, &now));
        self.last = Some(now);
        own
    }
}
