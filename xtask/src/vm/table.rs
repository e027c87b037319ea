//! What a run of the guests looks like at its end.

use std::fmt::Write as _;

use super::{
    grid::{self, BACKENDS, Mark},
    verdict::{Guest, Outcome},
};
use crate::tally::Tally;

/// Kernel by backend; then each test that did not pass everywhere, as marks; then why.
pub fn render(guests: &[Guest]) -> String {
    let mut text = aligned(&counts(guests));
    text.push_str(&marks(guests));
    text.push_str(&failures(guests));
    text.push_str(&again(guests));
    text.push_str(&reasons(guests, Outcome::Skipped, "skipped"));
    text
}

/// What passed, but not at once.
fn again(guests: &[Guest]) -> String {
    let mut text = String::new();
    for guest in guests {
        for verdict in guest.verdicts.iter().filter(|it| it.attempts > 1 && it.verdict == Outcome::Passed) {
            let (kernel, test, backend, attempts) = (&guest.kernel, &verdict.test, &verdict.backend, verdict.attempts);
            let _ = writeln!(text, "again: {kernel}: {test} on {backend}: passed at attempt {attempts}");
        }
    }
    text
}

/// What went wrong with guests, with the ends of their consoles, and the tests that failed.
pub fn failures(guests: &[Guest]) -> String {
    let mut text = String::new();
    for Guest { kernel, problem, console, .. } in guests {
        if let Some(problem) = problem {
            let _ = writeln!(text, "failed: {kernel}: {problem}");
        }
        console.iter().for_each(|line| text.push_str(&format!("  [{kernel}] {line}\n")));
    }
    text + &reasons(guests, Outcome::Failed, "failed")
}

fn reasons(guests: &[Guest], outcome: Outcome, word: &str) -> String {
    let mut text = String::new();
    for Told { names: [kernels, tests, backends], reason } in told(guests, outcome) {
        let (kernels, tests, backends) = (kernels.join(", "), tests.join(", "), backends.join(", "));
        let _ = writeln!(text, "{word}: {kernels}: {tests} on {backends}: {reason}");
    }
    text
}

fn counts(guests: &[Guest]) -> Vec<Vec<String>> {
    let backends = grid::backends(guests);
    let mut rows = vec![row("passed/failed/skipped", backends.iter().map(|&backend| backend.to_owned()))];
    for guest in guests {
        let name = if guest.release == "?" { &guest.kernel } else { &guest.release };
        rows.push(row(name, backends.iter().map(|backend| count(guest, backend))));
    }
    rows
}

fn count(guest: &Guest, backend: &str) -> String {
    let mut tally = Tally::default();
    for verdict in guest.verdicts.iter().filter(|verdict| verdict.backend == backend) {
        tally += verdict.verdict.tally();
    }
    if tally == Tally::default() { "-".into() } else { format!("{}/{}/{}", tally.passed, tally.failed, tally.skipped) }
}

/// Tests down, kernels across. What passed everywhere is only counted, and a guest that said nothing has no column:
/// every test would have a line because of it.
fn marks(guests: &[Guest]) -> String {
    let guests: Vec<&Guest> = guests.iter().filter(|guest| !guest.verdicts.is_empty()).collect();
    let mut order = grid::backends(guests.iter().copied());
    order.retain(|backend| BACKENDS.contains(backend));
    let mut rows = vec![row(&order.join(" "), guests.iter().map(|guest| guest.kernel.clone()))];
    let mut passed = 0;
    for test in grid::rows(guests.iter().copied(), &order) {
        let marks: Vec<Vec<Mark>> = guests.iter().map(|guest| test.marks(guest)).collect();
        if marks.iter().flatten().all(|mark| *mark == Mark::Passed(1)) {
            passed += 1;
            continue;
        }
        let cell = |marks: &Vec<Mark>| marks.iter().map(Mark::shown).collect::<Vec<_>>().join(" ");
        rows.push(row(test.test, marks.iter().map(cell)));
    }
    let table = if rows.len() > 1 { format!("\n{}", aligned(&rows)) } else { String::new() };
    let tests = if passed == 1 { "test" } else { "tests" };
    format!("{table}\n{passed} {tests} passed on every kernel and backend\n")
}

