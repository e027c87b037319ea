//! `twtrace probe`: what this kernel offers, found out by doing it.

use std::fmt::Write as _;

use serde::Serialize;

use anyhow::Context as _;

use super::{forced, logs, no_tracer, run::capabilities};
use crate::{
    bpf::{Settings, Tables},
    cli::{Format, Probe, exit::Exit},
    host::{Host, netns::Netns},
    model::report::CapabilityReport,
    plan::{Backend, Capability, Plan},
    show::escape,
    sink::notes,
    tracer::{Attempt, Tracer},
};

/// Enough for the self-test and what happens beside it.
const TABLES: Tables = Tables { ring: 1 << 20, lives: 1 << 14, conns: 1 << 12 };

#[derive(Serialize)]
struct Report<'a> {
    v: u8,
    #[serde(rename = "type")]
    kind: &'static str,
    kernel: String,
    /// The kernel is PREEMPT_RT.
    realtime: bool,
    version: &'static str,
    capabilities: &'a std::collections::BTreeMap<String, CapabilityReport>,
    self_test: &'a str,
    /// Pre-existing sockets can be listed; else why not.
    seeding: Option<&'a str>,
    /// Events for which the kernel runs no program: `counted`, or `unknown`.
    misses: &'static str,
    /// Why they are not known; null: they are.
    misses_why: Option<&'a str>,
    /// Fields that this kernel does not have: they show as unknown.
    unknown_fields: &'a [&'static str],
}

pub(super) fn probe(host: &Host, verbose: u8, asked: &Probe) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("tokio")?;
    // Registering the ring needs the runtime's reactor; nothing is waited for.
    let _guard = runtime.enter();
    let settings = Settings::all(TABLES, Netns::current().map_or(0, |netns| netns.inum()));
    let attempt =
        Attempt { host, btf: asked.hooks.btf.as_deref(), forced: forced(asked.hooks.backend), settings: &settings };
    let mut failures = Vec::new();
    let tracer = match Tracer::start(&attempt, &mut failures) {
        Ok(tracer) => tracer,
        Err(error) => return Err(no_tracer(&error, &failures, verbose).into()),
    };
    let capabilities = capabilities(&tracer.plan);
    let report = Report {
        v: 1,
        kind: "probe",
        kernel: host.kernel_release(),
        realtime: tracer.realtime,
        version: env!("CARGO_PKG_VERSION"),
        capabilities: &capabilities,
        self_test: &tracer.self_test,
        seeding: tracer.seeded.as_ref().err().map(String::as_str),
        misses: if tracer.misses_unknown.is_none() { "counted" } else { "unknown" },
        misses_why: tracer.misses_unknown,
        unknown_fields: &tracer.unknown_fields,
    };
    let text = match asked.format {
        Format::Json => escape::to_string(&report).map_or_else(|error| error.to_string(), |line| line + "\n"),
        Format::Text => table(&report, &tracer.plan),
    };
    let mut exit = Exit::answer(text);
    if verbose > 0 {
        exit.stderr = logs(&failures);
    }
    Ok(exit)
}

