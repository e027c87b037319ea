//! The TCP sockets of a network namespace, by netlink's sock_diag: what a look at them costs is the kernel's walk, for
//! nothing is allocated per socket here.

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlasIterator, Parseable,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, INET_DIAG_INFO, INET_DIAG_SKMEMINFO, IPPROTO_TCP, SOCK_DIAG_BY_FAMILY},
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, Timer},
};
pub use netlink_packet_sock_diag::{
    constants::{
        TCP_CLOSE, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK,
        TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT, TCP_TIME_WAIT,
    },
    inet::StateFlags,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use crate::model::event::Tuple;

/// INET_DIAG_NOCOOKIE: whichever socket has the tuple.
const NO_COOKIE: [u8; 8] = [0xff; 8];
/// What is read at once, bytes: the most that the kernel puts into one packet of a dump (netlink_recvmsg).
const PACKET: usize = 32 << 10;
/// Size of `struct inet_diag_msg`, and where in it the time of the timer lies, which the crate drops for TIME_WAIT.
const HEADER: usize = 72;
const EXPIRES: usize = 52;
/// Where `tcpi_bytes_acked` and `tcpi_bytes_received` lie in `struct tcp_info` (include/uapi/linux/tcp.h).
const BYTES_ACKED: usize = 120;
const BYTES_RECEIVED: usize = 128;
/// Where SK_MEMINFO_DROPS lies: the ninth of the u32s (include/uapi/linux/sock_diag.h).
const DROPS: usize = 32;
/// Where `tcpi_last_ack_recv` lies in `struct tcp_info` (include/uapi/linux/tcp.h).
const LAST_ACK_RECV: usize = 56;
/// INET_DIAG_SOCKOPT (include/uapi/linux/inet_diag.h), since Linux 5.10 part of every answer about a full socket, and where
/// in `struct inet_diag_sockopt` the bit of IP_BIND_ADDRESS_NO_PORT lies: the lowest of the second byte.
const INET_DIAG_SOCKOPT: u16 = 22;
const NO_PORT: usize = 1;
/// TCP_BOUND_INACTIVE (include/net/tcp_states.h), since Linux 6.8: asks for sockets that were bound and neither listen nor
/// are connected; they are listed in TCP_CLOSE. Older kernels ignore the bit.
const TCP_BOUND_INACTIVE: u32 = 13;
/// How often a dump is made before it is given up.
const ATTEMPTS: usize = 4;

/// Every state, and bound sockets that neither listen nor are connected, where the kernel lists them.
#[must_use]
pub fn every_state() -> StateFlags {
    StateFlags::all() | StateFlags::from_bits_retain(1 << TCP_BOUND_INACTIVE)
}

/// What is asked about each socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// What the header of an answer holds: cheap.
    Header,
    /// Also what the kernel has to gather: 300 bytes more for each full socket.
    Everything,
}

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The connection, from its side; v4-mapped addresses are IPv4. Of a listener the remote end is zero.
    pub tuple: Tuple,
    /// The socket's state, a number of include/net/tcp_states.h: of a minisock, the substate; of a request, SYN_RECV.
    pub state: u8,
    /// True of a minisock: in TIME_WAIT or, as one, in FIN_WAIT2.
    pub minisock: bool,
    /// AF_INET or AF_INET6: a socket of the latter can have v4-mapped addresses.
    pub family: u8,
    /// Until its timer is due, milliseconds: 0 while a TIME_WAIT is in the slack of the timer wheel, and without a timer.
    pub left_ms: u32,
    /// Of a listener: connections in its accept queue.
    pub receive_queue: u32,
    /// Of a listener: how many it may hold (`sk_max_ack_backlog`). The queue is full with one more. Of another full socket:
    /// bytes that were written and that the peer has not acknowledged.
    pub send_queue: u32,
    /// How often the segment at the head was sent again without an answer; of a request, the SYN-ACK (`num_retrans`).
    pub retransmits: u8,
    /// The peer's window is zero and is being probed (timer 4, ICSK_TIME_PROBE0).
    pub probing: bool,
    /// Of its file; 0 if no process has it, as of minisocks and requests.
    pub inode: u32,
    /// Bytes of the stream so far, in both directions (tcpi_bytes_acked, tcpi_bytes_received); `None`: not asked for, or
    /// no connection.
    pub bytes: Option<u64>,
    /// Since the peer last acknowledged something, milliseconds (tcpi_last_ack_recv, from `rcv_tstamp`): its FIN is at least
    /// so old, and a SYN that has no answer exactly (tcp_connect_init). `None` as `bytes`.
    pub idle_ms: Option<u32>,
    /// IP_BIND_ADDRESS_NO_PORT is set; `None`: the kernel does not tell.
    pub no_port: Option<bool>,
    /// What the kernel dropped here (`sk_drops`): of a listener, SYNs and connections. `None`: not asked for.
    pub drops: Option<u32>,
}

