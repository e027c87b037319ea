//! The end of a run: what is left is taken, the readers are waited for, and the summary is said.

use std::time::{Duration, Instant};

use super::{Options, Origin, Outlet, Run, RunError, Signals, hub::lines_lost};
use crate::{
    host::clock,
    model::{
        aggregate::Aggregates,
        happening::{Happening, Loss},
        report::Summary,
    },
    sink::{
        BATCH_BYTES, notes, remarks,
        writer::{End, GRACE, Patience},
    },
};

impl<O: Origin> Run<'_, O> {
    /// Stops the origin, takes what it left, and says the summary.
    pub(super) async fn finish(
        mut self,
        began: Instant,
        options: &Options,
        signals: &mut Signals,
    ) -> Result<(), RunError> {
        self.origin.stop(self.hub).await?;
        let (outlets, _) = self.hub.parts();
        let mut patience: Vec<Patience> = outlets
            .iter()
            .map(|outlet| {
                // A frame is worth nothing a moment later; lines are.
                let limit = if outlet.is_live() { GRACE } else { options.drain_for };
                Patience::new(limit, outlet.writer.taken(), began.elapsed())
            })
            .collect();
        while self.drain()? > 0 {}
        self.origin.finish(self.hub);
        self.deliver(began, &mut patience, signals).await?;
        // What is left when nobody reads any more is read by nobody.
        let (outlets, _) = self.hub.parts();
        let abandoned = if outlets.iter().all(|outlet| outlet.given_up) { self.origin.abandon() } else { 0 };
        self.origin.losses(self.hub)?;
        self.hub.tell_losses(clock::monotonic_ns());
        let skipped = self.due.untold();
        let mut outcome = Ok(());
        let (outlets, tables) = self.hub.parts();
        for (outlet, mut patience) in std::mem::take(outlets).into_iter().zip(patience) {
            let lost = outlet.writer.tally().dropped + if outlet.given_up { abandoned } else { 0 };
            let summary = self.origin.summary(lost, skipped)?;
            let ended = Last { outlet, lost, began }.say(summary, tables, &mut patience, signals).await;
            outcome = outcome.and(ended);
        }
        outcome
    }

    /// Takes what is left, and waits until all of it is written. Readers that take nothing for too long are given up; all
    /// of them, if somebody asks again for the end.
    async fn deliver(
        &mut self,
        began: Instant,
        patience: &mut [Patience],
        signals: &mut Signals,
    ) -> Result<(), RunError> {
        loop {
            let count = self.drain()?;
            let (outlets, tables) = self.hub.parts();
            let beside = outlets.len() > 1;
            let (mut is_done, mut is_stuck) = (true, false);
            for (outlet, patience) in outlets.iter_mut().zip(patience.iter_mut()) {
                if outlet.lines.pending() > BATCH_BYTES || count == 0 {
                    outlet.flush(tables);
                }
                if beside {
                    outlet.shed(tables);
                }
                is_stuck |= outlet.waiting.is_some();
                if outlet.given_up || is_delivered(outlet) {
                    continue;
                }
                if patience.is_over(outlet.writer.taken(), began.elapsed()) {
                    outlet.give_up(tables);
                } else {
                    is_done = false;
                }
            }
            if is_done && (count == 0 || !self.hub.has_room()) {
                return Ok(());
            }
            if (is_stuck || count == 0) && asked(signals).await {
                let (outlets, tables) = self.hub.parts();
                for outlet in outlets.iter_mut().filter(|outlet| !is_delivered(outlet)) {
                    outlet.give_up(tables);
                }
                return Ok(());
            }
        }
    }
}

/// True if an outlet has written all that it is going to: of a screen, that is no more than what it has handed over.
fn is_delivered(outlet: &Outlet) -> bool {
    let is_written = outlet.is_live() || outlet.writer.is_idle() || outlet.writer.is_closed();
    outlet.waiting.is_none() && is_written
}

/// The last words to one observer.
struct Last {
    outlet: Outlet,
    /// Lines that its reader did not take, and records that never became lines.
    lost: u64,
    began: Instant,
}

impl Last {
    async fn say(
        self,
        summary: Summary,
        tables: &Aggregates,
        patience: &mut Patience,
        signals: &mut Signals,
    ) -> Result<(), RunError> {
        let Self { mut outlet, mut lost, began } = self;
        let (is_live, given_up, remarks) = (outlet.is_live(), outlet.given_up, outlet.remarks);
        let mono_ns = clock::monotonic_ns();
        if given_up && !is_live && lost > 0 {
            let lost = lines_lost(&outlet.name, Loss::Output, lost);
            outlet.happened(&Happening::Lost { mono_ns, lost }, tables);
        }
        let last = Happening::Summary { mono_ns, summary: Box::new(summary) };
        outlet.happened(&last, tables);
        let Outlet { mut lines, writer, name: to, .. } = outlet;
        let mut said = lines.notes();
        let last_lines = lines.take(tables);
        let lines_of_last = last_lines.lines();
        let mut ending = writer.finish(last_lines);
        let end = loop {
            if let Some(end) = ending.wait(Duration::from_millis(1)) {
                break end;
            }
            // Whoever was given up before has had its time.
            if given_up || patience.is_over(ending.taken(), began.elapsed()) || asked(signals).await {
                if let Some(screen) = lines.live() {
                    // Else nobody would give a terminal back that has stopped.
                    screen.discard();
                }
                break ending.give_up().1;
            }
        };
        if matches!(end, End::Stuck) {
            lost += lines_of_last;
            if let (true, Happening::Summary { summary, .. }) = (said.is_empty(), &last) {
                // The summary found no room where it belongs.
                said = notes::summary(summary);
            }
        }
        if remarks && !matches!(end, End::Closed) && !said.is_empty() {
            remarks::parting(&said);
        }
        match end {
            End::Failed(source) => Err(RunError::Output { to, source }),
            End::Flushed | End::Stuck if lost > 0 && !is_live => {
                Err(RunError::Undelivered { to, lines: lost, waited: patience.waited(began.elapsed()) })
            }
            End::Flushed | End::Stuck | End::Closed => Ok(()),
        }
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
