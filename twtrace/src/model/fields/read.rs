//! From a line back to its event.

use serde_json::Value as Json;

use super::{Access, Line};
use crate::model::event::{Call, Cause, Connection, Denial, Detail, Event, Kind, Life, Refusal};

/// Reads an event out of a line, which must have all fields of its type and no others. What it says must be all that the event
/// says: half of a task or of a connection is none.
///
/// # Errors
/// What is wrong with the line. One that is no event is `None`.
pub fn read(line: &Json) -> Result<Option<Event>, String> {
    let Some((kind, table)) = kind(line)? else { return Ok(None) };
    let object = line.as_object().ok_or("not an object")?;
    if let Some(field) = table.fields().find(|field| !object.contains_key(field.name)) {
        return Err(format!("there is no {}", field.name));
    }
    if let Some(odd) = object.keys().find(|key| table.fields().all(|field| field.name != key.as_str())) {
        return Err(format!("a {} has no {odd}", table.kind));
    }
    let event = enter(kind, table, line)?;
    // Each value has found its place if it comes back from there.
    for (name, access) in accesses(table) {
        let known = serde_json::to_value((access.get)(&event)).map_err(|error| error.to_string())?;
        if known != line[name] {
            return Err(format!("{name} is {}, which the rest of the line does not fit", line[name]));
        }
    }
    Ok(Some(event))
}

/// Reads an event out of a line that another version may have written: what it lacks is not known, and what it has beyond is
/// left out.
///
/// # Errors
/// If a field has a value that it cannot have. One that is no event is `None`.
pub fn read_any(line: &Json) -> Result<Option<Event>, String> {
    kind(line)?.map(|(kind, table)| enter(kind, table, line)).transpose()
}

/// The event of a line, with all values that stand there.
fn enter(kind: Kind, table: &Line, line: &Json) -> Result<Event, String> {
    let mono_ns = line["mono_ns"].as_u64().ok_or("mono_ns is no number")?;
    let mut event = empty(kind, mono_ns);
    for (name, access) in accesses(table) {
        let value = &line[name];
        if !value.is_null() && (access.set)(&mut event, value).is_none() {
            return Err(format!("{name} cannot be {value}"));
        }
    }
    Ok(event)
}

/// The type of a line that is an event.
fn kind(line: &Json) -> Result<Option<(Kind, &'static Line)>, String> {
    let word = line["type"].as_str().ok_or("a line without a type")?;
    Ok(Kind::from_word(word).and_then(|kind| Some((kind, Line::of(kind)?))))
}

fn accesses(table: &Line) -> impl Iterator<Item = (&'static str, Access)> {
    table.fields().filter_map(|field| Some((field.name, field.of.event()?)))
}

/// An event of which nothing is known.
fn empty(kind: Kind, mono_ns: u64) -> Event {
    let connection = Connection::default();
    let detail = match kind {
        Kind::Turned => Detail::Turned { after_ns: None },
        Kind::Rearmed => Detail::Rearmed { timeout_ms: None },
        Kind::Died => Detail::Died { cause: Cause::Unknown(0), life_ns: None, taker: None },
        Kind::Refused => Detail::Refused { reason: Refusal::Unknown(0), used: None, limit: None, connection },
        Kind::NoPort => Detail::NoPort { took_ns: None, holder: None },
        Kind::ReuseDenied => Detail::ReuseDenied { reason: Denial::Unknown(0), count: 0, took_ns: None },
        Kind::NoBind => Detail::NoBind { call: Call::Unknown(0), holder: None },
        Kind::Born | Kind::Unknown(_) => Detail::Born { timeout_ms: None, connection },
    };
    let life = Life { id: None, netns: None, tuple: None, substate: None, role: None, closer: None, preexisting: None };
    Event { mono_ns, life, detail, self_test: false }
}
