//! What was made held against what was said: every life, field by field, and every counter.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive};

use serde_json::Value;
use twtrace::model::event::Tuple;

use crate::{lives::Want, tracer::Said};

/// Seconds that a life which its timer ends may last: 60 s or the FIN_WAIT2 timeout, and the wheel's slack
/// (kernel-facts: up to 4.1 s at HZ 1000, 2.05 s at 250). Emulated machines run their softirqs late.
pub const REAL: RangeInclusive<f64> = 60.0..=75.0;

/// One minisock as the tracer told it.
#[derive(Debug, Default)]
struct Told {
    born: Option<Value>,
    turned: usize,
    died: Option<Value>,
}

type Key = (IpAddr, u16, IpAddr, u16);

fn key_of(tuple: &Tuple) -> Key {
    (tuple.laddr, tuple.lport, tuple.raddr, tuple.rport)
}

fn key(line: &Value) -> Result<Key, String> {
    let wrong = || format!("a line without a tuple: {line}");
    let address = |name: &str| line[name].as_str().and_then(|text| text.parse().ok()).ok_or_else(wrong);
    let port = |name: &str| line[name].as_u64().and_then(|port| u16::try_from(port).ok()).ok_or_else(wrong);
    Ok((address("laddr")?, port("lport")?, address("raddr")?, port("rport")?))
}

/// What the run was, beyond its lives.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    pub backend: &'a str,
    pub closer_comm: &'a str,
    pub refused: usize,
}

/// Holds every life that was wanted against every one that was told. Returns how many checks were made.
pub fn lives(said: &Said, wants: &[Want], run: Run<'_>) -> Result<usize, String> {
    let mut told: BTreeMap<Key, Vec<Told>> = BTreeMap::new();
    let mut by_id: BTreeMap<u64, (Key, usize)> = BTreeMap::new();
    for line in &said.lines {
        let kind = line["type"].as_str().unwrap_or_default();
        if !matches!(kind, "born" | "turned" | "rearmed" | "died") {
            continue;
        }
        let key = key(line)?;
        let id = line["id"].as_u64().ok_or_else(|| format!("no id: {line}"))?;
        if kind == "born" {
            let lives = told.entry(key).or_default();
            if by_id.insert(id, (key, lives.len())).is_some() {
                return Err(format!("id {id} is born twice"));
            }
            lives.push(Told { born: Some(line.clone()), ..Told::default() });
            continue;
        }
        let Some((home, index)) = by_id.get(&id) else { return Err(format!("{kind} before its birth: {line}")) };
        if *home != key {
            return Err(format!("id {id} has changed its tuple: {line}"));
        }
        let life = &mut told.get_mut(home).ok_or("lost")?[*index];
        match kind {
            "turned" => life.turned += 1,
            "died" if life.died.is_some() => return Err(format!("died twice: {line}")),
            "died" => life.died = Some(line.clone()),
            _ => {}
        }
    }
    let mut checks = 0;
    let mut next: BTreeMap<Key, usize> = BTreeMap::new();
    for want in wants {
        let key = key_of(&want.tuple);
        let index = next.entry(key).or_default();
        let life = told.get(&key).and_then(|lives| lives.get(*index)).ok_or_else(|| format!("never told: {want:?}"))?;
        *index += 1;
        checks += one(want, life, run).map_err(|what| format!("{what}\n  wanted {want:?}\n  told {life:?}"))?;
    }
    for (key, lives) in &told {
        let wanted = next.get(key).copied().unwrap_or(0);
        if lives.len() != wanted {
            return Err(format!("{} lives of {key:?} were told, {wanted} made: {:?}", lives.len(), lives.last()));
        }
    }
    Ok(checks)
}

