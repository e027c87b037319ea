//! What a run is asked for, beyond its programs and filters.

use std::time::Duration;

use crate::model::event::{Cause, Detail, Event, Kind};

/// What a run is asked for, beyond its programs and filters.
#[derive(Clone, Debug)]
pub struct Options {
    /// When to end by itself.
    pub duration: Option<Duration>,
    /// How long a reader that takes nothing is waited for at the end.
    pub drain_for: Duration,
    /// How often counters are told.
    pub interval: Duration,
    /// Tables come with every so many of them; at least one.
    pub tables_every: u32,
    /// Tell what twtrace itself costs.
    pub self_stats: bool,
}

/// Which events are shown.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Of these kinds.
    pub kinds: Vec<Kind>,
    /// Of ends, those of these causes; empty for all.
    pub causes: Vec<Cause>,
}

impl Shown {
    pub(super) fn has(&self, event: &Event) -> bool {
        self.kinds.contains(&event.kind())
            && match event.detail {
                Detail::Died { cause, .. } => cause.is_wanted(&self.causes),
                _ => true,
            }
    }
}
