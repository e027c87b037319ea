//! The filter of the screen: an expression, or names and values as the command line has them.

mod rows;
mod words;

use crate::{
    filter::resolve::Resolver,
    model::{
        aggregate::{CgroupName, DestinationRow, OwnerRow, PortRow, ProcessName},
        event::Event,
        expression::{Expression, Subject},
    },
};

/// A filter. An event must be known to match. A row passes, too, if its table cannot tell: see [`Sieve::idle`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sieve {
    /// As it was typed.
    pub words: String,
    /// `None`: nothing is filtered out.
    asked: Option<Expression>,
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
            Some(first) if first.contains(':') => Some(words::read(words, resolver)?),
            Some(_) => {
                let read = Expression::read(words).map_err(|wrong| wrong.to_string())?;
                Some(resolver.names(read).map_err(|wrong| wrong.to_string())?)
            }
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
    pub fn idle(&self, table: &str) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        if let Some((asked, shape)) = self.asked.as_ref().zip(rows::shape(table)) {
            for word in asked.unanswered(&shape) {
                if !words.contains(&word) {
                    words.push(word);
                }
            }
        }
        words
    }

    /// The verdict on an event.
    #[must_use]
    pub fn event(&self, event: &Event) -> bool {
        self.asked.as_ref().is_none_or(|asked| asked.matches(event))
    }

    /// The verdict on a service port.
    #[must_use]
    pub fn port(&self, row: &PortRow) -> bool {
        self.row(|| rows::port(row))
    }

    /// The verdict on a destination.
    #[must_use]
    pub fn destination(&self, row: &DestinationRow) -> bool {
        self.row(|| rows::destination(row))
    }

    /// The verdict on a process.
    #[must_use]
    pub fn process(&self, row: &OwnerRow<ProcessName>) -> bool {
        self.row(|| rows::process(row))
    }

    /// The verdict on a cgroup.
    #[must_use]
    pub fn cgroup(&self, row: &OwnerRow<CgroupName>) -> bool {
        self.row(|| rows::cgroup(row))
    }

    fn row(&self, subject: impl FnOnce() -> Subject) -> bool {
        self.asked.as_ref().is_none_or(|asked| asked.verdict(&subject()) != Some(false))
    }
}

#[cfg(test)]
mod tests;
