//! From the ring to the hub.

use super::{Live, Waiting};
use crate::{
    decode::decode,
    model::{event::Event, happening::Happening},
    run::{Hub, RunError},
    source::Source,
};

/// Records taken at once, so that signals and timers get their turn.
pub(super) const AT_ONCE: usize = 8192;

impl Live<'_> {
    /// Tells what waits in the ring, and says how many records that were. First comes what came before the run.
    pub(super) fn take(&mut self, hub: &mut Hub) -> Result<usize, RunError> {
        for event in self.holders.answered() {
            hub.happened(&Happening::Event(event));
        }
        let mut early = 0;
        for event in self.early.by_ref().take(AT_ONCE) {
            told(hub, &mut self.holders, event);
            early += 1;
        }
        if early > 0 {
            return Ok(early);
        }
        let mut uncertain = Vec::new();
        let holders = &mut self.holders;
        let count = intake(
            &mut self.tracer.ring,
            &mut |event| told(hub, holders, event),
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
                told(hub, &mut self.holders, event);
            }
        }
        if let Some(feed) = &self.feed {
            feed.name(hub);
        }
        self.beside.holders_unknown = self.holders.unknown();
        Ok(count)
    }
}

/// Tells of an event, unless it has to wait for its holder first, which nobody looks for if nobody is told.
fn told(hub: &mut Hub, holders: &mut Waiting, event: Event) {
    let event = if hub.wants(&event) { holders.take(event) } else { Some(event) };
    if let Some(event) = event {
        hub.happened(&Happening::Event(event));
    }
}

/// Takes events from a source, and says how many records there were. What is no record is counted. From the first
/// event on of which it is open whether its minisock is older than twtrace, events go to `uncertain`, in order.
pub(super) fn intake(
    source: &mut dyn Source,
    take: &mut dyn FnMut(Event),
    garbage: &mut u64,
    uncertain: &mut Vec<Event>,
) -> usize {
    source.drain(AT_ONCE, &mut |bytes| match decode(bytes) {
        Ok(event) if event.self_test => {}
        Ok(event) if event.life.preexisting.is_none() || !uncertain.is_empty() => uncertain.push(event),
        Ok(event) => take(event),
        Err(error) => {
            *garbage += 1;
            log::warn!("the ring: {error}");
        }
    })
}
