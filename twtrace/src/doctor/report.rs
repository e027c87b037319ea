//! What was found, for people and for programs.

use std::fmt::Write as _;

use crossterm::style::Stylize as _;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::Serialize;
use textwrap::{Options, WordSplitter};
use unicode_width::UnicodeWidthStr as _;

use super::{
    checks::{self, QUESTIONS},
    facts::{Facts, Namespace},
    finding::{Evidence, Finding, Missed, Severity, Story, Verdict},
    table::{self, Table},
};
use crate::show::{escape, human::Plain};

/// One look, as `--format json` writes it: one object in one line.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Report {
    /// Version of the format: 1.
    #[schemars(extend("const" = 1))]
    pub v: u8,
    /// `doctor`.
    #[schemars(extend("const" = "doctor"))]
    #[serde(rename = "type")]
    pub kind: String,
    /// When, RFC 3339 in UTC.
    pub ts: String,
    /// When, nanoseconds of CLOCK_MONOTONIC.
    pub mono_ns: u64,
    /// Of twtrace.
    pub version: String,
    /// `uname -r`.
    pub kernel: String,
    /// Between the two looks at the counters, seconds.
    pub window_s: f64,
    /// The network namespaces that were looked into, by inode number; the one that was asked for first.
    pub namespaces: Vec<u32>,
    /// Where each of them is, in the same order.
    pub places: Vec<Located>,
    /// All of it in one line.
    pub verdict: Verdict,
    /// The worst first.
    pub findings: Vec<Finding>,
    /// All TCP sockets by state, of each namespace.
    pub sockets: Vec<Table>,
    /// What could not be looked at.
    pub missed: Vec<Missed>,
}

/// A network namespace, as somebody finds it who reads the report where it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Located {
    /// Inode number.
    pub netns: u32,
    /// Name below /run/netns; null if it has none.
    pub name: Option<String>,
    /// The process in it with the lowest id, twtrace aside; null if there is none, or it may not be looked at.
    pub pid: Option<u32>,
    /// Name of that process.
    pub comm: Option<String>,
    /// The runtime (docker, podman, containerd, kubernetes) and the first 12 digits of the id of the container that it
    /// belongs to, by that process's cgroup; null if it is none's.
    pub container: Option<String>,
    /// What comes before a command so that it acts there; empty in the reader's own namespace, null if only a descriptor
    /// leads there.
    pub enter: Option<String>,
}

impl Located {
    fn of(namespace: &Namespace) -> Self {
        let place = &namespace.place;
        let (pid, comm) = place.process.clone().unzip();
        Self {
            netns: namespace.inum,
            name: place.name.clone(),
            pid,
            comm,
            container: place.container.as_ref().map(ToString::to_string),
            enter: place.prefix().map(|prefix| prefix.trim_end().to_owned()),
        }
    }

    /// The reader is in it.
    fn is_here(&self) -> bool {
        self.enter.as_deref() == Some("")
    }

    /// `4026532600, blue, docker 0123456789ab`.
    fn called(&self) -> String {
        let mut words = vec![self.netns.to_string()];
        words.extend(self.name.clone());
        words.extend(self.container.clone());
        if let (1, false, Some(pid), Some(comm)) = (words.len(), self.is_here(), self.pid, &self.comm) {
            words.push(format!("process {pid} {comm}"));
        }
        words.join(", ")
    }
}

impl Report {
    /// What was found in these facts, and when: by the wall (RFC 3339) and by CLOCK_MONOTONIC.
    #[must_use]
    pub fn new(facts: &Facts, findings: Vec<Finding>, ts: String, mono_ns: u64) -> Self {
        let first = facts.namespaces.first();
        Self {
            v: 1,
            kind: "doctor".to_owned(),
            ts,
            mono_ns,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: facts.kernel.clone(),
            window_s: first.map_or(0.0, |namespace| namespace.window.as_secs_f64()),
            namespaces: facts.namespaces.iter().map(|namespace| namespace.inum).collect(),
            places: facts.namespaces.iter().map(Located::of).collect(),
            verdict: Verdict::of(&findings),
            findings,
            sockets: Table::all(facts),
            missed: facts.missed.clone(),
        }
    }

    /// What a namespace is called where more than one may be meant.
    fn called(&self, netns: u32) -> String {
        let place = self.places.iter().find(|place| place.netns == netns);
        place.map_or_else(|| netns.to_string(), Located::called)
    }

