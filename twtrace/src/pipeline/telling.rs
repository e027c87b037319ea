//! What is told beside the events: losses as they come, counters and tables when they are due.

use std::time::{Duration, Instant};

use twtrace_common::counter::Counters;

use super::{Options, Pipeline, RunError};
use crate::{
    host::{buckets::Watch, clock},
    model::{reconcile::Compared, report::Totals, totals::totals},
    reconcile::{First, Scope},
    sink::{Loss, Tick},
};

/// Of a shorter time no rate is told.
const MOMENT: Duration = Duration::from_millis(5);

impl Pipeline<'_> {
    /// An interval is over: the tables go on, whether or not there is room to tell of it.
    pub(super) fn come_due(&mut self, options: &Options) -> Result<(), RunError> {
        let report = self.ticks % options.tables_every.max(1) == options.tables_every.max(1) - 1;
        self.ticks = self.ticks.wrapping_add(1);
        self.due.come(report);
        if report && let (Some(feed), Some(all)) = (&mut self.feed, self.sink.aggregates()) {
            feed.tick(all, self.tracer, clock::monotonic_ns())?;
        }
        if !self.has_room() && self.sink.tells_losses_aside() {
            let counters = self.tracer.counters()?;
            self.tell_losses(clock::monotonic_ns(), &counters);
        }
        Ok(())
    }

    /// Tells losses and counters, and the tables if they are due.
    pub(super) fn tell(&mut self, scope: &Scope, first: &First) -> Result<(), RunError> {
        let Some(report) = self.due.take() else { return Ok(()) };
        let now = clock::monotonic_ns();
        self.reported |= report;
        self.beside.ticks_skipped = self.due.untold();
        let Compared { rows: reconcile, comparing } = if self.sink.is_live() {
            scope.compare(self.tracer, &first.look, self.beside.refusal, &mut self.suspicion)?
        } else {
            Compared::default()
        };
        self.looked()?;
        let counters = self.tracer.counters()?;
        self.tell_losses(now, &counters);
        self.beside.missed = self.tracer.missed()?;
        let totals = totals(&counters, &self.beside);
        let (born, died) = (born(&totals), died(&totals));
        let since = self.last.filter(|(then, ..)| then.elapsed() >= MOMENT);
        let rates = since.map(|(then, born_then, died_then)| {
            let seconds = then.elapsed().as_secs_f64();
            (born.saturating_sub(born_then) as f64 / seconds, died.saturating_sub(died_then) as f64 / seconds)
        });
        if rates.is_some() {
            self.last = Some((Instant::now(), born, died));
        }
        let buckets = self.buckets.as_ref().and_then(Watch::fullest);
        let own = self.meter.as_mut().and_then(|meter| meter.read(self.tracer, &counters));
        let tick = Tick {
            own: own.as_ref(),
            buckets: buckets.as_ref(),
            totals: &totals,
            born_per_s: rates.map(|rates| rates.0),
            died_per_s: rates.map(|rates| rates.1),
            reconcile: &reconcile,
            comparing,
            report,
        };
        self.sink.tick(now, &tick);
        Ok(())
    }

    pub(super) fn tell_losses(&mut self, now: u64, counters: &Counters) {
        let lost: u64 = counters.lost.iter().sum();
        if lost > self.lost_told {
            self.sink.lost(now, Loss::Ring, lost - self.lost_told);
            self.lost_told = lost;
        }
        if self.beside.garbage > self.garbage_told {
            self.sink.lost(now, Loss::Decode, self.beside.garbage - self.garbage_told);
            self.garbage_told = self.beside.garbage;
        }
    }
}

fn born(totals: &Totals) -> u64 {
    totals.born_time_wait + totals.born_fin_wait2
}

fn died(totals: &Totals) -> u64 {
    totals.died.iter().map(|&(_, count)| count).sum()
}
