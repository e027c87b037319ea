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

/// Real TIME_WAITs live for 60 s and the wheel's slack, never less.
pub fn expiry(backend: &str) -> Outcome {
    let netns = fresh()?;
    let tracer = Tracer::start(&netns, backend, &[])?;
    let wants = traffic(&netns, || {
        let mut wants = Vec::new();
        for family in Family::ALL {
            let listener = lives::listen(family)?;
            wants.extend(lives::client_closes(&listener, family, 20)?);
            wants.extend(lives::server_closes(&listener, family, 20)?);
            wants.extend(lives::turned(&listener, family, None)?);
        }
        Ok(wants)
    })?;
    std::thread::sleep(Duration::from_secs(60));
    traffic(&netns, || lives::await_minisocks(0))?;
    let wants: Vec<Want> = wants.into_iter().map(|want| Want { end: Some("expired"), ..want }).collect();
    let said = tracer.stop(Signal::INT)?;
    let run = Run { backend, closer_comm: COMM, refused: 0 };
    judge::lives(&said, &wants, run)?;
    judge::summary(&said, &wants, run)
}

/// A namespace that goes away takes its minisocks along.
pub fn namespace_exit(backend: &str) -> Outcome {
    let (home, doomed) = (fresh()?, fresh()?);
    let inum = doomed.inum().to_string();
    let tracer = Tracer::start(&home, backend, &["--netns", &inum, "--events", "born,died"])?;
    let count = 40;
    let traffic = traffic(&doomed, || lives::client_closes(&lives::listen(Family::V4)?, Family::V4, count));
    let wants: Vec<Want> =
        traffic?.into_iter().map(|want| Want { end: Some("netns"), turned: false, ..want }).collect();
    drop(doomed);
    // cleanup_net runs in a kworker, some time after the last reference.
    let deadline = Instant::now() + PATIENCE;
    let mut lines: Vec<Value> = Vec::new();
    while lines.iter().filter(|line| line["type"] == "died").count() < count && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        lines.extend(tracer.so_far());
    }
    let mut said = tracer.stop(Signal::INT)?;
    lines.append(&mut said.lines);
    // The doomed namespace's number is free again, and may be another's before this tracer ends.
    said.lines = judge::only(lines, &wants);
    judge::lives(&said, &wants, Run { backend, closer_comm: COMM, refused: 0 })?;
    judge::conserved(&said.summary).and_then(|lost| if lost == 0 { Ok(()) } else { Err(format!("{lost} lost")) })
}

/// Minisocks that are older than the tracer are listed at the start, and their deaths are marked.
pub fn preexisting(backend: &str) -> Outcome {
    let netns = fresh()?;
    let listener = traffic(&netns, || lives::listen(Family::V4))?;
    let (before, from) = traffic(&netns, || {
        let wants = lives::client_closes(&listener, Family::V4, 20)?;
        Ok((wants, lives::bound_time_wait(&listener)?))
    })?;
    let tracer = Tracer::start(&netns, backend, &[])?;
    if tracer.start["seeded"].as_u64().is_none_or(|seeded| seeded < before.len() as u64 + 1) {
        return Err(format!("{} minisocks were there: {}", before.len() + 1, tracer.start));
    }
    traffic(&netns, || lives::take_over(&listener, from))?;
    let said = tracer.stop(Signal::INT)?;
    let died: Vec<&Value> = said.lines.iter().filter(|line| line["type"] == "died").collect();
    let [died] = died[..] else { return Err(format!("{} deaths instead of 1: {died:?}", died.len())) };
    let marked = died["preexisting"] == true && died["life_ns"].is_null() && died["cause"] == "reused_bound";
    if !marked || died["lport"] != from.port() {
        return Err(format!("the death of an older minisock is told as {died}"));
    }
    judge::reconciled(&said.summary)
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
