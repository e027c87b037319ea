//! Numbers and names for the eye.

use std::fmt;

use crate::model::{
    event::{Comm, Task},
    name::is_hidden,
};

/// A value, or `?` where the kernel did not say. Honours the width of its place.
pub(crate) struct Known<T>(pub Option<T>);

impl<T: fmt::Display> fmt::Display for Known<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.pad("?"),
        }
    }
}

/// A command name, safe for a terminal.
pub(crate) struct Name(pub Comm);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match plain(&self.0) {
            Some(name) => f.pad(name),
            None => f.pad(&Plain(&self.0.name()).to_string()),
        }
    }
}

/// The name itself if all of it is printable ASCII, which spares a copy.
pub fn plain(comm: &Comm) -> Option<&str> {
    let name = comm.0.split(|&byte| byte == 0).next()?;
    let printable = name.iter().all(|byte| matches!(byte, b' '..=b'~'));
    if printable { std::str::from_utf8(name).ok() } else { None }
}

/// Text that holds what somebody else wrote: it stays on its line, in its order, and does not steer the terminal. What is
/// hidden is shown as `\u{202e}`.
pub(crate) struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if is_hidden(c) { write!(f, "{}", c.escape_default())? } else { fmt::Write::write_char(f, c)? }
        }
        Ok(())
    }
}

/// `PID/COMM`.
pub(crate) struct Who(pub Task);

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.pid, Name(self.0.comm))
    }
}

/// A length of time in nanoseconds, to three digits or so, cut and not rounded: 59.9999 s have not been a minute.
pub(crate) struct Span(pub u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const US: u64 = 1_000;
        const MS: u64 = 1_000_000;
        const S: u64 = 1_000_000_000;
        let ns = self.0;
        let text = match ns {
            0..US => format!("{ns}ns"),
            US..MS => format!("{}us", ns / US),
            MS..100_000_000 => format!("{}.{}ms", ns / MS, ns % MS / 100_000),
            100_000_000..S => format!("{}ms", ns / MS),
            S..10_000_000_000_000 => format!("{}.{:03}s", ns / S, ns % S / MS),
            _ => format!("{}h{:02}m", ns / S / 3600, ns / S / 60 % 60),
        };
        f.pad(&text)
    }
}

/// A timeout in milliseconds: `(60s)`, `(2.03s)`, `(500ms)`.
pub(crate) struct Timeout(pub u32);

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, millis) = (self.0 / 1000, self.0 % 1000);
        let text = match (secs, millis) {
            (0, _) => format!("({millis}ms)"),
            (_, 0) => format!("({secs}s)"),
            _ => format!("({secs}.{}s)", format!("{millis:03}").trim_end_matches('0')),
        };
        f.pad(&text)
    }
}

/// `1 line`, `2 lines`, `2 processes`.
pub(crate) struct Many(pub u64, pub &'static str);

impl fmt::Display for Many {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ending = match self.1 {
            _ if self.0 == 1 => "",
            noun if noun.ends_with('s') => "es",
            _ => "s",
        };
        write!(f, "{} {}{ending}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_change_their_unit_where_they_should() {
        let shown = |ns| Span(ns).to_string();
        for (ns, wanted) in [
            (0, "0ns"),
            (999, "999ns"),
            (12_345, "12us"),
            (999_999, "999us"),
            (1_500_000, "1.5ms"),
            (99_999_999, "99.9ms"),
            (100_000_000, "100ms"),
            (999_999_999, "999ms"),
            (60_123_456_789, "60.123s"),
            (9_999_999_999_999, "9999.999s"),
            (10_000_000_000_000, "2h46m"),
            (u64::MAX, "5124095h34m"),
        ] {
            assert_eq!(shown(ns), wanted);
        }
    }

    #[test]
    fn timeouts_keep_every_millisecond() {
        for (ms, wanted) in
            [(0, "(0ms)"), (500, "(500ms)"), (2030, "(2.03s)"), (60_000, "(60s)"), (60_001, "(60.001s)")]
        {
            assert_eq!(Timeout(ms).to_string(), wanted);
        }
    }

    #[test]
    fn names_do_not_steer_the_terminal() {
        let name = |bytes: &[u8]| {
            let mut comm = [0; 16];
            comm[..bytes.len()].copy_from_slice(bytes);
            Name(Comm(comm)).to_string()
        };
        assert_eq!(name(b"kworker/0:1\0old"), "kworker/0:1");
        assert_eq!(name(b"a\x1b[31mb\n"), r"a\u{1b}[31mb\n");
        assert_eq!(name("\u{202e}abc\u{2028}".as_bytes()), r"\u{202e}abc\u{2028}");
        assert_eq!(name("e\u{301}x\u{200b}".as_bytes()), "e\u{301}x\\u{200b}");
        assert_eq!(name("größe".as_bytes()), "größe");
        assert_eq!(name(b"\xff16 bytes, no nu"), r"(not UTF-8) \xff16 bytes, no nu");
        assert_eq!(name(b""), "");
    }
}
