//! Passed, failed, skipped.

use std::{fmt, ops::AddAssign, process::ExitCode};

use serde::{Deserialize, Serialize};

/// How many checks ended which way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Did what they should.
    pub passed: u64,
    /// Did not.
    pub failed: u64,
    /// Did not run, for a reason that was printed.
    pub skipped: u64,
}

impl Tally {
    /// One check that passed.
    pub const PASSED: Self = Self { passed: 1, failed: 0, skipped: 0 };
    /// One check that failed.
    pub const FAILED: Self = Self { passed: 0, failed: 1, skipped: 0 };
    /// One check that did not run.
    pub const SKIPPED: Self = Self { passed: 0, failed: 0, skipped: 1 };

    /// How many checks there were.
    pub const fn total(self) -> u64 {
        self.passed + self.failed + self.skipped
    }

    /// The counts of a `test result:` line of libtest or libtest-mimic; ignored tests are skipped ones.
    pub fn from_result_line(line: &str) -> Option<Self> {
        let (_, counts) = line.split_once("test result: ")?.1.split_once(". ")?;
        let count = |noun| counts.split("; ").find_map(|count| count.strip_suffix(noun)?.trim().parse::<u64>().ok());
        Some(Self { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
    }

    /// Prints the counts as the last line, and turns them into an exit code.
    pub fn finish(self) -> ExitCode {
        println!("{self}");
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_counted() {
        let line = "test result: FAILED. 12 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.01s";
        assert_eq!(Tally::from_result_line(line), Some(Tally { passed: 12, failed: 1, skipped: 2 }));
    }

    #[test]
    fn other_lines_are_not() {
        for line in ["", "test result: ", "test a::b ... ok", "test result: ok. many passed; 1 failed; 0 ignored"] {
            assert_eq!(Tally::from_result_line(line), None, "{line:?}");
        }
    }
}
