//! Where results go. A sink turns what happened into bytes and does nothing else; the [`writer`] carries them away, and
//! drops what the reader is too slow for.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use crate::{
    model::{
        aggregate::Aggregates,
        event::Event,
        happening::{Happening, Lost, Tick},
        report::{Start, Summary},
    },
    show::Clock,
};

pub mod by;
pub mod events_doc;
pub mod format;
pub mod json;
pub mod notes;
mod own;
pub mod remarks;
pub mod text;
pub mod writer;

pub use crate::model::fields;
pub use format::LineFormat;
pub use json::JsonSink;
pub use text::TextSink;
pub use writer::{Batch, Writer};

/// Every format of lines.
pub static FORMATS: [&LineFormat; 2] = [&text::FORMAT, &json::FORMAT];

/// From this many pending bytes on, a batch is worth handing to the writer.
pub const BATCH_BYTES: usize = 64 * 1024;

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

/// Takes what a run tells. Each observer of a run is told all of it, in order, and keeps what it needs: what another one makes
/// of it, or misses, is nothing to it.
///
/// `mono_ns` is `CLOCK_MONOTONIC` at the time. Everything handed in is for the reader: events of the self-test have to be kept
/// away before. `tables` are the run's, which have been told already; those of a run that keeps none are empty.
pub trait Observer: Send {
    /// Takes whatever a run tells, and hands most of it to the functions below. Who keeps a run whole listens here.
    fn happening(&mut self, happening: &Happening, tables: &Aggregates) {
        match happening {
            Happening::Event(event) => self.event(event),
            Happening::Start { mono_ns, start } => self.start(*mono_ns, start),
            Happening::Clock { offset_ns } => self.set_clock(Clock { offset_ns: (*offset_ns).into() }),
            Happening::Tick { mono_ns, tick } => self.tick(*mono_ns, tick, tables),
            Happening::Lost { mono_ns, lost } => self.lost(*mono_ns, lost),
            Happening::Summary { mono_ns, summary } => self.summary(*mono_ns, summary),
            // These go to the tables.
            Happening::Look(_)
            | Happening::Seeds(_)
            | Happening::Over(_)
            | Happening::Paths(_)
            | Happening::Passive(_)
            | Happening::Interval { .. } => {}
        }
    }
    /// The run begins.
    fn start(&mut self, mono_ns: u64, start: &Start);
    /// Something happened to a minisock.
    fn event(&mut self, event: &Event);
    /// Events or lines were lost since the last time that this was said.
    fn lost(&mut self, mono_ns: u64, lost: &Lost);
    /// An interval is over.
    fn tick(&mut self, mono_ns: u64, tick: &Tick, tables: &Aggregates);
    /// The run is over.
    fn summary(&mut self, mono_ns: u64, summary: &Summary);
    /// The wall clock was set, or the machine slept: read times by this clock from now on.
    fn set_clock(&mut self, clock: Clock);
}

/// An observer that makes bytes of what happened, in a buffer of its own; who owns the output carries them away.
pub trait Lines: Observer {
    /// Bytes formatted and not yet taken.
    fn pending(&self) -> usize;
    /// Hands over what was formatted: whole lines, in order.
    fn take(&mut self, tables: &Aggregates) -> Batch;
    /// Hands over what belongs on standard error instead: remarks for a human, never needed to read the output.
    fn notes(&mut self) -> String;
    /// Losses are told on standard error, where they do not have to wait for whoever reads the output.
    fn tells_losses_aside(&self) -> bool {
        false
    }
    /// The screen behind this output, if what it shows is worth nothing a moment later: events are taken while it is slow.
    fn live(&mut self) -> Option<&mut dyn Live> {
        None
    }
    /// True if there is one.
    fn is_live(&self) -> bool {
        false
    }
}

/// An output with somebody in front of it.
pub trait Live {
    /// Wakes the run when a key was pressed or the terminal changed.
    fn typed(&self) -> Arc<Notify>;
    /// The next thing that somebody asks of the run; `None`: nothing more for now.
    fn asked(&mut self, tables: &Aggregates) -> Option<Steer>;
    /// Forgets what the terminal has not shown yet: if it has stopped, what comes last finds room.
    fn discard(&mut self);
    /// The process is about to be suspended: the terminal is somebody else's until [`Live::come_back`].
    fn leave(&mut self);
    /// The process goes on, and nothing is known of what the terminal shows.
    fn come_back(&mut self);
}
