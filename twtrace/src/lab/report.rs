//! What the lab says: a line a scenario as it ends, and a last one.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::{
    judge::Difference,
    runner::{Lab, Ran, Ruling},
    scenarios::Scenario,
};
use crate::{
    host::clock,
    plan::Capability,
    show::{Clock, clock::Stamp, escape},
    sink::json::{Line, VERSION},
};

/// How often what came of the scenarios.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Nothing differs.
    pub passed: usize,
    /// Something differs, or the scenario could not be made.
    pub failed: usize,
    /// The tracer's backend cannot know it.
    pub not_offered: usize,
    /// The kernel cannot do it.
    pub skipped: usize,
}

impl Score {
    /// The score of a lab.
    #[must_use]
    pub fn of(ran: &[Ran]) -> Self {
        let mut score = Self::default();
        for ran in ran {
            *(match &ran.ruling {
                Ruling::Judged(verdict) if verdict.is_good() => &mut score.passed,
                Ruling::Judged(_) | Ruling::Failed(_) => &mut score.failed,
                Ruling::NotOffered(_) => &mut score.not_offered,
                Ruling::NotHere(_) => &mut score.skipped,
            }) += 1;
        }
        score
    }
}

/// The word for a ruling: `passed`, `differs`, `failed`, `not_offered`, `skipped`.
#[must_use]
pub fn word(ruling: &Ruling) -> &'static str {
    match ruling {
        Ruling::Judged(verdict) if verdict.is_good() => "passed",
        Ruling::Judged(_) => "differs",
        Ruling::NotOffered(_) => "not_offered",
        Ruling::NotHere(_) => "skipped",
        Ruling::Failed(_) => "failed",
    }
}

#[derive(Serialize)]
struct Scene<'a> {
    scenario: &'a str,
    result: &'static str,
    reason: Option<&'a str>,
    checks: usize,
    expected: Option<String>,
    seen: Option<String>,
    note: Option<&'a str>,
    expired_min_ns: Option<u64>,
    expired_max_ns: Option<u64>,
    differ: usize,
    differences: &'a [Difference],
    duration_ns: u64,
}

/// One scenario as a line of JSON.
#[must_use]
pub fn json(ran: &Ran) -> String {
    let (verdict, reason) = match &ran.ruling {
        Ruling::Judged(verdict) => (Some(verdict), None),
        Ruling::NotOffered(reason) | Ruling::NotHere(reason) | Ruling::Failed(reason) => (None, Some(reason.as_str())),
    };
    let expired = verdict.and_then(|verdict| verdict.expired_ns);
    line(
        "scenario",
        &Scene {
            scenario: ran.scenario.name,
            result: word(&ran.ruling),
            reason,
            checks: verdict.map_or(0, |verdict| verdict.checks),
            expected: verdict.map(|verdict| verdict.expected.to_string()),
            seen: verdict.map(|verdict| verdict.seen.to_string()),
            note: ran.made.note.as_deref(),
            expired_min_ns: expired.map(|(least, _)| least),
            expired_max_ns: expired.map(|(_, most)| most),
            differ: verdict.map_or(0, |verdict| verdict.differ),
            differences: verdict.map_or(&[], |verdict| &verdict.differences),
            duration_ns: u64::try_from(ran.took.as_nanos()).unwrap_or(u64::MAX),
        },
    )
}

#[derive(Serialize)]
struct Last<'a> {
    kernel: &'a str,
    version: &'static str,
    capabilities: std::collections::BTreeMap<&'static str, Option<&'static str>>,
    self_test: &'a str,
    passed: usize,
    failed: usize,
    not_offered: usize,
    skipped: usize,
    trouble: std::collections::BTreeMap<&'static str, u64>,
}

