//! The run itself: from the ring through the decoder into the sink, until somebody or something ends it.

mod due;
mod ending;
mod feed;
mod holders;
mod jobs;
mod meter;
mod options;
mod signals;
mod telling;

use due::Due;
pub use feed::Feed;
use holders::Waiting;
use jobs::{Job, Jobs};
use meter::Meter;
pub use options::{Options, Shown};
pub use signals::Signals;

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval},
};

use crate::{
    bpf::BpfError,
    decode::decode,
    host::{
        Host,
        buckets::Watch,
        clock::{self, WallClock},
    },
    model::{event::Event, reconcile::Suspicion, report::Start, totals::Beside},
    plan::Capability,
    reconcile::{First, LookError, Scope},
    sink::{Batch, Clock, Sink, Steer, Writer, notes::remark},
    source::Source,
    tracer::Tracer,
    tui::update::Input,
};

/// How often the ring is emptied when it does not ask for it. Nobody sees a shorter delay; the wake-ups it saves are the
/// largest cost of a tracer.
const DRAIN: Duration = Duration::from_millis(40);
/// How often a look through the kernel's sockets begins, for one that nobody told of and for lives that ended unseen: each
/// TIME_WAIT that runs its course is met twice, unless there are so many sockets and namespaces that a look takes longer.
const AUDIT: Duration = Duration::from_secs(25);
/// Records taken at once, so that signals and timers get their turn.
const AT_ONCE: usize = 8192;
/// How long the last events may wait for their holders at the end.
const LAST_HOLDERS: Duration = Duration::from_millis(500);
/// How long a terminal may take for the bytes that give it back, before the process is suspended.
const LEAVING: Duration = Duration::from_millis(500);

