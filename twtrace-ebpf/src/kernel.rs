//! Reading the kernel's structures at the offsets that user space found in BTF.

use core::mem::MaybeUninit;

use aya_ebpf::{
    Global,
    helpers::{
        bpf_get_current_pid_tgid, bpf_probe_read_kernel,
        generated::{
            bpf_get_current_cgroup_id, bpf_get_current_task, bpf_jiffies64,
            bpf_probe_read_kernel as bpf_probe_read_kernel_raw,
        },
    },
};
use twtrace_common::{
    knob::ABSENT,
    record::{Life, valid},
};

use crate::{
    knobs::{self, knob},
    maps::{self, HEAD_WORDS, Reader, bump},
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// IPPROTO_TCP: MPTCP's own sockets, SCTP and DCCP share the hooks.
pub const IPPROTO_TCP: u16 = 6;
/// IPPROTO_MPTCP.
const IPPROTO_MPTCP: u16 = 262;

/// A kernel object whose fields can be read at offsets from BTF.
pub trait Object: Copy {
    /// Its address.
    fn address(self) -> u64;

    /// The field at `offset`, `plus` bytes into it; `None` if this kernel has no such field or it could not be read.
    fn part<T: Copy>(self, offset: &Global<u16>, plus: u64) -> Option<T>;

    /// The field at `offset`.
    #[inline(always)]
    fn get<T: Copy>(self, offset: &Global<u16>) -> Option<T> {
        self.part(offset, 0)
    }

    /// The field at `offset` of what the field at `pointer` points to.
    #[inline(always)]
    fn behind<T: Copy>(self, pointer: &Global<u16>, offset: &Global<u16>) -> Option<T> {
        Raw(self.get(pointer)?).get(offset)
    }
}

/// An object of which nothing but the address is known: every field costs a helper call.
#[derive(Clone, Copy)]
pub struct Raw(pub u64);

impl Object for Raw {
    #[inline(always)]
    fn address(self) -> u64 {
        self.0
    }

    #[inline(always)]
    fn part<T: Copy>(self, offset: &Global<u16>, plus: u64) -> Option<T> {
        let offset = offset.load();
        if offset == ABSENT {
            return None;
        }
        read(self.0 + u64::from(offset) + plus)
    }
}

/// An argument of a tp_btf, fentry or fexit program: the verifier knows its type, so fields of that type (not of what
/// embeds it) are plain loads, which cannot fault.
#[derive(Clone, Copy)]
pub struct Typed(pub *const u8);

impl Object for Typed {
    #[inline(always)]
    fn address(self) -> u64 {
        self.0 as u64
    }

    #[inline(always)]
    fn part<T: Copy>(self, offset: &Global<u16>, plus: u64) -> Option<T> {
        let offset = offset.load();
        if offset == ABSENT {
            return None;
        }
        // SAFETY: the verifier holds offset and size against BTF; kernel fields are aligned to their size.
        Some(unsafe { self.0.add(usize::from(offset)).add(plus as usize).cast::<T>().read_volatile() })
    }

    /// A pointer loaded from a typed object is typed as well.
    #[inline(always)]
    fn behind<T: Copy>(self, pointer: &Global<u16>, offset: &Global<u16>) -> Option<T> {
        Self(self.get(pointer)?).get(offset)
    }
}

/// A minisock of which only the address is known, its first bytes copied at once to this CPU's scratch.
///
/// Only for programs that have a place of that scratch to themselves: [`Reader`] says why they do.
#[derive(Clone, Copy)]
pub struct Head {
    address: u64,
    words: &'static [u64; HEAD_WORDS],
}

impl Head {
    /// Copies the head of the minisock at `address`.
    #[inline(always)]
    pub fn of(address: u64, reader: Reader) -> Option<Self> {
        let scratch = maps::scratch()?;
        // SAFETY: this CPU's entry; see above for why nobody else writes it meanwhile.
        let words = unsafe { &mut *(&raw mut (*scratch).heads).cast::<[u64; HEAD_WORDS]>().add(reader as usize) };
        // SAFETY: the helper writes that many bytes at most, and fails instead of faulting.
        let failed = unsafe {
            bpf_probe_read_kernel_raw(words.as_mut_ptr().cast(), (HEAD_WORDS * 8) as u32, address as *const _)
        };
        if failed != 0 {
            bump!(trouble.read_failed);
        }
        Some(Self { address, words })
    }
}

impl Object for Head {
    #[inline(always)]
    fn address(self) -> u64 {
        self.address
    }

    #[inline(always)]
    fn part<T: Copy>(self, offset: &Global<u16>, plus: u64) -> Option<T> {
        let offset = offset.load();
        if offset == ABSENT {
            return None;
        }
        let at = u64::from(offset) + plus;
        // On every kernel known the fields asked for lie within; elsewhere they would show as unknown.
        if at + size_of::<T>() as u64 > (HEAD_WORDS * 8) as u64 {
            return None;
        }
        // SAFETY: within the words, as just checked; kernel fields are aligned to their size.
        Some(unsafe { self.words.as_ptr().cast::<u8>().add(at as usize).cast::<T>().read_volatile() })
    }
}

/// Kernel memory at an address.
#[inline(always)]
pub fn read<T: Copy>(address: u64) -> Option<T> {
    // SAFETY: bpf_probe_read_kernel checks the address and fails instead of faulting.
    if let Ok(value) = unsafe { bpf_probe_read_kernel(address as *const T) } {
        return Some(value);
    }
    bump!(trouble.read_failed);
    None
}

/// The minisock that a timer belongs to.
#[inline(always)]
pub fn minisock_of(timer: u64) -> u64 {
    timer - u64::from(knobs::TW_TIMER.load())
}

/// True unless connect() has already taken the minisock out of the established hash, which it does before it ends it.
#[inline(always)]
pub fn is_hashed(tw: impl Object) -> bool {
    tw.get::<u64>(&knobs::SKC_PPREV) != Some(0)
}

/// Inode number of a socket's or minisock's network namespace.
#[inline(always)]
fn netns_of(sock: impl Object) -> Option<u32> {
    sock.behind(&knobs::SKC_NET, &knobs::NET_INUM)
}

/// True if the minisock's network namespace has no users any more.
#[inline(always)]
pub fn netns_is_dead(tw: impl Object) -> bool {
    tw.behind::<u32>(&knobs::SKC_NET, &knobs::NET_LIVE) == Some(0)
}

/// True if the minisock is TCP's. DCCP (until 6.15) shares every function; its `struct proto` is named "DCCP".
#[inline(always)]
pub fn is_tcp_minisock(tw: impl Object) -> bool {
    // An integer with a default, not a match on an Option of an array: before 6.5 the verifier refuses the copy of an
    // undefined register that LLVM makes of the missing array.
    let name = tw.behind::<u32>(&knobs::SKC_PROT, &knobs::PROTO_NAME).unwrap_or(0);
    name & u32::from_ne_bytes([0xff, 0xff, 0xff, 0]) == u32::from_ne_bytes(*b"TCP\0")
}

#[inline(always)]
pub fn is_tcp_sock(sk: impl Object) -> bool {
    sk.get::<u16>(&knobs::SK_PROTOCOL) == Some(IPPROTO_TCP)
}

/// True of an MPTCP socket, not of the TCP sockets below it.
#[inline(always)]
pub fn is_mptcp_sock(sk: impl Object) -> bool {
    sk.get::<u16>(&knobs::SK_PROTOCOL) == Some(IPPROTO_MPTCP)
}

#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: the helper takes nothing and cannot fail.
    unsafe { bpf_jiffies64() }
}

