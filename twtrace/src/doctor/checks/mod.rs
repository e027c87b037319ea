//! The questions: each is a file with what it can find and how it judges. Pure.

pub mod cost;
pub mod keepalive;
pub mod listen;
pub mod ports;
pub mod reuse;

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
pub const QUESTIONS: [Question; 5] = [
    Question { asks: "What do these sockets cost?", stories: cost::STORIES, check: Check::Namespace(cost::check) },
    Question { asks: "Where do ports run out?", stories: ports::STORIES, check: Check::Namespace(ports::check) },
    Question { asks: "Can tcp_tw_reuse help here?", stories: reuse::STORIES, check: Check::Namespace(reuse::check) },
    Question { asks: "Who listens, and overflows?", stories: listen::STORIES, check: Check::Namespace(listen::check) },
    Question {
        asks: "What would keepalive save?",
        stories: keepalive::STORIES,
        check: Check::Namespace(keepalive::check),
    },
];

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
    findings.sort_by(|a, b| b.severity.cmp(&a.severity));
    findings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

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
        }
    }
}