/// The last line of JSON.
#[must_use]
pub fn json_last(lab: &Lab, kernel: &str) -> String {
    let Score { passed, failed, not_offered, skipped } = Score::of(&lab.ran);
    let backend = |capability: Capability| lab.plan.backend(capability).map(|backend| backend.name());
    line(
        "lab",
        &Last {
            kernel,
            version: env!("CARGO_PKG_VERSION"),
            capabilities: Capability::ALL.into_iter().map(|it| (it.name(), backend(it))).collect(),
            self_test: &lab.self_test,
            passed,
            failed,
            not_offered,
            skipped,
            trouble: lab.trouble.iter().copied().collect(),
        },
    )
}

/// One scenario of `--list` as a line of JSON.
#[must_use]
pub fn json_listed(scenario: &Scenario) -> String {
    #[derive(Serialize)]
    struct Listed<'a> {
        scenario: &'a str,
        shows: &'a str,
        slow: bool,
        needs: Vec<&'static str>,
    }
    let Scenario { name, shows, slow, needs, .. } = *scenario;
    let needs = needs.iter().map(|capability| capability.name()).collect();
    line("listed", &Listed { scenario: name, shows, slow, needs })
}

fn line(kind: &'static str, body: &impl Serialize) -> String {
    let mono_ns = clock::monotonic_ns();
    let wall = Clock { offset_ns: clock::wall_offset_ns().into() }.wall(mono_ns);
    // Strings, numbers and maps with string keys: nothing here that JSON could not hold.
    escape::to_string(&Line { v: VERSION, kind, ts: Stamp(wall), mono_ns, body })
        .map_or_else(|error| format!("{{\"error\":\"{error}\"}}\n"), |line| line + "\n")
}

/// Widths of the columns before the last.
const NAME: usize = 20;
const RESULT: usize = 12;
const TIME: usize = 7;
const CHECKS: usize = 7;

/// The head of the table.
#[must_use]
pub fn head() -> String {
    format!("{:<NAME$} {:<RESULT$} {:>TIME$} {:>CHECKS$}  EXPECTED, AND SEEN\n", "SCENARIO", "RESULT", "TIME", "CHECKS")
}

/// One scenario as a line of the table; what differs stands below it.
#[must_use]
pub fn text(ran: &Ran) -> String {
    let mut out = String::new();
    let (name, word) = (ran.scenario.name, word(&ran.ruling).replace('_', " "));
    let time = format!("{:.1}s", ran.took.as_secs_f64());
    let mut row = |checks: &dyn fmt::Display, rest: &dyn fmt::Display| {
        let _ = writeln!(out, "{name:<NAME$} {word:<RESULT$} {time:>TIME$} {checks:>CHECKS$}  {rest}");
    };
    match &ran.ruling {
        Ruling::Judged(verdict) if verdict.is_good() => {
            let seconds = |ns: u64| ns as f64 / 1e9;
            let lived = verdict.expired_ns.map(|(least, most)| (seconds(least), seconds(most)));
            let lived = lived.map(|(least, most)| format!("; they lived {least:.3} to {most:.3} s"));
            let note = ran.made.note.as_ref().map(|note| format!("; {note}"));
            let (lived, note) = (lived.unwrap_or_default(), note.unwrap_or_default());
            row(&verdict.checks, &format_args!("{}{lived}{note}", verdict.expected));
        }
        Ruling::Judged(verdict) => {
            row(&verdict.checks, &format_args!("{}; seen: {}", verdict.expected, verdict.seen));
            for Difference { what, expected, seen } in &verdict.differences {
                let _ = writeln!(out, "  {what}: expected {expected}, seen {seen}");
            }
            let more = verdict.differ.saturating_sub(verdict.differences.len());
            if more > 0 {
                let _ = writeln!(out, "  and {more} more");
            }
            if verdict.subjects == 0 {
                let _ = writeln!(out, "  nothing was looked at");
            }
        }
        Ruling::NotOffered(reason) | Ruling::NotHere(reason) | Ruling::Failed(reason) => row(&"-", reason),
    }
    out
}

