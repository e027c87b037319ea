//! `twtrace lab`, scenario by scenario, and the proof that each of its checks can fail.

use std::{collections::BTreeSet, path::Path, process::Command};

use serde_json::Value;
use twtrace::{
    host::Host,
    lab::{
        judge::judge,
        runner::{self, Asked, Ran, Ruling},
        scenarios::{ALL, Scenario},
    },
    model::event::{Cause, Denial, Detail, Event, Kind, Refusal},
};

use crate::{
    attempts::{MOST, Next, is_of_the_kernel, next, note},
    tracer::binary,
};

/// What one scenario came to.
pub struct Verdict {
    pub scenario: String,
    pub outcome: &'static str,
    pub reason: Option<String>,
    pub millis: u128,
    pub attempts: u32,
}

/// Runs the command. Where scenarios differ and the tracer says that the kernel made it miss something, those are run
/// again: exact, or it says so.
pub fn lab(backend: &str, slow: bool, connections: usize) -> Result<Vec<Verdict>, String> {
    let names = |scenarios: &[String]| scenarios.join(",");
    let mut left: Vec<String> =
        ALL.iter().filter(|scenario| scenario.slow == slow).map(|scenario| scenario.name.to_owned()).collect();
    let mut verdicts = Vec::new();
    for attempts in 1.. {
        let lines = run(backend, &names(&left), connections)?;
        let Some((last, scenarios)) = lines.split_last() else { return Err("the lab said nothing".to_owned()) };
        if last["type"] != "lab" || scenarios.len() != left.len() {
            return Err(format!("{} scenarios instead of {}, the last line is {last}", scenarios.len(), left.len()));
        }
        let trouble = last["trouble"].as_object().into_iter().flatten();
        let next = next(attempts, trouble.map(|(name, _)| name.as_str()));
        left.clear();
        for line in scenarios {
            let mut verdict = verdict(line, attempts)?;
            match &next {
                _ if verdict.outcome != "failed" => {}
                Next::Again => {
                    crate::line(&format!("again: {backend}: {line}"));
                    left.push(verdict.scenario);
                    continue;
                }
                Next::Skip(why) => (verdict.outcome, verdict.reason) = ("skipped", Some(why.clone())),
                Next::Fail => {}
            }
            verdicts.push(verdict);
        }
        if left.is_empty() {
            break;
        }
        note(&format!("{backend}::lab {}", names(&left)), &last["trouble"].to_string());
    }
    Ok(verdicts)
}