impl Entry {
    /// A socket of which nothing else is known.
    #[must_use]
    pub fn of(tuple: Tuple, state: u8, minisock: bool) -> Self {
        let family = if tuple.laddr.is_ipv4() { AF_INET } else { AF_INET6 };
        Self {
            tuple,
            state,
            minisock,
            family,
            left_ms: 0,
            receive_queue: 0,
            send_queue: 0,
            retransmits: 0,
            probing: false,
            inode: 0,
            bytes: None,
            idle_ms: None,
            no_port: None,
            drops: None,
        }
    }
}

/// Goes through the TCP sockets of the calling thread's namespace that are in one of these states, of both families. A
/// minisock is in the state that it is listed in, its substate.
///
/// It is no snapshot: a socket that comes, goes or changes meanwhile may be seen or not, and now and then one twice. If
/// the kernel says that it was interrupted, it begins anew, with a new value.
///
/// # Errors
/// Those of netlink; ENOENT if the kernel has no tcp_diag; EINTR if it was interrupted each time.
pub fn dump<T>(
    states: &StateFlags,
    detail: Detail,
    new: impl Fn() -> T,
    each: impl FnMut(&mut T, &Entry),
) -> io::Result<T> {
    dump_of(Families { v4: true, v6: true }, states, detail, new, each)
}

/// Families of sockets that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

/// Sockets of some families: for each the kernel goes through the sockets of all namespaces and both families.
///
/// # Errors
/// As [`dump`].
pub fn dump_of<T>(
    families: Families,
    states: &StateFlags,
    detail: Detail,
    new: impl Fn() -> T,
    mut each: impl FnMut(&mut T, &Entry),
) -> io::Result<T> {
    let extensions = match detail {
        Detail::Header => ExtensionFlags::empty(),
        Detail::Everything => ExtensionFlags::INFO | ExtensionFlags::SKMEMINFO,
    };
    let request = |family, id| InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: extensions.clone(),
        states: states.clone(),
        socket_id: SocketId { cookie: NO_COOKIE, ..id },
    };
    let mut buffer = Vec::with_capacity(PACKET);
    for _ in 0..ATTEMPTS {
        let mut value = new();
        let mut see = |entry: &Entry| each(&mut value, entry);
        let whole = (!families.v4 || family(request(AF_INET, SocketId::new_v4()), &mut buffer, &mut see)?)
            && match families.v6.then(|| family(request(AF_INET6, SocketId::new_v6()), &mut buffer, &mut see)) {
                None => true,
                // Without IPv6 nobody answers for it.
                Some(Err(error)) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Some(other) => other?,
            };
        if whole {
            return Ok(value);
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// The TCP sockets of the calling thread's namespace at this local port, of both families and in every state: since Linux
/// 6.8 those too that are bound and no more. The kernel goes through all sockets for it.
///
/// # Errors
/// As [`dump`], but an interrupted dump is no error: what it found is there.
pub fn at_port(port: u16) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    let mut buffer = Vec::with_capacity(PACKET);
    for (number, id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let request = InetRequest {
            family: number,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::from_bits_retain(u32::MAX),
            socket_id: SocketId { source_port: port, cookie: NO_COOKIE, ..id },
        };
        let mut see = |entry: &Entry| {
            if entry.tuple.lport == port {
                found.push(*entry);
            }
        };
        match family(request, &mut buffer, &mut see) {
            Err(error) if number == AF_INET6 && error.raw_os_error() == Some(libc::ENOENT) => {}
            other => drop(other?),
        }
    }
    Ok(found)
}

/// The request for one socket, by its connection.
#[must_use]
pub fn of_connection(tuple: &Tuple) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family: if tuple.laddr.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: tuple.lport,
            destination_port: tuple.rport,
            source_address: tuple.laddr,
            destination_address: tuple.raddr,
            interface_id: 0,
            cookie: NO_COOKIE,
        },
    })
}

/// The socket of the calling thread's namespace that has this connection, or listens where it would come in; the cost is that
/// of one look-up in the kernel's hash tables.
///
/// # Errors
/// Those of netlink, but that there is none is no error.
pub fn find(tuple: &Tuple) -> io::Result<Option<Entry>> {
    let socket = ask(NLM_F_REQUEST, of_connection(tuple))?;
    let mut buffer = Vec::with_capacity(PACKET);
    receive(&socket, &mut buffer)?;
    let mut found = None;
    match packet(&buffer, &mut |entry| found = Some(*entry)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        other => other.map(|_| found),
    }
}

