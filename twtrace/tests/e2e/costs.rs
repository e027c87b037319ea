//! What a run says of its own costs, and what it does not pay for.

use serde_json::Value;
use twtrace::lab::stage::First;

use crate::{
    scene::{Scene, fresh},
    tracer::Tracer,
};

type Outcome = Result<(), String>;

fn number(of: &Value, at: &str) -> Result<u64, String> {
    of.pointer(at).and_then(Value::as_u64).ok_or_else(|| format!("no {at} in {of}"))
}

/// `--self-stats`: every tick's numbers add up, and the programs of known traffic have run often enough.
pub fn self_stats() -> Outcome {
    const LIVES: u64 = 40;
    /// Of a client that closes first, before its minisock is born: SYN_SENT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2.
    const TRANSITIONS: u64 = 4;
    let netns = fresh()?;
    let mut scene = Scene::new(&netns)?;
    let mut tracer = Tracer::start(&netns, "auto", &["--self-stats", "--interval", "300ms"])?;
    // The first tick has nothing to compare with.
    tracer.wait_for(|line| line["type"] == "tick" && !line["self"].is_null())?;
    let listener = scene.listen()?;
    scene.live(&listener, First::Client, LIVES as usize)?;
    tracer.wait_for(|line| {
        // Where the other end closes late, some begin as FIN_WAIT2.
        let born = ["born_time_wait", "born_fin_wait2"].iter().filter_map(|name| line[*name].as_u64());
        line["type"] == "tick" && born.sum::<u64>() >= LIVES
    })?;
    let said = tracer.stop(rustix::process::Signal::INT)?;
    // On a machine that stalls two ticks may come within 50 ms, too short a time to be measured: the next covers both.
    let ticks = said.lines.iter().filter(|line| line["type"] == "tick");
    let (unmeasured, ticks): (Vec<&Value>, Vec<&Value>) = ticks.partition(|tick| tick["self"].is_null());
    if unmeasured.len() >= ticks.len() {
        return Err(format!("{} ticks of {} have no self", unmeasured.len(), unmeasured.len() + ticks.len()));
    }
    let mut transitions = 0;
    for pair in ticks.windows(2) {
        let (before, tick) = (pair[0], pair[1]);
        if number(tick, "/self/events")? != number(tick, "/seen")? - number(before, "/seen")? {
            return Err(format!("self.events is not what was seen since {before}: {tick}"));
        }
        let programs = tick["self"]["programs"].as_array().ok_or("no programs")?;
        let mut sum = 0;
        for program in programs {
            let (runs, run_ns) = (number(program, "/runs")?, number(program, "/run_ns")?);
            if runs == 0 || run_ns == 0 {
                return Err(format!("a program that took no time: {tick}"));
            }
            if program["name"] == "conn_tp" {
                transitions += runs;
            }
            sum += run_ns;
        }
        if number(tick, "/self/bpf_ns")? != sum {
            return Err(format!("self.bpf_ns is not the sum of the programs: {tick}"));
        }
        let rss = number(tick, "/self/rss_bytes")?;
        if !(1 << 20..1 << 30).contains(&rss) || number(tick, "/self/cpu_ns")? == 0 {
            return Err(format!("no process has so little, or so much: {tick}"));
        }
        if number(tick, "/self/ring_used_bytes")? > number(tick, "/self/ring_bytes")? {
            return Err(format!("more in the ring than it holds: {tick}"));
        }
    }
    if transitions < LIVES * TRANSITIONS {
        return Err(format!("{transitions} transitions of {LIVES} connections: {ticks:?}"));
    }
    Ok(())
}

/// `--events`: what no event of these kinds needs is not loaded, is said so, and is not counted; the rest is exact.
pub fn unasked() -> Outcome {
    const LIVES: usize = 20;
    const UNASKED: [&str; 6] = ["turn", "rearm", "refusal", "no_port", "reuse_denied", "no_bind"];
    let netns = fresh()?;
    let mut scene = Scene::new(&netns)?;
    let tracer = Tracer::start(&netns, "auto", &["--events", "born,died"])?;
    for capability in UNASKED {
        let told = &tracer.start["capabilities"][capability];
        if !told["backend"].is_null() || !told["reason"].as_str().is_some_and(|reason| reason.contains("--events")) {
            return Err(format!("{capability} is watched, or not said to be unasked: {told}"));
        }
    }
    let programs = tracer.programs()?;
    let prefixes = ["refusal", "no_port", "denied", "rearm", "no_bind"];
    if programs.is_empty() || programs.iter().any(|name| prefixes.iter().any(|prefix| name.starts_with(prefix))) {
        return Err(format!("programs that are loaded: {programs:?}"));
    }
    let listener = scene.listen()?;
    scene.live(&listener, First::Client, LIVES)?;
    scene.end()?;
    let said = tracer.stop(rustix::process::Signal::INT)?;
    let born = said.lines.iter().filter(|line| line["type"] == "born").count();
    let summary = &said.summary;
    let counted = number(summary, "/born_time_wait")? + number(summary, "/born_fin_wait2")?;
    if born != LIVES || counted != LIVES as u64 {
        return Err(format!("{born} births told and {counted} counted of {LIVES}: {summary}"));
    }
    for counter in ["refused", "turned", "rearmed", "no_port", "no_port_bound", "reuse_denied", "no_bind"] {
        if !summary[counter].is_null() {
            return Err(format!("{counter} is counted and not watched: {summary}"));
        }
    }
    if summary["exact"] == true { Ok(()) } else { Err(format!("the summary is not exact: {summary}")) }
}
