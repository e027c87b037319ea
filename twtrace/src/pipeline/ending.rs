//! The end of a run: what is left is taken, the reader is waited for, and the summary is said.

use std::time::{Duration, Instant};

use super::{LAST_HOLDERS, Options, Pipeline, RunError, Signals, show};
use crate::{
    host::clock,
    model::{reconcile::agrees, report::Summary, totals::totals},
    reconcile::{First, Scope},
    sink::{
        BATCH_BYTES, Loss, notes, remarks,
        writer::{End, GRACE, Patience},
    },
    source::Source as _,
    tui::terminal,
};

/// How long the last look through the kernel's sockets is waited for: those of a million sockets in 40 namespaces.
const LAST_LOOK: Duration = Duration::from_secs(5);

impl Pipeline<'_> {
    /// Stops the programs, takes what they left, and says the summary.
    pub(super) async fn finish(
        mut self,
        scope: &Scope,
        first: &First,
        began: Instant,
        options: &Options,
        signals: &mut Signals,
    ) -> Result<(), RunError> {
        self.last_look().await?;
        let reconcile = scope.stop(self.tracer, first, self.beside.refusal)?;
        self.beside.missed = self.tracer.missed()?;
        self.tracer.detach();
        // A frame is worth nothing a moment later; lines are.
        let limit = if self.sink.is_live() { GRACE } else { options.drain_for };
        let mut patience = Patience::new(limit, self.writer.taken(), began.elapsed());
        while self.drain()? > 0 {}
        for event in self.holders.finish(LAST_HOLDERS) {
            show(self.sink, &self.shown, &event);
        }
        let given_up = self.deliver(began, &mut patience, signals).await?;
        let undelivered = if given_up { self.give_up() } else { 0 };
        let now = clock::monotonic_ns();
        let counters = self.tracer.counters()?;
        self.tell_losses(now, &counters);
        self.beside.sink_dropped = self.writer.tally().dropped + undelivered;
        if given_up && !self.sink.is_live() && self.beside.sink_dropped > 0 {
            self.sink.lost(now, Loss::Output, self.beside.sink_dropped);
        }
        self.beside.ticks_skipped = self.due.untold();
        let totals = totals(&counters, &self.beside);
        let loss = totals.lost > 0 || !totals.trouble.is_empty();
        let exact = if loss { Some(false) } else { agrees(&reconcile) };
        let duration_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let (netns, realtime) = (scope.inum()?, self.tracer.realtime);
        let summary = Summary { totals, reconcile, netns, exact, realtime, duration_ns };
        self.sink.summary(now, &summary);
        let mut said = self.sink.notes();
        let (is_live, mut lines) = (self.sink.is_live(), self.beside.sink_dropped);
        let last_lines = self.sink.take();
        let lines_of_last = last_lines.lines();
        let mut ending = self.writer.finish(last_lines);
        let end = loop {
            if let Some(end) = ending.wait(Duration::from_millis(1)) {
                break end;
            }
            // Whoever was given up before has had its time.
            if given_up || patience.is_over(ending.taken(), began.elapsed()) || asked(signals).await {
                if is_live {
                    // Of a terminal that has stopped: else nobody would give it back.
                    terminal::discard();
                }
                break ending.give_up().1;
            }
        };
        if matches!(end, End::Stuck) {
            lines += lines_of_last;
            if said.is_empty() {
                // The summary found no room where it belongs.
                said = notes::summary(&summary);
            }
        }
        if !matches!(end, End::Closed) && !said.is_empty() {
            remarks::parting(&said);
        }
        match end {
            End::Failed(error) => Err(RunError::Output(error)),
            End::Flushed | End::Stuck if lines > 0 && !is_live => {
                Err(RunError::Undelivered { lines, waited: patience.waited(began.elapsed()) })
            }
            End::Flushed | End::Stuck | End::Closed => Ok(()),
        }
    }

    /// Looks through the kernel's sockets for the last time, while events go on coming. Where that takes too long, what the look
    /// before found stands.
    async fn last_look(&mut self) -> Result<(), RunError> {
        self.tracer.look_now(&[]);
        let until = Instant::now() + LAST_LOOK;
        while self.tracer.is_looking() && Instant::now() < until {
            self.drain()?;
            self.flush();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.looked()
    }

    /// Takes what is left in the ring, and waits until all of it is written. `true`: the reader had taken nothing for too
    /// long, or somebody asked again for the end.
    async fn deliver(
        &mut self,
        began: Instant,
        patience: &mut Patience,
        signals: &mut Signals,
    ) -> Result<bool, RunError> {
        loop {
            let count = self.drain()?;
            if self.sink.pending() > BATCH_BYTES || count == 0 {
                self.flush();
            }
            let has_all = self.waiting.is_none() && count == 0;
            if has_all && (self.sink.is_live() || self.writer.is_idle() || self.writer.is_closed()) {
                return Ok(false);
            }
            if patience.is_over(self.writer.taken(), began.elapsed()) {
                return Ok(true);
            }
            if (self.waiting.is_some() || count == 0) && asked(signals).await {
                return Ok(true);
            }
        }
    }

    /// Gives the reader up. Returns how many events never became lines.
    fn give_up(&mut self) -> u64 {
        self.writer.give_up();
        if let Some(batch) = self.waiting.take() {
            self.writer.drop_batch(&batch);
        }
        if self.sink.pending() > 0 {
            self.writer.drop_batch(&self.sink.take());
        }
        // What is still in the ring will be read by nobody.
        (self.early.len() + self.tracer.ring.drain(usize::MAX, &mut |_| {})) as u64
    }
}

/// Waits a moment, for the writer. `true`: somebody asked again for the end.
async fn asked(signals: &mut Signals) -> bool {
    tokio::select! {
        biased;
        () = signals.recv() => true,
        () = tokio::time::sleep(Duration::from_millis(2)) => false,
    }
}
