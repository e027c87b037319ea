//! The questions: each is a file with what it can find and how it judges. Pure.

pub mod binds;
pub mod conntrack;
pub mod cost;
pub mod descriptors;
#[cfg(test)]
pub mod fixture;
pub mod folklore;
pub mod keepalive;
pub mod listen;
pub mod ports;
pub mod reuse;
pub mod states;

use std::cmp::Reverse;

use super::{
    facts::{Facts, Namespace},
    finding::{Finding, Severity, Story},
};

/// A question that the doctor answers.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// As people ask it.
    pub asks: &'static str,
    /// What can come of it.
    pub stories: &'static [Story],
    /// Judges.
    check: Check,
}

#[derive(Clone, Copy, Debug)]
enum Check {
    /// Each namespace by itself.
    Namespace(fn(&Facts, &Namespace) -> Vec<Finding>),
    /// The machine as a whole.
    Machine(fn(&Facts) -> Vec<Finding>),
}

/// All questions, in the order in which they are answered.
pub const QUESTIONS: [Question; 10] = [
    Question { asks: "What do these sockets cost?", stories: cost::STORIES, check: Check::Namespace(cost::check) },
    Question { asks: "Where do ports run out?", stories: ports::STORIES, check: Check::Namespace(ports::check) },
    Question { asks: "Which states pile up?", stories: states::STORIES, check: Check::Namespace(states::check) },
    Question { asks: "Why does bind() fail?", stories: binds::STORIES, check: Check::Namespace(binds::check) },
    Question { asks: "Can tcp_tw_reuse help here?", stories: reuse::STORIES, check: Check::Namespace(reuse::check) },
    Question {
        asks: "Which settings are folklore?",
        stories: folklore::STORIES,
        check: Check::Machine(folklore::check),
    },
    Question {
        asks: "Is connection tracking full?",
        stories: conntrack::STORIES,
        check: Check::Namespace(conntrack::check),
    },
    Question {
        asks: "Do descriptors run out?",
        stories: descriptors::STORIES,
        check: Check::Machine(descriptors::check),
    },
    Question { asks: "Who listens, and overflows?", stories: listen::STORIES, check: Check::Namespace(listen::check) },
    Question {
        asks: "What would keepalive save?",
        stories: keepalive::STORIES,
        check: Check::Namespace(keepalive::check),
    },
];

/// Whether a process is this program, by its name: that, or that with a version (`python3.11`, `php-fpm8.2`), but not a
/// companion of it (`haproxy_exporter`).
fn is_program(comm: &str, program: &str) -> bool {
    comm.strip_prefix(program).is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// Every story.
pub fn stories() -> impl Iterator<Item = &'static Story> {
    QUESTIONS.iter().flat_map(|question| question.stories)
}

/// Asks every question, and puts the worst answers first. Of the namespaces beside the first only those findings are kept
/// that ask for something to be done.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for question in &QUESTIONS {
        match question.check {
            Check::Machine(check) => findings.extend(check(facts)),
            Check::Namespace(check) => {
                for (place, namespace) in facts.namespaces.iter().enumerate() {
                    let found = check(facts, namespace)
                        .into_iter()
                        .filter(|finding| place == 0 || finding.severity >= Severity::Warning);
                    findings.extend(found.map(|finding| Finding { netns: Some(namespace.inum), ..finding }));
                }
            }
        }
    }
    for finding in &mut findings {
        let place = facts.namespaces.iter().find(|namespace| Some(namespace.inum) == finding.netns);
        let lasting = place.and_then(|namespace| namespace.place.lasting(&finding.to_do));
        finding.to_do.extend(lasting);
    }
    findings.sort_by_key(|finding| Reverse(finding.severity));
    findings
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::LazyLock};

    use proptest::prelude::*;

    use super::*;
    use crate::doctor::report::{self, Report, Style};

    /// What the JSON has to be.
    static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
        let schema = serde_json::from_str(&report::schema()).unwrap();
        jsonschema::validator_for(&schema).unwrap()
    });

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Total: whatever was read, it is judged, and the judgement can be shown.
        #[test]
        fn any_facts_are_judged(facts in fixture::any_facts(), width in 0..200_usize, colour: bool) {
            let findings = examine(&facts);
            prop_assert!(findings.is_sorted_by(|a, b| a.severity >= b.severity));
            let style = Style { width, colour };
            for story in stories() {
                let _ = report::explain(story, &findings, style);
            }
            for finding in &findings {
                prop_assert!(stories().any(|story| story.id == finding.id && story.why == finding.why));
                prop_assert!(finding.severity < Severity::Warning || !finding.to_do.is_empty(), "{finding:?}");
            }
            let report = Report::new(&facts, findings, "2026-01-01T00:00:00.000000000Z".to_owned(), 1);
            let _ = report::text(&report, style);
            let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
            prop_assert_eq!(json["findings"].as_array().map(Vec::len), Some(report.findings.len()));
            prop_assert!(SCHEMA.is_valid(&json), "{:?}: {json:#}", SCHEMA.validate(&json));
        }
    }

    #[test]
    fn programs_are_told_from_their_companions() {
        for (comm, program, expected) in [
            ("nginx", "nginx", true),
            ("python3.11", "python", true),
            ("php-fpm8.2", "php-fpm", true),
            ("haproxy_exporte", "haproxy", false),
            ("nginx-prometheu", "nginx", false),
            ("node_exporter", "node", false),
            ("ngin", "nginx", false),
            ("", "nginx", false),
        ] {
            assert_eq!(is_program(comm, program), expected, "{comm}");
        }
    }

    #[test]
    fn every_story_is_whole_and_has_its_own_id() {
        let mut ids = BTreeSet::new();
        for story in stories() {
            assert!(ids.insert(story.id), "{} is there twice", story.id);
            let (area, name) = story.id.split_once('.').unwrap();
            assert!(
                !area.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
                "{}",
                story.id
            );
            for text in [story.title, story.why, story.story] {
                let is_prose = |line: &&str| !line.starts_with("    ");
                assert!(text.len() > 20 && !text.lines().filter(is_prose).any(|line| line.contains("  ")), "{text:?}");
            }
            assert!(!story.by_hand.is_empty() && !story.sources.is_empty(), "{}", story.id);
            for rule in [story.holds, story.does_not] {
                assert!(rule.len() > 3 && !rule.contains('\n'), "{}: {rule:?}", story.id);
            }
        }
    }
}
