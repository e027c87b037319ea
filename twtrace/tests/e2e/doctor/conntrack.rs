//! What `twtrace doctor` says of connection tracking: a table that is filled to its limit, and emptied.

use std::{
    fs,
    io::{self, Read as _},
    ops::Range,
    path::Path,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Outcome, Said, new};
use crate::tracer::PATIENCE;

/// The limit of the table.
const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// Bigger tables are not filled: an entry takes 256 bytes or more of the kernel's memory.
const BIGGEST: u64 = 1 << 19;
/// The limit in a guest, which is all ours.
const SMALL: u64 = 2_000;

/// Why there is no table that could be filled, if so.
pub fn no_table() -> Option<String> {
    let Ok(text) = fs::read_to_string(MAX) else { return Some("nf_conntrack is not loaded".to_owned()) };
    let max: u64 = text.trim().parse().unwrap_or_default();
    if !is_guest() && !(1..=BIGGEST).contains(&max) {
        return Some(format!("nf_conntrack_max is {max}: too many entries to make, and not ours to change"));
    }
    let tried = new().and_then(|netns| {
        let entry = netns.run(|| Table::open()?.add(0..1)).map_err(|error| format!("nfnetlink: {error}"))?;
        if entry == 0 { Ok(()) } else { Err("an entry is refused".to_owned()) }
    });
    tried.err()
}

fn is_guest() -> bool {
    Path::new("/config.env").exists()
}

/// Entries are made as the program conntrack(8) makes them: real ones, which take room and time out.
pub fn doctor_conntrack() -> Outcome {
    let netns = new()?;
    if is_guest() {
        fs::write(MAX, SMALL.to_string()).map_err(|error| format!("{MAX}: {error}"))?;
    }
    let max = fs::read_to_string(MAX).map_err(|error| error.to_string())?;
    let max: u64 = max.trim().parse().map_err(|error| format!("{MAX}: {error}"))?;
    // Another holds nothing of this one's room.
    let other = new()?;
    Said::of(&netns, &[])?.finds("conntrack.off", "fine")?;
    let mut table = netns.run(Table::open).map_err(|error| format!("nfnetlink: {error}"))?;
    let mut fill = |entries: Range<u64>, refused: u64| match table.add(entries) {
        Ok(count) if count == refused => Ok(()),
        Ok(count) => Err(format!("{count} entries are refused, and not {refused}")),
        Err(error) => Err(format!("making entries: {error}")),
    };
    let mut made = 0;
    for (count, id, severity) in [
        (max / 2, "conntrack.room", "fine"),
        (max * 4 / 5 - 1, "conntrack.room", "fine"),
        ((max * 4).div_ceil(5), "conntrack.filling", "warning"),
        (max - 1, "conntrack.filling", "warning"),
        (max, "conntrack.full", "critical"),
    ] {
        fill(made..count, 0)?;
        made = count;
        let said = Said::of(&netns, &[])?;
        let finding = said.finds(id, severity)?;
        finding.shows("nf_conntrack_count", count)?;
        finding.shows("nf_conntrack_max", max)?;
    }
    // The kernel says so too.
    fill(max..max + 10, 10)?;
    Said::of(&netns, &[])?.finds("conntrack.full", "critical")?;
    Said::of(&other, &[])?.finds("conntrack.off", "fine")?;
    table.flush().map_err(|error| format!("emptying the table: {error}"))?;
    Said::of(&netns, &[])?.finds("conntrack.off", "fine").map(drop)
}

/// The table of a namespace: a socket of nfnetlink.
struct Table(Socket);

/// Values of include/uapi/linux/netfilter/{nfnetlink,nfnetlink_conntrack}.h.
mod nf {
    /// NFNL_SUBSYS_CTNETLINK, in the high byte, and IPCTNL_MSG_CT_NEW and _DELETE.
    pub const NEW: u16 = 1 << 8;
    pub const DELETE: u16 = (1 << 8) | 2;
    pub const TUPLE_ORIG: u16 = 1;
    pub const TUPLE_REPLY: u16 = 2;
    pub const STATUS: u16 = 3;
    pub const PROTOINFO: u16 = 4;
    pub const TIMEOUT: u16 = 7;
    pub const TUPLE_IP: u16 = 1;
    pub const TUPLE_PROTO: u16 = 2;
    pub const IP_V4_SRC: u16 = 1;
    pub const IP_V4_DST: u16 = 2;
    pub const PROTO_NUM: u16 = 1;
    pub const PROTO_SRC_PORT: u16 = 2;
    pub const PROTO_DST_PORT: u16 = 3;
    pub const PROTOINFO_TCP: u16 = 1;
    pub const TCP_STATE: u16 = 1;
    /// TCP_CONNTRACK_ESTABLISHED.
    pub const ESTABLISHED: u8 = 3;
    /// IPS_SEEN_REPLY, IPS_ASSURED and IPS_CONFIRMED: the kernel never forgets it early.
    pub const ASSURED: u32 = 0b1110;
}

