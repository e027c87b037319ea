//! Lives that the test makes, each with what must be said of it. All of it acts in the calling thread's namespace.

use std::{
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    panic::Location,
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    time::{Duration, Instant},
};

use twtrace::{
    host::{Host, counters::KernelCounters},
    lab::{
        diag,
        lives::{self, Pair},
    },
    model::event::Tuple,
};

/// What must be seen of one minisock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Its connection, from the side that has the minisock.
    pub tuple: Tuple,
    /// Who opened the connection.
    pub role: &'static str,
    /// What it is born as; `None`: either, for that depends on whether the peer's FIN and ACK come in one segment.
    pub born: Option<&'static str>,
    /// Born as FIN_WAIT2, it becomes TIME_WAIT.
    pub turned: bool,
    /// What ends it; `None`: it is alive when the tracer ends.
    pub end: Option<&'static str>,
    /// Payload that came in and went out.
    pub bytes: (u64, u64),
}

impl Want {
    fn new(tuple: Tuple, role: &'static str, end: Option<&'static str>) -> Self {
        Self { tuple, role, born: None, turned: true, end, bytes: (0, 0) }
    }
}

/// The addresses of one family: v4-mapped connects from an IPv6 socket and is IPv4 to the kernel's packets.
#[derive(Clone, Copy, Debug)]
pub enum Family {
    V4,
    V6,
    Mapped,
}

impl Family {
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
            Self::Mapped => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        }
    }
}

pub fn listen(family: Family) -> io::Result<TcpListener> {
    lives::listen(SocketAddr::new(family.loopback(), 0))
}

fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn between(local: SocketAddr, remote: SocketAddr) -> Tuple {
    let (local, remote) = (plain(local), plain(remote));
    Tuple { laddr: local.ip(), lport: local.port(), raddr: remote.ip(), rport: remote.port() }
}

fn client_side(pair: &Pair) -> io::Result<Tuple> {
    Ok(between(pair.client.local_addr()?, pair.client.peer_addr()?))
}

fn server_side(pair: &Pair) -> io::Result<Tuple> {
    Ok(between(pair.server.local_addr()?, pair.server.peer_addr()?))
}

/// A source port that this listener has not seen: were it left to connect(), a TIME_WAIT of an earlier connection would
/// sooner or later be taken over by accident.
fn source(family: Family) -> Option<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Below every listener's port, which the kernel chooses from 32768 on.
    const FIRST: u16 = 1024;
    const PORTS: u16 = 31_000;
    let port = FIRST + NEXT.fetch_add(1, Relaxed) % PORTS;
    Some(SocketAddr::new(family.loopback(), port))
}

/// `count` connections that the client closes first.
pub fn client_closes(listener: &TcpListener, family: Family, count: usize) -> io::Result<Vec<Want>> {
    let before = minisocks()?;
    let mut wants = Vec::with_capacity(count);
    for index in 0..count {
        let mut pair = lives::connect(listener, source(family))?;
        let mut want = Want::new(client_side(&pair)?, "client", None);
        // Every eighth carries data, both ways, so that byte counts are looked at.
        if index % 8 == 0 {
            let (out, back) = (100 + index, 3000);
            lives::send(&mut pair.client, &mut pair.server, out)?;
            lives::send(&mut pair.server, &mut pair.client, back)?;
            want.bytes = (back as u64, out as u64);
        }
        lives::close_in_order(pair.client, pair.server)?;
        wants.push(want);
    }
    // The last segments may still be on their way through a softirq.
    await_minisocks(before + count as u64)?;
    Ok(wants)
}

/// `count` connections that the server closes first.
pub fn server_closes(listener: &TcpListener, family: Family, count: usize) -> io::Result<Vec<Want>> {
    let before = minisocks()?;
    let mut wants = Vec::with_capacity(count);
    for _ in 0..count {
        let pair = lives::connect(listener, source(family))?;
        wants.push(Want::new(server_side(&pair)?, "server", None));
        lives::close_in_order(pair.server, pair.client)?;
    }
    await_minisocks(before + count as u64)?;
    Ok(wants)
}

