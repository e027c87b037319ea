//! connect() calls that find no port, and what they are told to have been denied: every reason on every family, from
//! ports that connect() chooses and from bound ones, more than one at a time.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use rustix::process::Signal;
use serde_json::Value;
use twtrace::{
    lab::{
        stage::{Family, First, Stage},
        want::{End, Is, SOME_TIME, WantDenied, WantNoPort, between},
    },
    model::{
        event::{Call, Cause, Denial, Detail, Event, Kind, Tuple},
        holder::HeldBy,
    },
    traffic::lives::{self, Pair, sysctl},
};

use crate::{
    parse,
    scene::{Scene, fresh, judge, knows},
    summary,
    tracer::Tracer,
};

/// All the ports that connect() may choose from: below those of the listeners.
const PORTS: [u16; 2] = [20_000, 20_001];

/// Every reason for which a connect() may be denied a TIME_WAIT, on every family; told once a connect() and reason.
pub fn failed_connects(backend: &str) -> Result<(), String> {
    let netns = fresh()?;
    let mut scene = Scene::new(&netns)?;
    let tracer = Tracer::start(&netns, backend, &[])?;
    let capability = |name: &str| tracer.start["capabilities"][name]["backend"].clone();
    // Neither twin exists on every backend.
    let no_port = if backend == "kprobe" { "tracepoint" } else { backend };
    let denied = if backend == "tracepoint" { Value::Null } else { backend.into() };
    if capability("no_port") != no_port || capability("reuse_denied") != denied {
        return Err(format!("not watched as it should be: {}", tracer.start));
    }
    let _open = scene.act(make)?;
    let (made, knows) = (scene.end()?, knows(&tracer.start));
    let said = tracer.stop(Signal::INT)?;
    let mut events = parse::events(&said.lines)?;
    summary::exact(&said, &events)?;
    same_lives(&events)?;
    // Where the search begins, and so which of the two is the first, is the kernel's choice.
    for event in &mut events {
        if let (Detail::ReuseDenied { count: 2, .. }, Some(tuple)) = (event.detail, &mut event.life.tuple) {
            tuple.lport = if tuple.lport == PORTS[1] { PORTS[0] } else { tuple.lport };
        }
    }
    judge(&made, &events, knows)
}

/// Who has the port that a call did not get: its own TIME_WAIT, a connection, a listener and a server that was restarted.
pub fn holders(backend: &str) -> Result<(), String> {
    let netns = fresh()?;
    let mut scene = Scene::new(&netns)?;
    let tracer = Tracer::start(&netns, backend, &[])?;
    let watched = !tracer.start["capabilities"]["no_bind"]["backend"].is_null();
    if watched != (backend == "fentry") {
        return Err(format!("no_bind is watched where it should not be, or is not where it should: {}", tracer.start));
    }
    let _open = scene.act(make_held)?;
    let (made, knows) = (scene.end()?, knows(&tracer.start));
    let said = tracer.stop(Signal::INT)?;
    let events = parse::events(&said.lines)?;
    summary::exact(&said, &events)?;
    let us = std::process::id();
    let told: Vec<Held> = events.iter().filter_map(|event| held(event, us)).collect();
    let (connects, binds) = ([HELD[0], HELD[1]], [HELD[2], HELD[3]]);
    let wanted = if watched { [connects, binds].concat() } else { connects.to_vec() };
    if told != wanted || said.summary["holders_unknown"] != 0 {
        return Err(format!("holders that are told: {told:?}, not {wanted:?}: {}", said.summary));
    }
    judge(&made, &events, knows)
}

/// Kind of the event, what has the port, whether its process is this one, whether its age and its end are known.
type Held = (Kind, HeldBy, bool, bool);

const HELD: [Held; 4] = [
    (Kind::NoPort, HeldBy::TimeWait, false, true),
    (Kind::NoPort, HeldBy::Socket, true, false),
    (Kind::NoBind, HeldBy::Listener, true, false),
    (Kind::NoBind, HeldBy::TimeWait, false, true),
];

fn held(event: &Event, us: u32) -> Option<Held> {
    let (Detail::NoPort { holder, .. } | Detail::NoBind { holder, .. }) = event.detail else { return None };
    let Some(holder) = holder else { return Some((event.kind(), HeldBy::Unknown(0), false, false)) };
    // A minute, and the slack of the kernel's timer.
    let ages = holder.held_ms.zip(holder.expires_in_ms).is_some_and(|(held, left)| left > 0 && held + left == 60_000);
    Some((event.kind(), holder.by, holder.task.is_some_and(|task| task.pid == us), ages))
}

