//! What a finding is: one thing that holds here and now, with the numbers that say so.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// How bad it is. The exit code of `twtrace doctor` is that of the worst finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Fine,
    /// Worth knowing; nothing has to be done.
    Note,
    /// Something is lost or slow, or will be.
    Warning,
    /// Connections fail.
    Critical,
}

impl Severity {
    /// The word of the reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What stands behind a finding and is true of every machine: `--explain` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Story {
    /// Stable: `area.name`, as the finding's.
    pub id: &'static str,
    /// What it says, without the numbers.
    pub title: &'static str,
    /// Why that is so, in a sentence or two: the finding's `why`.
    pub why: &'static str,
    /// The whole of it: how the kernel does this, when the finding is made, what people believe instead. Paragraphs.
    pub story: &'static str,
    /// What has to be read for the finding to be made: numbers and thresholds. A row of the table in docs/doctor.md.
    pub holds: &'static str,
    /// What looks like it and is not: when the finding is not made.
    pub does_not: &'static str,
    /// Commands that show the same without twtrace.
    pub by_hand: &'static [&'static str],
    /// Where the facts come from: kernel files and functions, RFCs.
    pub sources: &'static [&'static str],
}

/// A number or a word that was read.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Value {
    /// A count.
    Count(u64),
    /// A number that is none.
    Number(f64),
    /// A word, or a line.
    Text(String),
    /// Not known: null.
    Unknown,
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<u32> for Value {
    fn from(count: u32) -> Self {
        Self::Count(count.into())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        // JSON has no other numbers.
        if number.is_finite() { Self::Number(number) } else { Self::Unknown }
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Unknown, Into::into)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            // Enough to tell 0.4 from 4; the rest is noise.
            Self::Number(number) if number.abs() >= 100.0 => write!(f, "{number:.0}"),
            Self::Number(number) => write!(f, "{number:.1}"),
            Self::Text(text) => f.write_str(text),
            Self::Unknown => f.write_str("?"),
        }
    }
}

/// A number read now, and where.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Evidence {
    /// What it is: a counter's or a sysctl's own name where it has one.
    pub name: String,
    /// What was read; null if that could not be.
    pub value: Value,
    /// In what: `sockets`, `bytes`, `1/s`; empty if it is a plain number or a word.
    pub unit: String,
    /// Where it was read: a file, or `sock_diag`.
    pub source: String,
}

impl Evidence {
    /// A piece of evidence.
    pub fn new(
        name: impl Into<String>,
        value: impl Into<Value>,
        unit: impl Into<String>,
        source: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), value: value.into(), unit: unit.into(), source: source.into() }
    }
}

/// Something that holds here and now.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Finding {
    /// Stable: `area.name`; what `--explain` takes.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// The network namespace, by its inode number; null if it is about the machine.
    pub netns: Option<u32>,
    /// The step, in one sentence.
    pub sentence: String,
    /// The numbers that say so.
    pub evidence: Vec<Evidence>,
    /// What to do, the safest first; empty if nothing has to be done.
    #[serde(rename = "do")]
    pub to_do: Vec<String>,
    /// What not to do.
    pub avoid: Vec<String>,
    /// Why that is so.
    pub why: String,
}

impl Finding {
    /// A finding of this story; about the machine until [`Self::netns`] is set.
    pub fn new(story: &Story, severity: Severity, sentence: impl Into<String>) -> Self {
        Self {
            id: story.id.to_owned(),
            severity,
            netns: None,
            sentence: sentence.into(),
            evidence: Vec::new(),
            to_do: Vec::new(),
            avoid: Vec::new(),
            why: story.why.to_owned(),
        }
    }

    /// Adds what was read.
    #[must_use]
    pub fn shown_by(mut self, evidence: impl IntoIterator<Item = Evidence>) -> Self {
        self.evidence.extend(evidence);
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn to_do<T: Into<String>>(mut self, steps: impl IntoIterator<Item = T>) -> Self {
        self.to_do.extend(steps.into_iter().map(Into::into));
        self
    }

    /// Adds what not to do.
    #[must_use]
    pub fn avoid<T: Into<String>>(mut self, steps: impl IntoIterator<Item = T>) -> Self {
        self.avoid.extend(steps.into_iter().map(Into::into));
        self
    }
}

/// Something that could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Missed {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
    /// What would show it.
    pub remedy: String,
}

/// All of it in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Verdict {
    /// Of the worst finding: fine, warning or critical.
    pub severity: Severity,
    /// The id of the finding that decides; empty if nothing could be looked at.
    pub id: String,
    /// The network namespace that it is about, by its inode number; null if it is about the machine.
    pub netns: Option<u32>,
    /// Sentence of the finding.
    pub sentence: String,
    /// The one next step that does no harm; null if nothing has to be done.
    pub next: Option<String>,
}

impl Verdict {
    /// The worst of the findings, which come worst first. What is only worth a note is no verdict: then it is that nothing
    /// has to be done.
    #[must_use]
    pub fn of(findings: &[Finding]) -> Self {
        let worst = findings.first().filter(|worst| worst.severity >= Severity::Warning);
        let verdict = worst.or_else(|| findings.iter().find(|finding| finding.severity == Severity::Fine));
        match verdict {
            Some(finding) => Self {
                severity: finding.severity,
                id: finding.id.clone(),
                netns: finding.netns,
                sentence: finding.sentence.clone(),
                next: finding.to_do.first().cloned(),
            },
            None => Self {
                severity: Severity::Fine,
                id: String::new(),
                netns: None,
                sentence: "nothing could be looked at".to_owned(),
                next: None,
            },
        }
    }
}