/// Waits until as many minisocks are there as said, by the kernel's own count.
#[track_caller]
pub fn await_minisocks(count: u64) -> io::Result<()> {
    let line = Location::caller().line();
    if minisocks_reach(count, Duration::from_secs(20))? {
        return Ok(());
    }
    let now = minisocks()?;
    Err(io::Error::other(format!("{now} minisocks, not {count}, at line {line} of lives.rs")))
}

/// True as soon as there are so many, false if that takes too long.
fn minisocks_reach(count: u64, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    while minisocks()? != count {
        if Instant::now() > deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(true)
}

pub fn minisocks() -> io::Result<u64> {
    Ok(KernelCounters::read(&Host::default()).map_err(io::Error::other)?.sockstat_tw)
}

/// A TIME_WAIT of the server that a new SYN takes; the second connection is aborted.
pub fn recycled(listener: &TcpListener, family: Family) -> io::Result<Vec<Want>> {
    let before = minisocks()?;
    let pair = lives::connect(listener, source(family))?;
    let (want, peer) = (Want::new(server_side(&pair)?, "server", Some("recycled")), pair.client.local_addr()?);
    lives::close_in_order(pair.server, pair.client)?;
    await_minisocks(before + 1)?;
    take_over(listener, peer)?;
    Ok(vec![want])
}

/// A TIME_WAIT of the client that a connect() from the same bound port takes.
pub fn reused_bound(listener: &TcpListener) -> io::Result<Vec<Want>> {
    let from = bound_time_wait(listener)?;
    let tuple = between(from, listener.local_addr()?);
    take_over(listener, from)?;
    Ok(vec![Want::new(tuple, "client", Some("reused_bound"))])
}

fn free_port(listener: &TcpListener) -> io::Result<u16> {
    let address = SocketAddr::new(listener.local_addr()?.ip(), 0);
    Ok(TcpListener::bind(address)?.local_addr()?.port())
}

/// A TIME_WAIT whose port is the only one left: an auto-port connect() takes it as soon as tcp_tw_reuse allows.
pub fn reused(listener: &TcpListener) -> io::Result<Vec<Want>> {
    lives::sysctl("tcp_tw_reuse", "1")?;
    let port = free_port(listener)?;
    lives::sysctl("ip_local_port_range", &format!("{port} {port}"))?;
    let pair = lives::connect(listener, None)?;
    let want = Want::new(client_side(&pair)?, "client", Some("reused"));
    lives::close_in_order(pair.client, pair.server)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let again = loop {
        match lives::connect(listener, None) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => break other?,
        }
    };
    lives::abort(again.client)?;
    lives::abort(again.server)?;
    lives::sysctl("ip_local_port_range", "32768 60999")?;
    Ok(vec![want])
}

/// A TIME_WAIT of a server whose listener is gone: the new SYN gets an ACK, its RST kills the minisock.
pub fn reset(family: Family) -> io::Result<Vec<Want>> {
    let before = minisocks()?;
    let listener = listen(family)?;
    let to = listener.local_addr()?;
    let pair = lives::connect(&listener, source(family))?;
    let (want, peer) = (Want::new(server_side(&pair)?, "server", Some("reset")), pair.client.local_addr()?);
    lives::close_in_order(pair.server, pair.client)?;
    await_minisocks(before + 1)?;
    drop(listener);
    lives::sysctl("tcp_rfc1337", "0")?;
    let dialled = lives::dial(to, Some(peer));
    lives::sysctl("tcp_rfc1337", "1")?;
    match dialled {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(vec![want]),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("connected to a port where nobody listens")),
    }
}

