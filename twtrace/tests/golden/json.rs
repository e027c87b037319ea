//! JSON lines, and the tables that describe them.

use std::fmt;

use insta::assert_snapshot;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use twtrace::model::{
    aggregate::Aggregates,
    buckets::Buckets,
    happening::{Loss, Lost, Tick},
    report::Totals,
};
use twtrace::sink::{
    JsonSink, Lines as _, Observer as _,
    by::{Group, Reporter},
    fields::{self, Field, LINES, Shape},
    json,
};

use crate::{fixture, stream};

/// An object as it is written: keys in order.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

fn shown(print: impl FnOnce(&mut JsonSink)) -> String {
    let mut sink = JsonSink::new(fixture::CLOCK);
    print(&mut sink);
    let pending = sink.pending();
    let batch = sink.take(&Aggregates::default());
    assert_eq!((batch.bytes().len(), sink.pending(), sink.notes()), (pending, 0, String::new()));
    let text = String::from_utf8_lossy(batch.bytes()).into_owned();
    assert_eq!(batch.lines(), text.lines().count() as u64);
    text
}

fn reports() -> String {
    shown(|sink| {
        sink.start(1, &fixture::start());
        sink.start(2, &fixture::blind_start());
        for place in Loss::ALL {
            let observer = matches!(place, Loss::Output | Loss::Closed).then(|| "json:events.jsonl".to_owned());
            sink.lost(3, &Lost { place, observer, count: 12 });
        }
        let (first, later) = (fixture::uncompared(), fixture::exact());
        let buckets = Buckets { netns: 7, name: None, used: 12, limit: 4096, namespaces: 2 };
        let tick = |totals: &Totals, born_per_s: Option<f64>, died_per_s| Tick {
            totals: totals.clone(),
            born_per_s,
            died_per_s,
            buckets: born_per_s.map(|_| buckets.clone()),
            own: Some(fixture::own()),
            report: true,
            ..Tick::default()
        };
        let none = Aggregates::default();
        sink.tick(4, &tick(&first.totals, None, Some(f64::NAN)), &none);
        sink.tick(5, &tick(&later.totals, Some(0.0), Some(1234.56789)), &none);
        for summary in [fixture::exact(), fixture::inexact(), fixture::uncompared()] {
            sink.summary(6_000_000_000, &summary);
        }
    })
}

/// Ticks with tables: those of a recorded run, and those before it.
fn tables() -> String {
    let by = |groups: &[Group]| Reporter { groups: groups.to_vec(), top: 2 };
    let mut text = String::new();
    for (groups, seconds) in [(&Group::ALL[..], 3), (&[Group::Port], 1), (&[Group::Owner], 1)] {
        let mut sink = JsonSink::with_tables(fixture::CLOCK, by(groups));
        let mut all = Aggregates::default();
        stream::play(&mut all, &mut sink, seconds);
        let lines = String::from_utf8_lossy(sink.take(&all).bytes()).into_owned();
        text.extend(lines.lines().filter(|line| line.contains("\"tick\"")).map(|line| format!("{line}\n")));
    }
    text
}

#[test]
fn every_table() {
    assert_snapshot!(tables());
}

fn events() -> Vec<(&'static str, String)> {
    let print = |events: &[_]| shown(|sink| events.iter().for_each(|event| sink.event(event)));
    fixture::all_events().iter().map(|(name, events)| (*name, print(events))).collect()
}

#[test]
fn every_event() {
    for (name, lines) in events() {
        assert_snapshot!(name, lines);
    }
}

#[test]
fn every_report() {
    assert_snapshot!(reports());
}

/// Every line that the fixtures can make has the fields of its table: all of them, no others, in that order, each of its
/// shape, and null only where the table says what that means.
#[test]
fn lines_are_as_their_tables_say() {
    let all: Vec<_> = events().into_iter().map(|(_, lines)| lines).chain([reports(), tables()]).collect();
    let mut kinds = Vec::new();
    let (mut null, mut not_null) = (Vec::new(), Vec::new());
    for text in all.iter().flat_map(|lines| lines.lines()) {
        let Ok(Object(line)) = serde_json::from_str(text) else { unreachable!("no object: {text}") };
        let Some(table) = LINES.iter().find(|table| line[1].1 == table.kind) else { unreachable!("no table: {text}") };
        kinds.push(table.kind);
        let names: Vec<_> = line.iter().map(|(name, _)| name.as_str()).collect();
        let wanted: Vec<_> = table.fields().map(|field| field.name).collect();
        assert_eq!(names, wanted, "{text}");
        for (field, (_, value)) in table.fields().zip(&line) {
            check(field, value, text);
            if value.is_null() { &mut null } else { &mut not_null }.push((table.kind, field.name));
        }
    }
    // And the fixtures leave nothing out: every line, every field, every null that a table promises.
    for line in LINES {
        assert!(kinds.contains(&line.kind), "no fixture makes a {}", line.kind);
        for field in line.fields() {
            let this = (line.kind, field.name);
            assert!(field.null.is_none() || null.contains(&this), "{this:?} is never null");
            // It has no other end.
            let is_none = field.null == Some("always") || matches!(this, ("no_bind", "raddr" | "rport"));
            assert!(is_none || not_null.contains(&this), "{this:?} is always null");
        }
    }
}

