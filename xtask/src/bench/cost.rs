//! What a connection costs the kernel in a tool's eBPF programs, and the tool's own process.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{
    load::{Load, Program, Wanted},
    peers::{Peer, Running},
    sample::Sample,
};

/// Connections a second while nothing else is measured.
const PER_S: u32 = 3000;
/// Room for those of a minute: a table that is full is another thing to measure.
const LIVES: u32 = 1 << 18;
const DESTINATIONS: u32 = 100;
/// Until as many minisocks end as are born: a TIME_WAIT, and the slack of its timer.
const LIFE: Duration = Duration::from_secs(68);
/// From a tool's start to its measurement: it may have sockets to look through.
const SETTLE: Duration = Duration::from_secs(3);
/// How long it is measured.
const WINDOW: Duration = Duration::from_secs(4);
/// A whole number of twtrace's looks through the kernel's sockets (every 25 s) as well.
const LONG: Duration = Duration::from_secs(50);
/// How long after the last connection a tool may still be busy with it.
const TAIL: Duration = Duration::from_millis(200);

/// One tool, all rounds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cost {
    /// The tool.
    pub peer: String,
    /// In its eBPF programs, nanoseconds a connection.
    pub bpf_ns: Sample,
    /// In its process, microseconds a connection.
    pub user_us: Sample,
    /// By program: nanoseconds and runs a connection.
    pub programs: BTreeMap<String, (Sample, Sample)>,
}

impl Cost {
    fn of(peer: &Peer) -> Self {
        Self { peer: peer.name.clone(), ..Self::default() }
    }

    fn enter(&mut self, before: &Look, after: &Look) {
        let connections = (after.made - before.made).max(1) as f64;
        self.user_us.push((after.cpu_ns - before.cpu_ns) as f64 / 1e3 / connections);
        let mut by_name: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (id, program) in &after.programs {
            let (run_ns, runs) = before.programs.get(id).map_or((0, 0), |before| (before.run_ns, before.runs));
            let sum = by_name.entry(&program.name).or_default();
            (sum.0, sum.1) = (sum.0 + program.run_ns - run_ns, sum.1 + program.runs - runs);
        }
        self.bpf_ns.push(by_name.values().map(|(ns, _)| *ns as f64).sum::<f64>() / connections);
        for (name, (ns, runs)) in by_name {
            let (of_ns, of_runs) = self.programs.entry(name.to_owned()).or_default();
            of_ns.push(ns as f64 / connections);
            of_runs.push(runs as f64 / connections);
        }
    }
}

/// One look at a tool and the load.
struct Look {
    made: u64,
    cpu_ns: u64,
    programs: BTreeMap<u64, Program>,
}

impl Look {
    fn take(load: &mut Load, running: &Running, made: Option<u64>) -> Result<Self> {
        let made = match made {
            Some(made) => made,
            None => load.count()?.made,
        };
        Ok(Self { made, cpu_ns: running.process.cpu_ns()?, programs: load.programs(running.process)? })
    }
}

fn look(load: &mut Load, running: &Running) -> Result<Look> {
    Look::take(load, running, None)
}

/// Whole lives: a steady load that has gone on for longer than a life, so that as many end as are born, and the tools in
/// turn beside it. The last row is twtrace once more, for long.
pub fn whole_lives(load: &mut Load, peers: Vec<Peer>, long: Peer, rounds: usize) -> Result<Vec<Cost>> {
    let peers: Vec<Peer> = peers.into_iter().map(|peer| peer.with_room(LIVES)).collect();
    let long = long.with_room(LIVES);
    load.fresh()?;
    load.stats(true)?;
    load.begin(Wanted { connections: None, per_s: Some(PER_S), destinations: DESTINATIONS })?;
    eprintln!("whole lives: {PER_S} connections a second, for {LIFE:?} before anything is measured");
    thread::sleep(LIFE);
    let mut costs: Vec<Cost> = peers.iter().map(Cost::of).collect();
    for round in 0..rounds {
        for turn in 0..peers.len() {
            let index = (turn + round) % peers.len();
            beside(load, &peers[index], WINDOW, &mut costs[index])?;
        }
        eprintln!("whole lives: round {} of {rounds}", round + 1);
    }
    let mut cost = Cost { peer: format!("{}, for {} s", long.name, LONG.as_secs()), ..Cost::default() };
    beside(load, &long, LONG, &mut cost)?;
    costs.push(cost);
    load.end()?;
    load.stats(false)?;
    Ok(costs)
}

fn beside(load: &mut Load, peer: &Peer, window: Duration, cost: &mut Cost) -> Result<()> {
    let Some(running) = peer.start(&load.netns)? else { return Ok(()) };
    thread::sleep(SETTLE);
    let before = look(load, &running)?;
    let begun = Instant::now();
    thread::sleep(window.saturating_sub(begun.elapsed()));
    let after = look(load, &running)?;
    cost.enter(&before, &after);
    Ok(())
}

/// Births alone, as fast as it goes: what can be measured in seconds.
pub fn births(load: &mut Load, peers: &[Peer], connections: u64, rounds: usize) -> Result<Vec<Cost>> {
    let mut costs: Vec<Cost> = peers.iter().map(Cost::of).collect();
    load.stats(true)?;
    for round in 0..rounds {
        for turn in 0..peers.len() {
            let index = (turn + round) % peers.len();
            load.fresh()?;
            let Some(running) = peers[index].start(&load.netns)? else { continue };
            let before = Look::take(load, &running, Some(0))?;
            let wanted = Wanted { connections: Some(connections), per_s: None, destinations: DESTINATIONS };
            load.begin(wanted)?;
            let made = load.wait()?.made;
            thread::sleep(TAIL);
            let after = Look::take(load, &running, Some(made)).with_context(|| peers[index].name.clone())?;
            costs[index].enter(&before, &after);
        }
    }
    load.stats(false)?;
    Ok(costs)
}
