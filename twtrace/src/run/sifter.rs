//! What of a run is told: the part of the filters that the programs do not compare.

use std::{borrow::Cow, collections::HashSet, path::PathBuf};

use twtrace_common::counter::Counters;

use crate::model::{
    event::{Detail, Event, Life},
    expression::{Expression, Primitive, Subject},
    happening::Happening,
    totals,
};

/// Cgroups whose place is remembered; more than there are on most machines.
const PLACES: usize = 1 << 16;

/// Finds the directory of a cgroup by its id.
pub type Place = Box<dyn FnMut(u64) -> Option<PathBuf>>;

/// Who is told of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The tables and all observers.
    All,
    /// The tables alone: they count every event of a connection that is wanted.
    Tables,
    /// Nobody.
    Nobody,
}

/// Holds all that happens against an expression.
pub struct Sifter {
    /// Which events are wanted.
    asked: Expression,
    /// Which connections are.
    connections: Expression,
    /// Which events are shown of those that are wanted.
    shown: Expression,
    /// Minisocks of connections that are wanted, by their ids. What is learned at their ends may be less than at their births.
    alive: HashSet<u64>,
    place: Option<Place>,
    /// Cgroups that were looked for.
    placed: HashSet<u64>,
    counters: Box<Counters>,
}

impl Default for Sifter {
    /// Lets everything through.
    fn default() -> Self {
        Self::new(Expression::everything(), Expression::everything())
    }
}

impl Sifter {
    /// Tells of the events that are `asked` for; of these, observers are told of those that are to be `shown`.
    #[must_use]
    pub fn new(asked: Expression, shown: Expression) -> Self {
        let connections = asked.without(&Primitive::is_of_event);
        Self {
            asked,
            connections,
            shown,
            alive: HashSet::new(),
            place: None,
            placed: HashSet::new(),
            counters: Box::default(),
        }
    }

    /// Finds cgroups that are made later: those below one that is named belong to it.
    #[must_use]
    pub fn finding(self, place: Place) -> Self {
        let grows = self.asked.primitives().into_iter().any(Primitive::grows);
        Self { place: grows.then_some(place), ..self }
    }

    /// What it lets through, and what not, in the programs' counters; `None`: it asks for nothing beyond what is shown.
    #[must_use]
    pub(super) fn counters(&self) -> Option<&Counters> {
        (!self.asked.is_everything()).then_some(&*self.counters)
    }

    /// True if an event is asked for.
    #[must_use]
    pub(super) fn wants(&mut self, event: &Event) -> bool {
        self.find(&event.life);
        self.asked.is_everything() || self.asked.matches(event)
    }

    /// What is left of something that happened, and who is told of it.
    pub(super) fn sift<'a>(&mut self, happening: &'a Happening) -> (Cow<'a, Happening>, Told) {
        let whole = (Cow::Borrowed(happening), Told::All);
        if self.asked.is_everything() && self.shown.is_everything() {
            return whole;
        }
        match happening {
            Happening::Event(event) => (whole.0, self.event(event)),
            Happening::Seeds(lives) => (Cow::Owned(Happening::Seeds(self.seeds(lives))), Told::All),
            Happening::Over(lives) => (Cow::Owned(Happening::Over(self.over(lives))), Told::All),
            _ => whole,
        }
    }

    fn event(&mut self, event: &Event) -> Told {
        self.find(&event.life);
        let subject = Subject::of(event);
        let holds = |expression: &Expression| expression.verdict(&subject) == Some(true);
        let is_asked = holds(&self.asked);
        let is_shown = is_asked && holds(&self.shown);
        if is_asked {
            totals::note(&mut self.counters, event);
        }
        let fate = if is_shown { &mut self.counters.emitted } else { &mut self.counters.filtered };
        if let Some(count) = fate.get_mut(usize::from(event.kind().raw())) {
            *count += 1;
        }
        let id = event.life.id;
        let is_counted = holds(&self.connections) || id.is_some_and(|id| self.alive.contains(&id));
        match (&event.detail, id) {
            (Detail::Born { .. }, Some(id)) if is_counted => drop(self.alive.insert(id)),
            (Detail::Died { .. }, Some(id)) => drop(self.alive.remove(&id)),
            _ => {}
        }
        match is_shown {
            true => Told::All,
            false if is_counted => Told::Tables,
            false => Told::Nobody,
        }
    }

    fn seeds(&mut self, lives: &[Life]) -> Vec<Life> {
        let mut wanted = Vec::new();
        for life in lives {
            self.find(life);
            if self.connections.verdict(&Subject::of_life(life)) == Some(true) {
                self.alive.extend(life.id);
                wanted.push(*life);
            }
        }
        wanted
    }

    /// Where those were that ended unseen is not known, but which they were.
    fn over(&mut self, lives: &[Life]) -> Vec<Life> {
        lives.iter().filter(|life| life.id.is_some_and(|id| self.alive.remove(&id))).copied().collect()
    }

    /// Learns of a cgroup that comes up for the first time.
    fn find(&mut self, life: &Life) {
        let (Some(place), Some(closer)) = (&mut self.place, life.closer) else { return };
        let id = closer.cgroup_id;
        if self.placed.len() >= PLACES {
            self.placed.clear();
        }
        if self.placed.insert(id)
            && let Some(path) = place(id)
        {
            self.asked.learn(id, &path);
            self.connections.learn(id, &path);
        }
    }
}

#[cfg(test)]
mod tests;
