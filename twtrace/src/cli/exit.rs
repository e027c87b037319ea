//! How twtrace ends: what it says last, and the exit code.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use crate::sink::human::Plain;

/// The exit codes, from sysexits.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// All is well.
    Success = 0,
    /// `twtrace lab`: something is not as it should be; `twtrace doctor`: there is a warning.
    Wrong = 1,
    /// `twtrace doctor`: connections fail.
    Critical = 2,
    /// The command line makes no sense (EX_USAGE).
    Usage = 64,
    /// This kernel cannot be watched (EX_UNAVAILABLE).
    Unsupported = 69,
    /// Anything else (EX_SOFTWARE).
    Internal = 70,
    /// `twtrace run`: the reader of the output stopped reading, and lines were given up (EX_TEMPFAIL).
    Undelivered = 75,
    /// The privileges are missing (EX_NOPERM).
    Privilege = 77,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// One line of bad news: `twtrace: WHAT: WHY; WHAT TO DO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// What went wrong, in the reader's own words: the option and its value, the file.
    pub what: String,
    /// Why that is so.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

impl Complaint {
    /// A complaint of these three parts.
    pub fn new(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "twtrace: {}: {}; {}", Plain(&self.what), Plain(&self.why), Plain(&self.remedy))
    }
}

impl std::error::Error for Complaint {}

/// The end of the process, decided but not yet carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code.
    pub code: Code,
    /// For standard output: the help or the version that was asked for.
    pub stdout: String,
    /// For standard error.
    pub stderr: String,
}

impl Exit {
    /// The end because of an error; `why` is one line, without its newline.
    pub fn error(code: Code, why: impl fmt::Display) -> Self {
        Self { code, stdout: String::new(), stderr: format!("{why}\n") }
    }

    /// The end because all that was asked for is this text.
    #[must_use]
    pub fn answer(text: String) -> Self {
        Self { code: Code::Success, stdout: text, stderr: String::new() }
    }

    /// Says what there is to say, and hands back the exit code. Whoever reads may have gone away: that is no error.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        let _ = io::stdout().write_all(self.stdout.as_bytes());
        let _ = io::stdout().flush();
        let _ = io::stderr().write_all(self.stderr.as_bytes());
        self.code.into()
    }
}

impl From<Complaint> for Exit {
    /// A complaint about the command line; what is found out later names its own code with [`Exit::error`].
    fn from(complaint: Complaint) -> Self {
        Self::error(Code::Usage, complaint)
    }
}