fn row(first: &str, rest: impl Iterator<Item = String>) -> Vec<String> {
    [first.to_owned()].into_iter().chain(rest).collect()
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

/// A reason, and the kernels, tests and backends that gave it: each of them with each of the others.
struct Told<'a> {
    names: [Vec<&'a str>; 3],
    reason: String,
}

/// The verdicts that ended so, by reason: one that stops every test of a backend, or a test everywhere, is told once.
fn told(guests: &[Guest], outcome: Outcome) -> Vec<Told<'_>> {
    let of = |guest| move |verdict| (guest, verdict);
    let verdicts = guests.iter().flat_map(|guest| guest.verdicts.iter().map(of(guest)));
    let verdicts = verdicts.filter(|(_, verdict)| verdict.verdict == outcome);
    let mut all: Vec<Told> = verdicts
        .map(|(guest, verdict)| Told {
            names: [vec![&guest.kernel], vec![&verdict.test], vec![&verdict.backend]],
            reason: verdict.reason(),
        })
        .collect();
    // Backends first, kernels last.
    for which in [2, 1, 0] {
        all = joined(all, which);
    }
    all
}

/// Makes one of those that differ only in one kind of names.
fn joined(all: Vec<Told<'_>>, which: usize) -> Vec<Told<'_>> {
    let mut kept: Vec<Told> = Vec::new();
    for told in all {
        let same = |other: &&mut Told| {
            let mut names = told.names.iter().zip(&other.names).enumerate();
            other.reason == told.reason && names.all(|(index, (these, those))| index == which || these == those)
        };
        match kept.iter_mut().find(same) {
            Some(other) => {
                for (names, more) in other.names.iter_mut().zip(told.names).skip(which).take(1) {
                    names.extend(more);
                }
            }
            None => kept.push(told),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::verdict::Verdict;

    fn guest(kernel: &str, outcomes: &[(&str, &str, Outcome, Option<&str>)]) -> Guest {
        let verdicts = outcomes.iter().map(|(test, backend, verdict, reason)| Verdict {
            test: (*test).into(),
            backend: (*backend).into(),
            verdict: *verdict,
            reason: reason.map(str::to_owned),
            millis: 1,
            attempts: 1,
        });
        let release = format!("{kernel}.0-56-cloud-amd64");
        Guest { kernel: kernel.into(), release, verdicts: verdicts.collect(), ..Guest::default() }
    }

    #[test]
    fn kernels_by_backends() {
        let good = guest(
            "6.1",
            &[
                ("reuse", "tracepoint", Outcome::Skipped, Some("no hook")),
                ("reuse", "fentry", Outcome::Passed, None),
                ("expiry", "fentry", Outcome::Failed, Some("59 s,\nnot 60")),
                ("storm", "tracepoint", Outcome::Skipped, Some("no hook")),
                ("demo", "any", Outcome::Passed, None),
            ],
        );
        let mut late = Guest::broken("7.2", "timed out after 900 s".into());
        late.console.push("[  9.1] Oops: int3".into());
        let text = render(&[good, late]);
        let expected = "\
passed/failed/skipped  fentry  tracepoint  any
6.1.0-56-cloud-amd64   1/1/0   0/0/2       1/0/0
7.2                    -       -           -

fentry tracepoint  6.1
expiry             ✗ ·
reuse              ✓ –
storm              · –

1 test passed on every kernel and backend
failed: 7.2: timed out after 900 s
  [7.2] [  9.1] Oops: int3
failed: 6.1: expiry on fentry: 59 s, not 60
skipped: 6.1: reuse, storm on tracepoint: no hook
";
        assert_eq!(text, expected);
    }

    #[test]
    fn attempts_show() {
        let mut guest = guest("6.1", &[("reuse", "fentry", Outcome::Passed, None)]);
        guest.verdicts.iter_mut().for_each(|verdict| verdict.attempts = 3);
        let expected = "\
passed/failed/skipped  fentry
6.1.0-56-cloud-amd64   1/0/0

fentry  6.1
reuse   ✓³

0 tests passed on every kernel and backend
again: 6.1: reuse on fentry: passed at attempt 3
";
        assert_eq!(render(&[guest]), expected);
    }

    #[test]
    fn a_run_where_all_is_well_is_short() {
        let good = guest("6.1", &[("reuse", "fentry", Outcome::Passed, None), ("demo", "any", Outcome::Passed, None)]);
        let expected = "\
passed/failed/skipped  fentry  any
6.1.0-56-cloud-amd64   1/0/0   1/0/0

2 tests passed on every kernel and backend
";
        assert_eq!(render(&[good]), expected);
    }

    #[test]
    fn a_reason_is_told_once() {
        let skip = |test, backend| (test, backend, Outcome::Skipped, Some("not known"));
        let all = [skip("kill", "fentry"), skip("kill", "kprobe"), skip("mptcp", "fentry"), skip("mptcp", "kprobe")];
        let guests = [guest("5.10", &all), guest("6.1", &all), guest("6.12", &all[..1])];
        let lines: Vec<String> = told(&guests, Outcome::Skipped)
            .iter()
            .map(|told| told.names.iter().map(|names| names.join("+")).collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(lines, ["5.10+6.1 kill+mptcp fentry+kprobe", "6.12 kill fentry"]);
    }
}
