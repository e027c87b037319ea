//! Ways into TIME_WAIT, and ways around it.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::super::{
    stage::{Family, First, Link, Outcome, PATIENCE, Stage, Stop, TICKS, await_minisocks},
    want::{End, Is, Turn, Want, between, own_cgroup},
};
use crate::{
    model::event::{Cause, Role, Substate},
    traffic::{
        diag,
        lives::{self, Pair},
        oracle,
        segment::{self, Hears, Kind, Segment},
        who::Who,
    },
};

/// Numbers of include/net/tcp_states.h, as TCP_INFO tells them.
const CLOSE: u8 = 7;
const CLOSING: u8 = 11;

/// The end that called connect() closes first, with and without data before.
pub fn client_close(stage: &mut Stage<'_>) -> Outcome {
    closes(stage, Family::V4, First::Client, 10)
}

/// The end that accepted closes first.
pub fn server_close(stage: &mut Stage<'_>) -> Outcome {
    closes(stage, Family::V4, First::Server, 10)
}

fn closes(stage: &mut Stage<'_>, family: Family, first: First, count: usize) -> Outcome {
    let listener = stage.listen(family)?;
    for index in 0..count {
        let from = stage.source(family);
        let mut link = stage.connect(&listener, Some(from))?;
        let (out, back) = (index * 100, index * 3000);
        lives::send(&mut link.pair.client, &mut link.pair.server, out)?;
        lives::send(&mut link.pair.server, &mut link.pair.client, back)?;
        let want = stage.close(link, first)?;
        let (received, sent) = if first == First::Client { (back, out) } else { (out, back) };
        want.bytes_in = Is::Exactly(received as u64);
        want.bytes_out = Is::Exactly(sent as u64);
    }
    Ok(())
}

/// One family: either end closes first, a connect() takes one over, a SYN another.
fn every_family(stage: &mut Stage<'_>, family: Family) -> Outcome {
    closes(stage, family, First::Client, 4)?;
    closes(stage, family, First::Server, 4)?;
    let listener = stage.listen(family)?;
    stage.live(&listener, family, First::Client)?;
    stage.take_over(&listener)?;
    super::takeover::recycled(stage, &listener, family)
}

/// IPv6.
pub fn ipv6(stage: &mut Stage<'_>) -> Outcome {
    every_family(stage, Family::V6)
}

/// IPv4 by an IPv6 socket.
pub fn v4_mapped(stage: &mut Stage<'_>) -> Outcome {
    every_family(stage, Family::Mapped)
}

/// Both FINs cross: the ends are deaf while they send them, then get them as if they had been under way, and hear nothing
/// else until both are in CLOSING.
pub fn simultaneous_close(stage: &mut Stage<'_>) -> Outcome {
    let listener = stage.listen(Family::V4)?;
    let mut crossed = false;
    // A FIN that is sent again before both have got theirs, on a slow machine, leads around CLOSING.
    for _ in 0..5 {
        let before = oracle::minisocks()?;
        let from = stage.source(Family::V4);
        let link = stage.connect(&listener, Some(from))?;
        for first in [First::Client, First::Server] {
            let mut want = stage.want(&link, first)?;
            want.born = Is::Exactly(Substate::TimeWait);
            stage.write(want);
        }
        crossed = cross(&link.pair)?;
        await_minisocks(before + 2)?;
        if crossed {
            break;
        }
    }
    stage.check("both ends went through CLOSING", true, crossed);
    Ok(())
}

fn cross(Pair { client, server }: &Pair) -> io::Result<bool> {
    let (here, there) = (client.local_addr()?, server.local_addr()?);
    let at = segment::sequence(client)?;
    for end in [client, server] {
        segment::hear(end, Hears::Nothing)?;
    }
    for end in [client, server] {
        end.shutdown(Shutdown::Write)?;
    }
    for end in [client, server] {
        segment::hear(end, Hears::Fins)?;
    }
    Segment::new(there, here, Kind::Fin, at.next_in, at.next_out)?.send()?;
    Segment::new(here, there, Kind::Fin, at.next_out, at.next_in)?.send()?;
    let state = |end: &TcpStream| segment::info(end).map(|info| info.state);
    let deadline = Instant::now() + Duration::from_millis(100);
    let mut crossed = false;
    while !crossed && Instant::now() < deadline {
        crossed = state(client)? == CLOSING && state(server)? == CLOSING;
        thread::sleep(Duration::from_millis(1));
    }
    for end in [client, server] {
        segment::hear(end, Hears::All)?;
    }
    Ok(crossed)
}