/// A FIN_WAIT2 minisock of the client, and the server that has not closed.
///
/// If the ACK of the FIN meets the socket while its owner has it, the kernel keeps the whole socket in FIN_WAIT2
/// (tcp_rcv_state_process: "we could lose such FIN otherwise"); then it is tried again.
fn fin_wait2(listener: &TcpListener, family: Family) -> io::Result<(Want, TcpStream)> {
    let before = minisocks()?;
    for _ in 0..5 {
        let pair = lives::connect(listener, source(family))?;
        let mut want = Want::new(client_side(&pair)?, "client", None);
        (want.born, want.turned) = (Some("fin_wait2"), false);
        drop(pair.client);
        if minisocks_reach(before + 1, Duration::from_secs(5))? {
            return Ok((want, pair.server));
        }
        lives::abort(pair.server)?;
    }
    Err(io::Error::other("no FIN_WAIT2 minisock in five attempts"))
}

/// A FIN_WAIT2 minisock that data reaches.
pub fn data_reset(listener: &TcpListener, family: Family) -> io::Result<Vec<Want>> {
    let before = minisocks()?;
    let (mut want, mut server) = fin_wait2(listener, family)?;
    want.end = Some("data_reset");
    server.write_all(b"too late")?;
    await_minisocks(before)?;
    Ok(vec![want])
}

/// A FIN_WAIT2 minisock that gets its FIN and becomes TIME_WAIT.
pub fn turned(listener: &TcpListener, family: Family, end: Option<&'static str>) -> io::Result<Vec<Want>> {
    let (mut want, server) = fin_wait2(listener, family)?;
    (want.turned, want.end) = (true, end);
    std::thread::sleep(Duration::from_millis(20));
    drop(server);
    Ok(vec![want])
}

/// A FIN_WAIT2 minisock whose peer never closes: it runs out after tcp_fin_timeout.
pub fn orphan_expires(listener: &TcpListener, family: Family) -> io::Result<(Vec<Want>, TcpStream)> {
    lives::sysctl("tcp_fin_timeout", "1")?;
    let (mut want, server) = fin_wait2(listener, family)?;
    want.end = Some("expired");
    lives::sysctl("tcp_fin_timeout", "60")?;
    Ok((vec![want], server))
}

/// A TIME_WAIT that SOCK_DESTROY ends; before 6.0 the kernel cannot, and it lives on.
pub fn killed(listener: &TcpListener, family: Family) -> io::Result<Vec<Want>> {
    let before = minisocks()?;
    let pair = lives::connect(listener, source(family))?;
    let mut want = Want::new(client_side(&pair)?, "client", Some("killed"));
    lives::close_in_order(pair.client, pair.server)?;
    await_minisocks(before + 1)?;
    match diag::kill(&want.tuple) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => want.end = None,
        Err(error) => return Err(error),
    }
    Ok(vec![want])
}

/// `count` connections while the table has no room: none gets a minisock.
pub fn refused(listener: &TcpListener, family: Family, count: usize) -> io::Result<Vec<Tuple>> {
    let limit = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_max_tw_buckets")?;
    lives::sysctl("tcp_max_tw_buckets", &minisocks()?.to_string())?;
    let tuples = (0..count)
        .map(|_| {
            let pair = lives::connect(listener, source(family))?;
            let tuple = client_side(&pair)?;
            lives::close_in_order(pair.client, pair.server)?;
            Ok(tuple)
        })
        .collect();
    lives::sysctl("tcp_max_tw_buckets", limit.trim())?;
    tuples
}

/// A TIME_WAIT of a client that bound its port: where it can be taken from.
pub fn bound_time_wait(listener: &TcpListener) -> io::Result<SocketAddr> {
    let before = minisocks()?;
    let from = SocketAddr::new(listener.local_addr()?.ip(), free_port(listener)?);
    let pair = lives::connect(listener, Some(from))?;
    lives::close_in_order(pair.client, pair.server)?;
    await_minisocks(before + 1)?;
    Ok(from)
}

/// A connect() from a bound port, aborted at once.
pub fn take_over(listener: &TcpListener, from: SocketAddr) -> io::Result<()> {
    let pair = lives::connect(listener, Some(from))?;
    lives::abort(pair.client)?;
    lives::abort(pair.server)
}
