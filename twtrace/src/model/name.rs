//! Names that others chose: of threads, cgroups, containers and files. They may hold any byte, and with it what steers a
//! terminal, turns a line round or cannot be seen.

use std::{borrow::Cow, fmt::Write as _};

/// Before a name that is no UTF-8. A thread's name has at most 15 bytes, so no name that is UTF-8 looks like this one.
const NOT_UTF8: &str = "(not UTF-8) ";

/// A name as text from which its bytes can be had back, so that names that differ stay two: the name itself, or, if it is no
/// UTF-8, `(not UTF-8) ` and the name with `\xff` for each byte that is none, and `\\` for a backslash.
#[must_use]
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.into();
    }
    (NOT_UTF8.to_owned() + &spelt(bytes, "\\\\")).into()
}

/// The text of a whole file, with `\xff` for each byte that is no UTF-8.
#[must_use]
pub fn file(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| spelt(error.as_bytes(), "\\"))
}

fn spelt(bytes: &[u8], backslash: &str) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', backslash));
        for byte in chunk.invalid() {
            // Memory takes whatever is written to it.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// True of a character that is no part of a line of text, or is not to be seen there: controls (Cc), format characters (Cf:
/// bidirectional and zero-width ones), line and paragraph separators (Zl, Zp), and what is displayed as nothing
/// (Default_Ignorable_Code_Point). Unicode 16, UnicodeData.txt and DerivedCoreProperties.txt.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
            | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The bytes that a text stands for.
    fn bytes(text: &str) -> Vec<u8> {
        let Some(escaped) = text.strip_prefix(NOT_UTF8) else { return text.as_bytes().to_vec() };
        let mut bytes = Vec::new();
        let mut rest = escaped;
        while let Some((before, after)) = rest.split_once('\\') {
            bytes.extend(before.as_bytes());
            rest = match after.strip_prefix('x') {
                Some(hex) => {
                    bytes.push(u8::from_str_radix(&hex[..2], 16).unwrap());
                    &hex[2..]
                }
                None => {
                    bytes.push(b'\\');
                    &after[1..]
                }
            };
        }
        bytes.extend(rest.as_bytes());
        bytes
    }

    #[test]
    fn names_that_differ_stay_two() {
        let names: [&[u8]; 9] =
            [b"\xff", b"\xfe", b"\\xff", b"?", "\u{fffd}".as_bytes(), b"a\\\xff", b"a\\xff", b"(not UTF-8) \\", b""];
        let texts: BTreeSet<_> = names.iter().map(|name| text(name)).collect();
        assert_eq!(texts.len(), names.len());
        assert_eq!(text(b"\xff\xfe\x80b\\d"), r"(not UTF-8) \xff\xfe\x80b\\d");
        assert_eq!(file(b"0::/a\\b\xff\n".to_vec()), "0::/a\\b\\xff\n");
        assert_eq!(text("größe \u{202e}".as_bytes()), "größe \u{202e}");
    }

    #[test]
    fn what_turns_a_line_round_is_hidden_and_letters_are_not() {
        for c in "\u{202a}\u{202e}\u{2066}\u{2069}\u{200b}\u{200d}\u{200f}\u{61c}\u{2028}\u{2029}\u{85}\u{9b}\u{7f}\u{1b}\u{feff}\
                  \u{ad}\u{e0041}\u{fe0f}\u{3164}\u{180e}\u{2060}\t\n\0".chars()
        {
            assert!(is_hidden(c), "{c:?}");
        }
        for c in "a ~é日本語א\u{301}\u{fffd}😀—\u{a0}\\\"<&>".chars() {
            assert!(!is_hidden(c), "{c:?}");
        }
    }

    proptest! {
        #[test]
        fn the_bytes_of_a_thread_s_name_can_be_had_back(name in prop::collection::vec(1..=255_u8, 0..16)) {
            prop_assert_eq!(bytes(&text(&name)), name);
        }
    }
}