/// One family's sockets. `false`: the dump was interrupted.
fn family(request: InetRequest, buffer: &mut Vec<u8>, each: &mut dyn FnMut(&Entry)) -> io::Result<bool> {
    let socket = ask(NLM_F_REQUEST | NLM_F_DUMP, SockDiagMessage::InetRequest(request))?;
    loop {
        receive(&socket, buffer)?;
        match packet(buffer, each)? {
            Packet::More => {}
            Packet::Done => return Ok(true),
            Packet::Interrupted => return Ok(false),
        }
    }
}

/// Sends a request over a socket of its own.
///
/// # Errors
/// Those of netlink.
pub(crate) fn ask<T: NetlinkSerializable>(flags: u16, request: T) -> io::Result<Socket>
where
    NetlinkPayload<T>: From<T>,
{
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.header.length as usize];
    message.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    Ok(socket)
}

/// The next packet, whole, in place of what the buffer held.
fn receive(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<()> {
    loop {
        buffer.clear();
        // With MSG_TRUNC the length is the packet's own.
        match socket.recv(buffer, libc::MSG_TRUNC) {
            Ok(length) if length > buffer.len() => return Err(strange("a packet that is too long")),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What came with a packet, besides sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packet {
    /// There is another.
    More,
    /// This message was the last.
    Done,
    /// What was told so far may be wrong.
    Interrupted,
}

/// Reads one packet of a dump. Total: any bytes are entries and an end, or an error.
fn packet(bytes: &[u8], each: &mut dyn FnMut(&Entry)) -> io::Result<Packet> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(|error| strange(&error.to_string()))?;
        if message.flags() & NLM_F_DUMP_INTR != 0 {
            return Ok(Packet::Interrupted);
        }
        match message.message_type() {
            NLMSG_DONE => {
                // What the dump returned, if that is an error.
                return match code(message.payload()) {
                    Some(code) if code < 0 => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                    _ => Ok(Packet::Done),
                };
            }
            NLMSG_ERROR => {
                let code = code(message.payload()).ok_or_else(|| strange("an error without a number"))?;
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            SOCK_DIAG_BY_FAMILY => each(&entry(message.payload())?),
            other => return Err(strange(&format!("a message of type {other}"))),
        }
        // Messages are aligned to 4 bytes (NLMSG_ALIGN); the last may lack its padding.
        let length = (message.length() as usize).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(Packet::More)
}

/// The number that an end or an error begins with: 0, or an errno, negative.
fn code(payload: &[u8]) -> Option<i32> {
    payload.first_chunk().copied().map(i32::from_ne_bytes)
}

fn entry(payload: &[u8]) -> io::Result<Entry> {
    let header = InetResponseHeader::parse(payload).map_err(|error| strange(&error.to_string()))?;
    let id = &header.socket_id;
    let tuple = Tuple {
        laddr: id.source_address.to_canonical(),
        lport: id.source_port,
        raddr: id.destination_address.to_canonical(),
        rport: id.destination_port,
    };
    let left = payload.get(EXPIRES..).and_then(<[u8]>::first_chunk);
    let mut entry = Entry {
        family: header.family,
        left_ms: left.copied().map_or(0, u32::from_ne_bytes),
        receive_queue: header.recv_queue,
        send_queue: header.send_queue,
        retransmits: match header.timer {
            Some(Timer::Retransmit(_, times)) => times,
            _ => 0,
        },
        probing: matches!(header.timer, Some(Timer::Probe(_))),
        inode: header.inode,
        ..Entry::of(tuple, header.state, header.timer == Some(Timer::TimeWait))
    };
    for attribute in NlasIterator::new(payload.get(HEADER..).unwrap_or_default()) {
        // What is behind a broken one cannot be found.
        let Ok(attribute) = attribute else { break };
        match attribute.kind() {
            INET_DIAG_INFO if header.state != TCP_LISTEN => {
                let info = attribute.value();
                let part = |at| info.get(at..).and_then(<[u8]>::first_chunk).copied().map(u64::from_ne_bytes);
                entry.bytes = part(BYTES_ACKED).zip(part(BYTES_RECEIVED)).map(|(out, back)| out.saturating_add(back));
                let idle = info.get(LAST_ACK_RECV..).and_then(<[u8]>::first_chunk);
                entry.idle_ms = idle.copied().map(u32::from_ne_bytes);
            }
            INET_DIAG_SOCKOPT => entry.no_port = attribute.value().get(NO_PORT).map(|byte| byte & 1 != 0),
            INET_DIAG_SKMEMINFO => {
                let drops = attribute.value().get(DROPS..).and_then(<[u8]>::first_chunk);
                entry.drops = drops.copied().map(u32::from_ne_bytes);
            }
            _ => {}
        }
    }
    Ok(entry)
}

fn strange(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("sock_diag answered with {what}"))
}

#[cfg(test)]
mod tests;
