//! JSON in which nothing is hidden: what cannot be seen, or turns a line round, stands there as `\u202e`. Whoever parses it
//! has the same string.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::model::name::is_hidden;

/// Compact, and every hidden character escaped; serde_json itself does so with those below U+0020 alone.
struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: Write + ?Sized>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        if !fragment.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            while let Some((at, c)) = rest.char_indices().find(|&(_, c)| is_hidden(c)) {
                let (before, after) = rest.split_at(at);
                out.write_all(before.as_bytes())?;
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
                rest = after.get(c.len_utf8()..).unwrap_or_default();
            }
        }
        out.write_all(rest.as_bytes())
    }
}

/// Writes a value as JSON on one line, without its end.
///
/// # Errors
/// Those of `out`, and of values that JSON cannot hold.
pub fn to_writer(out: impl Write, value: &(impl Serialize + ?Sized)) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(out, Escaping))
}

/// A value as JSON on one line.
///
/// # Errors
/// If JSON cannot hold it.
pub fn to_string(value: &(impl Serialize + ?Sized)) -> serde_json::Result<String> {
    let mut json = Vec::new();
    to_writer(&mut json, value)?;
    // It was made of strings.
    Ok(String::from_utf8_lossy(&json).into_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_hidden_is_escaped_in_values_and_keys() -> serde_json::Result<()> {
        let map = BTreeMap::from([("a\u{2028}", "\u{202e}cba\u{1b}[0m\u{7f}\u{9b}"), ("\u{e0041}é", "\"\\日")]);
        let json = to_string(&map)?;
        assert_eq!(json, r#"{"a\u2028":"\u202ecba\u001b[0m\u007f\u009b","\udb40\udc41é":"\"\\日"}"#);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json)?, serde_json::json!(map));
        Ok(())
    }

    proptest! {
        #[test]
        fn every_string_comes_back_and_nothing_hidden_is_written(text in any::<String>()) {
            let json = to_string(&text)?;
            prop_assert!(!json.chars().any(is_hidden), "{}", json);
            prop_assert_eq!(serde_json::from_str::<String>(&json)?, text);
        }
    }
}
