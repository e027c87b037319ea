//! What is told beside the events: losses as they come, and counters when they are due.

use std::time::{Duration, Instant};

use twtrace_common::counter::Counters;

use super::Live;
use crate::{
    host::{buckets::Watch, clock},
    model::{
        happening::{Happening, Loss, Lost, Tick},
        reconcile::Compared,
        totals::totals,
    },
    run::{Hub, RunError},
};

/// Of a shorter time no rate is told.
const MOMENT: Duration = Duration::from_millis(5);

impl Live<'_> {
    /// Tells losses and counters.
    pub(super) fn tell(&mut self, hub: &mut Hub, report: bool, skipped: u64) -> Result<(), RunError> {
        let now = clock::monotonic_ns();
        self.beside.ticks_skipped = skipped;
        let Compared { rows: reconcile, comparing } = if hub.is_live() {
            self.scope.compare(self.tracer, &self.first.look, self.beside.refusal, &mut self.suspicion)?
        } else {
            Compared::default()
        };
        self.looked(hub)?;
        let counters = self.tracer.counters()?;
        self.tell_losses(hub, now, &counters);
        self.beside.missed = self.tracer.missed()?;
        self.beside.passive_evicted = self.tracer.passive_evicted();
        self.beside.sifted = hub.sifted().map(|sifted| Box::new(*sifted));
        let totals = totals(&counters, &self.beside);
        let (born, died) = (totals.all_born(), totals.all_died());
        let (then, born_then, died_then) = self.last;
        let rates = (then.elapsed() >= MOMENT).then(|| {
            let seconds = then.elapsed().as_secs_f64();
            (born.saturating_sub(born_then) as f64 / seconds, died.saturating_sub(died_then) as f64 / seconds)
        });
        if rates.is_some() {
            self.last = (Instant::now(), born, died);
        }
        let tick = Tick {
            own: self.meter.as_mut().and_then(|meter| meter.read(self.tracer, &counters)),
            buckets: self.buckets.as_ref().and_then(Watch::fullest),
            totals,
            born_per_s: rates.map(|rates| rates.0),
            died_per_s: rates.map(|rates| rates.1),
            reconcile,
            comparing,
            report,
        };
        hub.happened(&Happening::Tick { mono_ns: now, tick: Box::new(tick) });
        Ok(())
    }

    /// Tells what was lost before the hub.
    pub(super) fn tell_losses(&mut self, hub: &mut Hub, mono_ns: u64, counters: &Counters) {
        let ring = counters.lost.iter().sum();
        let places =
            [(Loss::Ring, ring, &mut self.ring_told), (Loss::Decode, self.beside.garbage, &mut self.garbage_told)];
        for (place, count, told) in places {
            if count > *told {
                let lost = Lost { place, observer: None, count: count - std::mem::replace(told, count) };
                hub.happened(&Happening::Lost { mono_ns, lost });
            }
        }
    }
}
