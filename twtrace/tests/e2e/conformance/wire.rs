//! A TUN device in the calling thread's network namespace: the other end of its wire is this process.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt as _,
};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice, ip_number};
use socket2::{Domain, Socket, Type};

use super::script::Flags;

const DEVICE: &str = "/dev/net/tun";
/// Packets that wait for us: the kernel sends again what is not acknowledged, to hundreds of connections.
const QUEUE: libc::c_int = 8_192;
/// Longest packet that is read.
const MTU: usize = 2_048;

/// Kinds of TCP options.
const NOOP: u8 = 1;
const TIMESTAMP: u8 = 8;
const SIGNATURE: u8 = 19;
/// With what both ends sign.
const KEY: &[u8] = b"conformance";

/// `struct tcp_md5sig` of include/uapi/linux/tcp.h.
#[repr(C)]
struct Md5Key {
    peer: libc::sockaddr_storage,
    flags: u8,
    prefix: u8,
    length: u16,
    interface: libc::c_int,
    key: [u8; 80],
}

/// Lets a socket sign what it sends to this address, and take from there only what is signed.
///
/// # Errors
/// Those of setsockopt(2): ENOPROTOOPT without CONFIG_TCP_MD5SIG.
pub fn sign(socket: &impl std::os::fd::AsRawFd, peer: IpAddr) -> io::Result<()> {
    let mut key = [0; 80];
    key.iter_mut().zip(KEY).for_each(|(to, from)| *to = *from);
    let address = socket2::SockAddr::from(SocketAddr::new(peer, 0));
    // SAFETY: all zeroes is a valid sockaddr_storage.
    let mut peer: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    // SAFETY: an address has at most the size of a sockaddr_storage.
    unsafe {
        let (from, to) = (address.as_ptr().cast::<u8>(), (&raw mut peer).cast::<u8>());
        std::ptr::copy_nonoverlapping(from, to, address.len() as usize);
    }
    let option = Md5Key { peer, flags: 0, prefix: 0, length: KEY.len() as u16, interface: 0, key };
    let length = size_of::<Md5Key>() as libc::socklen_t;
    // SAFETY: setsockopt reads `length` bytes of `option`, which lives until the call returns.
    let result = unsafe {
        let value = (&raw const option).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_TCP, libc::TCP_MD5SIG, value, length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Why there is no TUN device here.
pub fn missing() -> Option<String> {
    let opened = OpenOptions::new().read(true).write(true).open(DEVICE);
    opened.err().map(|error| format!("{DEVICE}: {error}"))
}

/// The addresses of one wire: the kernel's end is `.0.1`, ours `.0.2`, and `.0.3` where both sign.
#[derive(Clone, Copy, Debug)]
pub struct Net(pub u8);

impl Net {
    pub fn v4(self, end: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.0, 0, end)
    }

    pub fn v6(self, end: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, self.0.into(), 0, 0, 0, 0, 0, end.into())
    }
}

/// The device.
pub struct Tun {
    file: File,
    buffer: Vec<u8>,
}