/// Entries that are sent at once.
const BATCH: u64 = 64;

impl Table {
    /// The table of the calling thread's namespace.
    fn open() -> io::Result<Self> {
        let protocol = Protocol::from(libc::NETLINK_NETFILTER);
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Makes entries, one for each number, and tells how many were refused for lack of room.
    fn add(&mut self, numbers: Range<u64>) -> io::Result<u64> {
        let mut refused = 0;
        let mut next = numbers.start;
        while next < numbers.end {
            let last = numbers.end.min(next + BATCH);
            let messages: Vec<u8> = (next..last).flat_map(entry).collect();
            refused += self.ask(&messages, last - next)?;
            next = last;
        }
        Ok(refused)
    }

    /// Forgets all entries of the namespace.
    fn flush(&mut self) -> io::Result<()> {
        match self.ask(&message(nf::DELETE, 0, &[]), 1)? {
            0 => Ok(()),
            _ => Err(io::Error::other("no memory")),
        }
    }

    /// Sends so many messages, and tells how many were answered by ENOMEM; any other error is one.
    fn ask(&mut self, messages: &[u8], count: u64) -> io::Result<u64> {
        self.0.send(messages)?;
        let (mut answers, mut refused) = (0, 0);
        let mut buffer = vec![0; 1 << 16];
        while answers < count {
            let length = self.0.read(&mut buffer)?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            // struct nlmsghdr, then the error of struct nlmsgerr.
            while let (Some(size), Some(error)) = (number(rest, 0), number(rest, 16)) {
                answers += 1;
                match -error {
                    0 => {}
                    libc::ENOMEM => refused += 1,
                    errno => return Err(io::Error::from_raw_os_error(errno)),
                }
                rest = rest.get((size as usize).next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Ok(refused)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A message that asks for an answer: struct nlmsghdr, struct nfgenmsg, attributes.
fn message(kind: u16, flags: i32, attributes: &[u8]) -> Vec<u8> {
    let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut message = Vec::with_capacity(20 + attributes.len());
    message.extend((20 + attributes.len() as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([libc::AF_INET as u8, 0, 0, 0]);
    message.extend(attributes);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut attribute = Vec::with_capacity(length.next_multiple_of(4));
    attribute.extend((length as u16).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(length.next_multiple_of(4), 0);
    attribute
}

/// An attribute made of attributes (NLA_F_NESTED).
fn nest(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | 1 << 15, &parts.concat())
}

/// An open connection that there is no other of: one for each number.
fn entry(number: u64) -> Vec<u8> {
    let [high, middle, low] = [(number >> 16) as u8, (number >> 8) as u8, number as u8];
    let (client, server) = (([10, 1, high, middle], 1024 + u16::from(low)), ([10, 2, 0, 1], 80));
    let tuple = |kind, from: ([u8; 4], u16), to: ([u8; 4], u16)| {
        let addresses = [attribute(nf::IP_V4_SRC, &from.0), attribute(nf::IP_V4_DST, &to.0)];
        let protocol = [
            attribute(nf::PROTO_NUM, &[libc::IPPROTO_TCP as u8]),
            attribute(nf::PROTO_SRC_PORT, &from.1.to_be_bytes()),
            attribute(nf::PROTO_DST_PORT, &to.1.to_be_bytes()),
        ];
        nest(kind, &[nest(nf::TUPLE_IP, &addresses), nest(nf::TUPLE_PROTO, &protocol)])
    };
    let state = nest(nf::PROTOINFO_TCP, &[attribute(nf::TCP_STATE, &[nf::ESTABLISHED])]);
    let attributes = [
        tuple(nf::TUPLE_ORIG, client, server),
        tuple(nf::TUPLE_REPLY, server, client),
        attribute(nf::STATUS, &nf::ASSURED.to_be_bytes()),
        attribute(nf::TIMEOUT, &600_u32.to_be_bytes()),
        nest(nf::PROTOINFO, &[state]),
    ];
    message(nf::NEW, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &attributes.concat())
}
