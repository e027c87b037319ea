//! What twtrace keeps in memory beside live sockets.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{
    load::{Load, Wanted},
    peers::{Peer, Running},
};

/// Where it is looked at, live sockets.
const MARKS: [u64; 3] = [0, 100_000, 1_000_000];
/// Room for them in the tables; twtrace itself chooses fewer on most machines.
const MOST_LIVES: u32 = 1_100_000;
/// A TIME_WAIT lasts a minute: what has not been made by then never lives at once.
const MAKING: Duration = Duration::from_secs(58);
const DESTINATIONS: u32 = 1000;
const GLANCE: Duration = Duration::from_millis(50);

/// One form of twtrace beside so many sockets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Memory {
    /// The form.
    pub peer: String,
    /// Sockets alive.
    pub live: u64,
    /// Resident memory, bytes.
    pub resident: u64,
    /// Kernel memory of its maps, bytes.
    pub maps: u64,
}

/// The live view and JSON beside as many sockets as can be made within a life.
pub fn measure(load: &mut Load, twtrace: &Path) -> Result<Vec<Memory>> {
    load.fresh()?;
    let mut running: Vec<(Peer, Running)> = Vec::new();
    for format in ["tui", "json"] {
        let peer = Peer::twtrace(twtrace, format, &[]).with_room(MOST_LIVES);
        running.extend(peer.start(&load.netns)?.map(|running| (peer, running)));
    }
    let mut found = Vec::new();
    let begun = Instant::now();
    let per_s = None;
    load.begin(Wanted { connections: MARKS.last().copied(), per_s, destinations: DESTINATIONS })?;
    for mark in MARKS {
        let mut live = 0;
        while live < mark && begun.elapsed() < MAKING {
            thread::sleep(GLANCE);
            live = load.count()?.live;
        }
        for (peer, running) in &running {
            let (resident, maps) = (running.process.resident()?, running.process.maps());
            found.push(Memory { peer: peer.name.clone(), live, resident, maps });
        }
        eprintln!("memory: {live} live sockets");
    }
    load.end()?;
    Ok(found)
}