/// The last lines of the table.
#[must_use]
pub fn text_last(lab: &Lab, kernel: &str) -> String {
    let Score { passed, failed, not_offered, skipped } = Score::of(&lab.ran);
    let mut by_backend: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
    for capability in Capability::ALL {
        let backend = lab.plan.backend(capability).map_or("not offered", |backend| backend.name());
        by_backend.entry(backend).or_default().push(capability.name());
    }
    let mut text =
        format!("\n{passed} passed, {failed} differ, {not_offered} not offered, {skipped} skipped; kernel {kernel}\n");
    for (backend, capabilities) in by_backend {
        let _ = writeln!(text, "{backend}: {}", capabilities.join(", "));
    }
    for (what, count) in &lab.trouble {
        let _ = writeln!(text, "the tracer itself missed something: {what} {count}");
    }
    text
}

/// The table of `--list`.
#[must_use]
pub fn listed(scenarios: &[&Scenario]) -> String {
    let mut text = format!("{:<NAME$} {:<5} WHAT MUST BE SEEN\n", "SCENARIO", "TIME");
    for scenario in scenarios {
        let time = if scenario.slow { "65 s" } else { "quick" };
        let _ = writeln!(text, "{:<NAME$} {time:<5} {}", scenario.name, scenario.shows);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::*;
    use crate::{
        lab::{
            judge::{Knows, Made, Verdict},
            scenarios::ALL,
        },
        plan::Plan,
        sink::fields::LAB,
    };

    fn ran(ruling: Ruling) -> Ran {
        let (made, events) = (Made::default(), Vec::new());
        Ran { scenario: &ALL[0], ruling, made, events, took: Duration::from_millis(60_512) }
    }

    fn judged(differ: usize) -> Ran {
        let differences = vec![Difference { what: "cause".into(), expected: "expired".into(), seen: "reset".into() }];
        ran(Ruling::Judged(Verdict {
            checks: 9,
            subjects: 1,
            differences: if differ > 0 { differences } else { Vec::new() },
            differ,
            expired_ns: Some((60_100_000_000, 61_000_000_000)),
            ..Verdict::default()
        }))
    }

    #[test]
    fn a_scenario_is_a_line() {
        let passed = text(&judged(0));
        assert_eq!(
            passed,
            "expire               passed         60.5s       9  no life; they lived 60.100 to 61.000 s\n"
        );
        let differs = text(&judged(3));
        assert!(
            differs.contains("differs") && differs.contains("  cause: expected expired, seen reset\n  and 2 more\n")
        );
        let reason = text(&ran(Ruling::NotOffered("cause: no".into())));
        assert!(reason.contains("not offered") && reason.ends_with("-  cause: no\n"), "{reason}");
    }

    #[test]
    fn a_scenario_is_an_object() {
        let value: serde_json::Value = serde_json::from_str(&json(&judged(1))).unwrap();
        assert_eq!(value["result"], "differs");
        assert_eq!(value["differences"][0]["seen"], "reset");
        assert_eq!(value["expired_max_ns"], 61_000_000_000_u64);
        let value: serde_json::Value = serde_json::from_str(&json(&ran(Ruling::NotHere("no".into())))).unwrap();
        assert_eq!((&value["result"], &value["reason"]), (&"skipped".into(), &"no".into()));
    }

    #[test]
    fn every_line_has_the_fields_of_its_table() {
        let lab = Lab {
            plan: Plan::default(),
            self_test: "passed".into(),
            knows: Knows::default(),
            ran: Vec::new(),
            trouble: vec![("stale", 1)],
        };
        for text in [json(&judged(1)), json_last(&lab, "6.1"), json_listed(&ALL[0])] {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let table = LAB.iter().find(|table| value["type"] == table.kind).unwrap();
            let wanted: BTreeSet<&str> = table.fields().map(|field| field.name).collect();
            let told: BTreeSet<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(told, wanted);
        }
    }

    #[test]
    fn the_score_counts_each_once() {
        let all = [judged(0), judged(1), ran(Ruling::NotOffered(String::new())), ran(Ruling::NotHere(String::new()))];
        assert_eq!(Score::of(&all), Score { passed: 1, failed: 1, not_offered: 1, skipped: 1 });
    }
}
