//! The run itself: an origin tells what happens, the hub hands it to the tables and to all observers, until somebody or
//! something ends it.

mod due;
mod ending;
mod hub;
mod jobs;
pub mod live;
mod options;
mod origin;
mod outlet;
mod sifter;
mod signals;
#[cfg(test)]
mod tests;

use due::Due;
pub use hub::Hub;
use jobs::{Job, Jobs};
pub use live::{Feed, Live};
pub use options::Options;
pub use origin::Origin;
pub use outlet::Outlet;
pub use sifter::Sifter;
pub use signals::Signals;

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    sync::Notify,
    time::{Interval, MissedTickBehavior, interval},
};

use crate::sink::Steer;

/// How often the origin is asked when it does not ask by itself. Nobody sees a shorter delay; the wake-ups it saves are the
/// largest cost of a tracer.
const DRAIN: Duration = Duration::from_millis(40);
/// How often a look through the kernel's sockets begins, for one that nobody told of and for lives that ended unseen: each
/// TIME_WAIT that runs its course is met twice, unless there are so many sockets and namespaces that a look takes longer.
const AUDIT: Duration = Duration::from_secs(25);
/// How long a terminal may take for the bytes that give it back, before the process is suspended.
const LEAVING: Duration = Duration::from_millis(500);

/// Why a run ended in error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The origin could not be read.
    #[error(transparent)]
    Origin(Box<dyn std::error::Error + Send + Sync>),
    /// Signals or the ring's descriptor could not be watched.
    #[error("waiting for events: {0}")]
    Wait(#[from] io::Error),
    /// An output could not be written.
    #[error("writing {to}: {source}")]
    Output {
        /// Which.
        to: String,
        /// Why.
        source: io::Error,
    },
    /// The reader of an output stopped reading, so that not all of it could be delivered.
    #[error("{to}: {lines} lines were not delivered: nobody read for {}", waited.as_secs())]
    Undelivered {
        /// Which.
        to: String,
        /// Lines, and events that never became lines.
        lines: u64,
        /// How long the reader had taken nothing.
        waited: Duration,
    },
}

/// One run.
pub struct Run<'a, O> {
    origin: O,
    hub: &'a mut Hub,
    /// A table has been shown.
    reported: bool,
    ticks: u32,
    due: Due,
}

impl<'a, O: Origin> Run<'a, O> {
    /// A run of this origin into this hub.
    #[must_use]
    pub fn new(origin: O, hub: &'a mut Hub) -> Self {
        Self { origin, hub, reported: false, ticks: 0, due: Due::default() }
    }

    /// Runs until a signal, the duration, or the end of whoever reads the first output. Says `start` first and `summary`
    /// last.
    ///
    /// # Errors
    /// If the origin cannot be read any more, or an output fails for another reason than a closed pipe.
    pub async fn run(mut self, options: &Options, signals: &mut Signals) -> Result<(), RunError> {
        let began = Instant::now();
        if options.self_stats {
            self.origin.measure(true);
        }
        self.origin.begin(self.hub)?;
        self.drain()?;
        self.hub.flush();
        self.serve(options, signals).await?;
        let is_closed = self.hub.first().is_none_or(|outlet| outlet.writer.is_closed());
        if !self.reported && self.hub.tables().is_some() && !self.hub.is_live() && !is_closed {
            // Shorter than the time between two tables: better one at the end than none.
            self.drain()?;
            self.ticks = options.tables_every.max(1) - 1;
            self.come_due(options)?;
            self.tell()?;
        }
        self.finish(began, options, signals).await
    }

