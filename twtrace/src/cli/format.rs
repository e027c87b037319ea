//! `--format` and `--also`: how a run is shown, and where else.

use std::{path::PathBuf, sync::LazyLock};

use clap::{ValueEnum, builder::PossibleValue};

use super::exit::Complaint;
use crate::sink::{FORMATS, LineFormat};

/// How to show a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunFormat {
    /// A live view, with keys.
    Tui,
    /// Lines.
    Lines(&'static LineFormat),
}

impl ValueEnum for RunFormat {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: LazyLock<Vec<RunFormat>> = LazyLock::new(|| {
            std::iter::once(RunFormat::Tui).chain(FORMATS.into_iter().map(RunFormat::Lines)).collect()
        });
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Tui => PossibleValue::new("tui").help("A live view, with keys"),
            Self::Lines(format) => PossibleValue::new(format.word).help(format.about),
        })
    }
}

/// One more output of a run: `json:FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Also {
    /// How.
    pub format: &'static LineFormat,
    /// Where: a file that is made or emptied, a pipe, a terminal.
    pub path: PathBuf,
}

impl Also {
    /// Reads `FORMAT:FILE`.
    pub(super) fn read(text: &str) -> Result<Self, Complaint> {
        let what = || format!("--also {text}");
        let words = FORMATS.map(|format| format.word).join(", ");
        let Some((word, path)) = text.split_once(':').filter(|(_, path)| !path.is_empty()) else {
            let why = format!("invalid output '{text}' (expected FORMAT:FILE; formats: {words})");
            return Err(Complaint::new(what(), why, "write e.g. --also json:events.jsonl"));
        };
        let Some(format) = FORMATS.into_iter().find(|format| format.word == word) else {
            let why = format!("unknown format '{word}' (expected {words})");
            return Err(Complaint::new(what(), why, "write e.g. --also json:events.jsonl"));
        };
        Ok(Self { format, path: path.into() })
    }

    /// The output's name where it loses something.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}:{}", self.format.word, self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_a_format_and_a_file() {
        let also = Also::read("json:/tmp/a:b.jsonl").unwrap();
        assert_eq!(
            (also.format.word, also.path.to_str(), also.name().as_str()),
            ("json", Some("/tmp/a:b.jsonl"), "json:/tmp/a:b.jsonl")
        );
        for wrong in ["", "json", "json:", "tui:file", ":file", "xml:file"] {
            let said = Also::read(wrong).unwrap_err().to_string();
            assert!(said.contains("text, json") && said.contains("--also json:events.jsonl"), "{wrong}: {said}");
        }
    }
}
