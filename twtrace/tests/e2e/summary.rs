//! What the JSON alone says: the summary's counters against the lines, and the kernel's counters against the summary's.

use serde_json::Value;
use twtrace::model::event::{Cause, Denial, Detail, Event, Kind, Refusal, Substate};

use crate::{attempts, tracer::Said};

/// Every counter of the summary against the lines of a run that lost nothing, and was exact; or says that the kernel skipped
/// programs. Those serve the whole machine: where all that was made here was told, what they missed was of other tests. Such runs
/// take from the machine's budget.
pub fn exact(said: &Said, events: &[Event]) -> Result<(), String> {
    let summary = &said.summary;
    let count = |matches: &dyn Fn(&Event) -> bool| events.iter().filter(|event| matches(event)).count();
    let of_kind = |kind: Kind| count(&|event| event.kind() == kind);
    let born = |substate| count(&|event| event.kind() == Kind::Born && event.life.substate == Some(substate));
    equal(summary, "/born_time_wait", born(Substate::TimeWait))?;
    equal(summary, "/born_fin_wait2", born(Substate::FinWait2))?;
    for kind in [Kind::Turned, Kind::Rearmed, Kind::Refused, Kind::NoPort, Kind::ReuseDenied, Kind::NoBind] {
        equal(summary, &format!("/{kind}"), of_kind(kind))?;
    }
    let has_port = |event: &Event| event.life.tuple.is_some_and(|tuple| tuple.port().is_some());
    equal(summary, "/no_port_bound", count(&|event| event.kind() == Kind::NoPort && has_port(event)))?;
    for &cause in Cause::ALL {
        let died = count(&|event| matches!(event.detail, Detail::Died { cause: of, .. } if of == cause));
        equal(summary, &format!("/died/{cause}"), died)?;
    }
    equal(summary, "/died/?", 0)?;
    for &reason in Refusal::ALL {
        let refused = count(&|event| matches!(event.detail, Detail::Refused { reason: of, .. } if of == reason));
        equal(summary, &format!("/refused_by/{reason}"), refused)?;
    }
    for &reason in Denial::ALL {
        let denied = count(&|event| matches!(event.detail, Detail::ReuseDenied { reason: of, .. } if of == reason));
        equal(summary, &format!("/reuse_denied_by/{reason}"), denied)?;
    }
    equal(summary, "/emitted", events.len())?;
    if conserved(summary)? != 0 {
        return Err(format!("records are lost: {summary}"));
    }
    reconciled(summary)?;
    // Where the kernel does not count what it skips, nobody can promise more.
    let trouble = summary["trouble"].as_object();
    let missed_runs_alone = || trouble.is_some_and(|trouble| trouble.keys().eq(["missed_runs"]));
    match summary["exact"].as_bool() {
        Some(true) => Ok(()),
        Some(false) if missed_runs_alone() => {
            attempts::note_others(&summary["missed_runs_by"].to_string());
            Ok(())
        }
        _ => Err(format!("the summary is not exact: {summary}")),
    }
}

/// A counter that is not watched is null, and nothing of the kind may be told.
fn equal(summary: &Value, at: &str, told: usize) -> Result<(), String> {
    let parent = at.rsplit_once('/').map_or("", |(parent, _)| parent);
    let unwatched = |at: &str| summary.pointer(at).is_some_and(Value::is_null);
    let right = if unwatched(at) || unwatched(parent) { told == 0 } else { summary.pointer(at) == Some(&told.into()) };
    if right { Ok(()) } else { Err(format!("{told} lines, but {at} of the summary is otherwise: {summary}")) }
}

/// The kernel's counters agree with the tracer's, and were looked at.
pub fn reconciled(summary: &Value) -> Result<(), String> {
    let rows = summary["reconcile"].as_array().ok_or("summary has no reconcile")?;
    if rows.len() < 4 {
        return Err(format!("only {} counters are reconciled: {summary}", rows.len()));
    }
    match rows.iter().find(|row| row["diff"] != 0) {
        Some(row) => Err(format!("the kernel differs: {row}")),
        None => Ok(()),
    }
}

/// `seen = emitted + filtered + lost`; returns the last.
pub fn conserved(summary: &Value) -> Result<u64, String> {
    let number = |name: &str| summary[name].as_u64().ok_or_else(|| format!("summary has no {name}: {summary}"));
    let (seen, emitted, filtered, lost) = (number("seen")?, number("emitted")?, number("filtered")?, number("lost")?);
    if seen != emitted + filtered + lost {
        return Err(format!("{seen} != {emitted} + {filtered} + {lost}"));
    }
    Ok(lost)
}
