//! Calls that do not get the port that they name, and calls that fail or end for other reasons.

use std::{
    io::{self, ErrorKind},
    net::{Shutdown, SocketAddr, TcpListener},
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use super::super::{
    stage::{Family, First, Outcome, Stage},
    want::{Is, SOME_TIME, WantDenied, between},
};
use crate::{
    model::event::{Call, Denial},
    traffic::{
        lives,
        segment::{self, Hears},
    },
};

/// `TCP_FASTOPEN_CONNECT` of include/uapi/linux/tcp.h: connect() sends nothing, the first write does.
const FASTOPEN_CONNECT: libc::c_int = 30;
/// `TCP_FASTOPEN_NO_COOKIE`: that without a cookie of an earlier connection.
const FASTOPEN_NO_COOKIE: libc::c_int = 34;

/// connect() from a bound port fails while the same connection is there: as its own TIME_WAIT without timestamps, or open.
pub fn no_port_bound(stage: &mut Stage<'_>) -> Outcome {
    lives::sysctl("tcp_timestamps", "0")?;
    for family in [Family::V4, Family::V6, Family::Mapped] {
        let listener = stage.listen(family)?;
        own_time_wait(stage, &listener, family)?;
        open_connection(stage, &listener, family)?;
        other_ends(&listener, family, stage)?;
    }
    Ok(())
}

fn own_time_wait(stage: &mut Stage<'_>, listener: &TcpListener, family: Family) -> io::Result<()> {
    let (from, to) = (stage.source(family), listener.local_addr()?);
    let link = stage.connect(listener, Some(from))?;
    stage.close(link, First::Client)?;
    stage.turns()?;
    // A socket that was refused is as new for the next attempt.
    let socket = bound(from)?;
    for _ in 0..2 {
        expect(ErrorKind::AddrNotAvailable, socket.connect(&to.into()))?;
        denied(stage, from, to);
    }
    expect(ErrorKind::AddrNotAvailable, lives::dial(to, Some(from)).map(drop))?;
    denied(stage, from, to);
    // Another destination is another connection.
    let other = stage.listen(family)?;
    lives::abort_both(lives::connect(&other, Some(from))?)
}

fn denied(stage: &mut Stage<'_>, from: SocketAddr, to: SocketAddr) {
    stage.no_port_bound(from, to);
    let (netns, caller) = (stage.netns.inum(), Is::Exactly(stage.me.clone()));
    let (tuple, reason) = (between(from, to), Denial::NoTimestamps);
    stage.made.denied.push(WantDenied { netns, tuple, reason, count: 1, caller, took_ns: SOME_TIME });
}

/// The connection that is in the way is no TIME_WAIT, so nothing was denied.
fn open_connection(stage: &mut Stage<'_>, listener: &TcpListener, family: Family) -> io::Result<()> {
    let (from, to) = (stage.source(family), listener.local_addr()?);
    let pair = lives::connect(listener, Some(from))?;
    expect(ErrorKind::AddrNotAvailable, lives::dial(to, Some(from)).map(drop))?;
    stage.no_port_bound(from, to);
    // A socket that had a connection, and is used again: its hash is not that of a new one.
    let socket = bound(stage.source(family))?;
    let again = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("no address"))?;
    socket.connect(&to.into())?;
    let (server, _) = listener.accept()?;
    lives::abort(server)?;
    disconnect(&socket)?;
    socket
        .bind(&again.into())
        .or_else(|error| if error.kind() == ErrorKind::InvalidInput { Ok(()) } else { Err(error) })?;
    let other = lives::connect(listener, Some(again))?;
    expect(ErrorKind::AddrNotAvailable, socket.connect(&to.into()))?;
    stage.no_port_bound(again, to);
    lives::abort_both(other)?;
    lives::abort_both(pair)
}

