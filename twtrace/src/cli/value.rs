//! Single values of the command line: lengths of time and sizes.

use std::{ops::RangeInclusive, time::Duration};

use jiff::SignedDuration;

use super::exit::Complaint;

/// One option and what stands behind it.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    /// As written: `--duration`.
    pub option: &'static str,
    /// As written.
    pub text: &'a str,
}

impl Given<'_> {
    fn complain(&self, why: impl Into<String>, right: &str) -> Complaint {
        Complaint::new(format!("{} {}", self.option, self.text), why, format!("write e.g. {} {right}", self.option))
    }

    /// A length of time within bounds, such as `500ms` or `1h 30m`. A bare number is seconds, as in the BCC tools.
    pub fn time(&self, bounds: &RangeInclusive<Duration>, example: &str) -> Result<Duration, Complaint> {
        let text = self.text.trim();
        let time = if self.is_bare() {
            // Digits that do not fit are simply too many.
            Duration::from_secs(text.parse().unwrap_or(u64::MAX)).try_into().unwrap_or(SignedDuration::MAX)
        } else {
            let why = || format!("invalid time '{text}' (expected e.g. 500ms, 30s, 5m, 1h, or seconds)");
            text.parse::<SignedDuration>().map_err(|_| self.complain(why(), example))?
        };
        match Duration::try_from(time) {
            Ok(time) if bounds.contains(&time) => Ok(time),
            _ => {
                let (least, most) = (plain(*bounds.start()), plain(*bounds.end()));
                Err(self.complain(format!("'{text}' is out of range (expected {least} to {most})"), example))
            }
        }
    }

    fn is_bare(&self) -> bool {
        let text = self.text.trim();
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
    }

    /// A number within bounds, with K, M or G for 1024, 1024² or 1024³.
    fn number(&self, bounds: &RangeInclusive<u32>, example: &str) -> Result<u32, Complaint> {
        let text = self.text.trim();
        let (digits, shift) = match text.as_bytes().last() {
            Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
            Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
            Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
            _ => (text, 0),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let why = format!("invalid number '{text}' (expected digits, then K, M, G or nothing)");
            return Err(self.complain(why, example));
        }
        // Digits that do not fit are simply too many.
        let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)).unwrap_or(u64::MAX);
        match u32::try_from(number) {
            Ok(number) if bounds.contains(&number) => Ok(number),
            _ => {
                let (least, most) = (short(*bounds.start()), short(*bounds.end()));
                Err(self.complain(format!("'{text}' is out of range (expected {least} to {most})"), example))
            }
        }
    }

    /// How many entries a table has.
    pub fn entries(&self) -> Result<u32, Complaint> {
        self.number(&(1..=16 << 20), "64K")
    }

    /// Bytes of a ring: whole pages, and a power of two, because the kernel takes no other.
    pub fn ring(&self) -> Result<u32, Complaint> {
        let bytes = self.number(&(4096..=1 << 30), "4M")?;
        if bytes.is_power_of_two() {
            return Ok(bytes);
        }
        let (below, above) = (bytes.next_power_of_two() / 2, bytes.next_power_of_two());
        let right = format!("{} or {} {}", short(below), self.option, short(above));
        Err(self.complain(format!("{bytes} bytes is not a power of two"), &right))
    }
}

/// `4M` rather than 4194304.
fn short(number: u32) -> String {
    match number {
        0 => "0".to_owned(),
        n if n.trailing_zeros() >= 30 => format!("{}G", n >> 30),
        n if n.trailing_zeros() >= 20 => format!("{}M", n >> 20),
        n if n.trailing_zeros() >= 10 => format!("{}K", n >> 10),
        n => n.to_string(),
    }
}

fn plain(time: Duration) -> String {
    match (time.as_secs(), time.subsec_millis()) {
        (0, millis) => format!("{millis}ms"),
        (secs, _) if secs % 3600 == 0 => format!("{}h", secs / 3600),
        (secs, _) => format!("{secs}s"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600 * 24);

    fn given(text: &str) -> Given<'_> {
        Given { option: "--x", text }
    }

    #[test]
    fn times_are_read() {
        for (text, millis) in
            [("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000), ("500ms", 500), ("1h 30m", 5_400_000)]
        {
            assert_eq!(given(text).time(&BOUNDS, "1s"), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(given("1.5s").time(&BOUNDS, "1s"), Ok(Duration::from_millis(1500)));
        for (text, seconds) in [("30", 30), ("1", 1), (" 007 ", 7)] {
            assert_eq!(given(text).time(&BOUNDS, "1s"), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn no_other_time_is_read() {
        for text in [
            "",
            "s",
            "0",
            "-30",
            "-5s",
            "0s",
            "25h",
            "1d",
            "30 apples",
            "999999999999999999999h",
            "99999999999999999999",
        ] {
            assert!(given(text).time(&BOUNDS, "1s").is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [("4096", 4096), ("512K", 512 << 10), ("4M", 4 << 20), ("4m", 4 << 20), ("1G", 1 << 30)] {
            assert_eq!(given(text).ring(), Ok(bytes), "{text}");
        }
        for text in
            ["", "M", "2K", "4095", "3M", "2G", "4MB", "-4M", "+4M", "0x1000", "18446744073709551616", "17179869184G"]
        {
            assert!(given(text).ring().is_err(), "{text}");
        }
        assert_eq!((given("1").entries(), given("16M").entries()), (Ok(1), Ok(16 << 20)));
        assert!(given("0").entries().is_err() && given("17M").entries().is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = (given(&text).time(&BOUNDS, "1s"), given(&text).ring(), given(&text).entries());
        }
    }
}
