//! Every field of the JSON lines, once: its name, shape, unit and meaning, and, of events, how it is read from an event and
//! entered into one. The lines are written by these tables, docs/events.md is too, and [`read()`] reads lines by them.

mod access;
mod counters;
mod detail;
mod event;
mod lab;
mod lines;
mod own;
mod read;
mod tables;

use std::net::IpAddr;

use serde::{Serialize, Serializer};

pub use counters::{Sum, Sums};
pub use event::SOCKET;
pub use lab::LAB;
pub use lines::{HEAD, LINES};
pub use read::{read, read_any};

use super::{
    event::{Comm, Event, Kind},
    report::Totals,
};

/// What a value looks like.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A whole number.
    Integer,
    /// A number with a fraction.
    Number,
    /// A string.
    Text,
    /// `true` or `false`.
    Bool,
    /// An object: a whole number for each word.
    Counts,
    /// An object: a string or null for each word.
    Words,
    /// An object of these fields.
    Object(&'static [Field]),
    /// An object: an object of these fields for each name.
    MapOf(&'static [Field]),
    /// An array of objects of these fields; of strings, if there are none.
    ListOf(&'static [Field]),
}

/// A value of an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Not known.
    Null,
    /// A whole number.
    Integer(u64),
    /// `true` or `false`.
    Bool(bool),
    /// A word of a vocabulary.
    Word(&'static str),
    /// An address.
    Address(IpAddr),
    /// A command name.
    Name(&'a Comm),
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_none(),
            Self::Integer(number) => serializer.serialize_u64(*number),
            Self::Bool(flag) => serializer.serialize_bool(*flag),
            Self::Word(word) => serializer.serialize_str(word),
            Self::Address(address) => address.serialize(serializer),
            Self::Name(comm) => serializer.serialize_str(&comm.name()),
        }
    }
}

/// How a field of an event is read and written.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// The field's value in an event.
    pub get: for<'a> fn(&'a Event) -> Value<'a>,
    /// Enters a value that is not null. `None`: the field cannot have it.
    set: fn(&mut Event, &serde_json::Value) -> Option<()>,
}

/// Where the value of a field is.
#[derive(Clone, Copy, Debug)]
pub enum Of {
    /// In whatever makes the line.
    Line,
    /// In an event.
    Event(Access),
    /// In the totals.
    Totals(for<'a> fn(&'a Totals) -> Sum<'a>),
}

impl Of {
    /// How the field is read from an event, if it is of one.
    #[must_use]
    pub fn event(self) -> Option<Access> {
        match self {
            Self::Event(access) => Some(access),
            Self::Line | Self::Totals(_) => None,
        }
    }
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Key of the field.
    pub name: &'static str,
    /// What its value looks like.
    pub shape: Shape,
    /// The unit, or the words that it may be.
    pub unit: &'static str,
    /// What it tells.
    pub meaning: &'static str,
    /// What `null` means; `None` if it is never null.
    pub null: Option<&'static str>,
    /// Where its value is.
    pub of: Of,
}

/// One type of line.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// The value of `type`.
    pub kind: &'static str,
    /// When there is such a line.
    pub when: &'static str,
    /// Such a line is about one minisock, or about a connect() or bind() that failed: the fields of [`SOCKET`] stand between
    /// those of [`HEAD`] and its own.
    pub socket: bool,
    /// The line's own fields, in tables that lines share.
    pub own: &'static [&'static [Field]],
}

impl Line {
    /// The line of an event of this kind; `None` if this version of twtrace has no word for it.
    #[must_use]
    pub fn of(kind: Kind) -> Option<&'static Self> {
        // `start` is the first, then come the events in the order of the kernel boundary.
        LINES.get(usize::from(kind.raw())).filter(|line| line.socket)
    }

    /// Every field of such a line, in order.
    pub fn fields(&self) -> impl Iterator<Item = &'static Field> {
        let socket: &[Field] = if self.socket { SOCKET } else { &[] };
        HEAD.iter().chain(socket).chain(self.own.iter().copied().flatten())
    }
}

/// A field that is never null.
const fn always(name: &'static str, shape: Shape, unit: &'static str, meaning: &'static str) -> Field {
    Field { name, shape, unit, meaning, null: None, of: Of::Line }
}

/// A field that may be null.
const fn maybe(
    name: &'static str,
    shape: Shape,
    unit: &'static str,
    meaning: &'static str,
    null: &'static str,
) -> Field {
    Field { name, shape, unit, meaning, null: Some(null), of: Of::Line }
}

impl Field {
    /// A field that is read from an event and entered into one.
    const fn of(
        self,
        get: for<'a> fn(&'a Event) -> Value<'a>,
        set: fn(&mut Event, &serde_json::Value) -> Option<()>,
    ) -> Self {
        Self { of: Of::Event(Access { get, set }), ..self }
    }

    /// A counter of the totals.
    const fn sum(self, get: for<'a> fn(&'a Totals) -> Sum<'a>) -> Self {
        Self { of: Of::Totals(get), ..self }
    }
}

const NOT_READ: &str = "not read";
const NOT_WATCHED: &str = "not watched";
const NO_RATE: &str = "the first tick has not come";
const CAUSES: &str = "expired reused reused_bound recycled reset data_reset killed netns tproxy";
const DENIALS: &str = "no_timestamps too_young disabled fin_wait2";