/// shutdown(), not close(): the TIME_WAIT is there while the descriptor is open, and its socket is in CLOSE.
pub fn fd_kept(stage: &mut Stage<'_>) -> Outcome {
    let listener = stage.listen(Family::V4)?;
    let from = stage.source(Family::V4);
    let link = stage.connect(&listener, Some(from))?;
    let mut want = stage.want(&link, First::Client)?;
    want.born = Is::Exactly(Substate::TimeWait);
    stage.write(want);
    let Pair { client, mut server } = link.pair;
    client.shutdown(Shutdown::Write)?;
    lives::expect_end(&mut server)?;
    drop(server);
    await_minisocks(1)?;
    let state = segment::info(&client)?.state;
    stage.check("state of the open descriptor", CLOSE, state);
    Ok(())
}

/// An orphan's FIN_WAIT2 minisock gets its FIN and becomes TIME_WAIT in place; then it ends, for a turn may be told late.
pub fn orphan_turn(stage: &mut Stage<'_>) -> Outcome {
    let listener = stage.listen(Family::V4)?;
    let from = stage.source(Family::V4);
    let server = stage.fin_wait2(&listener, Some(from))?;
    let tuple = stage.last()?.tuple;
    stage.last()?.turn = Turn::IfFinWait2;
    drop(server);
    await_state(&[(tuple, Substate::TimeWait)])?;
    stage.take_over(&listener)?;
    Ok(())
}

fn await_state(wanted: &[(crate::model::event::Tuple, Substate)]) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = diag::minisocks()?;
        if now == wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("sock_diag lists {now:?} instead of {wanted:?}")));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// What one end of a subflow is reported as: a worker of the kernel closes it, for whoever closed the MPTCP socket.
fn subflow(stage: &Stage<'_>, tuple: crate::model::event::Tuple, role: Role, closer: Who) -> Want {
    Want {
        netns: stage.netns.inum(),
        tuple,
        preexisting: false,
        role: Is::Exactly(role),
        born: Is::Anything,
        turn: Turn::IfFinWait2,
        rearmed: Is::Anything,
        closer: Is::Exactly(closer),
        cgroup: own_cgroup(),
        opener: if role == Role::Client { Is::Exactly(stage.me.clone()) } else { Is::Unknown },
        conn_ns: Is::Within(1..=u64::MAX),
        bytes_in: Is::Anything,
        bytes_out: Is::Anything,
        srtt_us: Is::Anything,
        timestamps: Is::Anything,
        timeout_ms: Is::Anything,
        end: End::Alive,
    }
}

