//! A scenario in numbers: what the table shows as expected and as seen.

use std::{collections::BTreeMap, fmt};

use super::{
    judge::{Knows, Made},
    want::{End, Is, Turn, Want},
};
use crate::model::event::{Detail, Event, Substate};

/// How often what happened, by the word for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<(u8, &'static str), usize>);

/// The order of the words.
const BORN: u8 = 0;
const TURNED: u8 = 1;
const REARMED: u8 = 2;
const DIED: u8 = 3;
const REST: u8 = 4;

impl Tally {
    /// What was made.
    #[must_use]
    pub fn made(made: &Made, knows: Knows) -> Self {
        let mut tally = Self::default();
        for want in &made.wants {
            tally.add(BORN, if want.preexisting { "seeded" } else { "born" }, 1);
            tally.add(TURNED, "turned", usize::from(turns(want)));
            match &want.rearmed {
                Is::Exactly(count) => tally.add(REARMED, "rearmed", *count),
                Is::Within(range) => tally.add(REARMED, "rearmed", *range.start()),
                Is::Anything | Is::Unknown => {}
            }
            if let End::Died { cause, .. } = &want.end {
                tally.add(DIED, cause.word(), 1);
            }
        }
        tally.add(REST, "refused", made.refused.len());
        if knows.no_port {
            tally.add(REST, "no_port", made.no_port.len());
        }
        if knows.reuse_denied && !made.denied_at_will {
            tally.add(REST, "reuse_denied", made.denied.len());
        }
        if knows.no_bind {
            tally.add(REST, "no_bind", made.no_bind.len());
        }
        tally
    }

    /// What was told; `pairs`: each life that was wanted, and how often it was told to turn.
    #[must_use]
    pub fn told<'a>(events: &[&Event], pairs: impl Iterator<Item = (&'a Want, usize)>, made: &Made) -> Self {
        let mut tally = Self::default();
        let mut rearmed_matters = false;
        for (want, turned) in pairs {
            tally.add(TURNED, "turned", if turns(want) { turned } else { 0 });
            tally.add(BORN, "seeded", usize::from(want.preexisting));
            rearmed_matters |= !want.rearmed.is_anything();
        }
        for event in events {
            match event.detail {
                Detail::Born { .. } => tally.add(BORN, "born", 1),
                Detail::Turned { .. } => {}
                Detail::Rearmed { .. } => tally.add(REARMED, "rearmed", usize::from(rearmed_matters)),
                Detail::Died { cause, .. } => tally.add(DIED, cause.word(), 1),
                Detail::Refused { .. } => tally.add(REST, "refused", 1),
                Detail::NoPort { .. } => tally.add(REST, "no_port", 1),
                Detail::NoBind { .. } => tally.add(REST, "no_bind", 1),
                Detail::ReuseDenied { .. } => tally.add(REST, "reuse_denied", usize::from(!made.denied_at_will)),
            }
        }
        tally
    }

    fn add(&mut self, place: u8, word: &'static str, count: usize) {
        if count > 0 {
            *self.0.entry((place, word)).or_default() += count;
        }
    }
}

/// True if it is certain that this life turns.
fn turns(want: &Want) -> bool {
    want.turn == Turn::IfFinWait2 && want.born == Is::Exactly(Substate::FinWait2)
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.pad("no life");
        }
        let words: Vec<String> = self.0.iter().map(|((_, word), count)| format!("{count} {word}")).collect();
        f.pad(&words.join(", "))
    }
}