    async fn serve(&mut self, options: &Options, signals: &mut Signals) -> Result<(), RunError> {
        let mut jobs = Jobs::of(self.hub.is_live())?;
        let (mut drain, mut tell, mut audit) = (every(DRAIN), every(options.interval), every(AUDIT));
        if self.hub.is_live() {
            // Whoever looks at a screen wants to see how things stand at once.
            self.come_due(options)?;
            self.tell()?;
        }
        // The first tick of an interval is at once, and there is nothing to tell yet.
        tell.tick().await;
        audit.tick().await;
        let over = async {
            match options.duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        let closed = self.hub.first().map(|outlet| outlet.writer.closed());
        let closed = async {
            match closed {
                Some(closed) => closed.await,
                None => std::future::pending().await,
            }
        };
        let typed = self.hub.typed();
        tokio::pin!(over, closed);
        loop {
            let mut telling = false;
            tokio::select! {
                biased;
                () = signals.recv() => return Ok(()),
                () = &mut over => return Ok(()),
                () = &mut closed => return Ok(()),
                _ = tell.tick() => telling = true,
                _ = audit.tick() => self.origin.look(),
                () = told(typed.as_deref()) => while let Some(steer) = self.hub.asked() {
                    match steer {
                        Steer::End => return Ok(()),
                        Steer::Suspend => jobs::ask(),
                        Steer::Measure(whether) => {
                            self.origin.measure(whether);
                            telling = true;
                        }
                        Steer::Interval(interval) => {
                            tell = every(interval);
                            tell.tick().await;
                        }
                    }
                },
                job = jobs.next() => match job {
                    Job::Suspend => self.suspend(),
                    Job::GoneOn => self.each_screen(|screen| screen.come_back()),
                },
                full = self.origin.filling() => full?,
                _ = drain.tick() => {}
            }
            self.drain()?;
            if telling {
                self.come_due(options)?;
            }
            if self.due.is_due() && self.hub.has_room() {
                self.tell()?;
            }
            self.hub.flush();
        }
    }

    /// Takes what the origin has. While every output is stuck the origin keeps it: the ring, whose programs count what it has
    /// no room for.
    fn drain(&mut self) -> Result<usize, RunError> {
        self.origin.glance(self.hub);
        self.hub.flush();
        if self.hub.has_room() { self.origin.drain(self.hub) } else { Ok(0) }
    }

    /// An interval is over: the tables go on, whether or not there is room to tell of it.
    fn come_due(&mut self, options: &Options) -> Result<(), RunError> {
        let every = options.tables_every.max(1);
        let report = self.ticks % every == every - 1;
        self.ticks = self.ticks.wrapping_add(1);
        self.due.come(report);
        if report {
            self.origin.interval(self.hub)?;
        }
        if !self.hub.has_room() && self.hub.tells_losses_aside() {
            self.origin.losses(self.hub)?;
        }
        Ok(())
    }

    /// Tells losses and counters, and the tables if they are due.
    fn tell(&mut self) -> Result<(), RunError> {
        let Some(report) = self.due.take() else { return Ok(()) };
        self.reported |= report;
        self.origin.tick(self.hub, report, self.due.untold())?;
        self.hub.tell_losses(crate::host::clock::monotonic_ns());
        Ok(())
    }

    fn each_screen(&mut self, act: impl Fn(&mut dyn crate::sink::Live)) {
        let (outlets, _) = self.hub.parts();
        outlets.iter_mut().filter_map(|outlet| outlet.lines.live()).for_each(act);
    }

    /// Gives the terminal back, lets the process be suspended, and takes the terminal again. Meanwhile the ring keeps what it
    /// can, and the programs count the rest.
    fn suspend(&mut self) {
        self.each_screen(|screen| screen.leave());
        let since = Instant::now();
        loop {
            self.hub.flush();
            let (outlets, _) = self.hub.parts();
            let mut screens = outlets.iter().filter(|outlet| outlet.is_live());
            if screens.all(|screen| screen.is_out() || screen.writer.is_closed()) || since.elapsed() > LEAVING {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        jobs::suspend();
        self.each_screen(|screen| screen.come_back());
    }
}

/// A timer that does not make up for what it missed.
fn every(period: Duration) -> Interval {
    let mut timer = interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// Returns when somebody has asked something of the run, if anybody can.
async fn told(typed: Option<&Notify>) {
    match typed {
        Some(typed) => typed.notified().await,
        None => std::future::pending().await,
    }
}