fn one(want: &Want, told: &Told, run: Run<'_>) -> Result<usize, String> {
    let born = told.born.as_ref().ok_or("no birth")?;
    let mut checks = 0;
    let mut equal = |what: &str, is: &Value, should: Value| {
        checks += 1;
        if *is == should { Ok(()) } else { Err(format!("{what} is {is}, not {should}")) }
    };
    if let Some(substate) = want.born {
        equal("the substate at birth", &born["substate"], substate.into())?;
    }
    equal("role", &born["role"], want.role.into())?;
    equal("family", &born["family"], want_family(want).into())?;
    equal("the closer's pid", &born["pid"], std::process::id().into())?;
    equal("the closer's comm", &born["comm"], run.closer_comm.into())?;
    if want.role == "client" {
        equal("the opener's pid", &born["opener_pid"], std::process::id().into())?;
    } else {
        equal("the opener", &born["opener_pid"], Value::Null)?;
    }
    equal("bytes_in", &born["bytes_in"], want.bytes.0.into())?;
    equal("bytes_out", &born["bytes_out"], want.bytes.1.into())?;
    equal("timestamps", &born["timestamps"], true.into())?;
    if born["conn_ns"].as_u64().is_none_or(|age| age == 0) || !born["cgroup_id"].is_u64() || !born["srtt_us"].is_u64() {
        return Err("conn_ns, cgroup_id or srtt_us is missing".to_owned());
    }
    let turns = usize::from(want.turned && born["substate"] == "fin_wait2");
    // The timer tracepoints tell most turns when the minisock ends, so not those of minisocks that live on.
    let late = run.backend == "tracepoint" && told.died.is_none();
    if told.turned != turns && !(late && told.turned == 0) {
        return Err(format!("{} turns instead of {turns}", told.turned));
    }
    match (&want.end, &told.died) {
        (None, None) => {}
        (Some(cause), Some(died)) => {
            equal("the cause", &died["cause"], (*cause).into())?;
            equal("preexisting", &died["preexisting"], false.into())?;
            let life = died["life_ns"].as_u64().ok_or("no life_ns")? as f64 / 1e9;
            let range = match *cause {
                "expired" if want.turned => REAL,
                // tcp_fin_timeout was 1 s.
                "expired" => 1.0..=20.0,
                _ => 0.0..=60.0,
            };
            if !range.contains(&life) {
                return Err(format!("it lived {life} s, not {range:?}"));
            }
            if matches!(*cause, "reused" | "reused_bound") {
                equal("the taker's pid", &died["taker_pid"], std::process::id().into())?;
            } else {
                equal("the taker", &died["taker_pid"], Value::Null)?;
            }
        }
        (None, Some(died)) => return Err(format!("it should live, and died: {}", died["cause"])),
        (Some(cause), None) => return Err(format!("it should have died: {cause}")),
    }
    Ok(checks)
}

fn want_family(want: &Want) -> u8 {
    want.tuple.family()
}

/// Every counter of the summary against the lives, and the kernel's counters against both.
pub fn summary(said: &Said, wants: &[Want], run: Run<'_>) -> Result<(), String> {
    let summary = &said.summary;
    let number = |name: &str| summary[name].as_u64().ok_or_else(|| format!("summary has no {name}: {summary}"));
    let equal = |what: &str, is: u64, should: usize| {
        if is == should as u64 { Ok(()) } else { Err(format!("summary: {what} is {is}, not {should}: {summary}")) }
    };
    equal("born", number("born_time_wait")? + number("born_fin_wait2")?, wants.len())?;
    let mut causes: BTreeMap<&str, usize> = BTreeMap::new();
    for cause in wants.iter().filter_map(|want| want.end) {
        *causes.entry(cause).or_default() += 1;
    }
    let died = summary["died"].as_object().ok_or("summary has no died")?;
    for (cause, count) in died {
        equal(cause, count.as_u64().unwrap_or(u64::MAX), causes.remove(cause.as_str()).unwrap_or(0))?;
    }
    if let Some(cause) = causes.keys().next() {
        return Err(format!("summary counts no {cause}: {summary}"));
    }
    equal("refused", number("refused")?, run.refused)?;
    equal("lost", number("lost")?, 0)?;
    if number("seen")? != number("emitted")? + number("filtered")? + number("lost")? {
        return Err(format!("seen is not emitted + filtered + lost: {summary}"));
    }
    reconciled(summary)?;
    if summary["exact"] != true {
        return Err(format!("the summary is not exact: {summary}"));
    }
    Ok(())
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

/// `seen = emitted + filtered + lost` after a run that lost.
pub fn conserved(summary: &Value) -> Result<u64, String> {
    let number = |name: &str| summary[name].as_u64().ok_or_else(|| format!("summary has no {name}: {summary}"));
    let (seen, emitted, filtered, lost) = (number("seen")?, number("emitted")?, number("filtered")?, number("lost")?);
    if seen != emitted + filtered + lost {
        return Err(format!("{seen} != {emitted} + {filtered} + {lost}"));
    }
    Ok(lost)
}
