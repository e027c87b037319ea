//! What looks through the kernel's own minisocks find out. Pure; [`crate::audit`] looks.

use super::event::Life;

/// What looks through the kernel's minisocks found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Minisocks that no birth told, all looks since the start together, whatever the filters say.
    pub unseen: u64,
    /// Lives whose end no program told, the same.
    pub unseen_ends: u64,
    /// Minisocks that are counted as seeded, and were dead before they were entered; the first look's among them.
    pub withdrawn: u64,
    /// Minisocks that were found since the last call and that the filters let through.
    pub found: Vec<Life>,
    /// Lives that were found to be over since the last call, the same. Where they were is not known.
    pub ended: Vec<Life>,
    /// When the last whole look ended, nanoseconds of `CLOCK_MONOTONIC`; `None`: there was none.
    pub at_ns: Option<u64>,
}
