//! `twtrace run`: what it is asked.

use std::time::Duration;

use super::{
    Also, EbpfLog, HOUR, Hooks, RunFormat, args::RunArgs, exit::Complaint, filter, list::List, value::Given, words,
};
use crate::{
    filter::{spec::FilterSpec, word},
    model::expression::Expression,
    sink::{by::Group, json},
};

/// `twtrace run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// How to show it; `None`: as the output allows.
    pub format: Option<RunFormat>,
    /// Where else to show it.
    pub also: Vec<Also>,
    /// Tables to show, with the events.
    pub by: Vec<Group>,
    /// How often; `None`: text every 5 s, JSON each interval.
    pub summary_every: Option<Duration>,
    /// Rows of each table.
    pub top: usize,
    /// Nothing but ASCII in the live view.
    pub ascii: bool,
    /// What twtrace itself costs.
    pub self_stats: bool,
    /// When to stop; `None`: when told to.
    pub duration: Option<Duration>,
    /// How long a reader that takes nothing is waited for at the end.
    pub drain_for: Duration,
    /// How often to flush, and to read the counters.
    pub interval: Duration,
    /// How to watch.
    pub hooks: Hooks,
    /// Make traffic in a private network namespace.
    pub demo: bool,
    /// Whether the eBPF programs log.
    pub ebpf_log: EbpfLog,
    /// Bytes of the ring: a power of two, whole pages.
    pub ring_size: u32,
    /// Entries of the table of minisocks; `None`: fitted to the machine.
    pub max_lives: Option<u32>,
    /// Entries of the table of open connections; `None`: fitted to the machine.
    pub max_conns: Option<u32>,
    /// What to show.
    pub filter: FilterSpec,
    /// What has to hold beside the filters.
    pub expression: Expression,
}

impl Run {
    /// `advice` knows what to write instead of a word of other tools.
    pub(super) fn read(mut args: RunArgs, advice: impl Fn(&str) -> Option<String>) -> Result<Self, Complaint> {
        if args.json {
            args.format = Some(RunFormat::Lines(&json::FORMAT));
        }
        let by = by(&args)?;
        let time = |option, text: &str, least, most, example| {
            Given { option, text }.time(&(Duration::from_millis(least)..=most), example)
        };
        let duration = args.duration.as_deref().map(|text| time("--duration", text, 1, 10_000 * HOUR, "30s"));
        let every = args.summary_every.as_deref().map(|text| time("--summary-every", text, 100, HOUR, "5s"));
        let entries = |option, text: Option<&String>| text.map(|text| Given { option, text }.entries()).transpose();
        Ok(Self {
            format: args.format,
            also: args.also.iter().map(|text| Also::read(text)).collect::<Result<_, _>>()?,
            by,
            summary_every: every.transpose()?,
            top: args.top as usize,
            ascii: args.ascii,
            self_stats: args.self_stats,
            duration: duration.transpose()?,
            drain_for: time("--drain-for", &args.drain_for, 0, 24 * HOUR, "10s")?,
            interval: time("--interval", &args.interval, 10, HOUR, "1s").map_err(words::interface)?,
            hooks: args.hooks.into(),
            demo: args.demo,
            ebpf_log: args.ebpf_log,
            ring_size: Given { option: "--ring-size", text: &args.ring_size }.ring()?,
            max_lives: entries("--max-lives", args.max_lives.as_ref())?,
            max_conns: entries("--max-conns", args.max_conns.as_ref())?,
            filter: filter::read(&args.filters, &args.events)?,
            expression: filter::expression(&args.expression, advice)?,
        })
    }
}

/// `--by`, and what `--summary-every` alone makes of it.
pub(super) fn by(args: &RunArgs) -> Result<Vec<Group>, Complaint> {
    let known = Group::ALL.map(|group| (group.word(), group));
    let list = List { option: "--by", example: "port,dest", values: &args.by };
    let mut groups = list.words(|word| word::word_of(word, "table", &known))?;
    if groups.is_empty() && args.summary_every.is_some() {
        groups.extend(Group::ALL);
    }
    if !groups.is_empty() && args.format == Some(RunFormat::Tui) {
        let what = if args.by.is_empty() { "--summary-every" } else { "--by" };
        return Err(Complaint::new(
            what,
            "the live view has all tables already",
            "leave it out, or write --format text",
        ));
    }
    Ok(groups)
}