/// MPTCP: as many lives as the kernel lists minisocks, though two sockets report every transition; the closer is who closed
/// the MPTCP socket, be it the one who opened it or another process.
pub fn mptcp(stage: &mut Stage<'_>) -> Outcome {
    let socket = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP));
    let not_here = |error: io::Error| Stop::NotHere(format!("socket(.., IPPROTO_MPTCP): {error}"));
    let listening = socket().map_err(not_here)?;
    listening.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    listening.listen(16)?;
    let listener = TcpListener::from(listening);
    let mut hand = stage.hands.pop().ok_or_else(|| io::Error::other("no helper process"))?;
    let mut ends = Vec::new();
    for is_passed_on in [false, true] {
        let client = socket().map_err(not_here)?;
        client.connect(&listener.local_addr()?.into())?;
        let client = TcpStream::from(client);
        client.set_read_timeout(Some(PATIENCE))?;
        let (mut server, _) = listener.accept()?;
        server.set_read_timeout(Some(PATIENCE))?;
        let mut pair = Pair { client, server: server.try_clone()? };
        lives::send(&mut pair.client, &mut server, 100)?;
        let (here, there) = (pair.client.local_addr()?, server.local_addr()?);
        let closer = if is_passed_on { hand.who() } else { stage.me.clone() };
        if is_passed_on {
            hand.hold(pair.client)?;
            hand.close()?;
            drop(pair.server);
        } else {
            drop(pair);
        }
        lives::expect_end(&mut server)?;
        drop(server);
        ends.push((between(here, there), Role::Client, closer));
        ends.push((between(there, here), Role::Server, stage.me.clone()));
    }
    // The workers of both sockets close the subflow; which end is first, or both, is theirs to choose. What is listed has
    // to stay as it is for a while.
    let deadline = Instant::now() + PATIENCE;
    let mut listed = diag::minisocks()?;
    let mut since = Instant::now();
    while (listed.len() < 2 || since.elapsed() < Duration::from_secs(1)) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
        let now = diag::minisocks()?;
        if now != listed {
            (listed, since) = (now, Instant::now());
        }
    }
    let is_listed = |tuple| listed.iter().any(|(listed, _)| *listed == tuple);
    for ends in ends.chunks(2) {
        let some = ends.iter().any(|(tuple, ..)| is_listed(*tuple));
        stage.check("a minisock of the subflow, by sock_diag", true, some);
    }
    for (tuple, role, closer) in ends.into_iter().filter(|(tuple, ..)| is_listed(*tuple)) {
        let want = subflow(stage, tuple, role, closer);
        stage.write(want);
    }
    Ok(())
}

/// SO_LINGER with time 0: a RST, and no TIME_WAIT at either end.
pub fn linger0(stage: &mut Stage<'_>) -> Outcome {
    aborted(stage, "TCPAbortOnData", |link| {
        lives::abort(link.pair.client)?;
        Ok(link.pair.server)
    })
}

/// close() with data unread: a RST, and no TIME_WAIT at either end.
pub fn unread_data(stage: &mut Stage<'_>) -> Outcome {
    aborted(stage, "TCPAbortOnClose", |mut link| {
        io::Write::write_all(&mut link.pair.server, b"never read")?;
        // It has arrived once it can be read.
        link.pair.client.peek(&mut [0; 1])?;
        drop(link.pair.client);
        Ok(link.pair.server)
    })
}

fn aborted(stage: &mut Stage<'_>, counter: &str, abort: fn(Link) -> io::Result<TcpStream>) -> Outcome {
    const COUNT: u64 = 5;
    let listener = stage.listen(Family::V4)?;
    let before = oracle::counter("TcpExt", counter)?;
    for _ in 0..COUNT {
        let from = stage.source(Family::V4);
        let link = stage.connect(&listener, Some(from))?;
        let mut server = abort(link)?;
        let ended = lives::expect_end(&mut server).map_err(|error| error.kind());
        stage.check(
            "the peer reads",
            format!("{:?}", Err::<(), _>(io::ErrorKind::ConnectionReset)),
            format!("{ended:?}"),
        );
    }
    let after = oracle::counter("TcpExt", counter)?;
    stage.made.note = Some(format!("{COUNT} aborts"));
    stage.check(&format!("TcpExt {counter}"), COUNT, after - before);
    stage.check("minisocks", 0, oracle::minisocks()?);
    Ok(())
}

/// tcp_fin_timeout of 2 s: an orphan's FIN_WAIT2 minisock runs out after that, and the wheel's slack.
pub fn orphan_expire(stage: &mut Stage<'_>) -> Outcome {
    const SECONDS: u64 = 2;
    lives::sysctl("tcp_fin_timeout", &SECONDS.to_string())?;
    let listener = stage.listen(Family::V4)?;
    let from = stage.source(Family::V4);
    let began = Instant::now();
    let server = stage.fin_wait2(&listener, Some(from))?;
    await_minisocks(0)?;
    let most = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let least = u64::try_from((Duration::from_secs(SECONDS) - TICKS).as_nanos()).unwrap_or(0);
    let last = stage.last()?;
    last.timeout_ms = Is::Within(1980..=2020);
    last.end = End::Died { cause: Cause::Expired, life_ns: Is::Within(least..=most), taker: Is::Unknown };
    lives::abort(server)?;
    Ok(())
}
