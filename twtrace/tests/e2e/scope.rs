//! Filters hold for every row that is shown, and each number says whose it is.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
};

use rustix::process::Signal;
use serde_json::Value;
use twtrace::{host::netns::Netns, lab::stage::First};

use crate::{
    scene::{Scene, fresh},
    tracer::{Tracer, traffic},
};

/// Connections that stay open, to a port for each number of them.
struct Open {
    _sockets: Vec<(TcpListener, Vec<TcpStream>)>,
    ports: Vec<u16>,
}

fn open(netns: &Netns, counts: &[usize]) -> Result<Open, String> {
    traffic(netns, || {
        let mut sockets = Vec::new();
        for &count in counts {
            let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
            let to = listener.local_addr()?;
            let mut streams = Vec::new();
            for _ in 0..count {
                streams.extend([TcpStream::connect(to)?, listener.accept()?.0]);
            }
            sockets.push((listener, streams));
        }
        let ports = sockets.iter().map(|(listener, _)| Ok(listener.local_addr()?.port()));
        let ports = ports.collect::<io::Result<_>>()?;
        Ok(Open { _sockets: sockets, ports })
    })
}

/// The destinations of the last tick of a run with these filters, which are added to `--netns self`.
fn last_tick(netns: &Netns, more: &[&str]) -> Result<Value, String> {
    let mut tracer =
        Tracer::start(netns, "auto", &[&["--by", "dest,port,owner", "--interval", "100ms"], more].concat())?;
    // The tables of the first tick have no look but the one before the run.
    for _ in 0..3 {
        tracer.wait_for(|line| line["type"] == "tick")?;
    }
    let said = tracer.stop(Signal::INT)?;
    said.lines.into_iter().rfind(|line| line["type"] == "tick").ok_or_else(|| "no tick".to_owned())
}

fn rows<'a>(tick: &'a Value, table: &str) -> Vec<&'a Value> {
    tick["by"][table]["rows"].as_array().map(|rows| rows.iter().collect()).unwrap_or_default()
}

/// Open connections of another namespace, to another port and of another family stay out of what is shown.
pub fn filter_scope() -> Result<(), String> {
    let (here, there) = (fresh()?, fresh()?);
    let (ours, _theirs) = (open(&here, &[5, 3])?, open(&there, &[7])?);
    let tick = last_tick(&here, &[])?;
    let mut found: Vec<_> = rows(&tick, "destinations")
        .iter()
        .map(|row| (row["netns"].as_u64(), row["rport"].as_u64(), row["established"].as_u64()))
        .collect();
    found.sort_unstable();
    let inum = Some(u64::from(here.inum()));
    let mut wanted = vec![(inum, Some(ours.ports[0].into()), Some(5)), (inum, Some(ours.ports[1].into()), Some(3))];
    wanted.sort_unstable();
    if found != wanted {
        return Err(format!("{found:?}, not {wanted:?}"));
    }
    let [first, second] = [ours.ports[0].to_string(), ours.ports[1].to_string()];
    for (filter, count) in [
        (["--rport", first.as_str()], 1),
        (["--port", second.as_str()], 1),
        (["--raddr", "127.0.0.0/8"], 2),
        (["--raddr", "10.0.0.0/8"], 0),
        (["--laddr", "::1"], 0),
        (["--role", "client"], 2),
        (["--role", "server"], 0),
        (["--pid", "1"], 0),
        (["--comm", "nobody"], 0),
    ] {
        let tick = last_tick(&here, &filter)?;
        let found = rows(&tick, "destinations");
        if found.len() != count || !rows(&tick, "ports").is_empty() || !rows(&tick, "processes").is_empty() {
            return Err(format!("{filter:?}: {count} destinations and nothing else, not {}", tick["by"]));
        }
    }
    Ok(())
}

/// Whose a closing socket is, is known; how many others are held beside it is not, and is not told as 0.
pub fn filter_by_owner() -> Result<(), String> {
    let netns = fresh()?;
    let pid = std::process::id().to_string();
    let filters = ["--by", "dest", "--interval", "100ms", "--pid", &pid];
    let mut tracer = Tracer::start(&netns, "auto", &filters)?;
    let mut scene = Scene::new(&netns)?;
    let listener = scene.listen()?;
    let port = listener.local_addr().map_err(|error| error.to_string())?.port();
    scene.live(&listener, First::Client, 4)?;
    tracer.wait_for(|line| rows(line, "destinations").iter().any(|row| row["time_wait"] == 4))?;
    // Four minisocks hold a bucket; the thread that looks may still rest.
    tracer.wait_for(|line| line["buckets"]["used"] == 4)?;
    let said = tracer.stop(Signal::INT)?;
    let ticks = || said.lines.iter().filter(|line| line["type"] == "tick");
    let row = ticks().flat_map(|tick| rows(tick, "destinations")).rfind(|row| row["rport"] == port);
    let row = row.ok_or("no row")?;
    for name in ["established", "other", "in_use", "headroom", "exhausted_in_s", "forecast"] {
        if !row[name].is_null() {
            return Err(format!("{name} cannot be known: {row}"));
        }
    }
    // Every tick has its rates, the first too, and the gauge is that of the namespace that was asked for.
    for tick in ticks() {
        if tick["born_per_s"].is_null() || tick["died_per_s"].is_null() {
            return Err(format!("no rate: {tick}"));
        }
        let buckets = &tick["buckets"];
        if !buckets.is_null() && (buckets["netns"] != netns.inum() || buckets["namespaces"] != 1) {
            return Err(format!("not its own buckets: {tick}"));
        }
    }
    Ok(())
}
