//! connect() and SYN against the minisocks that stand in their way.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use super::super::{
    stage::{Family, First, Link, Outcome, PATIENCE, Stage},
    want::{End, Is, SOME_TIME, Turn, WantDenied},
};
use crate::{
    host::netns,
    model::event::{Call, Cause, Denial, Tuple},
    traffic::{lives, oracle},
};

/// connect() that chooses its port takes a TIME_WAIT that is old enough: the only port there is.
pub fn reuse(stage: &mut Stage<'_>) -> Outcome {
    lives::sysctl("tcp_tw_reuse", "1")?;
    let listener = stage.listen(Family::V4)?;
    one_port(stage)?;
    let link = stage.connect(&listener, None)?;
    stage.close(link, First::Client)?;
    stage.turns()?;
    let deadline = Instant::now() + PATIENCE;
    while !takes(stage, &listener, Denial::TooYoung)? {
        if Instant::now() > deadline {
            return Err(io::Error::other("no connect() took the only port").into());
        }
        thread::sleep(Duration::from_millis(50));
    }
    stage.check("minisocks left", 0, oracle::minisocks()?);
    Ok(())
}

/// Leaves connect() one port that nothing has used.
fn one_port(stage: &Stage<'_>) -> io::Result<()> {
    let port = stage.source(Family::V4).port();
    lives::sysctl("ip_local_port_range", &format!("{port} {port}"))
}

