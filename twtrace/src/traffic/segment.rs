//! Segments that no well-behaved peer would send, with exact sequence numbers, into the loopback device of the calling
//! thread's namespace; and sockets that are deaf for a while.

use std::{
    io,
    mem::MaybeUninit,
    net::{SocketAddr, SocketAddrV4, TcpStream},
    os::fd::{AsFd, AsRawFd as _},
};

use etherparse::PacketBuilder;
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

use super::lives;

/// Positions of both directions of a connection, as one end sees them: `tcp_sock.write_seq` and `rcv_nxt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// What this end sends next.
    pub next_out: u32,
    /// What it expects next.
    pub next_in: u32,
}

/// `TCP_REPAIR_OFF_NO_WP` of include/uapi/linux/tcp.h: leaves repair mode without a window probe. Kernel 4.18.
const REPAIR_OFF_QUIETLY: libc::c_int = -1;
/// `TCP_RECV_QUEUE`, `TCP_SEND_QUEUE` of include/uapi/linux/tcp.h.
const RECV_QUEUE: libc::c_int = 1;
const SEND_QUEUE: libc::c_int = 2;

/// Where an idle, established connection stands: read in repair mode (TCP_REPAIR), which is left again at once.
///
/// # Errors
/// Those of setsockopt(2): EPERM without CAP_NET_ADMIN.
pub fn sequence(stream: &TcpStream) -> io::Result<Sequence> {
    let set = |option, value| lives::set_option(stream, libc::SOL_TCP, option, value);
    set(libc::TCP_REPAIR, 1)?;
    let read = |queue| {
        set(libc::TCP_REPAIR_QUEUE, queue)?;
        get(stream, libc::TCP_QUEUE_SEQ)
    };
    let found = read(SEND_QUEUE).and_then(|next_out| Ok(Sequence { next_out, next_in: read(RECV_QUEUE)? }));
    set(libc::TCP_REPAIR, REPAIR_OFF_QUIETLY)?;
    found
}

fn get(stream: &TcpStream, option: libc::c_int) -> io::Result<u32> {
    let mut value = 0_u32;
    let mut length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: getsockopt writes at most `length` bytes to `value`, which lives until the call returns.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_TCP, option, (&raw mut value).cast(), &raw mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// What TCP_INFO says, as far as the lab asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// State of the full socket, a number of include/net/tcp_states.h.
    pub state: u8,
    /// Both ends send timestamps.
    pub timestamps: bool,
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u32,
}

/// TCP_INFO of a socket.
///
/// # Errors
/// Those of getsockopt(2).
pub fn info(stream: &TcpStream) -> io::Result<Info> {
    /// `TCPI_OPT_TIMESTAMPS` of include/uapi/linux/tcp.h.
    const TIMESTAMPS: u8 = 1;
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: getsockopt writes at most `length` bytes, which is the size of the structure.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed before, written over in part; integers only.
    let info = unsafe { info.assume_init() };
    Ok(Info { state: info.tcpi_state, timestamps: info.tcpi_options & TIMESTAMPS != 0, rtt_us: info.tcpi_rtt })
}

/// What a crafted segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A bare ACK.
    Ack,
    /// FIN and ACK.
    Fin,
    /// A RST.
    Rst,
    /// A SYN.
    Syn,
}

/// One crafted IPv4 segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Who seems to send it.
    pub from: SocketAddrV4,
    /// Whom it reaches.
    pub to: SocketAddrV4,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// What it is.
    pub kind: Kind,
}

impl Segment {
    /// A segment from one IPv4 address to another.
    ///
    /// # Errors
    /// If an address is IPv6.
    pub fn new(from: SocketAddr, to: SocketAddr, kind: Kind, seq: u32, ack: u32) -> io::Result<Self> {
        match (from, to) {
            (SocketAddr::V4(from), SocketAddr::V4(to)) => Ok(Self { from, to, seq, ack, kind }),
            _ => Err(io::Error::other("only IPv4 segments are crafted")),
        }
    }

    /// The packet, its checksums right, without options: a segment without a timestamp is never rejected by PAWS.
    fn packet(&self) -> io::Result<Vec<u8>> {
        const TTL: u8 = 64;
        const WINDOW: u16 = 1024;
        let ip = PacketBuilder::ipv4(self.from.ip().octets(), self.to.ip().octets(), TTL);
        let tcp = ip.tcp(self.from.port(), self.to.port(), self.seq, WINDOW);
        let tcp = match self.kind {
            Kind::Ack => tcp.ack(self.ack),
            Kind::Fin => tcp.fin().ack(self.ack),
            Kind::Rst => tcp.rst(),
            Kind::Syn => tcp.syn(),
        };
        let mut bytes = Vec::with_capacity(tcp.size(0));
        tcp.write(&mut bytes, &[]).map_err(io::Error::other)?;
        Ok(bytes)
    }

    /// Sends it.
    ///
    /// # Errors
    /// Those of socket(2) and sendto(2): EPERM without CAP_NET_RAW.
    pub fn send(&self) -> io::Result<()> {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        // IPPROTO_RAW implies IP_HDRINCL; the port of the address is of no meaning to it.
        raw.send_to(&self.packet()?, &SocketAddrV4::new(*self.to.ip(), 0).into())?;
        Ok(())
    }
}

/// What a socket still hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hears {
    /// Nothing.
    Nothing,
    /// Only segments with a FIN.
    Fins,
    /// Everything.
    All,
}

/// Makes a socket deaf by a socket filter: the segments are dropped before TCP sees them (`tcp_filter`).
///
/// # Errors
/// Those of setsockopt(2).
pub fn hear(socket: &impl AsFd, what: Hears) -> io::Result<()> {
    /// Offset of the flags in a TCP header, and FIN among them (RFC 9293, 3.1).
    const FLAGS: u32 = 13;
    const FIN: u32 = 1;
    const ALL_BYTES: u32 = u32::MAX;
    let code = |code: u32| code as u16;
    let give = |bytes| SockFilter::new(code(libc::BPF_RET | libc::BPF_K), 0, 0, bytes);
    let socket = SockRef::from(socket);
    match what {
        Hears::All => socket.detach_filter(),
        Hears::Nothing => socket.attach_filter(&[give(0)]),
        Hears::Fins => socket.attach_filter(&[
            SockFilter::new(code(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS), 0, 0, FLAGS),
            SockFilter::new(code(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K), 0, 1, FIN),
            give(ALL_BYTES),
            give(0),
        ]),
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{SlicedPacket, TransportSlice};

    use super::*;

    #[test]
    fn a_segment_says_what_it_was_told_to() {
        let ends: (SocketAddr, SocketAddr) = (([127, 0, 0, 1], 80).into(), ([127, 0, 0, 2], 4000).into());
        let segment = Segment::new(ends.0, ends.1, Kind::Rst, 7, 9).unwrap();
        let bytes = segment.packet().unwrap();
        let packet = SlicedPacket::from_ip(&bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
        assert!(tcp.rst() && !tcp.ack() && !tcp.fin());
        assert_eq!((tcp.source_port(), tcp.destination_port(), tcp.sequence_number()), (80, 4000, 7));
        let ip = etherparse::Ipv4HeaderSlice::from_slice(&bytes).unwrap();
        assert_eq!(tcp.calc_checksum_ipv4(ip.source(), ip.destination()), Ok(tcp.checksum()));
        assert!(Segment::new("[::1]:1".parse().unwrap(), ends.1, Kind::Ack, 0, 0).is_err());
    }
}
