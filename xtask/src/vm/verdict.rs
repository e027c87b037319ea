//! What the tests print, what became of each, and the file that keeps it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{fetch::natural, verifier::Verified};
use crate::tally::Tally;

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not as it should.
    Failed,
    /// The test did not run, for a reason.
    Skipped,
}

/// One test on one backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The test's name.
    pub test: String,
    /// The backend that it ran on.
    pub backend: String,
    /// How it ended.
    pub verdict: Outcome,
    /// Why it failed or was skipped.
    pub reason: Option<String>,
    /// How long it took.
    pub millis: u64,
    /// How often it was run: 1 if it ended so at once.
    #[serde(default = "once")]
    pub attempts: u32,
}

const fn once() -> u32 {
    1
}

impl Verdict {
    /// The reason in one line.
    pub fn reason(&self) -> String {
        let reason = self.reason.as_deref().unwrap_or("no reason was given");
        reason.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// The guest's last word.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Done {
    /// `uname -r`
    pub release: String,
    /// What it counted.
    #[serde(flatten)]
    pub counts: Tally,
}

/// A line of the protocol.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// `@verdict {...}`
    Verdict(Verdict),
    /// `@verifier {...}`
    Verified(Verified),
    /// `@done {...}`
    Done(Done),
    /// The line was meant to be a verdict.
    Garbled,
}

impl Line {
    /// Reads a line of the console. The kernel writes to the same console whenever it likes, so both what is before the
    /// mark and what is after the object may be its noise.
    pub fn parse(line: &str) -> Option<Self> {
        fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
            serde_json::Deserializer::from_str(text).into_iter().next()?.ok()
        }
        if let Some((_, json)) = line.split_once("@verdict ") {
            Some(object(json).map_or(Self::Garbled, Self::Verdict))
        } else if let Some((_, json)) = line.split_once("@verifier ") {
            Some(object(json).map_or(Self::Garbled, Self::Verified))
        } else {
            let (_, json) = line.split_once("@done ")?;
            Some(object(json).map_or(Self::Garbled, Self::Done))
        }
    }
}

/// All that one kernel said.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// The series: `6.1`; `native` for this machine.
    pub kernel: String,
    /// What was tested, all of it: see `inputs`. `None` if it was only a part.
    #[serde(default)]
    pub inputs: Option<String>,
    /// `uname -r`, or `?` if the guest did not come that far.
    pub release: String,
    /// What went wrong with the guest itself. That is a failure of its own.
    pub problem: Option<String>,
    /// Each test on each backend.
    pub verdicts: Vec<Verdict>,
    /// What the verifier took for each program of each backend.
    #[serde(default)]
    pub verified: Vec<Verified>,
    /// The last lines of its console, if something went wrong with it.
    #[serde(skip)]
    pub console: Vec<String>,
}

impl Guest {
    /// A guest that came to nothing.
    pub fn broken(kernel: &str, problem: String) -> Self {
        Self { kernel: kernel.into(), release: "?".into(), problem: Some(problem), ..Self::default() }
    }

    /// The counts of its verdicts, and of the problem if there is one.
    pub fn tally(&self) -> Tally {
        let mut tally = if self.problem.is_some() { Tally::FAILED } else { Tally::default() };
        for verdict in &self.verdicts {
            tally += verdict.verdict.tally();
        }
        tally
    }
}

impl Outcome {
    /// One check that ended so.
    pub const fn tally(self) -> Tally {
        match self {
            Self::Passed => Tally::PASSED,
            Self::Failed => Tally::FAILED,
            Self::Skipped => Tally::SKIPPED,
        }
    }
}

/// Counts, and the verdicts that some of them were counted from.
pub type Counted = (Tally, Vec<Guest>);

/// A results file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Results {
    /// The series of the last run of all kernels, those that the mirror had, and what was run by name since.
    #[serde(default)]
    pub series: Vec<String>,
    /// One entry per kernel.
    pub guests: Vec<Guest>,
}

