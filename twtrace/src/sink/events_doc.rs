//! docs/events.md, written from the tables of fields.

use std::fmt::Write;

use super::{
    fields::{Field, HEAD, LAB, LINES, Line, SOCKET, Shape},
    json::VERSION,
};
use crate::show::trouble::NAMES;

/// The whole file.
#[must_use]
pub fn render() -> String {
    let mut doc = format!(
        "<!-- Written by `cargo xtask docs` from twtrace/src/model/fields; change it there. -->\n\n\
         # JSON lines\n\n\
         `twtrace run --format json` writes one object per line, each of version {VERSION}. The fields of a line are\n\
         always there, in this order. A field that was not read is `null`, never absent and never 0. Words in the column\n\
         'unit or words' are all that the field may be.\n\n\
         A line begins with:\n"
    );
    table(&mut doc, HEAD.iter());
    doc.push_str("\nLines about one minisock or one connect() (");
    let about: Vec<_> = LINES.iter().filter(|line| line.socket).map(|line| format!("`{}`", line.kind)).collect();
    let _ = writeln!(doc, "{}) go on with:", about.join(", "));
    table(&mut doc, SOCKET.iter());
    doc.push_str("\nThen follows, by `type`:\n");
    lines(&mut doc, LINES);
    doc.push_str(
        "\n# Words of `trouble`\n\nA run with any of these is not exact. Each word stands for what twtrace missed or could not know:\n\n",
    );
    for (name, meaning) in NAMES {
        let _ = writeln!(doc, "- `{name}`: {meaning}");
    }
    doc.push_str(
        "\n# Lines of the lab\n\n`twtrace lab --format json` writes these, in the same manner. Its exit code is 1 if `failed` is\n\
         not 0.\n",
    );
    lines(&mut doc, LAB);
    doc
}

fn lines(doc: &mut String, lines: &[Line]) {
    for line in lines {
        let _ = writeln!(doc, "\n## {}\n\n{}", line.kind, line.when);
        table(doc, line.own.iter().copied().flatten());
    }
}

fn table<'a>(doc: &mut String, fields: impl Iterator<Item = &'a Field>) {
    doc.push_str("\n| field | type | unit or words | what it tells | null means |\n|---|---|---|---|---|\n");
    rows(doc, "", fields);
}

/// A row for each field, and below it one for each field of the objects in it.
fn rows<'a>(doc: &mut String, prefix: &str, fields: impl Iterator<Item = &'a Field>) {
    for Field { name, shape, unit, meaning, null, .. } in fields {
        let (shape, inner, suffix) = match shape {
            Shape::Integer => ("integer", None, ""),
            Shape::Number => ("number", None, ""),
            Shape::Text => ("string", None, ""),
            Shape::Bool => ("boolean", None, ""),
            Shape::Counts => ("object: integer by word", None, ""),
            Shape::Object(inner) => ("object", Some(inner), "."),
            Shape::Words => ("object: string by word", None, ""),
            Shape::MapOf(inner) => ("object: object by name", Some(inner), ".*."),
            Shape::ListOf([]) => ("array of strings", None, ""),
            Shape::ListOf(inner) => ("array of objects", Some(inner), "[]."),
        };
        let _ =
            writeln!(doc, "| `{prefix}{name}` | {shape} | {unit} | {meaning} | {} |", null.unwrap_or("(never null)"));
        if let Some(inner) = inner {
            rows(doc, &format!("{prefix}{name}{suffix}"), inner.iter());
        }
    }
}