/// The table for people: one line a capability, what is lost, and then why, each reason once.
fn table(report: &Report<'_>, plan: &Plan) -> String {
    let mut text = format!("twtrace {} on kernel {}\n\n", report.version, report.kernel);
    let _ = writeln!(text, "{:<12} {:<12} WHAT IT TELLS", "CAPABILITY", "BACKEND");
    for capability in Capability::ALL {
        let Some(found) = report.capabilities.get(capability.name()) else { continue };
        let backend = found.backend.map_or("not offered", Backend::name);
        let _ = writeln!(text, "{:<12} {backend:<12} {}", capability.name(), capability.tells());
    }
    let _ = writeln!(text, "\nself-test    {}", report.self_test);
    let _ = writeln!(text, "seeding      {}", report.seeding.unwrap_or("older TIME_WAITs can be listed"));
    let misses = match report.misses_why {
        None => "counted: a run says of every event whether a program saw it".to_owned(),
        Some(why) => format!("unknown: {why}; a run is at best 'exact as far as this kernel lets it be known'"),
    };
    let _ = writeln!(text, "misses       {misses}");
    if report.realtime {
        let _ = writeln!(text, "preemption   {}", notes::REALTIME);
    }
    for field in report.unknown_fields {
        let _ = writeln!(text, "no field     {field}: what it holds shows as `?`");
    }
    let lost: Vec<_> = Capability::ALL.into_iter().filter(|capability| plan.backend(*capability).is_none()).collect();
    if lost.is_empty() {
        text.push_str("\nNothing is lost on this kernel.\n");
    } else {
        text.push_str("\nLost on this kernel:\n");
    }
    for capability in lost {
        let _ = writeln!(text, "  {:<13} {}", capability.name(), capability.tells());
    }
    let reasons = reasons(plan);
    if !reasons.is_empty() {
        text.push_str("\nWhy not another backend:\n");
    }
    for ((backend, reason), names) in reasons {
        let _ = writeln!(text, "  {backend:<13} {reason}\n  {:<13} for {}", "", names.join(", "));
    }
    text
}

/// Each reason against a backend once, with the capabilities that it holds for.
fn reasons(plan: &Plan) -> Vec<((Backend, String), Vec<&'static str>)> {
    let mut reasons: Vec<((Backend, String), Vec<&'static str>)> = Vec::new();
    for capability in Capability::ALL {
        for (backend, reason) in plan.against.get(&capability).into_iter().flatten() {
            let key = (*backend, reason.to_string());
            match reasons.iter_mut().find(|(known, _)| *known == key) {
                Some((_, names)) => names.push(capability.name()),
                None => reasons.push((key, vec![capability.name()])),
            }
        }
    }
    reasons.sort_by_key(|((backend, _), names)| (*backend, std::cmp::Reverse(names.len())));
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Reason;

    #[test]
    fn each_reason_is_told_once() {
        let mut plan = Plan::default();
        let no_kprobes = || (Backend::Kprobe, Reason::NoKprobes);
        let no_hook = (Backend::Tracepoint, Reason::NoHook("no tracepoint fires there"));
        plan.chosen.insert(Capability::Birth, Some(Backend::Tracepoint));
        plan.against.insert(Capability::Birth, vec![no_kprobes()]);
        plan.against.insert(Capability::Death, vec![no_kprobes()]);
        plan.against.insert(Capability::ReuseDenied, vec![no_kprobes(), no_hook]);
        let reasons = reasons(&plan);
        assert_eq!(reasons.len(), 2);
        assert_eq!(reasons[0].1, ["birth", "death", "reuse_denied"]);
        assert_eq!((reasons[1].0.0, reasons[1].1.as_slice()), (Backend::Tracepoint, &["reuse_denied"][..]));
    }

    #[test]
    fn what_is_lost_stands_before_why() {
        let mut plan = Plan::default();
        for capability in Capability::ALL {
            let backend = (capability != Capability::ReuseDenied).then_some(Backend::Fentry);
            plan.chosen.insert(capability, backend);
        }
        let capabilities = capabilities(&plan);
        let report = Report {
            v: 1,
            kind: "probe",
            kernel: "6.1".to_owned(),
            realtime: true,
            version: "0",
            capabilities: &capabilities,
            self_test: "passed",
            seeding: None,
            misses: "counted",
            misses_why: None,
            unknown_fields: &[],
        };
        plan.against.insert(Capability::ReuseDenied, vec![(Backend::Kprobe, Reason::NoKprobes)]);
        let text = table(&report, &plan);
        let (lost, why) = (text.find("Lost on this kernel:"), text.find("Why not another backend:"));
        assert!(lost.is_some() && lost < why, "{text}");
        assert_eq!(text.matches("CONFIG_KPROBES").count(), 1, "{text}");
        assert!(text.contains("\npreemption   PREEMPT_RT: "), "{text}");
        plan.chosen.insert(Capability::ReuseDenied, Some(Backend::Fentry));
        plan.against.clear();
        let text = table(&report, &plan);
        assert!(text.ends_with("Nothing is lost on this kernel.\n"), "{text}");
    }
}
