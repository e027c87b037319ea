//! How many connections a second there are beside each tool, and what one costs the machine.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{
    load::{Load, Wanted},
    peers::Peer,
    sample::Sample,
};

/// How long after the last connection a tool may still be busy with it.
const TAIL: Duration = Duration::from_millis(200);
/// To how many addresses.
const DESTINATIONS: u32 = 100;

/// How many connections, how fast: `None` for as fast as it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Connections.
    pub connections: u64,
    /// A second.
    pub per_s: Option<u32>,
}

/// One tool at one pace, all rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// The tool.
    pub peer: String,
    /// The pace.
    pub pace: Pace,
    /// Connections a second.
    pub per_s: Sample,
    /// CPU time of whoever makes the connections, both ends, with what the tool's programs add: microseconds each.
    pub load_us: Sample,
    /// CPU time of the tool itself, microseconds a connection.
    pub tool_us: Sample,
}

impl Cell {
    /// What a connection costs in all, microseconds.
    pub fn cost_us(&self) -> Sample {
        self.load_us.plus(&self.tool_us)
    }
}

/// Every tool at every pace, in turn, as many rounds as asked for. Each round begins with another tool.
pub fn measure(load: &mut Load, peers: &[Peer], paces: &[Pace], rounds: usize) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for peer in peers {
        for &pace in paces {
            let peer = peer.name.clone();
            let none = Sample::default;
            cells.push(Cell { peer, pace, per_s: none(), load_us: none(), tool_us: none() });
        }
    }
    for round in 0..rounds {
        for turn in 0..peers.len() {
            let index = (turn + round) % peers.len();
            let cells = &mut cells[index * paces.len()..][..paces.len()];
            one(load, &peers[index], cells).with_context(|| format!("beside {}", peers[index].name))?;
        }
        eprintln!("throughput: round {} of {rounds}", round + 1);
    }
    Ok(cells)
}

/// One tool, one round.
fn one(load: &mut Load, peer: &Peer, cells: &mut [Cell]) -> Result<()> {
    // So that `ss` is in a namespace that lasts as long as it.
    load.fresh()?;
    let running = peer.start(&load.netns)?;
    let tool = || running.as_ref().map_or(Ok(0), |running| running.process.cpu_ns());
    for cell in cells {
        let before = tool()?;
        let Pace { connections, per_s } = cell.pace;
        load.begin(Wanted { connections: Some(connections), per_s, destinations: DESTINATIONS })?;
        let made = load.wait()?;
        thread::sleep(TAIL);
        let connections = made.made.max(1) as f64;
        cell.per_s.push(connections / made.seconds);
        cell.load_us.push(made.cpu_s * 1e6 / connections);
        cell.tool_us.push(tool()?.saturating_sub(before) as f64 / 1e3 / connections);
    }
    Ok(())
}