    /// The report's line, without the end.
    ///
    /// # Errors
    /// Never: all of it can be written as JSON.
    pub fn json(&self) -> serde_json::Result<String> {
        escape::to_string(self)
    }
}

/// The JSON Schema of a [`Report`], pretty: docs/doctor.schema.json.
#[must_use]
pub fn schema() -> String {
    // As it is written: what may be null is there nevertheless.
    let settings = SchemaSettings::default().for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<Report>();
    let ids: Vec<&str> = checks::stories().map(|story| story.id).collect();
    if let Some(id) = schema.pointer_mut("/$defs/Verdict/properties/id") {
        id["enum"] = ids.iter().copied().chain([""]).collect();
    }
    if let Some(id) = schema.pointer_mut("/$defs/Finding/properties/id") {
        id["enum"] = ids.into();
    }
    schema.insert("title".to_owned(), "A line of `twtrace doctor --format json`".into());
    serde_json::to_string_pretty(&schema).map_or_else(|error| error.to_string(), |text| text + "\n")
}

/// How to write for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns.
    pub width: usize,
    /// Colour is never the only sign.
    pub colour: bool,
}

/// Before each line of a finding's parts.
const MARGIN: &str = "    ";
/// The most namespaces that the head names.
const NAMED: usize = 4;

/// The report for people: the verdict and the next step first.
#[must_use]
pub fn text(report: &Report, style: Style) -> String {
    let mut out = String::new();
    let called: Vec<String> = report.places.iter().take(NAMED).map(Located::called).collect();
    let places = match report.places.len() {
        1 => format!("network namespace {}", called[0]),
        count if count <= NAMED => format!("{count} network namespaces ({})", called.join("; ")),
        count => format!("{count} network namespaces"),
    };
    // To the second: the rest is for programs.
    let at = report.ts.get(..19).unwrap_or(&report.ts).replace('T', " ");
    let head = format!("twtrace doctor {} on kernel {}: {places}, {at} UTC", report.version, report.kernel);
    paragraph(&mut out, style, "", "", &head);
    let verdict = &report.verdict;
    let _ = writeln!(out);
    let elsewhere = report.places.iter().find(|place| Some(place.netns) == verdict.netns && !place.is_here());
    let place = elsewhere.map(|place| format!(" [namespace {}]", place.called())).unwrap_or_default();
    let sentence = format!("{}{place}", verdict.sentence);
    paragraph(&mut out, style, &format!("{} ", word(verdict.severity, style)), "", &sentence);
    if let Some(next) = &verdict.next {
        paragraph(&mut out, style, "Next: ", "", next);
    }
    let (told, fine): (Vec<&Finding>, Vec<&Finding>) =
        report.findings.iter().partition(|finding| finding.severity > Severity::Fine);
    for finding in told {
        out.push('\n');
        let place = finding.netns.filter(|_| report.places.len() > 1).map(|netns| report.called(netns));
        out.push_str(&one(finding, place.as_deref(), style));
    }
    if !fine.is_empty() {
        let _ = writeln!(out, "\nFine:");
        let ids = fine.iter().map(|finding| finding.id.len()).max().unwrap_or(0);
        for finding in fine {
            let first = format!("  {:ids$}  ", finding.id);
            let rest = " ".repeat(first.len());
            paragraph(&mut out, style, &first, &rest, &finding.sentence);
        }
    }
    out.push_str(&table::text(&report.sockets, |netns| report.called(netns)));
    if !report.missed.is_empty() {
        let _ = writeln!(out, "\nNot looked at:");
        for Missed { what, why, remedy } in &report.missed {
            paragraph(&mut out, style, "  ", MARGIN, &format!("{what}: {why}; {remedy}"));
        }
    }
    if !verdict.id.is_empty() {
        let _ = writeln!(out, "\nExplain a finding: twtrace doctor --explain {}", verdict.id);
    }
    out
}

fn word(severity: Severity, style: Style) -> String {
    let word = format!("{}:", severity.word().to_uppercase());
    if !style.colour {
        return word;
    }
    match severity {
        Severity::Fine => word.green().bold().to_string(),
        Severity::Note => word.cyan().bold().to_string(),
        Severity::Warning => word.yellow().bold().to_string(),
        Severity::Critical => word.red().bold().to_string(),
    }
}

