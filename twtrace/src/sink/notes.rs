//! What a human is told besides the events: how the run starts, what was lost, what it came to.

use std::{collections::BTreeMap, fmt::Write};

pub use super::remarks::remark;
use crate::{
    model::{
        happening::{Loss, Lost},
        report::{Exactness, Reconciled, Start, Summary, Totals},
        trouble::Trouble,
        watch::{Backend, Capability},
    },
    plan::UNASKED,
    show::{
        human::{Known, Many, Plain, Span},
        trouble,
    },
};

/// What PREEMPT_RT means to a run.
pub const REALTIME: &str = "PREEMPT_RT: it may preempt twtrace's programs, and runs none for events that come meanwhile; they are counted as missed";

/// The start: what is watched and how, and a line for every capability that is not.
#[must_use]
pub fn start(start: &Start) -> String {
    let mut by_backend: BTreeMap<Backend, Vec<&str>> = BTreeMap::new();
    let (mut missing, mut unasked) = (Vec::new(), Vec::new());
    for (name, capability) in &start.capabilities {
        match capability.backend {
            Some(backend) => by_backend.entry(backend).or_default().push(name),
            None if capability.reason.as_deref() == Some(UNASKED) => unasked.push(name.as_str()),
            None => missing.push(name.as_str()),
        }
    }
    let watched: Vec<_> =
        by_backend.iter().map(|(backend, names)| format!("{} by {backend}", names.join(","))).collect();
    let watched = if watched.is_empty() { "nothing is watched".to_owned() } else { watched.join(", ") };
    let seeded = match start.seeded {
        Some(n) => format!("{} found", Many(n, "older TIME_WAIT")),
        None => "older TIME_WAITs could not be listed".to_owned(),
    };
    let mut text = format!("twtrace {}: {watched}; self-test {}; {seeded}\n", start.version, start.self_test);
    if start.namespaces_missed > 0 || start.namespaces_missed_why.is_some() {
        let _ = writeln!(text, "twtrace: {}", unlisted(start));
    }
    if start.realtime {
        let _ = writeln!(text, "twtrace: this kernel is {REALTIME}");
    }
    if !missing.is_empty() {
        let lost: Vec<_> = missing.iter().map(|name| lost_with(name)).collect();
        let _ = writeln!(text, "twtrace: not watched on this kernel: {}; `twtrace probe` says why", lost.join(", "));
    }
    if !unasked.is_empty() {
        let _ = writeln!(text, "twtrace: not loaded, because --events does not need it: {}", unasked.join(", "));
    }
    text
}

/// The namespaces whose older sockets are missing, and why.
fn unlisted(start: &Start) -> String {
    let whose = match start.namespaces_missed {
        _ if start.seeded.is_none() => "older TIME_WAITs are missing".to_owned(),
        0 => "older TIME_WAITs of some network namespaces may be missing".to_owned(),
        n => format!("older TIME_WAITs of up to {} are missing", Many(n, "network namespace")),
    };
    match &start.namespaces_missed_why {
        Some(why) => format!("{whose}: {why}"),
        None => format!("{whose}: they could not be opened"),
    }
}

/// `reuse_denied (why ...)`: a capability that is not there, and what is lost by that.
#[must_use]
pub fn lost_with(name: &str) -> String {
    let tells = Capability::ALL.into_iter().find(|capability| capability.name() == name).map(Capability::tells);
    tells.map_or_else(|| name.to_owned(), |tells| format!("{name} ({tells})"))
}

/// A loss, with what to do about it.
#[must_use]
pub fn lost(lost: &Lost) -> String {
    let (noun, why, remedy) = match lost.place {
        Loss::Ring => ("event", "the ring was full", "use a larger --ring-size, or filters"),
        Loss::Decode => ("event", "the record could not be decoded", "please report it"),
        Loss::Output => ("line", "the output is read too slowly", "write to a file, or use filters"),
        Loss::Closed => (
            "line",
            "the output cannot be written any more, and gets nothing that follows",
            "the end of the run says why; run twtrace again for an output that is whole",
        ),
    };
    let whose = lost.observer.as_ref().map_or_else(String::new, |name| format!("{}: ", Plain(name)));
    format!("twtrace: {whose}{} lost: {why}; {remedy}\n", Many(lost.count, noun))
}

