//! The hub: what happens goes to the tables, and to every observer.

use std::sync::Arc;

use tokio::sync::Notify;
use twtrace_common::counter::Counters;

use super::{
    outlet::Outlet,
    sifter::{Sifter, Told},
};
use crate::{
    model::{
        aggregate::Aggregates,
        event::Event,
        happening::{Happening, Loss, Lost},
    },
    sink::Steer,
};

/// Where all that a run tells goes. The first outlet is the run's own: when nobody reads it any more, the run is over.
pub struct Hub {
    tables: Aggregates,
    counts: bool,
    sifter: Sifter,
    outlets: Vec<Outlet>,
}

impl Hub {
    /// A hub that keeps no tables, and tells everything.
    #[must_use]
    pub fn new(outlets: Vec<Outlet>) -> Self {
        Self { tables: Aggregates::none(), counts: false, sifter: Sifter::default(), outlets }
    }

    /// Keeps these tables, for all observers.
    #[must_use]
    pub fn with_tables(self, tables: Aggregates) -> Self {
        Self { tables, counts: true, ..self }
    }

    /// Tells no more than this lets through.
    #[must_use]
    pub fn sifting(self, sifter: Sifter) -> Self {
        Self { sifter, ..self }
    }

    /// Tells the tables first, then every observer.
    pub fn happened(&mut self, happening: &Happening) {
        let (happening, told) = self.sifter.sift(happening);
        if self.counts && told != Told::Nobody {
            self.tables.happened(&happening);
        }
        if told == Told::All {
            for outlet in &mut self.outlets {
                outlet.happened(&happening, &self.tables);
            }
        }
    }

    /// What was told and what was not, in the programs' counters; `None`: no more was filtered than they do.
    #[must_use]
    pub fn sifted(&self) -> Option<&Counters> {
        self.sifter.counters()
    }

    /// True if somebody is told of an event.
    #[must_use]
    pub fn wants(&mut self, event: &Event) -> bool {
        self.sifter.wants(event)
    }

    /// The tables, if there are any: for whoever has to find out what they lack. They change by [`Hub::happened`] alone.
    pub fn tables(&mut self) -> Option<&mut Aggregates> {
        self.counts.then_some(&mut self.tables)
    }

    /// True if somebody looks at a screen.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.outlets.iter().any(Outlet::is_live)
    }

    /// True if what happens now does not heap up behind what waits, in at least one of the outlets: the others lose it.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.outlets.iter().any(Outlet::has_room)
    }

    /// True if losses are told on standard error, past an output that has no room.
    #[must_use]
    pub fn tells_losses_aside(&self) -> bool {
        self.outlets.iter().any(|outlet| outlet.lines.tells_losses_aside())
    }

    /// Hands what is formatted to the writers.
    pub fn flush(&mut self) {
        let beside = self.outlets.len() > 1;
        for outlet in &mut self.outlets {
            outlet.flush(&self.tables);
            if beside {
                outlet.shed(&self.tables);
            }
        }
    }

    /// Tells every observer what single outputs have lost since the last time. Of an output that is alone this is told at
    /// the end: the run waits for it until then.
    pub fn tell_losses(&mut self, mono_ns: u64) {
        if self.outlets.len() < 2 {
            return;
        }
        let lost: Vec<Lost> = self.outlets.iter_mut().filter_map(Outlet::newly_lost).collect();
        for lost in lost {
            self.happened(&Happening::Lost { mono_ns, lost });
        }
    }

    /// What wakes the run when somebody asks something of it: one for each screen.
    #[must_use]
    pub(super) fn typed(&mut self) -> Option<Arc<Notify>> {
        self.outlets.iter_mut().find_map(|outlet| Some(outlet.lines.live()?.typed()))
    }

    /// The next thing that somebody asks of the run.
    pub(super) fn asked(&mut self) -> Option<Steer> {
        let tables = &self.tables;
        self.outlets.iter_mut().find_map(|outlet| outlet.lines.live()?.asked(tables))
    }

    /// All outlets with the tables that they show.
    pub(super) fn parts(&mut self) -> (&mut Vec<Outlet>, &Aggregates) {
        (&mut self.outlets, &self.tables)
    }

    /// The run's own output.
    pub(super) fn first(&self) -> Option<&Outlet> {
        self.outlets.first()
    }
}

/// Lines that one output has not got.
pub(super) fn lines_lost(name: &str, place: Loss, count: u64) -> Lost {
    Lost { place, observer: Some(name.to_owned()), count }
}