fn run(backend: &str, scenarios: &str, connections: usize) -> Result<Vec<Value>, String> {
    let connections = connections.to_string();
    let args =
        ["lab", "--format", "json", "--backend", backend, "--scenario", scenarios, "--connections", &connections];
    let output = Command::new(binary()).args(args).output().map_err(|error| format!("starting it: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let lines: Result<Vec<Value>, _> = said.lines().map(serde_json::from_str).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    if !matches!(output.status.code(), Some(0 | 1)) {
        return Err(format!("it ended with {}: {errors}", output.status));
    }
    let lines = lines.map_err(|error| format!("no JSON ({error}): {said}"))?;
    let failed = lines.last().is_some_and(|last| last["failed"] != 0);
    if failed != (output.status.code() == Some(1)) {
        return Err(format!("it ended with {}, and says {:?}", output.status, lines.last()));
    }
    Ok(lines)
}

fn verdict(line: &Value, attempts: u32) -> Result<Verdict, String> {
    let text = |name: &str| line[name].as_str().map(str::to_owned);
    let (outcome, reason) = match line["result"].as_str() {
        Some("passed") if line["checks"].as_u64().is_some_and(|checks| checks > 0) => ("passed", None),
        Some("not_offered" | "skipped") => ("skipped", text("reason")),
        _ => ("failed", Some(line.to_string())),
    };
    Ok(Verdict {
        scenario: text("scenario").ok_or_else(|| format!("no scenario: {line}"))?,
        outcome,
        reason,
        millis: u128::from(line["duration_ns"].as_u64().unwrap_or(0) / 1_000_000),
        attempts,
    })
}

/// Feeds each scenario's judge, after it found nothing wrong, a tracer that drops, doubles or renames one event: each
/// time it must find something wrong.
pub fn sabotage(program: &Path) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let _guard = runtime.enter();
    let host = Host::default();
    // A storm makes nothing that the others do not.
    let wanted = |scenario: &&Scenario| !scenario.slow && !scenario.name.starts_with("storm");
    let asked = Asked {
        host: &host,
        btf: None,
        forced: None,
        scenarios: ALL.iter().filter(wanted).collect(),
        jobs: 4,
        connections: 1000,
        program: program.to_owned(),
    };
    let lab = || runner::run(&asked, &mut Vec::new(), &mut |_| {}).map_err(|error| error.to_string());
    let is_good = |ran: &Ran| !matches!(&ran.ruling, Ruling::Judged(verdict) if !verdict.is_good());
    let mut found = lab()?;
    // Exact, or it says so: where the tracer said that the kernel made it miss something, it is tried again.
    for _ in 1..MOST {
        if !is_of_the_kernel(found.trouble.iter().map(|(name, _)| *name)) || found.ran.iter().all(is_good) {
            break;
        }
        note("lab_sabotage", &format!("{:?}", found.trouble));
        found = lab()?;
    }
    let lab = found;
    let mut mutants = 0;
    let mut kinds = BTreeSet::new();
    for ran in &lab.ran {
        match &ran.ruling {
            Ruling::Judged(verdict) if verdict.is_good() => {}
            Ruling::NotOffered(_) | Ruling::NotHere(_) => continue,
            other => return Err(format!("{} is not good by itself: {other:?}; {:?}", ran.scenario.name, lab.trouble)),
        }
        for index in 0..ran.events.len() {
            if !counts(ran, index, lab.knows.turns_late) {
                continue;
            }
            kinds.insert(ran.events[index].kind());
            for mutant in mutants_of(&ran.events, index) {
                mutants += 1;
                if judge(&ran.made, &mutant, lab.knows).is_good() {
                    return Err(format!(
                        "{}: nobody noticed what was done to {:?}",
                        ran.scenario.name, ran.events[index]
                    ));
                }
            }
        }
    }
    crate::line(&format!("sabotage: {mutants} streams with one event dropped, doubled or renamed, none of them good"));
    if mutants < 300 || kinds.len() < 5 {
        return Err(format!("only {mutants} mutants of {kinds:?}"));
    }
    Ok(())
}

/// True if the scenario can know of this event: not of one behind its end, nor of a re-arm by a segment that was sent
/// twice, nor of a turn that is told early where turns are told late.
fn counts(ran: &Ran, index: usize, turns_late: bool) -> bool {
    let event = &ran.events[index];
    let minds = |kind| match kind {
        Kind::Rearmed => ran.made.wants.iter().any(|want| !want.rearmed.is_anything()),
        Kind::Turned => {
            let died = |other: &Event| other.kind() == Kind::Died && other.life.id == event.life.id;
            !turns_late || ran.events.iter().any(died)
        }
        _ => true,
    };
    event.mono_ns <= ran.made.until_ns && minds(event.kind())
}

/// The stream without this event, with it twice, and with it as something else.
pub fn mutants_of(events: &[Event], index: usize) -> [Vec<Event>; 3] {
    let mut dropped = events.to_vec();
    let event = dropped.remove(index);
    let mut doubled = events.to_vec();
    doubled.insert(index, event);
    let mut renamed = events.to_vec();
    renamed[index].detail = match event.detail {
        Detail::Born { timeout_ms, .. } | Detail::Rearmed { timeout_ms } if event.kind() == Kind::Born => {
            Detail::Rearmed { timeout_ms }
        }
        Detail::Born { .. } | Detail::Rearmed { .. } => Detail::Turned { after_ns: None },
        Detail::Turned { .. } => Detail::Rearmed { timeout_ms: None },
        Detail::Died { cause, life_ns, taker } => {
            let cause = if cause == Cause::Expired { Cause::Reused } else { Cause::Expired };
            Detail::Died { cause, life_ns, taker }
        }
        Detail::Refused { used, limit, connection, .. } => {
            Detail::Refused { reason: Refusal::Memory, used, limit, connection }
        }
        Detail::NoPort { took_ns, .. } => Detail::ReuseDenied { reason: Denial::Disabled, count: 1, took_ns },
        Detail::NoBind { holder, .. } => Detail::NoPort { took_ns: None, holder },
        Detail::ReuseDenied { reason, count, took_ns } => {
            let reason = if reason == Denial::Disabled { Denial::TooYoung } else { Denial::Disabled };
            Detail::ReuseDenied { reason, count, took_ns }
        }
    };
    [dropped, doubled, renamed]
}
