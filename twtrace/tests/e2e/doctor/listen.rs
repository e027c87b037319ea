//! Who listens, and overflows.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use twtrace::{
    host::netns::Netns,
    traffic::{
        oracle,
        segment::{Hears, Kind, Segment, hear},
    },
};

use super::{Outcome, SERVICE, Said, address, agrees, new, nstat, other, set, until};
use crate::tracer::traffic;

const QUEUE: &str = "accept queue of 127.0.0.1:8000";

/// Nobody accepts, and then somebody does.
pub fn doctor_accept_queue() -> Outcome {
    let netns = new()?;
    let listener = traffic(&netns, || listen(SERVICE, 1))?;
    let said = Said::of(&netns, &[])?;
    said.finds("listen.room", "fine")?;
    said.finds("listen.low-backlog", "note")?;

    // A backlog of one has room for two; the others' SYNs are dropped, and sent again after a second.
    let clients = traffic(&netns, || (0..5).map(|_| knock(address(SERVICE)?)).collect::<io::Result<Vec<_>>>())?;
    until("overflow", || Ok(counted(&netns, "ListenOverflows")? >= 3))?;
    let said = Said::of(&netns, &[])?;
    let finding = said.finds("listen.queue-full", "critical")?;
    // The owner is this process, whose name is that of the test's thread.
    let queue = evidence_of(finding.0, QUEUE)?;
    if (&queue["value"], &queue["unit"]) != (&2.into(), &"of 1".into()) {
        return Err(format!("the queue is {queue}"));
    }
    if let Some(theirs) = other(&netns, "ss", &["-Hltn"])? {
        let queues: Vec<&str> = theirs.split_ascii_whitespace().skip(1).take(2).collect();
        if queues != ["2", "1"] {
            return Err(format!("ss tells {queues:?}"));
        }
    }
    said.lacks("listen.room")?;

    let before = counted(&netns, "ListenDrops")?;
    drop(clients);
    traffic(&netns, || {
        listener.set_nonblocking(true)?;
        while listener.accept().is_ok() {}
        Ok(())
    })?;
    let said = Said::of(&netns, &[])?;
    said.lacks("listen.queue-full")?;
    let overflows = said.finding("listen.overflows").ok_or_else(|| format!("no overflows: {said}"))?;
    let drops = overflows.evidence("ListenDrops")?;
    if drops.as_u64() < Some(before) {
        return Err(format!("{drops} drops, and there were {before}"));
    }
    // More SYNs are sent again while a slow machine looks; ten are no note any more (severity.rs).
    said.finds("listen.overflows", if drops.as_u64() < Some(10) { "note" } else { "warning" })?;
    agrees("ListenDrops", drops, nstat(&netns, "TcpExtListenDrops")?)
}

/// Connections are dropped while the doctor looks.
pub fn doctor_overflows() -> Outcome {
    let netns = new()?;
    let _listener = traffic(&netns, || listen(SERVICE, 0))?;
    let _first = traffic(&netns, || knock(address(SERVICE)?))?;
    let said = thread::scope(|scope| {
        let knocking = scope.spawn(|| {
            netns.run(|| {
                let until = Instant::now() + Duration::from_secs(3);
                let mut clients = Vec::new();
                while Instant::now() < until {
                    clients.push(knock(address(SERVICE)?)?);
                    thread::sleep(Duration::from_millis(20));
                }
                Ok(())
            })
        });
        let said = Said::of(&netns, &[]);
        let knocked = knocking.join().map_err(|_| "the knocking thread panicked")?;
        knocked.map_err(|error| error.to_string())?;
        said
    })?;
    let finding = said.finds("listen.overflows", "critical")?;
    let sentence = finding.0["sentence"].as_str().unwrap_or_default();
    if !sentence.contains(" SYNs ") {
        return Err(format!("it is SYNs that are dropped: {sentence}"));
    }
    match finding.evidence("ListenOverflows now")?.as_f64() {
        Some(rate) if rate > 0.0 => Ok(()),
        other => Err(format!("{other:?} overflows per second")),
    }
}