/// What ends a connect() from a bound port, and is not a want of a port.
fn other_ends(listener: &TcpListener, family: Family, stage: &Stage<'_>) -> io::Result<()> {
    let to = listener.local_addr()?;
    let closed = stage.listen(family)?.local_addr()?;
    // A RST.
    expect(ErrorKind::ConnectionRefused, lives::dial(closed, Some(stage.source(family))).map(drop))?;
    // No answer: close(), close() by RST, shutdown(), and disconnecting.
    let deaf = stage.listen(family)?;
    segment::hear(&deaf, Hears::Nothing)?;
    let silent = deaf.local_addr()?;
    let begun = |to: SocketAddr| {
        let socket = bound(stage.source(family))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
            other => Err(io::Error::other(format!("connect() without an answer: {other:?}"))),
        }
    };
    drop(begun(silent)?);
    let aborted = begun(silent)?;
    aborted.set_linger(Some(Duration::ZERO))?;
    drop(aborted);
    begun(silent)?.shutdown(Shutdown::Both)?;
    disconnect(&begun(silent)?)?;
    // No answer, until the kernel gives up.
    let patient = bound(stage.source(family))?;
    lives::set_option(&patient, libc::SOL_TCP, libc::TCP_SYNCNT, 1)?;
    expect(ErrorKind::TimedOut, patient.connect(&silent.into()))?;
    // Put off until the first write, which does not come: nothing was ever sent.
    let deferred = bound(stage.source(family))?;
    lives::set_option(&deferred, libc::SOL_TCP, FASTOPEN_CONNECT, 1)?;
    // Kernel 4.15.
    lives::set_option(&deferred, libc::SOL_TCP, FASTOPEN_NO_COOKIE, 1)?;
    deferred.connect(&to.into())?;
    drop(deferred);
    // Ports that connect() chooses.
    let deferred = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    lives::set_option(&deferred, libc::SOL_TCP, FASTOPEN_CONNECT, 1)?;
    lives::set_option(&deferred, libc::SOL_TCP, FASTOPEN_NO_COOKIE, 1)?;
    deferred.connect(&to.into())?;
    drop(deferred);
    expect(ErrorKind::ConnectionRefused, lives::dial(closed, None).map(drop))
}

/// bind() and listen() that find the port taken, and some that do not.
pub fn no_bind(stage: &mut Stage<'_>) -> Outcome {
    for (number, family) in (0_u16..).zip([Family::V4, Family::V6, Family::Mapped]) {
        after_a_restart(stage, family)?;
        beside_a_listener(stage, family)?;
        full_range(stage, family, 30_000 + number)?;
    }
    Ok(())
}

/// The server closed first and was restarted: its TIME_WAIT has the port.
fn after_a_restart(stage: &mut Stage<'_>, family: Family) -> io::Result<()> {
    let listener = stage.listen(family)?;
    let at = listener.local_addr()?;
    stage.live(&listener, family, First::Server)?;
    drop(listener);
    let plain = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    expect(ErrorKind::AddrInUse, plain.bind(&at.into()))?;
    stage.no_bind(Call::Bind, at);
    // The remedy.
    drop(lives::listen(at)?);
    Ok(())
}

fn beside_a_listener(stage: &mut Stage<'_>, family: Family) -> io::Result<()> {
    let listener = stage.listen(family)?;
    let at = listener.local_addr()?;
    expect(ErrorKind::AddrInUse, lives::listen(at).map(drop))?;
    stage.no_bind(Call::Bind, at);
    drop(listener);
    // Two may have a port, by SO_REUSEADDR, as long as neither listens.
    let [first, second] = [bound(at)?, bound(at)?];
    first.listen(1)?;
    expect(ErrorKind::AddrInUse, second.listen(1))?;
    stage.no_bind(Call::Listen, at);
    Ok(())
}

/// bind() that leaves the choice to the kernel, and nothing is left.
fn full_range(stage: &mut Stage<'_>, family: Family, port: u16) -> io::Result<()> {
    lives::sysctl("ip_local_port_range", &format!("{port} {port}"))?;
    let any = SocketAddr::new(stage.source(family).ip(), 0);
    let first = Socket::new(Domain::for_address(any), Type::STREAM, None)?;
    first.bind(&any.into())?;
    let second = Socket::new(Domain::for_address(any), Type::STREAM, None)?;
    expect(ErrorKind::AddrInUse, second.bind(&any.into()))?;
    stage.no_bind(Call::Bind, any);
    lives::sysctl("ip_local_port_range", "32768 60999")
}

/// A socket that is bound there, with SO_REUSEADDR.
fn bound(from: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    Ok(socket)
}

/// connect() to AF_UNSPEC: the socket is as if it had never been connected.
fn disconnect(socket: &Socket) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: all zeroes is a valid sockaddr, of family AF_UNSPEC.
    let nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    // SAFETY: connect reads one sockaddr, which lives until the call returns.
    let result = unsafe { libc::connect(socket.as_raw_fd(), &raw const nowhere, size_of::<libc::sockaddr>() as u32) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn expect(kind: ErrorKind, result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        other => Err(io::Error::other(format!("{kind:?} was expected, not {other:?}"))),
    }
}
