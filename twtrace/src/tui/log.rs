//! The last events, to be scrolled and held.

use std::collections::VecDeque;

use crate::model::event::Event;

/// Events that are kept while the screen runs.
pub const KEPT: usize = 10_000;
/// Events that are kept while it is held: what comes after that is counted.
pub const KEPT_HELD: usize = 50_000;

/// The log.
#[derive(Debug, Default)]
pub struct Log {
    events: VecDeque<Event>,
    /// While it is held: how many of them the screen shows.
    held_at: Option<usize>,
    not_kept: u64,
}

impl Log {
    /// One more.
    pub fn push(&mut self, event: &Event) {
        match self.held_at {
            Some(_) if self.events.len() >= KEPT_HELD => self.not_kept += 1,
            Some(_) => self.events.push_back(*event),
            None => {
                if self.events.len() >= KEPT {
                    self.events.pop_front();
                }
                self.events.push_back(*event);
            }
        }
    }

    /// Holds what is shown, or lets it go on.
    pub fn hold(&mut self, held: bool) {
        if held {
            self.held_at = Some(self.events.len());
            self.not_kept = 0;
        } else {
            self.held_at = None;
            self.events.drain(..self.events.len().saturating_sub(KEPT));
            // A burst may have left room for five times as many.
            self.events.shrink_to(KEPT);
        }
    }

    /// The events that are shown, oldest first.
    pub fn shown(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.events.iter().take(self.held_at.unwrap_or(usize::MAX))
    }

    /// Events that wait behind those that are shown.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.held_at.map_or(0, |at| self.events.len() - at)
    }

    /// Events that came while the log was held and full; told until it is held again.
    #[must_use]
    pub fn not_kept(&self) -> u64 {
        self.not_kept
    }
}
