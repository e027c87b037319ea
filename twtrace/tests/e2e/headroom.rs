//! What is foretold of a destination's ports, and what comes of them.

use std::{
    io::ErrorKind,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use twtrace::{
    host::clock::monotonic_ns,
    traffic::lives::{self, close_in_order, sysctl},
};

use crate::{
    attempts::note_within,
    scene::fresh,
    tracer::{Tracer, traffic},
};

/// Ports that there are.
const PORTS: u64 = 200;
/// From here on the forecast is held against what happens.
const USED: u64 = 150;
/// Between two connections: the ports are gone after twenty seconds, long before the first TIME_WAIT ends.
const GAP: Duration = Duration::from_millis(100);
const INTERVAL_NS: u64 = 1_000_000_000;
/// A connection that is later than this was not made at the rate that the forecast is about.
const LATE: Duration = Duration::from_millis(400);

/// At 150 of 200 ports, the foretold end and the first EADDRNOTAVAIL are no further apart than an interval.
pub fn headroom(backend: &str) -> Result<(), String> {
    for _ in 0..3 {
        if attempt(backend)? {
            return Ok(());
        }
        note_within("headroom: the machine stood still, and the rate with it");
    }
    Err("three times the machine stood still".to_owned())
}

/// False if the connections could not be made as steadily as they should.
fn attempt(backend: &str) -> Result<bool, String> {
    let netns = fresh()?;
    // Before the tracer looks: on a slow machine it rests long after a look, and would go by the limits of the first.
    traffic(&netns, || {
        sysctl("tcp_tw_reuse", "0")?;
        sysctl("ip_local_port_range", "20000 20199")
    })?;
    let tracer = Tracer::start(&netns, backend, &["--by", "dest", "--interval", "1s"])?;
    let (failed_at, steady, port) = traffic(&netns, || {
        let listener = lives::listen(([127, 0, 0, 1], 8000).into())?;
        let (mut due, mut steady) = (Instant::now(), true);
        let failed_at = loop {
            due += GAP;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            steady &= due.elapsed() < LATE;
            match lives::connect(&listener, None) {
                Ok(pair) => close_in_order(pair.client, pair.server)?,
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => break monotonic_ns(),
                Err(error) => return Err(error),
            }
        };
        // The tick after it shows what failed.
        thread::sleep(Duration::from_millis(2500));
        Ok((failed_at, steady, listener.local_addr()?.port()))
    })?;
    let said = tracer.stop(Signal::INT)?;
    let rows: Vec<(u64, Value)> = said
        .lines
        .iter()
        .filter(|line| line["type"] == "tick")
        .filter_map(|tick| {
            let rows = tick["by"]["destinations"]["rows"].as_array()?;
            Some((tick["mono_ns"].as_u64()?, rows.iter().find(|row| row["rport"] == port)?.clone()))
        })
        .collect();
    if !steady {
        return Ok(false);
    }
    let said = || format!("{rows:#?}");
    let number = |row: &Value, name: &str| row[name].as_u64().ok_or_else(|| format!("no {name}: {row}"));
    let (at, row) = rows
        .iter()
        .find(|(_, row)| row["in_use"].as_u64().is_some_and(|used| used >= USED))
        .ok_or_else(|| format!("never {USED} in use: {}", said()))?;
    let (used, free) = (number(row, "in_use")?, number(row, "headroom")?);
    if number(row, "available")? != PORTS || used + free != PORTS {
        return Err(format!("{used} + {free} is not {PORTS}: {row}"));
    }
    let seconds = row["exhausted_in_s"].as_f64().ok_or_else(|| format!("no forecast: {row}"))?;
    let foretold = at + (seconds * 1e9) as u64;
    if foretold.abs_diff(failed_at) > INTERVAL_NS {
        let apart = foretold.abs_diff(failed_at) as f64 / 1e9;
        return Err(format!("the forecast is {apart:.2} s off, at {used} used: {}", said()));
    }
    let (_, last) = rows.last().ok_or("no tick")?;
    if number(last, "no_port")? != 1 || last["headroom"] != 0 || last["exhausted_in_s"] != 0.0 {
        return Err(format!("one connect() found no port, and none is left: {last}"));
    }
    Ok(true)
}
