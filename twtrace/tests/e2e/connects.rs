//! connect() calls that find no port, and what they are told to have been denied.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use twtrace::lab::lives::{self as lab, sysctl};

use crate::{
    cases::fresh,
    lives::{self, Family},
    tracer::{Said, Tracer, traffic},
};

/// All the ports that connect() may choose from: below those of the listeners.
const PORTS: [u16; 2] = [20_000, 20_001];

/// One connect() that failed.
#[derive(Debug)]
struct Failed {
    family: u8,
    rport: u16,
    /// The port was bound before.
    bound: Option<u16>,
    reason: &'static str,
    count: usize,
}

impl Failed {
    fn new(family: Family, to: &TcpListener, reason: &'static str, count: usize) -> io::Result<Self> {
        let family = if matches!(family, Family::V6) { 6 } else { 4 };
        Ok(Self { family, rport: to.local_addr()?.port(), bound: None, reason, count })
    }
}

/// Every reason for which a connect() may be denied a TIME_WAIT, on every family; told once a connect() and reason.
pub fn failed_connects(backend: &str) -> Result<(), String> {
    let netns = fresh()?;
    let tracer = Tracer::start(&netns, backend, &[])?;
    let capability = |name: &str| tracer.start["capabilities"][name]["backend"].clone();
    // Neither twin exists on every backend.
    let no_port = if backend == "kprobe" { "tracepoint" } else { backend };
    let denied = if backend == "tracepoint" { Value::Null } else { backend.into() };
    if capability("no_port") != no_port || capability("reuse_denied") != denied {
        return Err(format!("not watched as it should be: {}", tracer.start));
    }
    let failed = traffic(&netns, make)?;
    judge(&tracer.stop(Signal::INT)?, &failed, !denied.is_null())
}

fn make() -> io::Result<Vec<Failed>> {
    let mut failed = Vec::new();
    let mut listeners = Vec::new();
    for family in Family::ALL {
        for _ in 0..5 {
            listeners.push((family, lives::listen(family)?));
        }
    }
    sysctl("ip_local_port_range", &format!("{} {}", PORTS[0], PORTS[1]))?;
    for of_family in listeners.chunks(5) {
        let [(family, a), (_, b), (_, c), (_, d), (_, e)] = of_family else { continue };
        for (listener, reuse, reason) in [(a, "1", "too_young"), (b, "2", "too_young"), (c, "0", "disabled")] {
            sysctl("tcp_tw_reuse", reuse)?;
            until_none_is_left(listener)?;
            failed.push(Failed::new(*family, listener, reason, PORTS.len())?);
        }
        sysctl("tcp_tw_reuse", "1")?;
        let (count, _open) = orphans(d)?;
        failed.push(Failed::new(*family, d, "fin_wait2", count)?);
        sysctl("tcp_timestamps", "0")?;
        until_none_is_left(e)?;
        failed.push(Failed::new(*family, e, "no_timestamps", PORTS.len())?);
        failed.push(from_a_bound_port(*family, e)?);
        sysctl("tcp_timestamps", "1")?;
    }
    Ok(failed)
}

/// Connections that the client closes, until a connect() fails. One that comes late takes over a TIME_WAIT, and is the
/// next.
fn until_none_is_left(listener: &TcpListener) -> io::Result<()> {
    for _ in 0..50 {
        match lab::connect(listener, None) {
            Ok(pair) => lab::close_in_order(pair.client, pair.server)?,
            Err(error) => return expect_none(Err::<(), _>(error)),
        }
    }
    Err(io::Error::other("50 connections from two ports"))
}

fn expect_none<T>(result: io::Result<T>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("a connect() that should have failed did not")),
    }
}

/// Connections whose server does not close: usually FIN_WAIT2 minisocks, see [`lives`]. Returns how many are.
fn orphans(listener: &TcpListener) -> io::Result<(usize, Vec<std::net::TcpStream>)> {
    let before = lives::minisocks()?;
    let mut servers = Vec::new();
    for _ in PORTS {
        let pair = lab::connect(listener, None)?;
        servers.push(pair.server);
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while lives::minisocks()? < before + PORTS.len() as u64 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let count = (lives::minisocks()? - before) as usize;
    expect_none(lab::dial(listener.local_addr()?, None))?;
    Ok((count, servers))
}

/// A port that was bound beforehand: no search, and one TIME_WAIT in the way.
fn from_a_bound_port(family: Family, listener: &TcpListener) -> io::Result<Failed> {
    let from = SocketAddr::new(listener.local_addr()?.ip(), 1_000);
    let before = lives::minisocks()?;
    let pair = lab::connect(listener, Some(from))?;
    lab::close_in_order(pair.client, pair.server)?;
    lives::await_minisocks(before + 1)?;
    expect_none(lab::dial(listener.local_addr()?, Some(from)))?;
    Ok(Failed { bound: Some(from.port()), ..Failed::new(family, listener, "no_timestamps", 1)? })
}

fn judge(said: &Said, failed: &[Failed], denials: bool) -> Result<(), String> {
    let of = |kind: &str| said.lines.iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    let (no_port, denied, born) = (of("no_port"), of("reuse_denied"), of("born"));
    let me =
        |line: &Value| line["pid"] == std::process::id() && line["role"] == "client" && line["comm"] == "twtrace-netns";
    let searched: Vec<_> = failed.iter().filter(|failed| failed.bound.is_none()).collect();
    if no_port.len() != searched.len() || said.summary["no_port"] != searched.len() {
        return Err(format!("{} no_port told, {} made: {}", no_port.len(), searched.len(), said.summary));
    }
    for (line, want) in no_port.iter().zip(&searched) {
        let right = line["rport"] == want.rport && line["family"] == want.family && line["raddr"].is_string();
        if !right || !line["lport"].is_null() || !line["id"].is_null() || !me(line) {
            return Err(format!("{want:?} is told as {line}"));
        }
    }
    if !denials {
        return if denied.is_empty() && said.summary["reuse_denied"].is_null() {
            Ok(())
        } else {
            Err(format!("denials are told that nobody watches: {}", said.summary))
        };
    }
    let wanted: Vec<_> = failed.iter().filter(|failed| failed.count > 0).collect();
    if denied.len() != wanted.len() || said.summary["reuse_denied"] != wanted.len() {
        return Err(format!("{} denials told, {} made: {}", denied.len(), wanted.len(), said.summary));
    }
    for (line, want) in denied.iter().zip(&wanted) {
        let is_first = |born: &&Value| ["id", "lport", "rport", "raddr"].iter().all(|name| born[name] == line[name]);
        let port_fits =
            want.bound.map_or_else(|| PORTS.iter().any(|port| line["lport"] == *port), |p| line["lport"] == p);
        let right = line["reason"] == want.reason && line["count"] == want.count && line["rport"] == want.rport;
        if !right || !port_fits || !me(line) || !born.iter().any(is_first) {
            return Err(format!("{want:?} is told as {line}"));
        }
    }
    Ok(())
}
