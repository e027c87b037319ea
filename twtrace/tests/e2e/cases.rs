//! The cases that run once a backend: real sockets, the real tracer, the kernel's own counters.

use std::{
    io,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use twtrace::{host::netns::Netns, lab::lives::sysctl};

use crate::{
    judge::{self, Run},
    lives::{self, Family, Want},
    tracer::{PATIENCE, Tracer, traffic},
};

/// Name of the thread in which [`Netns::run`] makes the traffic: the closer's comm.
const COMM: &str = "twtrace-netns";

/// How much traffic this machine can be asked for.
#[derive(Clone, Copy)]
pub struct Scale {
    /// Connections of the storm.
    pub storm: usize,
}

type Outcome = Result<(), String>;

/// A namespace in which stray RSTs do not end a TIME_WAIT (RFC 1337): on a slow machine a FIN is sent again, finds its
/// socket closed, and is answered by one.
pub fn fresh() -> Result<Netns, String> {
    let netns = Netns::new().map_err(|error| format!("a network namespace: {error}"))?;
    traffic(&netns, || sysctl("tcp_rfc1337", "1"))?;
    Ok(netns)
}

/// One of every life that plain sockets can make, in every family, with every cause.
pub fn every_life(backend: &str) -> Outcome {
    let netns = fresh()?;
    let tracer = Tracer::start(&netns, backend, &[])?;
    if tracer.start["self_test"] != "passed" {
        return Err(format!("self-test: {}", tracer.start));
    }
    let refusals = 7;
    let (wants, refused) = traffic(&netns, || every_life_traffic(refusals))?;
    let said = tracer.stop(Signal::INT)?;
    let run = Run { backend, closer_comm: COMM, refused: refusals };
    let checks = judge::lives(&said, &wants, run)?;
    judge::summary(&said, &wants, run)?;
    let told: Vec<&Value> = said.lines.iter().filter(|line| line["type"] == "refused").collect();
    if told.len() != refused.len() || checks < wants.len() {
        return Err(format!("{} refusals told, {} made; {checks} checks", told.len(), refused.len()));
    }
    for (line, tuple) in told.iter().zip(&refused) {
        let same = line["lport"] == tuple.lport && line["rport"] == tuple.rport;
        if !same || line["reason"] != "buckets" || line["used"] != line["limit"] || line["pid"] != std::process::id() {
            return Err(format!("a refusal of {tuple:?} is told as {line}"));
        }
    }
    Ok(())
}

fn every_life_traffic(refusals: usize) -> io::Result<(Vec<Want>, Vec<twtrace::model::event::Tuple>)> {
    let mut wants = Vec::new();
    let listener = lives::listen(Family::V4)?;
    let (expiring, peer) = lives::orphan_expires(&listener, Family::V4)?;
    wants.extend(expiring);
    // It is gone after a second and the wheel's slack; nothing else may change the count meanwhile.
    lives::await_minisocks(0)?;
    drop(peer);
    for family in Family::ALL {
        let listener = lives::listen(family)?;
        wants.extend(lives::recycled(&listener, family)?);
        wants.extend(lives::reused_bound(&listener)?);
        wants.extend(lives::reset(family)?);
        wants.extend(lives::data_reset(&listener, family)?);
        wants.extend(lives::killed(&listener, family)?);
        wants.extend(lives::turned(&listener, family, None)?);
        wants.extend(lives::client_closes(&listener, family, 20)?);
        wants.extend(lives::server_closes(&listener, family, 20)?);
    }
    wants.extend(lives::reused(&listener)?);
    let refused = lives::refused(&listener, Family::V4, refusals)?;
    Ok((wants, refused))
}

/// Thousands of connections as fast as they go: no difference, nothing lost.
pub fn storm(backend: &str, scale: Scale) -> Outcome {
    let netns = fresh()?;
    let tracer = Tracer::start(&netns, backend, &["--ring-size", "16M"])?;
    let wants = traffic(&netns, || {
        let mut wants = Vec::new();
        for family in Family::ALL {
            let listener = lives::listen(family)?;
            wants.extend(lives::client_closes(&listener, family, scale.storm / 6)?);
            wants.extend(lives::server_closes(&listener, family, scale.storm / 6)?);
        }
        Ok(wants)
    })?;
    let said = tracer.stop(Signal::TERM)?;
    let run = Run { backend, closer_comm: COMM, refused: 0 };
    let checks = judge::lives(&said, &wants, run)?;
    if checks < scale.storm {
        return Err(format!("only {checks} checks for {} connections", scale.storm));
    }
    judge::summary(&said, &wants, run)
}

/// A ring of one page and a reader that is stopped meanwhile: the counters stay exact, what was lost is counted.
pub fn small_ring(backend: &str) -> Outcome {
    let netns = fresh()?;
    let tracer = Tracer::start(&netns, backend, &["--ring-size", "4096"])?;
    let count = 500;
    tracer.signal(Signal::STOP)?;
    let made = traffic(&netns, || lives::client_closes(&lives::listen(Family::V4)?, Family::V4, count));
    tracer.signal(Signal::CONT)?;
    made?;
    let said = tracer.stop(Signal::INT)?;
    judge::reconciled(&said.summary)?;
    let lost = judge::conserved(&said.summary)?;
    let born = said.summary["born_time_wait"].as_u64().zip(said.summary["born_fin_wait2"].as_u64());
    if born.map(|(a, b)| a + b) != Some(count as u64) {
        return Err(format!("{count} births were made: {}", said.summary));
    }
    let told = said.lines.iter().filter(|line| line["type"] == "born").count() as u64;
    let births_lost = count as u64 - told;
    if lost == 0 || births_lost > lost || said.summary["exact"] != false {
        return Err(format!("{births_lost} births are missing, {lost} records counted as lost: {}", said.summary));
    }
    Ok(())
}

/// A filter on the local port: only the server's side of one of two services, all else counted as filtered.
pub fn filters(backend: &str) -> Outcome {
    let netns = fresh()?;
    let (wanted, other) = traffic(&netns, || Ok((lives::listen(Family::V4)?, lives::listen(Family::V4)?)))?;
    let port = wanted.local_addr().map_err(|error| error.to_string())?.port().to_string();
    let tracer =
        Tracer::start(&netns, backend, &["--lport", &port, "--role", "server", "--laddr", "127.0.0.0/8", "-4"])?;
    let (wants, left_out) = traffic(&netns, || {
        let wants = lives::server_closes(&wanted, Family::V4, 30)?;
        let mut left_out = lives::client_closes(&wanted, Family::V4, 20)?;
        left_out.extend(lives::server_closes(&other, Family::V4, 10)?);
        Ok((wants, left_out))
    })?;
    let said = tracer.stop(Signal::INT)?;
    let run = Run { backend, closer_comm: COMM, refused: 0 };
    judge::lives(&said, &wants, run)?;
    judge::summary(&said, &wants, run)?;
    let filtered = said.summary["filtered"].as_u64().unwrap_or(0);
    if filtered < left_out.len() as u64 {
        return Err(format!("{filtered} filtered, at least {} should be: {}", left_out.len(), said.summary));
    }
    Ok(())
}

/// Two tracers at once both work; `kill -9` of one leaves nothing of it in the kernel, and the other goes on.
pub fn two_and_kill(backend: &str) -> Outcome {
    let netns = fresh()?;
    let first = Tracer::start(&netns, backend, &[])?;
    let second = Tracer::start(&netns, backend, &[])?;
    let programs = programs_of(first.pid())?;
    if programs.is_empty() {
        return Err("the tracer holds no BPF program".to_owned());
    }
    let listener = traffic(&netns, || lives::listen(Family::V4))?;
    let mut wants = traffic(&netns, || lives::client_closes(&listener, Family::V4, 25))?;
    first.kill()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<u32> = aya::programs::loaded_programs()
            .filter_map(Result::ok)
            .map(|program| program.id())
            .filter(|id| programs.contains(id))
            .collect();
        if left.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            return Err(format!("programs {left:?} outlived their tracer"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    wants.extend(traffic(&netns, || lives::client_closes(&listener, Family::V4, 25))?);
    let said = second.stop(Signal::INT)?;
    let run = Run { backend, closer_comm: COMM, refused: 0 };
    judge::lives(&said, &wants, run)?;
    judge::summary(&said, &wants, run)
}

/// Ids of the BPF programs whose descriptors a process holds, links' included.
fn programs_of(pid: u32) -> Result<Vec<u32>, String> {
    let directory = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).map_err(|error| error.to_string())?;
    let mut ids: Vec<u32> = directory
        .filter_map(Result::ok)
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .filter_map(|text| text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok()))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
