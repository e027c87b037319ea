//! Somebody sets the wall clock. Lives, ages and timers are CLOCK_MONOTONIC's and do not change; the wall-clock times of the
//! lines follow.

use std::{io, thread, time::Duration};

use rustix::{
    process::Signal,
    time::{ClockId, Timespec, clock_settime},
};
use serde_json::Value;
use twtrace::{
    host::clock::{monotonic_ns, wall_offset_ns},
    lab::{
        stage::{Family, First, await_minisocks},
        want::{End, Is},
    },
    model::event::Cause,
    traffic::lives,
};

use crate::{
    parse,
    scene::{Scene, fresh, judge, knows},
    summary,
    tracer::Tracer,
};

const HOUR: i64 = 3_600_000_000_000;
/// How far a line's wall clock may be off: the two clocks are not read at once, and on emulated machines far from it.
const OFF: i64 = 20_000_000;
/// The tracer reads what there is, and has a tick between.
const REST: Duration = Duration::from_secs(2);
/// How long a FIN_WAIT2 has, seconds.
const FIN_TIMEOUT: u64 = 3;

/// Why the clock cannot be set, if so.
pub fn missing() -> Option<String> {
    (std::process::id() != 1).then(|| "the wall clock is all the machine's: it is set in guests only".to_owned())
}

/// The wall clock as it was, once this is dropped.
struct Restored(i64);

impl Drop for Restored {
    fn drop(&mut self) {
        if let Err(error) = set(self.0) {
            crate::line(&format!("the wall clock could not be set back: {error}"));
        }
    }
}

/// Sets the wall clock so far ahead of CLOCK_MONOTONIC.
fn set(offset_ns: i64) -> io::Result<()> {
    let wall = monotonic_ns() as i64 + offset_ns;
    let wall = Timespec { tv_sec: wall / 1_000_000_000, tv_nsec: wall % 1_000_000_000 };
    Ok(clock_settime(ClockId::Realtime, wall)?)
}

/// An hour ahead, two back, while connections and minisocks live.
pub fn clock_steps() -> Result<(), String> {
    let netns = fresh()?;
    let mut scene = Scene::new(&netns)?;
    let tracer = Tracer::start(&netns, "auto", &[])?;
    let listener = scene.listen()?;
    let (orphan, older) = scene.act(|stage| {
        stage.live(&listener, Family::V4, First::Client)?;
        lives::sysctl("tcp_fin_timeout", &FIN_TIMEOUT.to_string())?;
        let from = stage.source(Family::V4);
        let orphan = stage.fin_wait2(&listener, Some(from))?;
        let last = stage.last()?;
        last.timeout_ms = Is::Anything;
        let least = Duration::from_secs(FIN_TIMEOUT).as_nanos() as u64 - 20_000_000;
        let life_ns = Is::Within(least..=HOUR as u64 / 10);
        last.end = End::Died { cause: Cause::Expired, life_ns, taker: Is::Unknown };
        lives::sysctl("tcp_fin_timeout", "60")?;
        let from = stage.source(Family::V4);
        Ok((orphan, stage.connect(&listener, Some(from))?))
    })?;
    thread::sleep(REST);

    let begun = wall_offset_ns();
    let restored = Restored(begun);
    let mut steps = vec![(0, begun)];
    let mut step = |by: i64| -> Result<(), String> {
        set(wall_offset_ns() + by).map_err(|error| format!("setting the clock: {error}"))?;
        steps.push((monotonic_ns(), wall_offset_ns()));
        Ok(())
    };
    step(HOUR)?;
    scene.act(|stage| {
        // Its age is an hour less than the wall clock says.
        stage.close(older, First::Client)?;
        stage.take_over(&listener)?;
        stage.live(&listener, Family::V4, First::Client).map(drop)
    })?;
    thread::sleep(REST);
    step(-2 * HOUR)?;
    scene.act(|stage| {
        stage.take_over(&listener)?;
        for _ in 0..2 {
            stage.live(&listener, Family::V4, First::Server)?;
        }
        // All but the one that ran out, and the two that were taken over.
        await_minisocks(3)
    })?;
    thread::sleep(REST);
    drop(restored);
    lives::abort(orphan).map_err(|error| error.to_string())?;

    let (made, knows) = (scene.end()?, knows(&tracer.start));
    let said = tracer.stop(Signal::INT)?;
    let events = parse::events(&said.lines)?;
    judge(&made, &events, knows)?;
    let until = made.until_ns - REST.as_nanos() as u64;
    let mut seen = vec![0; steps.len()];
    for line in said.lines.iter().filter(|line| line["mono_ns"].as_u64().is_some_and(|at| at < until)) {
        let at = line["mono_ns"].as_u64().unwrap_or(0);
        let step = steps.iter().rposition(|(since, _)| *since <= at).unwrap_or(0);
        let ahead = ahead(line)?;
        if (ahead - steps[step].1).abs() > OFF {
            return Err(format!("{ahead} ns ahead instead of {}, after step {step}: {line}", steps[step].1));
        }
        seen[step] += usize::from(line["type"] == "born");
    }
    if seen != [2, 2, 2] {
        return Err(format!("{seen:?} births in the three hours, instead of two in each"));
    }
    summary::exact(&said, &events)
}

/// How far a line's wall clock is ahead of its monotonic one.
fn ahead(line: &Value) -> Result<i64, String> {
    let at = line["ts"].as_str().and_then(|ts| ts.parse::<jiff::Timestamp>().ok());
    let wall = at.and_then(|at| i64::try_from(at.as_nanosecond()).ok());
    let mono = line["mono_ns"].as_i64();
    wall.zip(mono).map(|(wall, mono)| wall - mono).ok_or_else(|| format!("no times: {line}"))
}