/// What is read out of a line writes that line again.
#[test]
fn an_event_can_be_read_back() {
    for text in events().iter().flat_map(|(_, lines)| lines.lines()) {
        let line: Value = serde_json::from_str(text).unwrap();
        let event = fields::read(&line).unwrap().unwrap();
        assert_eq!(shown(|sink| sink.event(&event)).trim_end(), text);
    }
    for text in reports().lines().chain(tables().lines()) {
        assert_eq!(fields::read(&serde_json::from_str(text).unwrap()), Ok(None), "{text}");
    }
}

/// A line with a field of another type, without one, or with one too many is none.
#[test]
fn what_is_no_event_is_not_read() {
    for text in events().iter().flat_map(|(_, lines)| lines.lines()) {
        let line: Value = serde_json::from_str(text).unwrap();
        let table = LINES.iter().find(|table| line["type"] == table.kind).unwrap();
        for field in table.fields().filter(|field| field.of.event().is_some()) {
            let mut without = line.clone();
            without.as_object_mut().unwrap().remove(field.name);
            assert!(fields::read(&without).is_err(), "{} is not missed: {text}", field.name);
            for odd in [serde_json::json!([]), serde_json::json!(-1), serde_json::json!("no such word, and too long")] {
                let mut changed = line.clone();
                changed[field.name] = odd;
                assert!(fields::read(&changed).is_err(), "{changed}");
            }
        }
        let mut more = line.clone();
        more["more"] = Value::Null;
        assert!(fields::read(&more).is_err(), "{more}");
        // Half of a task is none.
        if line["pid"].is_u64() {
            let mut half = line.clone();
            half["comm"] = Value::Null;
            assert!(fields::read(&half).is_err(), "{half}");
        }
    }
}

fn check(field: &Field, value: &Value, line: &str) {
    let fits = match (field.shape, value) {
        (_, Value::Null) => field.null.is_some(),
        (Shape::Integer, Value::Number(number)) => number.is_u64() || number.is_i64(),
        (Shape::Number, Value::Number(_)) | (Shape::Text, Value::String(_)) | (Shape::Bool, Value::Bool(_)) => true,
        (Shape::Counts, Value::Object(counts)) => counts.values().all(Value::is_u64),
        (Shape::Object(fields), inner @ Value::Object(_)) => has(fields, inner, line),
        (Shape::MapOf(fields), Value::Object(map)) => map.values().all(|inner| has(fields, inner, line)),
        (Shape::ListOf(fields), Value::Array(list)) => list.iter().all(|inner| has(fields, inner, line)),
        _ => false,
    };
    assert!(fits, "{} of {line}", field.name);
}

fn has(fields: &[Field], value: &Value, line: &str) -> bool {
    fields.iter().for_each(|field| check(field, value.get(field.name).unwrap_or(&Value::Bool(true)), line));
    value.as_object().is_some_and(|object| object.len() == fields.len())
}

#[test]
fn types_have_tables_and_tables_types() {
    assert_eq!(json::types(), LINES.iter().map(|line| line.kind).collect::<Vec<_>>());
}

#[test]
fn words_are_those_of_the_tables() {
    use twtrace::model::event::{Call, Cause, Denial, Kind, Refusal, Role, Substate};
    use twtrace::model::holder::HeldBy;
    let unit = |kind: &str, name: &str| {
        let line = LINES.iter().find(|line| line.kind == kind);
        let mut words: Vec<_> = line
            .and_then(|line| line.fields().find(|field| field.name == name))
            .map(|field| field.unit.split(' ').collect())
            .unwrap_or_default();
        words.sort_unstable();
        words
    };
    fn sorted<T: Copy>(all: &[T], word: fn(T) -> &'static str) -> Vec<&'static str> {
        let mut words: Vec<_> = all.iter().map(|&value| word(value)).collect();
        words.sort_unstable();
        words
    }
    assert_eq!(unit("died", "cause"), sorted(Cause::ALL, Cause::word));
    assert_eq!(unit("summary", "died"), sorted(Cause::ALL, Cause::word));
    assert_eq!(unit("refused", "reason"), sorted(Refusal::ALL, Refusal::word));
    assert_eq!(unit("summary", "refused_by"), sorted(Refusal::ALL, Refusal::word));
    assert_eq!(unit("reuse_denied", "reason"), sorted(Denial::ALL, Denial::word));
    assert_eq!(unit("tick", "reuse_denied_by"), sorted(Denial::ALL, Denial::word));
    assert_eq!(unit("no_port", "held_by"), sorted(HeldBy::ALL, HeldBy::word));
    assert_eq!(unit("no_bind", "held_by"), sorted(HeldBy::ALL, HeldBy::word));
    assert_eq!(unit("no_bind", "call"), sorted(Call::ALL, Call::word));
    assert_eq!(unit("no_port", "role"), sorted(Role::ALL, Role::word));
    assert_eq!(unit("born", "role"), sorted(Role::ALL, Role::word));
    assert_eq!(unit("born", "substate"), sorted(Substate::ALL, Substate::word));
    assert_eq!(unit("lost", "where"), sorted(&Loss::ALL, Loss::word));
    assert!(Kind::ALL.iter().all(|kind| LINES.iter().any(|line| line.kind == kind.word() && line.socket)));
}
