//! What a run is asked for, beyond its programs and filters.

use std::time::Duration;

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
