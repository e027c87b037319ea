//! All that a run can tell. Whoever shows, keeps or adds up a run listens to these and to nothing else, so that one that was
//! written down can be told again.

use serde::{Deserialize, Serialize};

use super::{
    buckets::Buckets,
    cgroup::Named,
    event::{Event, Life},
    occupancy::{Occupancy, Passive},
    own::Own,
    report::{Reconciled, Start, Summary, Totals},
    words::words,
};

/// One thing that a run tells. Times are nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "events come by the million: a box for each would cost more than it saves"
)]
pub enum Happening {
    /// The run begins.
    Start {
        /// When.
        mono_ns: u64,
        /// What is watched, and how.
        start: Box<Start>,
    },
    /// From now on times are read by this clock: `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds.
    Clock {
        /// How far the wall clock is ahead.
        offset_ns: i64,
    },
    /// Full sockets were looked at, for the ports that they hold. The first look comes before every seed and event.
    Look(Box<Occupancy>),
    /// Minisocks alive of which no event tells: older than the run, or found by a look.
    Seeds(Vec<Life>),
    /// Lives that had ended, found by a look: no event tells of their end, nor where they were.
    Over(Vec<Life>),
    /// Something happened to a minisock, or a call failed.
    Event(Event),
    /// Paths of cgroups by their numbers; `None`: there is none any more.
    Paths(Vec<(u64, Option<Named>)>),
    /// Connections that the peer closed first, counted since the last time that this was told.
    Passive(Vec<Passive>),
    /// An interval of the tables is over: rates are counted from one to the next.
    Interval {
        /// When.
        mono_ns: u64,
    },
    /// How things stand.
    Tick {
        /// When.
        mono_ns: u64,
        /// The counters.
        tick: Box<Tick>,
    },
    /// Something was lost since the last time that this was told.
    Lost {
        /// When it was noticed.
        mono_ns: u64,
        /// What.
        lost: Lost,
    },
    /// The run is over.
    Summary {
        /// When.
        mono_ns: u64,
        /// What it comes to.
        summary: Box<Summary>,
    },
}

/// How things stand in the middle of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tick {
    /// The counters since the start.
    pub totals: Totals,
    /// Births per second since the last tick, or since the start; `None` if no time has passed.
    pub born_per_s: Option<f64>,
    /// Ends per second, the same way.
    pub died_per_s: Option<f64>,
    /// The kernel's counters compared with twtrace's so far; empty if they were not looked at.
    pub reconcile: Vec<Reconciled>,
    /// The network namespace whose buckets are the fullest; `None` if it is not known, or nobody shows it.
    pub buckets: Option<Buckets>,
    /// There may be a difference that `reconcile` does not show yet, for it has not held long enough.
    pub comparing: bool,
    /// What twtrace itself costs, if that is measured.
    pub own: Option<Own>,
    /// The tables are due, if there are any.
    pub report: bool,
}

words! {
    /// A place where something was lost on its way to the reader: the JSON field `where`.
    Loss by word {
        /// The ring between the kernel and twtrace was full: events.
        Ring = "ring";
        /// A record could not be decoded: events.
        Decode = "decode";
        /// Whoever reads an output was too slow: lines.
        Output = "output";
        /// An output cannot be written any more: lines until then. All later ones are missing too, and are not told again.
        Closed = "closed";
    }
}

/// What was lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Where.
    pub place: Loss,
    /// The observer that missed it; `None`: all of them did.
    pub observer: Option<String>,
    /// How many events; of [`Loss::Output`] and [`Loss::Closed`], lines.
    pub count: u64,
}