impl Results {
    /// Reads a results file; `None` if there is none.
    pub fn read(file: &Path) -> Result<Option<Self>> {
        match fs::read_to_string(file) {
            Ok(text) => {
                let results = serde_json::from_str(&text);
                let remedy = || format!("reading {}; remove it and run the tests again", file.display());
                results.map(Some).with_context(remedy)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
        }
    }

    /// Writes a results file.
    pub fn write(&self, file: &Path) -> Result<()> {
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        let text = serde_json::to_string_pretty(self).context("writing results as JSON")?;
        fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))
    }

    /// All kernels may be run a few at a time: one that was run by name is one of them from then on.
    pub fn add_series(&mut self, ran: Vec<String>) {
        self.series.extend(ran);
        self.series.sort_by(|a, b| natural(a, b));
        self.series.dedup();
    }

    /// The guests of all kernels, if each has tested all of these inputs.
    pub fn complete(&self, inputs: &str) -> Option<Vec<&Guest>> {
        let guest = |series: &String| {
            let mut guests = self.guests.iter();
            guests.find(|guest| guest.kernel == *series && guest.inputs.as_deref() == Some(inputs))
        };
        let guests: Vec<&Guest> = self.series.iter().map(guest).collect::<Option<_>>()?;
        (!guests.is_empty()).then_some(guests)
    }

    /// Puts `guests` in place of the entries of the same kernels. The others stay: they were not run this time.
    pub fn replace(&mut self, guests: &[Guest]) {
        self.guests.retain(|old| guests.iter().all(|new| new.kernel != old.kernel));
        self.guests.extend_from_slice(guests);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::verifier::Figures, *};

    const VERDICT: &str =
        r#"{"test":"expiry","backend":"fentry","verdict":"skipped","reason":"no fentry","millis":12}"#;

    fn verdict() -> Verdict {
        Verdict {
            test: "expiry".into(),
            backend: "fentry".into(),
            verdict: Outcome::Skipped,
            reason: Some("no fentry".into()),
            millis: 12,
            attempts: 1,
        }
    }

    #[test]
    fn verdicts_are_found_in_noise() {
        for line in [
            format!("@verdict {VERDICT}"),
            format!("[    1.5] random: crng init done@verdict {VERDICT}\r"),
            format!("@verdict {VERDICT}[   12.3] tun: Universal TUN/TAP"),
        ] {
            assert_eq!(Line::parse(&line), Some(Line::Verdict(verdict())), "{line}");
        }
    }

    #[test]
    fn attempts_are_read() {
        let line = format!("@verdict {}", VERDICT.replace("12}", r#"12,"attempts":3}"#));
        assert_eq!(Line::parse(&line), Some(Line::Verdict(Verdict { attempts: 3, ..verdict() })));
    }

    #[test]
    fn the_last_word_is_read() {
        let line = r#"@done {"release":"6.1.0-56-cloud-amd64","passed":3,"failed":1,"skipped":2}"#;
        let counts = Tally { passed: 3, failed: 1, skipped: 2 };
        assert_eq!(Line::parse(line), Some(Line::Done(Done { release: "6.1.0-56-cloud-amd64".into(), counts })));
    }

    #[test]
    fn the_verifiers_figures_are_read() {
        let line = r#"@verifier {"backend":"fentry","program":"birth","insns":3,"states":2,"stack":1,"chain":null}"#;
        let figures = Figures { insns: 3, states: 2, stack: 1, chain: None };
        let verified = Verified { backend: "fentry".into(), program: "birth".into(), figures };
        assert_eq!(Line::parse(line), Some(Line::Verified(verified)));
    }

    #[test]
    fn garbage_is_told_from_log() {
        for line in ["@verdict ", "@verdict {", r#"@verdict {"test":1}"#, "@done {}", "@done [    1.2] oops"] {
            assert_eq!(Line::parse(line), Some(Line::Garbled), "{line}");
        }
        for line in ["", "verdict", "@verdict", "test a ... ok", "mail@done.org", "\u{fffd}"] {
            assert_eq!(Line::parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_guest_with_a_problem_failed() {
        let mut guest = Guest { verdicts: vec![verdict()], ..Guest::default() };
        assert_eq!(guest.tally(), Tally::SKIPPED);
        guest.problem = Some("timed out".into());
        assert_eq!(guest.tally(), Tally { passed: 0, failed: 1, skipped: 1 });
    }

    #[test]
    fn kernels_that_did_not_run_keep_their_results() {
        let guest =
            |kernel: &str, release: &str| Guest { kernel: kernel.into(), release: release.into(), ..Guest::default() };
        let mut results = Results { guests: vec![guest("5.10", "a"), guest("6.1", "b")], ..Results::default() };
        results.replace(&[guest("5.10", "c")]);
        assert_eq!(results.guests, [guest("6.1", "b"), guest("5.10", "c")]);
    }

    #[test]
    fn a_run_is_complete_if_all_tested_the_same() {
        let guest = |kernel: &str, inputs: &str| Guest {
            kernel: kernel.into(),
            inputs: Some(inputs.into()),
            ..Guest::default()
        };
        let mut results = Results {
            series: vec!["5.10".into(), "6.1".into()],
            guests: vec![guest("6.1", "new"), guest("5.10", "old"), guest("7.2", "new")],
        };
        let complete = |results: &Results| {
            let kernels = |guests: Vec<&Guest>| guests.iter().map(|guest| guest.kernel.clone()).collect::<Vec<_>>();
            results.complete("new").map(kernels)
        };
        assert_eq!(complete(&results), None);
        results.replace(&[guest("5.10", "new")]);
        assert_eq!(complete(&results), Some(vec!["5.10".to_owned(), "6.1".to_owned()]));
        results.add_series(vec!["6.1".into(), "5.10".into()]);
        assert_eq!(complete(&results), Some(vec!["5.10".to_owned(), "6.1".to_owned()]));
        results.add_series(vec!["7.2".into()]);
        assert_eq!(complete(&results), Some(vec!["5.10".to_owned(), "6.1".to_owned(), "7.2".to_owned()]));
        results.replace(&[Guest { inputs: None, ..guest("5.10", "") }]);
        assert_eq!(complete(&results), None);
        assert_eq!(complete(&Results::default()), None);
    }
}
