//! Addresses, ports and namespace of a connection, read from its socket or its minisock.

use aya_ebpf::Global;
use twtrace_common::record::{Life, valid};

use super::{Object, Raw, lower_half, put};
use crate::knobs;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Inode number of a socket's or minisock's network namespace.
#[inline(always)]
fn netns_of(sock: impl Object) -> Option<u32> {
    sock.behind(&knobs::SKC_NET, &knobs::NET_INUM)
}

/// What a tuple is read from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// A minisock: its local port is `skc_num`.
    Minisock,
    /// A socket that has its port still: `skc_num` as well.
    Bound,
    /// A socket, perhaps in transition to CLOSE: `inet_put_port` has cleared `skc_num`, only `inet_sport` is left.
    Socket,
}

/// 0: it has none yet.
#[inline(always)]
pub fn local_port(sock: impl Object, of: Of) -> Option<u16> {
    match of {
        Of::Minisock | Of::Bound => sock.get(&knobs::SKC_NUM),
        // Beyond struct sock, so beyond what a typed argument allows.
        Of::Socket => Raw(sock.address()).get::<u16>(&knobs::INET_SPORT).map(u16::from_be),
    }
}

/// Four words of an IPv6 address, one by one: a typed argument allows loads of the field's own elements only.
#[inline(always)]
fn v6(sock: impl Object, offset: &Global<u16>) -> Option<[u32; 4]> {
    Some([sock.part(offset, 0)?, sock.part(offset, 4)?, sock.part(offset, 8)?, sock.part(offset, 12)?])
}

/// True if `tcp_twsk_unique` takes the minisock's connection for a loopback one: either address, or the bound device.
#[inline(always)]
pub fn is_loopback(tw: impl Object) -> bool {
    /// `LOOPBACK_IFINDEX` of include/net/flow.h.
    const LO: u32 = 1;
    let v4 = |address: u32| address.to_ne_bytes()[0] == 127;
    if tw.get::<u32>(&knobs::SKC_BOUND_IF) == Some(LO) {
        return true;
    }
    if tw.get::<u16>(&knobs::SKC_FAMILY) != Some(AF_INET6) {
        return v4(tw.get::<u32>(&knobs::SKC_DADDR).unwrap_or(0))
            || v4(tw.get::<u32>(&knobs::SKC_RCV_SADDR).unwrap_or(0));
    }
    let (Some(laddr), Some(raddr)) = (v6(tw, &knobs::SKC_V6_RCV_SADDR), v6(tw, &knobs::SKC_V6_DADDR)) else {
        return false;
    };
    let v6 = |[a, b, c, d]: [u32; 4]| {
        a == 0 && b == 0 && (c == 0 && d == u32::from_be(1) || c == u32::from_be(0xffff) && v4(d))
    };
    v6(raddr) || v6(laddr)
}

/// Addresses, ports, family and namespace of a minisock, or of a socket on its way to one, into a zeroed record.
#[inline(always)]
pub fn tuple(sock: impl Object, of: Of, life: &mut Life) {
    let (Some(lport), Some(rport), Some(family)) =
        (local_port(sock, of), sock.get::<u16>(&knobs::SKC_DPORT), sock.get::<u16>(&knobs::SKC_FAMILY))
    else {
        return;
    };
    life.lport = lport;
    life.rport = u16::from_be(rport);
    if family == AF_INET6 {
        let (Some(laddr), Some(raddr)) = (v6(sock, &knobs::SKC_V6_RCV_SADDR), v6(sock, &knobs::SKC_V6_DADDR)) else {
            return;
        };
        if raddr[0] == 0 && raddr[1] == 0 && raddr[2] == u32::from_be(0xffff) {
            life.family = 4;
            put(&mut life.laddr, [laddr[3], 0, 0, 0]);
            put(&mut life.raddr, [raddr[3], 0, 0, 0]);
        } else {
            life.family = 6;
            put(&mut life.laddr, laddr);
            put(&mut life.raddr, raddr);
        }
    } else if family == AF_INET {
        let (Some(laddr), Some(raddr)) = (sock.get::<u32>(&knobs::SKC_RCV_SADDR), sock.get::<u32>(&knobs::SKC_DADDR))
        else {
            return;
        };
        life.family = 4;
        put(&mut life.laddr, [laddr, 0, 0, 0]);
        put(&mut life.raddr, [raddr, 0, 0, 0]);
    } else {
        return;
    }
    life.valid |= valid::TUPLE;
    if let Some(netns) = netns_of(sock) {
        life.netns = netns;
        life.valid |= valid::NETNS;
    }
}

/// What a minisock itself tells of its life, into a zeroed record.
#[inline(always)]
pub fn minisock(tw: impl Object, life: &mut Life) {
    tuple(tw, Of::Minisock, life);
    if let Some(substate) = tw.get::<u8>(&knobs::TW_SUBSTATE) {
        life.substate = substate;
        life.valid |= valid::SUBSTATE;
    }
}

/// Where a socket and the minisock that replaces it meet: equal for both, whatever the address family says.
#[derive(Clone, Copy)]
pub struct MeetingPoint {
    /// Namespace, addresses, ports and bound device, mixed to 64 bits: hashing and comparing all 44 bytes in four map
    /// operations a connection cost more than everything else at a close.
    pub key: u64,
    /// Both ports, against the one pair of keys in 2^64 that are equal by chance.
    pub ports: u32,
}

#[inline(always)]
pub fn meeting_point(sock: impl Object, of: Of) -> Option<MeetingPoint> {
    let rport = sock.get::<u16>(&knobs::SKC_DPORT)?;
    let ports = u32::from(local_port(sock, of)?) << 16 | u32::from(rport);
    let bound_if = sock.get::<u32>(&knobs::SKC_BOUND_IF)?;
    let netns = lower_half(sock.get::<u64>(&knobs::SKC_NET)?);
    let mut key = mix(netns, u64::from(ports) << 32 | u64::from(bound_if));
    if sock.get::<u16>(&knobs::SKC_FAMILY)? == AF_INET6 {
        for address in [v6(sock, &knobs::SKC_V6_RCV_SADDR)?, v6(sock, &knobs::SKC_V6_DADDR)?] {
            key = mix(key, u64::from(address[0]) << 32 | u64::from(address[1]));
            key = mix(key, u64::from(address[2]) << 32 | u64::from(address[3]));
        }
    } else {
        let (laddr, raddr) = (sock.get::<u32>(&knobs::SKC_RCV_SADDR)?, sock.get::<u32>(&knobs::SKC_DADDR)?);
        key = mix(key, u64::from(laddr) << 32 | u64::from(raddr));
    }
    Some(MeetingPoint { key, ports })
}

/// One round of SplitMix64's finaliser over the sum so far: every bit of the input changes half of the output's.
#[inline(always)]
fn mix(sum: u64, word: u64) -> u64 {
    let mut z = sum.rotate_left(23) ^ word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
