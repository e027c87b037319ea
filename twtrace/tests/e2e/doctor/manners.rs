//! How the doctor behaves: without root, into a closed pipe, and asked for nonsense.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
};

use serde_json::Value;

use super::{First, Outcome, SERVICE, close, machine, new, run, until};
use crate::{inside::Resident, tracer::spawn};

/// Nobody, in the namespace of the test: it says what it could not see, and is right about the rest.
pub fn doctor_unprivileged() -> Outcome {
    let netns = new()?;
    close(&netns, SERVICE, 20, First::Client)?;
    let child = spawn(&netns, &["doctor", "--format", "json"], |command| {
        command.uid(65_534).gid(65_534);
    })?;
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let said: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let cost = said["findings"].as_array().into_iter().flatten().find(|it| it["id"] == "cost.harmless");
    let count = cost.and_then(|it| it["evidence"][0]["value"].as_u64());
    if count != Some(20) || said["namespaces"] != serde_json::json!([netns.inum()]) {
        return Err(format!("{count:?} TIME_WAITs: {said:#}"));
    }
    let missed = said["missed"].as_array().into_iter().flatten();
    let told: Vec<&str> = missed.filter_map(|it| it["remedy"].as_str()).collect();
    if told.iter().any(|remedy| remedy.contains("root")) { Ok(()) } else { Err(format!("it missed nothing: {said:#}")) }
}

/// Every namespace is looked into, the caller's first; of the others only what asks for something is told.
pub fn doctor_everywhere() -> Outcome {
    let (own, other) = (new()?, new()?);
    let _resident = Resident::of(&other)?;
    super::set(&other, "tcp_max_tw_buckets", "20")?;
    close(&other, SERVICE, 20, First::Client)?;
    let output = run(&own, &["doctor", "--format", "json"])?;
    let said: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let of_other: Vec<&Value> =
        said["findings"].as_array().into_iter().flatten().filter(|it| it["netns"] == other.inum()).collect();
    let ids: Vec<&str> = of_other.iter().filter_map(|it| it["id"].as_str()).collect();
    // Of settings, namespaces with the same value are one finding: it may be about another test's.
    let is_expected = |id: &&str| ["cost.buckets", "folklore.max-tw-buckets"].contains(id);
    if said["namespaces"][0] != own.inum() || !ids.contains(&"cost.buckets") || !ids.iter().all(is_expected) {
        return Err(format!("{ids:?} in the other: {said:#}"));
    }
    let text = run(&own, &["doctor"])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let place = format!("[namespace {}, process ", other.inum());
    if text.contains(&place) { Ok(()) } else { Err(format!("the text does not name it: {text}")) }
}

/// Again and again, until nobody reads any more.
pub fn doctor_watch() -> Outcome {
    let netns = new()?;
    let _machine = machine();
    let mut child = spawn(&netns, &["doctor", "--format", "json", "--netns", "self", "--watch", "1s"], |_| {})?;
    let out = child.stdout.take().ok_or("no standard output")?;
    let mut lines = BufReader::new(out).lines();
    let mut look = || -> Result<Value, String> {
        let line = lines.next().ok_or("no line")?.map_err(|error| error.to_string())?;
        serde_json::from_str(&line).map_err(|error| format!("{error}: {line}"))
    };
    let (first, second) = (look()?, look()?);
    let window = second["window_s"].as_f64();
    if first["verdict"]["severity"] != "fine" || window.is_none_or(|window| window < 1.0) {
        return Err(format!("{first:#}\n{second:#}"));
    }
    drop(lines);
    let mut code = None;
    until("end", || {
        let status = child.try_wait().map_err(|error| error.to_string())?;
        code = status.and_then(|status| status.code());
        Ok(status.is_some())
    })?;
    if code == Some(0) { Ok(()) } else { Err(format!("it ended with {code:?}")) }
}

/// A story, with what holds here; and what there is none of.
pub fn doctor_explains() -> Outcome {
    let netns = new()?;
    super::set(&netns, "tcp_abort_on_overflow", "1")?;
    let said = |args: &[&str]| -> Result<(Option<i32>, String), String> {
        let output = run(&netns, &[&["doctor"], args].concat())?;
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        Ok((output.status.code(), text))
    };
    for (args, code, part) in [
        (
            &["--netns", "self", "--explain", "listen.abort-on-overflow"][..],
            0,
            "Here and now:\nNOTE: tcp_abort_on_overflow is 1",
        ),
        (&["--netns", "self", "--explain", "ports.exhausted"], 0, "Here and now:\n  this finding does not hold"),
        (&["--explain", "no.such"], 64, "unknown finding 'no.such'; write one of cost.overflow"),
        (&["--netns", "4242"], 64, "no process and no name under /run/netns holds it"),
        (&["--with-trace", "/nonexistent"], 64, "No such file"),
        (&["--with-trace", "/proc/self/status"], 64, "no line of it is a birth"),
        (&["--watch", "1ms"], 64, "'1ms' is out of range (expected 1s to 1h)"),
    ] {
        let (seen, text) = said(args)?;
        if seen != Some(code) || !text.contains(part) {
            return Err(format!("{args:?} ended with {seen:?} and {text:?}"));
        }
    }
    Ok(())
}