impl Tun {
    /// Makes it, gives the kernel's end its addresses, and sets it up. It is gone when this is dropped.
    pub fn new(net: Net) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE)?;
        let mut request = device();
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        ioctl(&file, libc::TUNSETIFF, &request)?;
        let (v4, v6) = (control(Domain::IPV4)?, control(Domain::IPV6)?);
        request.ifr_ifru.ifru_metric = QUEUE;
        ioctl(&v4, libc::SIOCSIFTXQLEN as libc::Ioctl, &request)?;
        request.ifr_ifru.ifru_addr = address(net.v4(1));
        ioctl(&v4, libc::SIOCSIFADDR as libc::Ioctl, &request)?;
        request.ifr_ifru.ifru_addr = address(Ipv4Addr::new(255, 255, 255, 0));
        ioctl(&v4, libc::SIOCSIFNETMASK as libc::Ioctl, &request)?;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        ioctl(&v4, libc::SIOCSIFFLAGS as libc::Ioctl, &request)?;
        // SAFETY: the name is a string that ends with a NUL.
        let index = unsafe { libc::if_nametoindex(request.ifr_name.as_ptr()) };
        let ours = libc::in6_ifreq {
            ifr6_addr: libc::in6_addr { s6_addr: net.v6(1).octets() },
            ifr6_prefixlen: 64,
            ifr6_ifindex: index.cast_signed(),
        };
        ioctl(&v6, libc::SIOCSIFADDR as libc::Ioctl, &ours)?;
        Ok(Self { file, buffer: vec![0; MTU] })
    }

    /// Sends a packet: when this returns the kernel has dealt with it (tun_rx_batched calls netif_receive_skb).
    pub fn send(&mut self, packet: &Packet) -> io::Result<()> {
        let bytes = packet.bytes()?;
        self.file.write_all(&bytes)
    }

    /// The next packet that the kernel has sent; what is no TCP is left out.
    pub fn receive(&mut self) -> io::Result<Option<Packet>> {
        loop {
            match self.file.read(&mut self.buffer) {
                Ok(length) => {
                    if let Some(packet) = Packet::read(self.buffer.get(..length).unwrap_or_default()) {
                        return Ok(Some(packet));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// A TCP segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub flags: Flags,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    /// Timestamp, and the echo of one.
    pub stamp: Option<(u32, u32)>,
    /// The segment has the signature of RFC 2385. One that is read is not checked.
    pub signed: bool,
    /// Bytes of payload.
    pub data: u16,
}

impl Packet {
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        const HOPS: u8 = 64;
        let has = |flag| self.flags.has(flag);
        let mut header = TcpHeader::new(self.from.port(), self.to.port(), self.seq, self.window);
        header.acknowledgment_number = self.ack;
        (header.fin, header.syn, header.rst) = (has(Flags::FIN), has(Flags::SYN), has(Flags::RST));
        (header.psh, header.ack, header.urg) = (has(Flags::PSH), has(Flags::ACK), has(Flags::URG));
        header.urgent_pointer = if has(Flags::URG) { 1 } else { 0 };
        let mut options = Vec::new();
        if let Some((value, echo)) = self.stamp {
            options.extend([NOOP, NOOP, TIMESTAMP, 10]);
            options.extend([value.to_be_bytes(), echo.to_be_bytes()].as_flattened());
        }
        let payload = vec![b'x'; self.data.into()];
        let place = options.len() + 4;
        if self.signed {
            options.extend([NOOP, NOOP, SIGNATURE, 18]);
            options.extend([0; 16]);
        }
        header.set_options_raw(&options).map_err(io::Error::other)?;
        if self.signed {
            // The length of the header is part of what is signed, so the option has its place by now.
            options.splice(place.., self.signature(&header, &payload)?);
            header.set_options_raw(&options).map_err(io::Error::other)?;
        }
        let ip = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), HOPS),
            (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), HOPS),
            _ => return Err(io::Error::other("two families")),
        };
        let mut bytes = Vec::new();
        ip.tcp_header(header).write(&mut bytes, &payload).map_err(io::Error::other)?;
        Ok(bytes)
    }

    /// The digest of RFC 2385: pseudo-header, header without options and checksum, payload, key (tcp_v4_md5_hash_skb).
    fn signature(&self, header: &TcpHeader, payload: &[u8]) -> io::Result<[u8; 16]> {
        let length = u16::try_from(header.header_len() + payload.len()).map_err(io::Error::other)?;
        let protocol = ip_number::TCP.0;
        let mut text = Vec::new();
        for end in [self.from, self.to] {
            match end.ip() {
                IpAddr::V4(ip) => text.extend(ip.octets()),
                IpAddr::V6(ip) => text.extend(ip.octets()),
            }
        }
        if self.from.is_ipv4() {
            text.extend([0, protocol]);
            text.extend(length.to_be_bytes());
        } else {
            text.extend(u32::from(length).to_be_bytes());
            text.extend(u32::from(protocol).to_be_bytes());
        }
        let bare = TcpHeader { checksum: 0, ..header.clone() }.to_bytes();
        text.extend(bare.get(..TcpHeader::MIN_LEN).unwrap_or_default());
        text.extend(payload);
        text.extend(KEY);
        Ok(md5::compute(text).0)
    }

    pub fn read(bytes: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ip(bytes).ok()?;
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return None };
        let (from, to): (IpAddr, IpAddr) = match packet.net? {
            NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Arp(_) => return None,
        };
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let flags = flag(tcp.fin(), Flags::FIN)
            | flag(tcp.syn(), Flags::SYN)
            | flag(tcp.rst(), Flags::RST)
            | flag(tcp.psh(), Flags::PSH)
            | flag(tcp.ack(), Flags::ACK)
            | flag(tcp.urg(), Flags::URG);
        let stamp = tcp.options_iterator().find_map(|option| match option {
            Ok(TcpOptionElement::Timestamp(value, echo)) => Some((value, echo)),
            _ => None,
        });
        Some(Self {
            from: SocketAddr::new(from, tcp.source_port()),
            to: SocketAddr::new(to, tcp.destination_port()),
            flags: Flags(flags),
            seq: tcp.sequence_number(),
            ack: tcp.acknowledgment_number(),
            window: tcp.window_size(),
            stamp,
            signed: tcp.options().windows(2).any(|kind| kind == [SIGNATURE, 18]),
            data: u16::try_from(tcp.payload().len()).ok()?,
        })
    }
}

fn device() -> libc::ifreq {
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"tun0") {
        *to = from.cast_signed();
    }
    request
}

fn address(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: all zeroes is a valid sockaddr_in, which is as large as the sockaddr in whose place it is written.
    let mut place: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    place.sin_family = libc::AF_INET as libc::sa_family_t;
    place.sin_addr.s_addr = u32::from_ne_bytes(address.octets());
    // SAFETY: both are 16 bytes of plain integers.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(place) }
}

fn control(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::DGRAM, None)
}

fn ioctl<T>(file: &impl std::os::fd::AsRawFd, what: libc::Ioctl, request: &T) -> io::Result<()> {
    // SAFETY: each of these requests reads (TUNSETIFF: also writes the name into) one structure of the type that it is
    // given, which lives until the call returns.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), what, std::ptr::from_ref(request).cast_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::other(format!("ioctl {what:#x}: {}", io::Error::last_os_error()))) }
}