/// One finding with all its parts, and where it is if that has to be said.
fn one(finding: &Finding, place: Option<&str>, style: Style) -> String {
    let mut out = String::new();
    let place = place.map(|place| format!(" [namespace {place}]")).unwrap_or_default();
    let sentence = format!("{}{place} ({})", finding.sentence, finding.id);
    paragraph(&mut out, style, &format!("{} ", word(finding.severity, style)), MARGIN, &sentence);
    evidence(&mut out, &finding.evidence);
    for (what, steps) in [("do      ", &finding.to_do), ("do not  ", &finding.avoid)] {
        for step in steps {
            let step = step.strip_prefix("do not ").unwrap_or(step);
            paragraph(&mut out, style, &format!("{MARGIN}{what}"), "            ", step);
        }
    }
    paragraph(&mut out, style, &format!("{MARGIN}why     "), "            ", &finding.why);
    out
}

/// A table: what, how much, where it was read.
fn evidence(out: &mut String, evidence: &[Evidence]) {
    let rows: Vec<[String; 3]> = evidence
        .iter()
        .map(|it| {
            let value = format!("{} {}", it.value, it.unit);
            [Plain(&it.name).to_string(), Plain(value.trim_end()).to_string(), Plain(&it.source).to_string()]
        })
        .collect();
    let widest = |column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
    let (first, second) = (widest(0), widest(1));
    for [name, value, source] in &rows {
        let fill = |text: &str, width: usize| " ".repeat(width.saturating_sub(text.width()));
        let _ = writeln!(out, "{MARGIN}{name}{}  {value}{}  {source}", fill(name, first), fill(value, second));
    }
}

/// Text that was put together of what others wrote, wrapped.
fn paragraph(out: &mut String, style: Style, first: &str, rest: &str, text: &str) {
    let text = Plain(text).to_string();
    let options = Options::new(style.width.max(40)).initial_indent(first).subsequent_indent(rest);
    // Names with hyphens are to be copied whole.
    for line in textwrap::wrap(&text, options.break_words(false).word_splitter(WordSplitter::NoHyphenation)) {
        let _ = writeln!(out, "{line}");
    }
}

/// The whole story of a kind of finding, and below it what holds here and now.
#[must_use]
pub fn explain(story: &Story, findings: &[Finding], style: Style) -> String {
    let mut out = format!("{}: {}\n\n", story.id, story.title);
    paragraph(&mut out, style, "", "", story.why);
    for part in story.story.split("\n\n") {
        out.push('\n');
        if part.starts_with("    ") {
            // What is to be copied stays as it is.
            let _ = writeln!(out, "{part}");
        } else {
            paragraph(&mut out, style, "", "", part);
        }
    }
    let _ = writeln!(out, "\nBy hand:");
    for command in story.by_hand {
        let _ = writeln!(out, "  {command}");
    }
    let _ = writeln!(out, "\nSources:");
    for source in story.sources {
        let _ = writeln!(out, "  {source}");
    }
    let mut here = findings.iter().filter(|finding| finding.id == story.id).peekable();
    let _ = writeln!(out, "\nHere and now:");
    if here.peek().is_none() {
        let _ = writeln!(out, "  this finding does not hold");
    }
    for finding in here {
        let place = finding.netns.map(|netns| netns.to_string());
        out.push_str(&one(finding, place.as_deref(), style));
    }
    out
}

/// docs/doctor.md: every question and its stories.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "<!-- Written by `cargo xtask docs` from twtrace/src/doctor/checks; change it there. -->\n\n# What `twtrace doctor` \
         finds\n\nEach finding has a stable id. `twtrace doctor --explain ID` prints the text below and whether the finding holds \
         on this machine. docs/doctor.schema.json describes the lines of `--format json`.\n\n## When each finding holds\n\n\
         | finding | holds when | does not hold |\n|---|---|---|\n",
    );
    let cell = |text: &str| text.replace('|', "\\|");
    for Story { id, holds, does_not, .. } in checks::stories() {
        let _ = writeln!(page, "| [{id}](#{}) | {} | {} |", id.replace('.', ""), cell(holds), cell(does_not));
    }
    for question in &QUESTIONS {
        let _ = writeln!(page, "\n## {}", question.asks);
        for story in question.stories {
            let _ = writeln!(page, "\n### {}\n\n**{}.** {}\n\n{}\n", story.id, story.title, story.why, story.story);
            let _ = writeln!(page, "By hand:\n\n```sh\n{}\n```\n", story.by_hand.join("\n"));
            let _ = writeln!(page, "Sources: {}.", story.sources.join("; "));
        }
    }
    page
}