/// The end: the counters, those of the kernel, and whether the two agree.
#[must_use]
pub fn summary(summary: &Summary) -> String {
    let Summary { totals, reconcile, realtime, duration_ns, .. } = summary;
    let mut block = Block::default();
    block.row("run", Span(*duration_ns));
    let born = totals.born_time_wait.saturating_add(totals.born_fin_wait2);
    block.row("scope", "all network namespaces, filters applied");
    block.row("born", format_args!("{born}: time_wait {}, fin_wait2 {}", totals.born_time_wait, totals.born_fin_wait2));
    block.row("turned", Known(totals.turned));
    block.row("rearmed", Known(totals.rearmed));
    block.row("died", sum(&totals.died));
    for (cause, count) in totals.died.iter().filter(|(_, count)| *count > 0) {
        block.row(&format!("  {cause}"), count);
    }
    block.row("refused", Known(totals.all_refused()));
    for (reason, count) in totals.refused.iter().flatten().filter(|(_, count)| *count > 0) {
        block.row(&format!("  {reason}"), count);
    }
    block.row("no port", Known(totals.no_port));
    if let Some(bound @ 1..) = totals.no_port_bound {
        block.row("  port bound", bound);
    }
    block.row("reuse denied", Known(totals.reuse_denied.as_deref().map(sum)));
    for (reason, count) in totals.reuse_denied.iter().flatten().filter(|(_, count)| *count > 0) {
        block.row(&format!("  {reason}"), count);
    }
    block.row("no bind", Known(totals.no_bind));
    if totals.holders_unknown > 0 {
        block.row("holder unknown", totals.holders_unknown);
    }
    block.row("live", format_args!("{} on this machine, whatever the filters", Known(totals.live)));
    let Totals { seen, emitted, filtered, lost, .. } = totals;
    let sign = if balances(totals) { "=" } else { "is not" };
    block.row("seen", format_args!("{seen} {sign} {emitted} emitted + {filtered} filtered + {lost} lost"));
    if totals.ticks_skipped > 0 {
        block.row("ticks skipped", format_args!("{}: the output was read too slowly", totals.ticks_skipped));
    }
    if totals.missed.runs.is_none() {
        block.row("missed runs", Known(totals.missed.runs));
    }
    if *realtime {
        block.row("kernel", REALTIME);
    }
    for (i, (name, count)) in totals.trouble.iter().enumerate() {
        block.row(if i == 0 { "trouble" } else { "" }, trouble::sentence(*name, *count));
        if *name == Trouble::MissedRuns {
            for (program, count) in &totals.missed.by {
                block.row("", format_args!("  {program} {count}"));
            }
        }
    }
    block.row("reconcile", format_args!("network namespace {} only, without filters", summary.netns));
    for line in table(reconcile) {
        block.row("", line);
    }
    block.0 + &verdict(summary) + "\n"
}

/// Lines of a name and a value, the values below one another.
#[derive(Default)]
struct Block(String);

impl Block {
    fn row(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name:<15} {value}");
    }
}

fn sum<T>(counts: &[(T, u64)]) -> u64 {
    counts.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
}

fn balances(totals: &Totals) -> bool {
    let fates = u128::from(totals.emitted) + u128::from(totals.filtered) + u128::from(totals.lost);
    u128::from(totals.seen) == fates
}

/// The reconciliation, its columns as wide as their widest value.
fn table(rows: &[Reconciled]) -> Vec<String> {
    let width = |of: fn(&Reconciled) -> String| rows.iter().map(|row| of(row).len()).max().unwrap_or(0);
    let name = width(|row| row.counter.to_string());
    let (kernel, twtrace) = (width(|row| row.kernel.to_string()), width(|row| row.twtrace.to_string()));
    let line = |row: &Reconciled| {
        let Reconciled { counter, kernel: k, twtrace: t, diff, slack } = row;
        let within = if *slack == 0 { String::new() } else { format!(" within {slack}") };
        format!("{counter:<name$} kernel {k:>kernel$} twtrace {t:>twtrace$} diff {diff}{within}")
    };
    rows.iter().map(line).collect()
}

fn verdict(summary: &Summary) -> String {
    let totals = &summary.totals;
    let mut why = Vec::new();
    if totals.lost > 0 {
        why.push(format!("{} lost", Many(totals.lost, "event")));
    }
    if !balances(totals) {
        why.push("seen is not emitted + filtered + lost".to_owned());
    }
    let off = summary.reconcile.iter().filter(|row| row.diff != 0);
    why.extend(off.map(|row| format!("{} differs by {}", row.counter, row.diff)));
    let agree = || {
        format!(
            "no event was lost, and {} of the kernel agree with twtrace's counts in network namespace {}",
            Many(summary.reconcile.len() as u64, "counter"),
            summary.netns
        )
    };
    match summary.exactness() {
        Exactness::Exact => format!("exact: {}", agree()),
        Exactness::AsKnown => format!(
            "exact as far as this kernel lets it be known: {}; this kernel does not count the events for which it skips a BPF \
             program (`twtrace probe` says why)",
            agree()
        ),
        Exactness::NotExact if why.is_empty() && !totals.trouble.is_empty() => "NOT exact: see trouble".to_owned(),
        Exactness::NotExact if why.is_empty() => {
            "NOT exact: counters disagree, cause unknown; please report it".to_owned()
        }
        Exactness::NotCompared if why.is_empty() => {
            let slack = summary.reconcile.iter().map(|row| row.slack).max().unwrap_or(0);
            format!("consistent within {slack}: {}; they moved while they were read", agree())
        }
        Exactness::NotExact | Exactness::NotCompared => format!("NOT exact: {}", why.join(", ")),
    }
}
