//! The kernel as it is watched now: the ring, looks through its sockets, its counters, the tracer's losses.

mod feed;
mod holders;
mod intake;
mod meter;
mod telling;
#[cfg(test)]
mod tests;

use std::{
    io,
    time::{Duration, Instant},
};

pub use feed::Feed;
use holders::Waiting;
use meter::Meter;

use super::{Hub, Origin, RunError};
use crate::{
    bpf::BpfError,
    host::{
        Host,
        buckets::Watch,
        clock::{self, WallClock},
    },
    model::{
        event::Event,
        happening::Happening,
        reconcile::Suspicion,
        report::{Reconciled, Start, Summary},
        totals::Beside,
    },
    plan::Capability,
    reconcile::{First, LookError, Scope},
    source::Source as _,
    tracer::Tracer,
};

/// How long the last events may wait for their holders at the end.
const LAST_HOLDERS: Duration = Duration::from_millis(500);
/// How long the last look through the kernel's sockets is waited for: those of a million sockets in 40 namespaces.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// A run that is watched as it happens.
pub struct Live<'a> {
    tracer: &'a mut Tracer,
    scope: &'a Scope,
    start: Start,
    first: First,
    began: Instant,
    /// The moment from which events count, nanoseconds of `CLOCK_MONOTONIC`.
    began_ns: u64,
    /// Events that came before the run.
    early: std::vec::IntoIter<Event>,
    holders: Waiting,
    beside: Beside,
    ring_told: u64,
    garbage_told: u64,
    /// When rates were last counted, with the births and ends of then.
    last: (Instant, u64, u64),
    buckets: Option<Watch>,
    suspicion: Suspicion,
    feed: Option<Feed>,
    meter: Option<Meter>,
    ring_size: u32,
    wall: WallClock,
    reconcile: Vec<Reconciled>,
}

