//! The formats of lines: what `--format` and `--also` offer. A new one is a file of this room, and a row of
//! [`FORMATS`](super::FORMATS).

use jiff::tz::TimeZone;

use super::{Lines, by::Reporter};
use crate::show::Clock;

/// One format of lines.
#[derive(Debug)]
pub struct LineFormat {
    /// The word on the command line.
    pub word: &'static str,
    /// What it is, for `--help`.
    pub about: &'static str,
    /// Each tick is a line: the counters are wanted every interval, and not with the tables alone.
    pub tells_ticks: bool,
    /// An observer that writes it.
    pub open: fn(Setting) -> Box<dyn Lines>,
}

/// What an observer needs to know beforehand.
#[derive(Clone, Debug)]
pub struct Setting {
    /// From the kernel's time to the time on the wall.
    pub clock: Clock,
    /// Where times for people are told.
    pub zone: TimeZone,
    /// Tables to show; `None`: none.
    pub by: Option<Reporter>,
    /// The lines are read without what is said on standard error beside them.
    pub is_whole: bool,
}

impl PartialEq for LineFormat {
    fn eq(&self, other: &Self) -> bool {
        self.word == other.word
    }
}

impl Eq for LineFormat {}