/// Tries connect(): true if it took the last life over, false if that was refused for this reason; both are written down.
fn takes(stage: &mut Stage<'_>, listener: &TcpListener, reason: Denial) -> io::Result<bool> {
    match lives::connect(listener, None) {
        Ok(pair) => {
            lives::abort_both(pair)?;
            stage.is_taken(Cause::Reused)?;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
            let tuple = stage.last()?.tuple;
            stage.no_port(listener)?;
            denied(stage, tuple, reason);
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn denied(stage: &mut Stage<'_>, tuple: Tuple, reason: Denial) {
    let (netns, caller) = (stage.netns.inum(), Is::Exactly(stage.me.clone()));
    stage.made.denied.push(WantDenied { netns, tuple, reason, count: 1, caller, took_ns: SOME_TIME });
}

/// connect() from a bound port takes a TIME_WAIT at once, with tcp_tw_reuse = 0, and a FIN_WAIT2 minisock too.
pub fn reuse_bound(stage: &mut Stage<'_>) -> Outcome {
    lives::sysctl("tcp_tw_reuse", "0")?;
    let listener = stage.listen(Family::V4)?;
    stage.live(&listener, Family::V4, First::Client)?;
    stage.take_over(&listener)?;
    let from = stage.source(Family::V4);
    let server = stage.fin_wait2(&listener, Some(from))?;
    // The takeover is done when connect() returns. The server's end is still open and answers with an ACK, ours resets it,
    // and a SYN that is sent again a second later reaches the listener: however late we are, this must leave no life.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&from.into())?;
    socket.set_nonblocking(true)?;
    let started = socket.connect(&listener.local_addr()?.into()).map_err(|error| error.raw_os_error());
    stage.check("connect() from the port of a FIN_WAIT2 minisock", "Err(Some(115))", format!("{started:?}"));
    drop(socket);
    lives::abort(server)?;
    stage.is_taken(Cause::ReusedBound)?;
    Ok(())
}

/// An address of this host outside 127/8.
const NOT_LOOPBACK: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// Each reason for which connect() may not take over the minisock that has the only port.
pub fn reuse_denied(stage: &mut Stage<'_>) -> Outcome {
    let listener = stage.listen(Family::V4)?;
    netns::loopback_alias(NOT_LOOPBACK)?;
    let elsewhere = lives::listen((NOT_LOOPBACK, 0).into())?;
    lives::sysctl("tcp_timestamps", "0")?;
    lives::sysctl("tcp_tw_reuse", "1")?;
    refused_port(stage, &listener, Denial::NoTimestamps)?;
    lives::sysctl("tcp_timestamps", "1")?;
    lives::sysctl("tcp_tw_reuse", "0")?;
    refused_port(stage, &listener, Denial::Disabled)?;
    // The default: only what is loopback by its address, not by its device (tcp_twsk_unique).
    lives::sysctl("tcp_tw_reuse", "2")?;
    refused_port(stage, &elsewhere, Denial::Disabled)?;
    lives::sysctl("tcp_tw_reuse", "1")?;
    let mut young = false;
    // Up to 6.13 the next whole second is old enough (tcp_twsk_unique), and that may have begun meanwhile.
    for _ in 0..5 {
        one_port(stage)?;
        let link = stage.connect(&listener, None)?;
        stage.close(link, First::Client)?;
        stage.turns()?;
        young = !takes(stage, &listener, Denial::TooYoung)?;
        if young {
            break;
        }
    }
    stage.check("a TIME_WAIT was too young", true, young);
    one_port(stage)?;
    let server = stage.fin_wait2(&listener, None)?;
    // Old enough by every rule, were it a TIME_WAIT.
    thread::sleep(Duration::from_millis(1100));
    let taken = takes(stage, &listener, Denial::FinWait2)?;
    stage.check("connect() took a FIN_WAIT2 minisock", false, taken);
    stage.last()?.turn = Turn::IfFinWait2;
    drop(server);
    Ok(())
}

/// Closes a connection from the only port, and tries connect() again.
fn refused_port(stage: &mut Stage<'_>, listener: &TcpListener, reason: Denial) -> io::Result<()> {
    one_port(stage)?;
    let link = stage.connect(listener, None)?;
    stage.close(link, First::Client)?;
    stage.turns()?;
    let taken = takes(stage, listener, reason)?;
    stage.check(&format!("connect() took a minisock that is {reason}"), false, taken);
    Ok(())
}

/// A new SYN takes a TIME_WAIT of the accepting side, and no counter moves.
pub fn recycle(stage: &mut Stage<'_>) -> Outcome {
    let listener = stage.listen(Family::V4)?;
    recycled(stage, &listener, Family::V4)
}

/// One TIME_WAIT of the accepting side that a SYN takes.
pub(super) fn recycled(stage: &mut Stage<'_>, listener: &TcpListener, family: Family) -> Outcome {
    let from = stage.source(family);
    let link = stage.connect(listener, Some(from))?;
    stage.close(link, First::Server)?;
    let to = listener.local_addr()?;
    let refused = |error| match error {
        ErrorKind::AddrInUse => stage.no_bind(Call::Bind, from),
        _ => stage.no_port_bound(from, to),
    };
    lives::abort_both(lives::connect_again(listener, from, refused)?)?;
    stage.last()?.end = End::of(Cause::Recycled);
    Ok(())
}

/// A SYN when nobody listens any more: the minisock answers the SYN with an ACK, and the peer's RST ends it.
pub fn recycle_no_listener(stage: &mut Stage<'_>) -> Outcome {
    lives::sysctl("tcp_rfc1337", "0")?;
    let listener = stage.listen(Family::V4)?;
    let to = listener.local_addr()?;
    let from = stage.source(Family::V4);
    let link = stage.connect(&listener, Some(from))?;
    stage.close(link, First::Server)?;
    drop(listener);
    stage.ends(Cause::Reset, || match lives::dial(to, Some(from)) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        other => Err(io::Error::other(format!("connect() to nobody: {other:?}"))),
    })?;
    Ok(())
}

/// Ten ports, all in use for one destination: the eleventh connect() to it fails, and one to another does not.
pub fn exhaustion(stage: &mut Stage<'_>) -> Outcome {
    const PORTS: u16 = 10;
    let listeners: Vec<(Family, TcpListener, TcpListener)> = [Family::V4, Family::V6, Family::Mapped]
        .into_iter()
        .map(|family| Ok((family, stage.listen(family)?, stage.listen(family)?)))
        .collect::<io::Result<_>>()?;
    for (index, (_, full, other)) in (0_u16..).zip(&listeners) {
        let first = 20_000 + 100 * index;
        lives::sysctl("ip_local_port_range", &format!("{first} {}", first + PORTS - 1))?;
        let held: Vec<Link> = (0..PORTS).map(|_| stage.connect(full, None)).collect::<io::Result<_>>()?;
        let failed = lives::dial(full.local_addr()?, None).map(drop).map_err(|error| error.kind());
        stage.check("connect() without a port", "Err(AddrNotAvailable)", format!("{failed:?}"));
        stage.no_port(full)?;
        let another = stage.connect(other, None)?;
        for link in held.into_iter().chain([another]) {
            stage.close(link, First::Client)?;
        }
    }
    Ok(())
}