/// Why a run ended in error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Maps could not be read.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// The kernel's counters could not be read.
    #[error(transparent)]
    Look(#[from] LookError),
    /// Signals or the ring's descriptor could not be watched.
    #[error("waiting for events: {0}")]
    Wait(#[from] io::Error),
    /// The output could not be written.
    #[error("writing the output: {0}")]
    Output(#[source] io::Error),
    /// The reader of the output stopped reading, so that not all of it could be delivered.
    #[error("{lines} lines were not delivered: nobody read for {}", waited.as_secs())]
    Undelivered {
        /// Lines, and events that never became lines.
        lines: u64,
        /// How long the reader had taken nothing.
        waited: Duration,
    },
}

/// One run.
pub struct Pipeline<'a> {
    tracer: &'a mut Tracer,
    sink: &'a mut dyn Sink,
    writer: Writer,
    waiting: Option<Batch>,
    /// Events that came before the run.
    early: std::vec::IntoIter<Event>,
    holders: Waiting,
    beside: Beside,
    lost_told: u64,
    garbage_told: u64,
    last: Option<(Instant, u64, u64)>,
    /// A table has been shown.
    reported: bool,
    buckets: Option<Watch>,
    ticks: u32,
    due: Due,
    suspicion: Suspicion,
    feed: Option<Feed>,
    inputs: Option<mpsc::Receiver<Input>>,
    shown: Shown,
    meter: Option<Meter>,
    wall: WallClock,
}

impl<'a> Pipeline<'a> {
    /// A run of this tracer into this sink.
    pub fn new(tracer: &'a mut Tracer, sink: &'a mut dyn Sink, writer: Writer) -> Self {
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
        Self {
            tracer,
            sink,
            writer,
            waiting: None,
            early: Vec::new().into_iter(),
            holders: Waiting::new(Host::default()),
            beside,
            lost_told: 0,
            garbage_told: 0,
            last: None,
            reported: false,
            buckets: None,
            ticks: 0,
            due: Due::default(),
            suspicion: Suspicion::default(),
            feed: None,
            inputs: None,
            shown: Shown::default(),
            meter: None,
            wall: WallClock::new(),
        }
    }

    /// Feeds the tables of the sink.
    #[must_use]
    pub fn with_feed(self, feed: Feed) -> Self {
        Self { feed: Some(feed), ..self }
    }

    /// Tells the sink how full the namespaces' buckets are.
    #[must_use]
    pub fn with_buckets(self, watch: Watch) -> Self {
        Self { buckets: Some(watch), ..self }
    }

    /// Hands the sink what comes from the keyboard.
    #[must_use]
    pub fn with_inputs(self, inputs: mpsc::Receiver<Input>) -> Self {
        Self { inputs: Some(inputs), ..self }
    }

    /// Runs until a signal, the duration, or the end of whoever reads the output. Says `start` first and `summary` last;
    /// `ready` is called between the first look at the kernel's counters and the first event.
    ///
    /// # Errors
    /// If the kernel's side cannot be read any more, or the output fails for another reason than a closed pipe.
    pub async fn run(
        mut self,
        start: &Start,
        scope: &Scope,
        options: &Options,
        signals: &mut Signals,
        ready: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), RunError> {
        let began = Instant::now();
        // Events count from the first that was seen, as soon as the programs were live.
        let now_ns = clock::monotonic_ns();
        let began_ns = self.tracer.early.first().map_or(now_ns, |event| event.mono_ns.min(now_ns));
        let live_since = began.checked_sub(Duration::from_nanos(now_ns - began_ns)).unwrap_or(began);
        let first = scope.first(self.tracer)?;
        ready()?;
        self.shown.clone_from(&options.shown);
        self.measure(options.self_stats, options);
        self.show_clock();
        self.sink.start(clock::monotonic_ns(), start);
        let seeds = std::mem::take(&mut self.tracer.seeds);
        if let (Some(feed), Some(all)) = (&mut self.feed, self.sink.aggregates()) {
            feed.begin(all, seeds, began_ns);
        }
        self.early = std::mem::take(&mut self.tracer.early).into_iter();
        self.drain()?;
        self.flush();
        self.last = Some((live_since, 0, 0));
        self.serve(options, signals, scope, &first).await?;
        if !self.reported && self.feed.is_some() && !self.sink.is_live() && !self.writer.is_closed() {
            // Shorter than the time between two tables: better one at the end than none.
            self.drain()?;
            self.ticks = options.tables_every.max(1) - 1;
            self.come_due(options)?;
            self.tell(scope, &first)?;
        }
        self.finish(scope, &first, began, options, signals).await
    }

    async fn serve(
        &mut self,
        options: &Options,
        signals: &mut Signals,
        scope: &Scope,
        first: &First,
    ) -> Result<(), RunError> {
        let mut jobs = Jobs::of(self.sink.is_live())?;
        let (mut drain, mut tell, mut audit) = (every(DRAIN), every(options.interval), every(AUDIT));
        if self.sink.is_live() {
            // Whoever looks at a screen wants to see how things stand at once.
            self.come_due(options)?;
            self.tell(scope, first)?;
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
        let closed = self.writer.closed();
        tokio::pin!(over, closed);
        loop {
            let mut telling = false;
            tokio::select! {
                biased;
                () = signals.recv() => return Ok(()),
                () = &mut over => return Ok(()),
                () = &mut closed => return Ok(()),
                _ = tell.tick() => telling = true,
                _ = audit.tick() => self.tracer.look(),
                Some(input) = next(&mut self.inputs) => match self.sink.input(input) {
                    Some(Steer::End) => return Ok(()),
                    Some(Steer::Suspend) => jobs::ask(),
                    Some(Steer::Measure(whether)) => {
                        self.measure(whether, options);
                        telling = true;
                    }
                    Some(Steer::Interval(interval)) => {
                        tell = every(interval);
                        tell.tick().await;
                    }
                    None => {}
                },
                job = jobs.next() => match job {
                    Job::Suspend => self.suspend(),
                    Job::GoneOn => self.sink.come_back(),
                },
                full = self.tracer.ring.filling() => full?,
                _ = drain.tick() => {}
            }
            self.drain()?;
            if telling {
                self.come_due(options)?;
            }
            if self.due.is_due() && self.has_room() {
                self.tell(scope, first)?;
            }
            self.flush();
        }
    }

    /// Takes what waits in the ring. While the output is stuck the ring keeps it, and the programs count what it cannot.
    fn drain(&mut self) -> Result<usize, RunError> {
        if let Some(meter) = &mut self.meter {
            meter.look(self.tracer);
        }
        self.flush();
        if self.wall.is_set() {
            self.show_clock();
        }
        if !self.has_room() {
            return Ok(0);
        }
        for event in self.holders.answered() {
            show(self.sink, &self.shown, &event);
        }
        let mut early = 0;
        for event in self.early.by_ref().take(AT_ONCE) {
            told(self.sink, &self.shown, &mut self.holders, &event);
            early += 1;
        }
        if early > 0 {
            return Ok(early);
        }
        let mut uncertain = Vec::new();
        let (sink, shown, holders) = (&mut *self.sink, &self.shown, &mut self.holders);
        let count = intake(
            &mut self.tracer.ring,
            &mut |event| told(sink, shown, holders, event),
            &mut self.beside.garbage,
            &mut uncertain,
        );
        if !uncertain.is_empty() {
            // Its birth is not on record. If the table never was full, it was missed, or is older than twtrace.
            let never_full = self.tracer.counters()?.trouble.lives_full == 0;
            for mut event in uncertain {
                // One with an id was found by a look, and is counted.
                if event.life.preexisting.is_none() && event.life.id.is_none() && never_full {
                    if self.tracer.is_missed_birth(&event) {
                        self.beside.unborn += 1;
                    } else {
                        event.life.preexisting = Some(true);
                    }
                }
                told(self.sink, &self.shown, &mut self.holders, &event);
            }
        }
        if let (Some(feed), Some(all)) = (&self.feed, self.sink.aggregates()) {
            feed.name(all);
        }
        self.beside.holders_unknown = self.holders.unknown();
        Ok(count)
    }

    /// Hands what is formatted to the writer, unless an earlier batch still waits.
    fn flush(&mut self) {
        hand_over(self.sink, &mut self.writer, &mut self.waiting);
        remark(&self.sink.notes());
    }

    /// True if what is formatted now does not heap up behind a batch that waits. A live view always has room: it draws no
    /// frame before the last one is on its way.
    fn has_room(&self) -> bool {
        self.waiting.is_none() || self.sink.is_live()
    }

    /// Gives the terminal back, lets the process be suspended, and takes the terminal again. Meanwhile the ring keeps what it
    /// can, and the programs count the rest.
    fn suspend(&mut self) {
        self.sink.leave();
        let since = Instant::now();
        loop {
            self.flush();
            let is_out = self.waiting.is_none() && self.sink.pending() == 0 && self.writer.is_idle();
            if is_out || self.writer.is_closed() || since.elapsed() > LEAVING {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        jobs::suspend();
        self.sink.come_back();
    }

    fn show_clock(&mut self) {
        self.sink.set_clock(Clock { offset_ns: self.wall.offset_ns().into() });
    }

    fn measure(&mut self, whether: bool, options: &Options) {
        self.meter = whether.then(|| Meter::new(options.ring_size));
        if let (Some(meter), Ok(counters)) = (&mut self.meter, self.tracer.counters()) {
            meter.read(self.tracer, &counters);
        }
    }

    /// Takes what looks through the kernel's sockets have found.
    fn looked(&mut self) -> Result<(), RunError> {
        let audit = self.tracer.looked()?;
        self.beside.looked(&audit, clock::monotonic_ns());
        if let Some(all) = self.sink.aggregates() {
            audit.found.iter().for_each(|life| all.seeded(life));
            audit.ended.iter().for_each(|life| all.over(life));
        }
        Ok(())
    }
}

/// Hands a writer what a sink has formatted, unless an earlier batch still waits for room.
fn hand_over(sink: &mut dyn Sink, writer: &mut Writer, waiting: &mut Option<Batch>) {
    if let Some(batch) = waiting.take() {
        *waiting = writer.try_send(batch).err();
    }
    if waiting.is_none() && sink.pending() > 0 {
        *waiting = writer.try_send(sink.take()).err();
    }
}

/// A timer that does not make up for what it missed.
fn every(period: Duration) -> Interval {
    let mut timer = interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// What comes from the keyboard, if there is one.
async fn next(inputs: &mut Option<mpsc::Receiver<Input>>) -> Option<Input> {
    match inputs {
        Some(inputs) => inputs.recv().await,
        None => std::future::pending().await,
    }
}

/// Tells a sink of an event, unless the event has to wait for its holder first.
fn told(sink: &mut dyn Sink, shown: &Shown, holders: &mut Waiting, event: &Event) {
    if let Some(event) = holders.take(event) {
        show(sink, shown, &event);
    }
}

/// Tells a sink of an event: its tables always, itself if it shows such events.
fn show(sink: &mut dyn Sink, shown: &Shown, event: &Event) {
    if let Some(all) = sink.aggregates() {
        all.event(event);
    }
    if shown.has(event) {
        sink.event(event);
    }
}

/// Takes events from a source, and says how many records there were. What is no record is counted. From the first
/// event on of which it is open whether its minisock is older than twtrace, events go to `uncertain`, in order.
fn intake(
    source: &mut dyn Source,
    take: &mut dyn FnMut(&Event),
    garbage: &mut u64,
    uncertain: &mut Vec<Event>,
) -> usize {
    source.drain(AT_ONCE, &mut |bytes| match decode(bytes) {
        Ok(event) if event.self_test => {}
        Ok(event) if event.life.preexisting.is_none() || !uncertain.is_empty() => uncertain.push(event),
        Ok(event) => take(&event),
        Err(error) => {
            *garbage += 1;
            log::warn!("the ring: {error}");
        }
    })
}

#[cfg(test)]
mod tests;
