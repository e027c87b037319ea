//! From what happened to the tables.

use super::Aggregates;
use crate::model::happening::Happening;

impl Aggregates {
    /// Adds up what happened. What the tables hold follows from this alone.
    #[inline]
    pub fn happened(&mut self, happening: &Happening) {
        match happening {
            Happening::Event(event) => self.event(event),
            other => self.beside(other),
        }
    }

    /// What is no event: rare.
    fn beside(&mut self, happening: &Happening) {
        match happening {
            Happening::Look(occupancy) => self.looked(occupancy),
            Happening::Seeds(lives) => lives.iter().for_each(|life| self.seeded(life)),
            Happening::Over(lives) => lives.iter().for_each(|life| self.over(life)),
            Happening::Paths(named) => self.cgroup_names(named.clone()),
            Happening::Passive(counted) => self.passive(counted),
            Happening::Interval { mono_ns } => self.tick(*mono_ns),
            Happening::Event(_)
            | Happening::Start { .. }
            | Happening::Clock { .. }
            | Happening::Tick { .. }
            | Happening::Lost { .. }
            | Happening::Summary { .. } => {}
        }
    }
}
