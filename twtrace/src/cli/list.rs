//! The lists of the command line, from text to typed values: each wrong word is named, with a right example.

use twtrace_common::knob::FILTER_VALUES;

use super::exit::Complaint;
use crate::filter::{
    few::Few,
    ports::{PortError, Ports},
    word::Bad,
};

/// One option with everything that was given for it.
#[derive(Clone, Copy)]
pub(super) struct List<'a> {
    /// As written: `--port`.
    pub option: &'static str,
    /// What a right list looks like.
    pub example: &'static str,
    /// What was given, once for every time that the option stands there.
    pub values: &'a [String],
}

impl List<'_> {
    /// What `read` makes of every word.
    pub fn words<T>(&self, mut read: impl FnMut(&str) -> Result<T, Bad>) -> Result<Vec<T>, Complaint> {
        let mut typed = Vec::new();
        for value in self.values {
            for (i, word) in value.split(',').enumerate() {
                let read = match word.trim() {
                    "" if value.trim().is_empty() => Err(Bad::new("missing value")),
                    "" => Err(Bad::new(format!("item {} of the list is empty", i + 1))),
                    word => read(word),
                };
                typed.push(read.map_err(|bad| self.complain(value, bad))?);
            }
        }
        Ok(typed)
    }

    /// As [`List::words`], for filters that hold few values.
    pub fn few<T: PartialEq>(&self, read: impl FnMut(&str) -> Result<T, Bad>) -> Result<Few<T>, Complaint> {
        Few::new(self.words(read)?).map_err(|too_many| {
            let remedy = format!("leave out {}, or run twtrace twice", too_many.0 - FILTER_VALUES);
            Complaint::new(self.option, too_many.to_string(), remedy)
        })
    }

    /// A set of ports; `None` if the option was not given.
    pub fn ports(&self) -> Result<Option<Ports>, Complaint> {
        let ranges = self.words(|word| {
            Ports::parse_range(word).map_err(|error| match error {
                PortError::Backwards(from, to) => Bad::rather(error.to_string(), format!("{to}-{from}")),
                _ => Bad::new(error.to_string()),
            })
        })?;
        Ok(if ranges.is_empty() { None } else { Some(Ports::new(ranges)) })
    }

    /// What is said about a value, because of a word in it.
    pub fn complain(&self, value: &str, bad: Bad) -> Complaint {
        let remedy = match bad.right {
            Some(right) => format!("write {} {right}", self.option),
            None => format!("write e.g. {} {}", self.option, self.example),
        };
        Complaint::new(format!("{} {value}", self.option).trim_end(), bad.why, remedy)
    }
}
