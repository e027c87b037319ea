//! How the kernel reads a number that is written to a sysctl.

/// What the kernel copies to read one number, bytes (kernel/sysctl.c: `TMPBUFLEN` - 1). A number that fills it is refused.
const LONGEST: usize = 21;

/// The first number of what is written to a sysctl that is an int; `None`: the kernel refuses all of it with EINVAL.
///
/// Blanks, a minus, digits of any base in C's spelling (`0x1388`, `010`), and then a blank or the end: what follows the blank
/// is ignored. So `0   # why` is 0, and `5s`, `0#why`, `+1`, `08` and `"1"` are refused (kernel/sysctl.c: `proc_get_long`,
/// `do_proc_dointvec`, `do_proc_douintvec_w`; lib/kstrtox.c: `_parse_integer_fixup_radix`). A sysctl may have narrower bounds
/// than an int.
#[must_use]
pub fn number(written: &str) -> Option<i64> {
    // A loader ends what it writes with a line break.
    let text = written.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}');
    let end = text.find([' ', '\t', '\n']).unwrap_or(text.len());
    let word = text.get(..end).filter(|word| word.len() < LONGEST)?;
    let (is_negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word),
    };
    // u64::from_str_radix takes a plus.
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (base, digits) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(rest) => (16, rest),
        None if digits.starts_with('0') => (8, digits),
        None => (10, digits),
    };
    let is_digits = !digits.is_empty() && digits.chars().all(|c| c.is_digit(base));
    let value = i64::from_str_radix(digits, base).ok().filter(|_| is_digits)?;
    let value = if is_negative { -value } else { value };
    i32::try_from(value).ok().map(i64::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_read_as_the_kernel_reads_them() {
        for (written, expected) in [
            ("0", Some(0)),
            ("60", Some(60)),
            ("  60", Some(60)),
            ("0   # why", Some(0)),
            ("5000\t#enough", Some(5000)),
            ("0 ; never", Some(0)),
            ("0x1388", Some(5000)),
            ("0X1F", Some(31)),
            ("010", Some(8)),
            ("00", Some(0)),
            ("-5", Some(-5)),
            ("-0x10 x", Some(-16)),
            ("15 30", Some(15)),
            ("15\t30\t60", Some(15)),
            ("2147483647", Some(2_147_483_647)),
            ("-2147483648", Some(-2_147_483_648)),
            ("00000000000000000017", Some(15)),
            // Refused, and the sysctl stays as it was.
            ("", None),
            ("   ", None),
            ("-", None),
            ("- 5", None),
            ("+5", None),
            ("5s", None),
            ("0#why", None),
            ("1,5", None),
            ("5.0", None),
            ("\"1\"", None),
            ("08", None),
            ("0x", None),
            ("0xg", None),
            ("x1", None),
            ("1e3", None),
            ("off", None),
            ("5\u{a0}", None),
            ("5\r6", None),
            ("2147483648", None),
            ("99999999999999999999", None),
            ("000000000000000000017", None),
        ] {
            assert_eq!(number(written), expected, "{written:?}");
        }
    }

    proptest! {
        /// Total; and what follows a blank changes nothing.
        #[test]
        fn any_text_is_a_number_or_none(text in ".{0,30}", rest in "[^\n]{0,20}") {
            prop_assert_eq!(number(&text), number(&format!("{text}\t{rest}")).filter(|_| !text.trim().is_empty()));
        }

        #[test]
        fn any_int_is_read_in_any_base(value: i32) {
            let sign = if value < 0 { "-" } else { "" };
            let size = value.unsigned_abs();
            for written in [format!("{value}"), format!("{sign}0x{size:x}"), format!("{sign}0{size:o}")] {
                prop_assert_eq!(number(&written), Some(value.into()), "{}", written);
            }
        }
    }
}