fn make_held(stage: &mut Stage<'_>) -> io::Result<(Pair, TcpListener)> {
    sysctl("tcp_timestamps", "0")?;
    let listener = stage.listen(Family::V4)?;
    let to = listener.local_addr()?;
    let own = stage.source(Family::V4);
    let link = stage.connect(&listener, Some(own))?;
    stage.close(link, First::Client)?;
    stage.turns()?;
    expect_none(lives::dial(to, Some(own)))?;
    stage.no_port_bound(own, to);
    denied(stage, between(own, to), Denial::NoTimestamps, 1);
    let open = stage.source(Family::V4);
    let pair = lives::connect(&listener, Some(open))?;
    expect_none(lives::dial(to, Some(open)))?;
    stage.no_port_bound(open, to);
    expect_in_use(lives::listen(to))?;
    stage.no_bind(Call::Bind, to);
    let restarted = stage.listen(Family::V4)?;
    let at = restarted.local_addr()?;
    stage.live(&restarted, Family::V4, First::Server)?;
    stage.turns()?;
    drop(restarted);
    let plain = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    expect_in_use(plain.bind(&at.into()))?;
    stage.no_bind(Call::Bind, at);
    // Looked up after the call, the later the slower the machine: both holders stay until all is told.
    Ok((pair, listener))
}

fn expect_in_use<T>(result: io::Result<T>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("a bind() that should have failed did not")),
    }
}

/// Each denial has the id of a life that was told to be born, with that life's tuple.
fn same_lives(events: &[Event]) -> Result<(), String> {
    let of = |kind: Kind| events.iter().filter(move |event| event.kind() == kind);
    let same = |denied: &Event, born: &Event| denied.life.id == born.life.id && denied.life.tuple == born.life.tuple;
    match of(Kind::ReuseDenied).find(|denied| !of(Kind::Born).any(|born| same(denied, born))) {
        Some(stranger) => Err(format!("a denial of nothing that was born: {stranger:?}")),
        None => Ok(()),
    }
}

/// Returns sockets that are to stay open.
fn make(stage: &mut Stage<'_>) -> io::Result<Vec<std::net::TcpStream>> {
    let mut listeners = Vec::new();
    for family in [Family::V4, Family::V6, Family::Mapped] {
        for _ in 0..5 {
            listeners.push(stage.listen(family)?);
        }
    }
    sysctl("ip_local_port_range", &format!("{} {}", PORTS[0], PORTS[1]))?;
    let mut open = Vec::new();
    for of_family in listeners.chunks(5) {
        let [a, b, c, d, e] = of_family else { continue };
        for (listener, reuse, reason) in
            [(a, "1", Denial::TooYoung), (b, "2", Denial::TooYoung), (c, "0", Denial::Disabled)]
        {
            sysctl("tcp_tw_reuse", reuse)?;
            until_none_is_left(stage, listener)?;
            failed(stage, listener, reason)?;
        }
        sysctl("tcp_tw_reuse", "1")?;
        for _ in PORTS {
            open.push(stage.fin_wait2(d, None)?);
        }
        expect_none(lives::dial(d.local_addr()?, None))?;
        failed(stage, d, Denial::FinWait2)?;
        sysctl("tcp_timestamps", "0")?;
        until_none_is_left(stage, e)?;
        failed(stage, e, Denial::NoTimestamps)?;
        from_a_bound_port(stage, e)?;
        sysctl("tcp_timestamps", "1")?;
    }
    Ok(open)
}

/// Connections that the client closes, until a connect() fails. One that comes late takes over a TIME_WAIT, and is the
/// next.
fn until_none_is_left(stage: &mut Stage<'_>, listener: &TcpListener) -> io::Result<()> {
    for _ in 0..50 {
        let link = match stage.connect(listener, None) {
            Ok(link) => link,
            failed => return expect_none(failed),
        };
        let (tuple, taker) = (stage.want(&link, First::Client)?.tuple, stage.me.clone());
        if let Some(older) = stage.made.wants.iter_mut().rfind(|want| want.tuple == tuple) {
            older.end = End::taken(Cause::Reused, taker);
        }
        stage.close(link, First::Client)?;
        stage.turns()?;
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

/// Writes down what must be said of a connect() that looked at all the ports.
fn failed(stage: &mut Stage<'_>, listener: &TcpListener, reason: Denial) -> io::Result<()> {
    let tuple = Tuple { lport: PORTS[0], ..stage.last()?.tuple };
    let (netns, caller) = (stage.netns.inum(), Is::Exactly(stage.me.clone()));
    let to = SocketAddr::new(tuple.raddr, listener.local_addr()?.port());
    stage.made.no_port.push(WantNoPort { netns, from: None, to, caller, took_ns: SOME_TIME });
    denied(stage, tuple, reason, PORTS.len() as u32);
    Ok(())
}

fn denied(stage: &mut Stage<'_>, tuple: Tuple, reason: Denial, count: u32) {
    let (netns, caller) = (stage.netns.inum(), Is::Exactly(stage.me.clone()));
    stage.made.denied.push(WantDenied { netns, tuple, reason, count, caller, took_ns: SOME_TIME });
}

/// A port that was bound beforehand: no search, and one TIME_WAIT in the way.
fn from_a_bound_port(stage: &mut Stage<'_>, listener: &TcpListener) -> io::Result<()> {
    let from = SocketAddr::new(listener.local_addr()?.ip(), 1_000);
    let link = stage.connect(listener, Some(from))?;
    stage.close(link, First::Client)?;
    expect_none(lives::dial(listener.local_addr()?, Some(from)))?;
    stage.no_port_bound(from, listener.local_addr()?);
    let tuple = between(from, listener.local_addr()?);
    denied(stage, tuple, Denial::NoTimestamps, 1);
    Ok(())
}
