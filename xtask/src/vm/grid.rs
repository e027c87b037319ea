//! Tests by kernels: what the console's table and the page of kernels have in common.

use std::collections::BTreeMap;

use super::verdict::{Guest, Outcome};

/// Backends in the order that twtrace tries them; what else the tests name follows.
pub const BACKENDS: [&str; 3] = ["fentry", "kprobe", "tracepoint"];

/// What became of a test on a kernel and backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// The test passed, at this attempt.
    Passed(u32),
    /// The test failed, or the guest did before it could say.
    Failed,
    /// The test was skipped, and why.
    Skipped(String),
    /// Nothing was said of it.
    Absent,
}

impl Mark {
    /// How it is shown.
    pub const fn sign(&self) -> char {
        match self {
            Self::Passed(_) => '✓',
            Self::Failed => '✗',
            Self::Skipped(_) => '–',
            Self::Absent => '·',
        }
    }

    /// The sign, with the number of attempts if there was more than one.
    pub fn shown(&self) -> String {
        match self {
            Self::Passed(attempts @ 2..) => format!("{}{}", self.sign(), superscript(*attempts as usize)),
            _ => self.sign().to_string(),
        }
    }

    fn of(guest: &Guest, test: &str, backend: &str) -> Self {
        let mut verdicts = guest.verdicts.iter();
        match verdicts.find(|verdict| verdict.test == test && verdict.backend == backend) {
            Some(verdict) => match verdict.verdict {
                Outcome::Passed => Self::Passed(verdict.attempts),
                Outcome::Failed => Self::Failed,
                Outcome::Skipped => Self::Skipped(verdict.reason()),
            },
            None if guest.problem.is_some() => Self::Failed,
            None => Self::Absent,
        }
    }
}

/// A number in small raised digits.
pub fn superscript(number: usize) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let digits = number.to_string();
    digits.bytes().filter_map(|digit| DIGITS.get(usize::from(digit - b'0'))).collect()
}

/// One test: a mark for each of its backends on each kernel.
pub struct Row<'a> {
    /// The test's name.
    pub test: &'a str,
    backends: Vec<&'a str>,
}

impl Row<'_> {
    /// What became of it on this kernel.
    pub fn marks(&self, guest: &Guest) -> Vec<Mark> {
        self.backends.iter().map(|backend| Mark::of(guest, self.test, backend)).collect()
    }
}

/// The tests that occur, by name. One that ran on any of the backends in `order` has marks for all of them, so that a
/// mark's place tells its backend.
pub fn rows<'a>(guests: impl IntoIterator<Item = &'a Guest>, order: &[&'a str]) -> Vec<Row<'a>> {
    let mut tests: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for verdict in guests.into_iter().flat_map(|guest| &guest.verdicts) {
        let others = tests.entry(&verdict.test).or_default();
        if !others.contains(&verdict.backend.as_str()) {
            others.push(&verdict.backend);
        }
    }
    let row = |(test, found): (&'a str, Vec<&'a str>)| {
        let (known, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|backend| order.contains(backend));
        let known = if known.is_empty() { known } else { order.to_vec() };
        Row { test, backends: [known, others].concat() }
    };
    tests.into_iter().map(row).collect()
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::verdict::Verdict;

    fn guest(outcomes: &[(&str, &str, Outcome)]) -> Guest {
        let verdicts = outcomes.iter().map(|(test, backend, verdict)| Verdict {
            test: (*test).into(),
            backend: (*backend).into(),
            verdict: *verdict,
            reason: Some("why\nso".into()),
            millis: 1,
            attempts: 1,
        });
        Guest { verdicts: verdicts.collect(), ..Guest::default() }
    }

    #[test]
    fn the_place_of_a_mark_tells_its_backend() {
        let one = guest(&[("b", "tracepoint", Outcome::Skipped), ("a", "any", Outcome::Failed)]);
        let two = guest(&[("b", "fentry", Outcome::Passed)]);
        let rows = rows([&one, &two], &BACKENDS);
        let marks: Vec<_> = rows.iter().map(|row| (row.test, row.marks(&one), row.marks(&two))).collect();
        let skipped = Mark::Skipped("why so".into());
        let expected = [
            ("a", vec![Mark::Failed], vec![Mark::Absent]),
            ("b", vec![Mark::Absent, Mark::Absent, skipped], vec![Mark::Passed(1), Mark::Absent, Mark::Absent]),
        ];
        assert_eq!(marks, expected);
    }

    #[test]
    fn what_a_broken_guest_did_not_say_failed() {
        let mut one = guest(&[("a", "fentry", Outcome::Passed)]);
        one.problem = Some("timed out".into());
        let marks: Vec<_> = rows([&one], &BACKENDS).iter().map(|row| row.marks(&one)).collect();
        assert_eq!(marks, [[Mark::Passed(1), Mark::Failed, Mark::Failed]]);
    }

    #[test]
    fn attempts_show() {
        let shown = [Mark::Passed(1), Mark::Passed(2), Mark::Passed(13), Mark::Failed].map(|mark| mark.shown());
        assert_eq!(shown, ["✓", "✓²", "✓¹³", "✗"]);
        assert_eq!(superscript(1_234_567_890), "¹²³⁴⁵⁶⁷⁸⁹⁰");
    }

    #[test]
    fn backends_are_in_the_order_of_twtrace() {
        let one = guest(&[("a", "any", Outcome::Passed), ("a", "kprobe", Outcome::Passed)]);
        assert_eq!(backends([&one, &guest(&[("a", "fentry", Outcome::Passed)])]), ["fentry", "kprobe", "any"]);
    }
}