impl<'a> Live<'a> {
    /// What this tracer sees, from now on. Takes the first look at the kernel's counters.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn new(tracer: &'a mut Tracer, scope: &'a Scope, start: Start, ring_size: u32) -> Result<Self, LookError> {
        let began = Instant::now();
        // Events count from the first that was seen, as soon as the programs were live.
        let now_ns = clock::monotonic_ns();
        let began_ns = tracer.early.first().map_or(now_ns, |event| event.mono_ns.min(now_ns));
        let live_since = began.checked_sub(Duration::from_nanos(now_ns - began_ns)).unwrap_or(began);
        let first = scope.first(tracer)?;
        let watched = |capability| tracer.plan.backend(capability).is_some();
        let beside = Beside {
            turn: watched(Capability::Turn),
            rearm: watched(Capability::Rearm),
            refusal: watched(Capability::Refusal),
            no_port: watched(Capability::NoPort),
            reuse_denied: watched(Capability::ReuseDenied),
            no_bind: watched(Capability::NoBind),
            seeded: tracer.seeded.is_ok(),
            early_lost: tracer.early_lost,
            ..Beside::default()
        };
        let early = std::mem::take(&mut tracer.early).into_iter();
        Ok(Self {
            tracer,
            scope,
            start,
            first,
            began,
            began_ns,
            early,
            holders: Waiting::new(Host::default()),
            beside,
            ring_told: 0,
            garbage_told: 0,
            last: (live_since, 0, 0),
            buckets: None,
            suspicion: Suspicion::default(),
            feed: None,
            meter: None,
            ring_size,
            wall: WallClock::new(),
            reconcile: Vec::new(),
        })
    }

    /// Tells the tables what they need beside the events.
    #[must_use]
    pub fn with_feed(self, feed: Feed) -> Self {
        Self { feed: Some(feed), ..self }
    }

    /// Tells how full the namespaces' buckets are.
    #[must_use]
    pub fn with_buckets(self, watch: Watch) -> Self {
        Self { buckets: Some(watch), ..self }
    }

    fn tell_clock(&self, hub: &mut Hub) {
        hub.happened(&Happening::Clock { offset_ns: self.wall.offset_ns() });
    }

    /// Takes what looks through the kernel's minisocks have found.
    fn looked(&mut self, hub: &mut Hub) -> Result<(), RunError> {
        let audit = self.tracer.looked()?;
        self.beside.looked(&audit, clock::monotonic_ns());
        if !audit.found.is_empty() {
            hub.happened(&Happening::Seeds(audit.found));
        }
        if !audit.ended.is_empty() {
            hub.happened(&Happening::Over(audit.ended));
        }
        Ok(())
    }

    /// Looks through the kernel's minisocks for the last time, while events go on coming. Where that takes too long, what the
    /// look before found stands.
    async fn last_look(&mut self, hub: &mut Hub) -> Result<(), RunError> {
        self.tracer.look_now(&[]);
        let until = Instant::now() + LAST_LOOK;
        while self.tracer.is_looking() && Instant::now() < until {
            self.glance(hub);
            hub.flush();
            if hub.has_room() {
                self.drain(hub)?;
                hub.flush();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.looked(hub)
    }
}

/// Maps that cannot be read.
impl From<BpfError> for RunError {
    fn from(error: BpfError) -> Self {
        Self::Origin(error.into())
    }
}

/// Counters of the kernel that cannot be read.
impl From<LookError> for RunError {
    fn from(error: LookError) -> Self {
        Self::Origin(error.into())
    }
}

impl Origin for Live<'_> {
    fn begin(&mut self, hub: &mut Hub) -> Result<(), RunError> {
        self.tell_clock(hub);
        let start = Box::new(self.start.clone());
        hub.happened(&Happening::Start { mono_ns: clock::monotonic_ns(), start });
        let seeds = std::mem::take(&mut self.tracer.seeds);
        if let Some(feed) = &mut self.feed {
            hub.happened(&Happening::Look(Box::new(feed.first_look())));
            hub.happened(&Happening::Seeds(seeds));
            // Everything that was there before is entered: rates count from here.
            hub.happened(&Happening::Interval { mono_ns: self.began_ns });
        }
        Ok(())
    }

    async fn filling(&mut self) -> io::Result<()> {
        self.tracer.ring.filling().await
    }

    fn glance(&mut self, hub: &mut Hub) {
        if let Some(meter) = &mut self.meter {
            meter.look(self.tracer);
        }
        if self.wall.is_set() {
            self.tell_clock(hub);
        }
    }

    fn drain(&mut self, hub: &mut Hub) -> Result<usize, RunError> {
        if let Some(feed) = &mut self.feed {
            feed.passive_if_due(hub, self.tracer)?;
        }
        self.take(hub)
    }

    fn look(&mut self) {
        self.tracer.look();
    }

    fn interval(&mut self, hub: &mut Hub) -> Result<(), RunError> {
        match &mut self.feed {
            Some(feed) => Ok(feed.interval(hub, self.tracer, clock::monotonic_ns())?),
            None => Ok(()),
        }
    }

    fn tick(&mut self, hub: &mut Hub, report: bool, skipped: u64) -> Result<(), RunError> {
        self.tell(hub, report, skipped)
    }

    fn losses(&mut self, hub: &mut Hub) -> Result<(), RunError> {
        let counters = self.tracer.counters()?;
        self.tell_losses(hub, clock::monotonic_ns(), &counters);
        Ok(())
    }

    fn measure(&mut self, whether: bool) {
        self.meter = whether.then(|| Meter::new(self.ring_size));
        if let (Some(meter), Ok(counters)) = (&mut self.meter, self.tracer.counters()) {
            meter.read(self.tracer, &counters);
        }
    }

    async fn stop(&mut self, hub: &mut Hub) -> Result<(), RunError> {
        self.last_look(hub).await?;
        self.reconcile = self.scope.stop(self.tracer, &self.first, self.beside.refusal)?;
        self.beside.missed = self.tracer.missed()?;
        self.tracer.detach();
        if let Some(feed) = &mut self.feed {
            // Nothing is counted any more, so this tells exactly what was evicted unread.
            feed.passive(hub, self.tracer)?;
        }
        self.beside.passive_evicted = self.tracer.passive_evicted();
        Ok(())
    }

    fn finish(&mut self, hub: &mut Hub) {
        for event in self.holders.finish(LAST_HOLDERS) {
            hub.happened(&Happening::Event(event));
        }
        self.beside.sifted = hub.sifted().map(|sifted| Box::new(*sifted));
    }

    fn abandon(&mut self) -> u64 {
        let left = self.tracer.ring.drain(usize::MAX, &mut |_| {});
        (self.early.len() + left) as u64
    }

    fn summary(&mut self, lines_lost: u64, skipped: u64) -> Result<Summary, RunError> {
        (self.beside.sink_dropped, self.beside.ticks_skipped) = (lines_lost, skipped);
        let totals = crate::model::totals::totals(&self.tracer.counters()?, &self.beside);
        let duration_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let (netns, realtime) = (self.scope.inum()?, self.tracer.realtime);
        Ok(Summary::of(totals, self.reconcile.clone(), netns, realtime, duration_ns))
    }
}
