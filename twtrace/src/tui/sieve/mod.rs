//! The filter of the screen: an expression, or names and values as the command line has them.

mod rows;
mod words;

use self::words::Words;
use crate::{
    filter::expression::{Expression, Subject},
    filter::resolve::Resolver,
    model::{
        aggregate::{CgroupName, DestinationRow, OwnerRow, PortRow, ProcessName},
        event::Event,
    },
};

/// A filter. An event must be known to match. A row passes, too, if its table cannot tell: see [`Sieve::idle`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sieve {
    /// As it was typed.
    pub words: String,
    /// `None`: nothing is filtered out.
    asked: Option<Asked>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Expression(Expression),
    Words(Box<Words>),
}

impl Sieve {
    /// Reads `dst port 443 and not cause expired`, or `rport:443 comm:nginx` with the names in it looked up by `resolver`:
    /// what begins with NAME:VALUE is the latter.
    ///
    /// # Errors
    /// What is wrong with the first wrong word, for the eye.
    pub fn read(text: &str, resolver: &Resolver) -> Result<Self, String> {
        let words = text.trim();
        let asked = match words.split_whitespace().next() {
            None => None,
            Some(first) if first.contains(':') => Some(Asked::Words(Box::new(Words::read(words, resolver)?))),
            Some(_) => Some(Asked::Expression(Expression::read(words).map_err(|wrong| wrong.to_string())?)),
        };
        Ok(Self { words: words.to_owned(), asked })
    }

    /// True if nothing is filtered out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.asked.is_none()
    }

    /// Words of the filter that a table cannot answer, which has no such column: all of its rows pass them.
    #[must_use]
    pub fn idle(&self, table: &str) -> Vec<&str> {
        match &self.asked {
            None => Vec::new(),
            Some(Asked::Words(words)) => words.idle(table),
            Some(Asked::Expression(expression)) => {
                let mut words: Vec<&str> = Vec::new();
                for word in rows::shape(table).iter().flat_map(|shape| expression.unanswered(shape)) {
                    if !words.contains(&word) {
                        words.push(word);
                    }
                }
                words
            }
        }
    }

    /// The verdict on an event.
    #[must_use]
    pub fn event(&self, event: &Event) -> bool {
        match &self.asked {
            None => true,
            Some(Asked::Words(words)) => words.event(event),
            Some(Asked::Expression(expression)) => expression.matches(event),
        }
    }

    /// The verdict on a service port.
    #[must_use]
    pub fn port(&self, row: &PortRow) -> bool {
        self.row(|| rows::port(row), |words| words.port(row))
    }

    /// The verdict on a destination.
    #[must_use]
    pub fn destination(&self, row: &DestinationRow) -> bool {
        self.row(|| rows::destination(row), |words| words.destination(row))
    }

    /// The verdict on a process.
    #[must_use]
    pub fn process(&self, row: &OwnerRow<ProcessName>) -> bool {
        self.row(|| rows::process(row), |words| words.process(row))
    }

    /// The verdict on a cgroup, which only words can ask for.
    #[must_use]
    pub fn cgroup(&self, row: &OwnerRow<CgroupName>) -> bool {
        self.row(Subject::default, |words| words.cgroup(row))
    }

    fn row(&self, subject: impl FnOnce() -> Subject, by_words: impl FnOnce(&Words) -> bool) -> bool {
        match &self.asked {
            None => true,
            Some(Asked::Words(words)) => by_words(words),
            Some(Asked::Expression(expression)) => expression.verdict(&subject()) != Some(false),
        }
    }
}

#[cfg(test)]
mod tests;
