//! How twtrace ends: what it says last, and the exit code.

use std::{
    fmt,
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

use crate::{filter::wrong::Wrong, show::human::Plain, sink::remarks};

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

    /// The end because standard output took not all of it, and why.
    #[must_use]
    pub fn unwritten(to: &str, error: &io::Error) -> Self {
        let remedy = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "free some space there, or send the output to another file system"
            }
            ErrorKind::FileTooLarge => "raise the limit with ulimit -f, or write several files",
            _ => "send the output to a file or a pipe that can be written",
        };
        let why = format!("the output is incomplete: {error}");
        Self::error(Code::Internal, Complaint::new(to, why, remedy))
    }

    /// Writes its text, and returns the exit code. A reader that has gone away is no error; a full disk is, and it has
    /// the last word.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        let (code, more) = match say(&self.stdout) {
            Ok(_) => (self.code, String::new()),
            Err(exit) => (exit.code, exit.stderr),
        };
        remarks::last(&format!("{}{more}", self.stderr));
        code.into()
    }
}

/// Who reads standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Somebody, or a file.
    There,
    /// Nobody any more (`| head`): a reason to end, not an error.
    Gone,
}

/// Writes a text to standard output, all of it. Every command but `run` prints through this; `run` has a thread for it
/// ([`Writer`](crate::sink::Writer)).
///
/// # Errors
/// The [`Exit`] to take if it could not be written, for another reason than a reader that has gone away.
pub fn say(text: &str) -> Result<Reader, Exit> {
    deliver(&mut io::stdout().lock(), text)
}

fn deliver(out: &mut impl Write, text: &str) -> Result<Reader, Exit> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Exit::unwritten("standard output", &error)),
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.stderr.trim_end())
    }
}

/// So that a command can end with it from any depth: see [`crate::app::main`].
impl std::error::Error for Exit {}

impl From<Wrong> for Complaint {
    fn from(Wrong { what, why, remedy, .. }: Wrong) -> Self {
        Self { what, why, remedy }
    }
}

impl From<Wrong> for Exit {
    /// The end because of a filter whose names lead nowhere, or may not be looked up.
    fn from(wrong: Wrong) -> Self {
        let code = if wrong.is_denied { Code::Privilege } else { Code::Usage };
        Self::error(code, Complaint::from(wrong))
    }
}

impl From<Complaint> for Exit {
    /// A complaint about the command line; what is found out later names its own code with [`Exit::error`].
    fn from(complaint: Complaint) -> Self {
        Self::error(Code::Usage, complaint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An output that fails after so many bytes, at once or when it is flushed.
    struct Fails {
        kind: ErrorKind,
        room: usize,
        at_flush: bool,
    }

    impl Write for Fails {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            if taken == 0 && !self.at_flush { Err(self.kind.into()) } else { Ok(bytes.len().min(taken.max(1))) }
        }

        fn flush(&mut self) -> io::Result<()> {
            if self.at_flush { Err(self.kind.into()) } else { Ok(()) }
        }
    }

    #[test]
    fn a_full_disk_is_told_wherever_it_shows() {
        for (kind, room, at_flush) in [
            (ErrorKind::StorageFull, 0, false),
            (ErrorKind::QuotaExceeded, 3, false),
            (ErrorKind::FileTooLarge, 0, true),
        ] {
            let exit = deliver(&mut Fails { kind, room, at_flush }, "a line\n").unwrap_err();
            assert_eq!(exit.code, Code::Internal);
            assert!(exit.stderr.starts_with("twtrace: standard output: the output is incomplete: "), "{exit:?}");
            assert!(!exit.stderr.contains("report"), "{exit:?}");
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let mut pipe = Fails { kind: ErrorKind::BrokenPipe, room: 2, at_flush: false };
        assert_eq!(deliver(&mut pipe, "a line\n"), Ok(Reader::Gone));
        assert_eq!(deliver(&mut Vec::new(), "a line\n"), Ok(Reader::There));
    }
}
