//! TCP connections whose end is chosen. All of it acts in the calling thread's network namespace.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, SockRef, Socket, Type};

/// No peer on the same host takes longer; a test that waits for more has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Both ends of one connection.
#[derive(Debug)]
pub struct Pair {
    /// The end that called connect().
    pub client: TcpStream,
    /// The end that was accepted.
    pub server: TcpStream,
}

/// Listens, with SO_REUSEADDR, so that connections of a former listener do not stand in the way.
///
/// # Errors
/// Those of socket(2), bind(2) and listen(2).
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// Connects to a listener of this thread and accepts. `from`: bind there first, with SO_REUSEADDR (port 0: an address
/// whose port connect() chooses).
///
/// # Errors
/// Those of bind(2), connect(2) and accept(2).
pub fn connect(listener: &TcpListener, from: Option<SocketAddr>) -> io::Result<Pair> {
    let to = listener.local_addr()?;
    let client = dial(to, from)?;
    let (server, peer) = listener.accept()?;
    if peer != client.local_addr()? {
        return Err(io::Error::other(format!("a stranger, {peer}, connected to {to}")));
    }
    server.set_read_timeout(Some(PATIENCE))?;
    Ok(Pair { client, server })
}

/// Connects anew from where an earlier connection came. Its own end may be in LAST_ACK still, and have the port: it is waited
/// for. `refused` hears of each attempt that failed: EADDRINUSE of bind(), or EADDRNOTAVAIL of connect().
///
/// # Errors
/// As [`connect`]; EADDRINUSE or EADDRNOTAVAIL if the port does not come free.
pub fn connect_again(
    listener: &TcpListener,
    from: SocketAddr,
    mut refused: impl FnMut(io::ErrorKind),
) -> io::Result<Pair> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connect(listener, Some(from)) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
                    && Instant::now() < deadline =>
            {
                refused(error.kind());
                thread::sleep(Duration::from_millis(1));
            }
            other => return other,
        }
    }
}

/// The client's half of [`connect`].
///
/// # Errors
/// Those of bind(2) and connect(2).
pub fn dial(to: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(from) = from {
        socket.set_reuse_address(true)?;
        if from.port() == 0 {
            // Leaves the choice of the port to connect(), which may share it between destinations.
            set_option(&socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        }
        socket.bind(&from.into())?;
    }
    socket.connect(&to.into())?;
    let client = TcpStream::from(socket);
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_nodelay(true)?;
    Ok(client)
}

/// An option that is a number and that socket2 does not have.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_option(
    socket: &impl AsRawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: setsockopt reads `length` bytes of `value`, which lives until the call returns.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes `first`, waits until `second` has seen it, closes that: `first`'s end gets the TIME_WAIT.
///
/// # Errors
/// If the FIN does not arrive.
pub fn close_in_order(first: TcpStream, mut second: TcpStream) -> io::Result<()> {
    drop(first);
    expect_end(&mut second)
}

/// Reads up to the peer's FIN.
///
/// # Errors
/// If it does not arrive, or data does.
pub fn expect_end(stream: &mut TcpStream) -> io::Result<()> {
    match stream.read(&mut [0; 16])? {
        0 => Ok(()),
        count => Err(io::Error::other(format!("{count} bytes instead of the peer's end"))),
    }
}

/// Sends `bytes` bytes from one end and reads them at the other.
///
/// # Errors
/// Those of write(2) and read(2).
pub fn send(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) -> io::Result<()> {
    let chunk = [b'x'; 1024];
    let mut left = bytes;
    while left > 0 {
        let part = left.min(chunk.len());
        from.write_all(&chunk[..part])?;
        to.read_exact(&mut [0; 1024][..part])?;
        left -= part;
    }
    Ok(())
}

/// Ends a connection by RST (SO_LINGER with time 0): no TIME_WAIT at either end.
///
/// # Errors
/// Those of setsockopt(2).
pub fn abort(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// [`abort`] at both ends.
///
/// # Errors
/// As [`abort`].
pub fn abort_both(pair: Pair) -> io::Result<()> {
    abort(pair.client)?;
    abort(pair.server)
}

/// Writes a sysctl below /proc/sys/net/ipv4 of the calling thread's namespace.
///
/// # Errors
/// Those of open(2) and write(2); the sysctl's name is in the message.
pub fn sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    std::fs::write(&path, value).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}

/// Closes a descriptor without a segment to its peer: in repair mode (TCP_REPAIR) close() says nothing.
///
/// # Errors
/// Those of setsockopt(2): EPERM without CAP_NET_ADMIN.
pub fn hush(stream: TcpStream) -> io::Result<()> {
    set_option(&stream, libc::SOL_TCP, libc::TCP_REPAIR, 1)
}
