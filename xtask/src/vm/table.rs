//! What a run of the guests looks like at its end.

use std::fmt::Write as _;

use super::verdict::{Guest, Outcome};
use crate::tally::Tally;

/// Backends in the order that twtrace tries them; what else the tests name follows.
const BACKENDS: [&str; 3] = ["fentry", "kprobe", "tracepoint"];

/// The backends that occur.
pub fn backends<'a>(guests: impl IntoIterator<Item = &'a Guest>) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for verdict in guests.into_iter().flat_map(|guest| &guest.verdicts) {
        if !found.contains(&verdict.backend.as_str()) {
            found.push(&verdict.backend);
        }
    }
    // A stable sort: the unknown ones keep the order in which they came.
    found.sort_by_key(|backend| BACKENDS.iter().position(|known| known == backend).unwrap_or(BACKENDS.len()));
    found
}

/// Kernel by backend, and below it everything that did not pass, with its reason.
pub fn render(guests: &[Guest]) -> String {
    let backends = backends(guests);
    let mut rows = vec![row("passed/failed/skipped", backends.iter().map(|&backend| backend.to_owned()))];
    for guest in guests {
        let cells = backends.iter().map(|backend| cell(guest, backend));
        rows.push(row(&named(guest), cells));
    }
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..=backends.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    for guest in guests {
        if let Some(problem) = &guest.problem {
            let _ = writeln!(text, "failed: {}: {problem}", named(guest));
        }
    }
    for (outcome, word) in [(Outcome::Failed, "failed"), (Outcome::Skipped, "skipped")] {
        for guest in guests {
            for (tests, backend, reason) in reasons(guest, outcome) {
                let _ = writeln!(text, "{word}: {}: {} on {backend}: {reason}", named(guest), tests.join(", "));
            }
        }
    }
    text
}

/// The tests that ended so, by backend and reason: one that stops every test of a backend is told once.
fn reasons(guest: &Guest, outcome: Outcome) -> Vec<(Vec<&str>, &str, String)> {
    let mut found: Vec<(Vec<&str>, &str, String)> = Vec::new();
    for verdict in guest.verdicts.iter().filter(|verdict| verdict.verdict == outcome) {
        let reason = verdict.reason();
        match found.iter_mut().find(|(_, backend, known)| *backend == verdict.backend && *known == reason) {
            Some((tests, ..)) => tests.push(&verdict.test),
            None => found.push((vec![&verdict.test], &verdict.backend, reason)),
        }
    }
    found
}

fn row(first: &str, rest: impl Iterator<Item = String>) -> Vec<String> {
    [first.to_owned()].into_iter().chain(rest).collect()
}

fn cell(guest: &Guest, backend: &str) -> String {
    let mut tally = Tally::default();
    for verdict in guest.verdicts.iter().filter(|verdict| verdict.backend == backend) {
        tally += verdict.verdict.tally();
    }
    if tally == Tally::default() { "-".into() } else { format!("{}/{}/{}", tally.passed, tally.failed, tally.skipped) }
}

fn named(guest: &Guest) -> String {
    if guest.release == "?" { guest.kernel.clone() } else { guest.release.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::verdict::Verdict;

    fn verdict(test: &str, backend: &str, verdict: Outcome, reason: Option<&str>) -> Verdict {
        Verdict { test: test.into(), backend: backend.into(), verdict, reason: reason.map(str::to_owned), millis: 1 }
    }

    #[test]
    fn kernels_by_backends() {
        let good = Guest {
            kernel: "6.1".into(),
            release: "6.1.0-56-cloud-amd64".into(),
            problem: None,
            verdicts: vec![
                verdict("reuse", "tracepoint", Outcome::Skipped, Some("no hook")),
                verdict("reuse", "fentry", Outcome::Passed, None),
                verdict("expiry", "fentry", Outcome::Failed, Some("59 s,\nnot 60")),
                verdict("storm", "tracepoint", Outcome::Skipped, Some("no hook")),
            ],
        };
        let text = render(&[good, Guest::broken("7.2", "timed out after 900 s".into())]);
        let expected = "\
passed/failed/skipped  fentry  tracepoint
6.1.0-56-cloud-amd64   1/1/0   0/0/2
7.2                    -       -
failed: 7.2: timed out after 900 s
failed: 6.1.0-56-cloud-amd64: expiry on fentry: 59 s, not 60
skipped: 6.1.0-56-cloud-amd64: reuse, storm on tracepoint: no hook
";
        assert_eq!(text, expected);
    }
}
