//! Where results go. A sink turns what happened into bytes and does nothing else; the [`writer`] carries them away, and
//! drops what the reader is too slow for.

use std::time::Duration;

use crate::model::{
    aggregate::Aggregates,
    buckets::Buckets,
    event::Event,
    own::Own,
    report::{Reconciled, Start, Summary, Totals},
};
use crate::tui::update::Input;

pub mod by;
pub mod clock;
pub mod columns;
pub mod escape;
pub mod events_doc;
pub mod fields;
pub(crate) mod human;
pub mod json;
pub mod notes;
pub mod own;
pub mod remarks;
pub mod text;
pub mod trouble;
pub mod whose;
pub mod writer;

pub use clock::Clock;
pub use json::JsonSink;
pub use text::TextSink;
pub use writer::{Batch, Writer};

/// From this many pending bytes on, a batch is worth handing to the writer.
pub const BATCH_BYTES: usize = 64 * 1024;

/// A place where something was lost on its way to the reader: the JSON field `where`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The ring between the kernel and twtrace was full: events.
    Ring,
    /// A record could not be decoded: events.
    Decode,
    /// Whoever reads the output was too slow: lines.
    Output,
}

impl Loss {
    /// Every place.
    pub const ALL: [Self; 3] = [Self::Ring, Self::Decode, Self::Output];

    /// The word used in the output.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Decode => "decode",
            Self::Output => "output",
        }
    }
}

/// How things stand in the middle of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tick<'a> {
    /// The counters since the start.
    pub totals: &'a Totals,
    /// Births per second since the last tick, or since the start; `None` if no time has passed.
    pub born_per_s: Option<f64>,
    /// Ends per second, the same way.
    pub died_per_s: Option<f64>,
    /// The kernel's counters compared with twtrace's so far; empty if they were not looked at.
    pub reconcile: &'a [Reconciled],
    /// The network namespace whose buckets are the fullest; `None` if it is not known, or nobody shows it.
    pub buckets: Option<&'a Buckets>,
    /// There may be a difference that `reconcile` does not show yet, for it has not held long enough.
    pub comparing: bool,
    /// What twtrace itself costs, if that is measured.
    pub own: Option<&'a Own>,
    /// The tables are due, if there are any.
    pub report: bool,
}

/// What somebody at the keyboard asks of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// End.
    End,
    /// Be suspended, as by Ctrl-Z.
    Suspend,
    /// Tick this often.
    Interval(Duration),
    /// Measure what twtrace itself costs, or no more.
    Measure(bool),
}

/// Formats what happened into a buffer of its own. `mono_ns` is `CLOCK_MONOTONIC` at the time. Everything handed in is
/// shown: events of the self-test have to be kept away before.
pub trait Sink: Send {
    /// The run begins.
    fn start(&mut self, mono_ns: u64, start: &Start);
    /// Something happened to a minisock.
    fn event(&mut self, event: &Event);
    /// `count` events or lines were lost since the last time that this was said.
    fn lost(&mut self, mono_ns: u64, loss: Loss, count: u64);
    /// An interval is over.
    fn tick(&mut self, mono_ns: u64, tick: &Tick<'_>);
    /// The run is over.
    fn summary(&mut self, mono_ns: u64, summary: &Summary);
    /// The tables that this sink shows; they are fed before it is told of an event.
    fn aggregates(&mut self) -> Option<&mut Aggregates>;
    /// A key was pressed, or the terminal changed. Returns what the run has to do for it.
    fn input(&mut self, _: Input) -> Option<Steer> {
        None
    }
    /// The process is about to be suspended: the terminal is somebody else's until [`Sink::come_back`].
    fn leave(&mut self) {}
    /// The process goes on, and nothing is known of what the terminal shows.
    fn come_back(&mut self) {}
    /// What it shows is worth nothing a moment later: while the output is slow, events are taken all the same.
    fn is_live(&self) -> bool {
        false
    }
    /// It tells of losses on standard error, where they do not have to wait for whoever reads the output.
    fn tells_losses_aside(&self) -> bool {
        false
    }
    /// The wall clock was set, or the machine slept: read times by this clock from now on.
    fn set_clock(&mut self, clock: Clock);
    /// Bytes formatted and not yet taken.
    fn pending(&self) -> usize;
    /// Hands over what was formatted: whole lines, in order.
    fn take(&mut self) -> Batch;
    /// Hands over what belongs on standard error instead: remarks for a human, never needed to read the output.
    fn notes(&mut self) -> String;
}
