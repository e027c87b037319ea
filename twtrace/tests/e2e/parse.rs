//! A JSON line back to the event that it was made from, so that the lab's judge can read what a user reads. Strict: a
//! field too many, one too few, one of another type, or null where docs/events.md promises a value, is an error.

use serde_json::Value;
use twtrace::{
    model::event::Event,
    model::fields::{self, LINES},
    sink::json::VERSION,
};

/// The events among these lines, in the order in which they happened. Lines that are none may only be ticks and losses.
pub fn events(lines: &[Value]) -> Result<Vec<Event>, String> {
    let is_event = |line: &&Value| !matches!(line["type"].as_str(), Some("tick" | "lost"));
    let mut events = lines.iter().filter(is_event).map(event).collect::<Result<Vec<_>, _>>()?;
    events.sort_by_key(|event| event.mono_ns);
    Ok(events)
}

/// One event.
pub fn event(value: &Value) -> Result<Event, String> {
    shape(value)
        .and_then(|()| fields::read(value)?.ok_or_else(|| "no event".to_owned()))
        .map_err(|what| format!("{what}: {value}"))
}

/// What is never null is not, and the version and the time are there.
fn shape(line: &Value) -> Result<(), String> {
    let promised = LINES.iter().find(|promised| line["type"] == promised.kind).ok_or("no such type")?;
    if let Some(field) = promised.fields().find(|field| field.null.is_none() && line[field.name].is_null()) {
        return Err(format!("{} is null", field.name));
    }
    if line["v"] != VERSION || !line["ts"].is_string() {
        return Err("v or ts is wrong".to_owned());
    }
    Ok(())
}