/// SYNs, so many and no more, from where no answer comes.
pub fn doctor_syn_flood() -> Outcome {
    const BACKLOG: u16 = 8;
    const SYNS: u8 = 30;
    let netns = new()?;
    let _listener = traffic(&netns, || listen(SERVICE, i32::from(BACKLOG)))?;
    let said = Said::of(&netns, &[])?;
    said.lacks("listen.syn-queue")?;
    // Whoever is bound there, and deaf, keeps the kernel from resetting what it did not ask for.
    let _deaf = traffic(&netns, || {
        let deaf = listen("0.0.0.0:9", 0)?;
        hear(&deaf, Hears::Nothing)?;
        Ok(deaf)
    })?;
    let flood = || {
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8000);
        (1..=SYNS).try_for_each(|host| {
            let from = SocketAddrV4::new(Ipv4Addr::new(127, 1, 0, host), 9);
            Segment { from, to, seq: 1000, ack: 0, kind: Kind::Syn }.send()
        })
    };
    traffic(&netns, flood)?;
    until("cookies", || Ok(counted(&netns, "TCPReqQFullDoCookies")? > 0))?;
    let said = Said::of(&netns, &[])?;
    let finding = said.finds("listen.syn-queue", "warning")?;
    let waiting = finding.evidence("requests at 127.0.0.1:8000")?;
    // As many as the backlog or, since 6.14 and in stable kernels that have the change, one more.
    let count = waiting.as_u64().filter(|count| [0, 1].contains(&count.wrapping_sub(BACKLOG.into())));
    let count = count.ok_or_else(|| format!("{waiting} requests wait, and {BACKLOG} may: {:#}", finding.0))?;
    agrees("requests", waiting, super::ss(&netns, &["state", "syn-recv"])?)?;
    for name in ["TCPReqQFullDoCookies", "SyncookiesSent"] {
        agrees(name, finding.evidence(name)?, nstat(&netns, &format!("TcpExt{name}"))?)?;
    }
    let cookies = finding.evidence("SyncookiesSent")?.as_u64();
    if cookies != Some(u64::from(SYNS) - count) {
        return Err(format!("{cookies:?} cookies for {SYNS} SYNs, of which {count} wait"));
    }

    // Given up at once, if nobody is to be asked again.
    set(&netns, "tcp_synack_retries", "0")?;
    until("end of the requests", || Ok(Said::of(&netns, &[])?.lacks("listen.syn-queue").is_ok()))?;

    // Without cookies they are dropped.
    set(&netns, "tcp_syncookies", "0")?;
    set(&netns, "tcp_synack_retries", "5")?;
    let said = thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            thread::sleep(Duration::from_millis(150));
            netns.run(flood)
        });
        let said = Said::of(&netns, &[]);
        flooding.join().map_err(|_| "the flooding thread panicked")?.map_err(|error| error.to_string())?;
        said
    })?;
    // On a slow machine the flood may be over before the first look, or begin after the second.
    if counted(&netns, "TCPReqQFullDrop")? == 0 {
        return Err("no SYN was dropped".to_owned());
    }
    let finding = said.finds("listen.syn-queue", "critical").or_else(|_| said.finds("listen.syn-queue", "warning"))?;
    // The remedy is the setting, and what was dropped are SYNs of this one queue.
    let step = finding.0["do"][0].as_str().unwrap_or_default();
    let sentence = finding.0["sentence"].as_str().unwrap_or_default();
    if !step.contains("sysctl -w net.ipv4.tcp_syncookies=1") || !sentence.contains("SYNs dropped") {
        return Err(format!("{sentence}: {step}"));
    }
    said.lacks("listen.overflows")
}

/// RSTs instead of patience.
pub fn doctor_abort_on_overflow() -> Outcome {
    let netns = new()?;
    Said::of(&netns, &[])?.lacks("listen.abort-on-overflow")?;
    set(&netns, "tcp_abort_on_overflow", "1")?;
    Said::of(&netns, &[])?.finds("listen.abort-on-overflow", "note").map(drop)
}

fn listen(place: &str, backlog: i32) -> io::Result<TcpListener> {
    let to = address(place)?;
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&to.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// A connect() that nobody waits for.
fn knock(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

fn counted(netns: &Netns, name: &str) -> Result<u64, String> {
    netns.run(|| oracle::counter("TcpExt", name)).map_err(|error| error.to_string())
}

/// Evidence by the beginning of its name.
fn evidence_of<'a>(finding: &'a serde_json::Value, begin: &str) -> Result<&'a serde_json::Value, String> {
    let all = finding["evidence"].as_array().into_iter().flatten();
    let mut found = all.filter(|it| it["name"].as_str().is_some_and(|name| name.starts_with(begin)));
    found.next().ok_or_else(|| format!("no {begin}: {finding:#}"))
}