/// Jiffies as milliseconds.
#[inline(always)]
pub fn jiffies_to_ms(jiffies: u64) -> u32 {
    (jiffies * 1000 / u64::from(knobs::HZ.load().max(1))) as u32
}

/// The current task: thread group id and command name, padded with NULs.
///
/// The name is read where it is: bpf_get_current_comm measures, clears and copies it, which takes five times as long. Older
/// kernels leave what an earlier name had behind the end of this one.
#[inline(always)]
pub fn current(comm: &mut [u8; 16]) -> u32 {
    let mut name = MaybeUninit::<[u64; 2]>::uninit();
    // SAFETY: the helper takes nothing and cannot fail.
    let at = unsafe { bpf_get_current_task() } + u64::from(knobs::TASK_COMM.load());
    // SAFETY: the helper writes all 16 bytes, zeroes if it fails.
    let [first, second] = unsafe {
        bpf_probe_read_kernel_raw(name.as_mut_ptr().cast(), 16, at as *const _);
        name.assume_init()
    };
    let second = if nuls(first) == 0 { until_nul(second) } else { 0 };
    let first = until_nul(first);
    put(comm, [first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32]);
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The highest bit of each byte that is zero, and perhaps of bytes above the lowest such.
#[inline(always)]
fn nuls(word: u64) -> u64 {
    word.wrapping_sub(0x0101_0101_0101_0101) & !word & 0x8080_8080_8080_8080
}

/// The bytes below the first zero, the others cleared. On little-endian machines, the only ones built for, the lowest byte
/// is the first.
#[inline(always)]
fn until_nul(word: u64) -> u64 {
    let nuls = nuls(word);
    // The lowest bit alone, less one: all bits below it. Without a zero byte that is all of them.
    word & (nuls & nuls.wrapping_neg()).wrapping_sub(1)
}

/// The current task's cgroup v2 id.
#[inline(always)]
pub fn current_cgroup() -> u64 {
    // SAFETY: the helper takes nothing and cannot fail.
    unsafe { bpf_get_current_cgroup_id() }
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

/// The lower 32 bits of what may be an address. In assembly: with what the verifier knows as a pointer no arithmetic is
/// done, but a copy of half of it is a number.
#[inline(always)]
pub fn lower_half(address: u64) -> u64 {
    let half;
    // SAFETY: a move between registers.
    unsafe { core::arch::asm!("w2 = w1", in("r1") address, lateout("r2") half, options(pure, nomem, nostack)) };
    half
}

/// One round of SplitMix64's finaliser over the sum so far: every bit of the input changes half of the output's.
#[inline(always)]
fn mix(sum: u64, word: u64) -> u64 {
    let mut z = sum.rotate_left(23) ^ word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Stores four words; a copy of 16 bytes would become a loop of single bytes.
#[inline(always)]
fn put(to: &mut [u8; 16], words: [u32; 4]) {
    let to = to.as_mut_ptr().cast::<u32>();
    // SAFETY: 16 bytes hold four words; every such array in a record or key is 4-byte aligned.
    unsafe {
        to.write(words[0]);
        to.add(1).write(words[1]);
        to.add(2).write(words[2]);
        to.add(3).write(words[3]);
    }
}

/// `net.ipv4.tcp_death_row` of a socket's namespace: a struct inside `struct net`, or a pointer to one (5.18 to 6.0).
#[inline(always)]
pub fn death_row(sock: impl Object) -> Option<Raw> {
    let offset = knobs::NET_DEATH_ROW.load();
    if offset == ABSENT {
        return None;
    }
    let place = sock.get::<u64>(&knobs::SKC_NET)? + u64::from(offset);
    Some(Raw(if knob!(DUTIES.death_row_pointer) == 1 { read(place)? } else { place }))
}
