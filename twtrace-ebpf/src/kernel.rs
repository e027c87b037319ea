//! Reading the kernel's structures at the offsets that user space found in BTF.

use aya_ebpf::{
    Global,
    helpers::{
        bpf_get_current_pid_tgid, bpf_probe_read_kernel,
        generated::{bpf_get_current_comm, bpf_jiffies64},
    },
};
use twtrace_common::{
    knob::ABSENT,
    record::{Life, valid},
    state::Tuple,
};

use crate::{
    knobs::{self, knob},
    maps::bump,
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// IPPROTO_TCP: MPTCP's own sockets (262), SCTP and DCCP share the hooks.
pub const IPPROTO_TCP: u16 = 6;

/// A kernel object's field; `None` if this kernel has no such field or it could not be read.
#[inline(always)]
pub fn field<T: Copy>(object: u64, offset: &Global<u16>) -> Option<T> {
    let offset = offset.load();
    if offset == ABSENT {
        return None;
    }
    read(object + u64::from(offset))
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
pub fn is_hashed(tw: u64) -> bool {
    field::<u64>(tw, &knobs::SKC_PPREV) != Some(0)
}

/// Inode number of a socket's or minisock's network namespace.
#[inline(always)]
pub fn netns_of(sock: u64) -> Option<u32> {
    field::<u64>(sock, &knobs::SKC_NET).and_then(|net| field(net, &knobs::NET_INUM))
}

/// True if the minisock's network namespace has no users any more.
#[inline(always)]
pub fn netns_is_dead(tw: u64) -> bool {
    field::<u64>(tw, &knobs::SKC_NET).and_then(|net| field::<u32>(net, &knobs::NET_LIVE)) == Some(0)
}

/// True if the minisock is TCP's. DCCP (until 6.15) shares every function; its `struct proto` is named "DCCP".
#[inline(always)]
pub fn is_tcp_minisock(tw: u64) -> bool {
    let name = field::<u64>(tw, &knobs::SKC_PROT).and_then(|prot| field::<[u8; 4]>(prot, &knobs::PROTO_NAME));
    matches!(name, Some([b'T', b'C', b'P', _]))
}

#[inline(always)]
pub fn is_tcp_sock(sk: u64) -> bool {
    field::<u16>(sk, &knobs::SK_PROTOCOL) == Some(IPPROTO_TCP)
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

/// The current task: thread group id and command name.
#[inline(always)]
pub fn current(comm: &mut [u8; 16]) -> u32 {
    // SAFETY: the helper writes at most 16 bytes, NUL-terminated, into a buffer of 16.
    unsafe { bpf_get_current_comm(comm.as_mut_ptr().cast(), 16) };
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Addresses, ports, family and namespace of a minisock, or of a socket on its way to one, into a zeroed record.
///
/// The local port is `skc_num` on a minisock; a socket in transition to CLOSE has it only in `inet_sport`.
#[inline(always)]
pub fn tuple(sock: u64, is_minisock: bool, life: &mut Life) {
    let lport = if is_minisock {
        field::<u16>(sock, &knobs::SKC_NUM)
    } else {
        field::<u16>(sock, &knobs::INET_SPORT).map(u16::from_be)
    };
    let (Some(lport), Some(rport), Some(family)) =
        (lport, field::<u16>(sock, &knobs::SKC_DPORT), field::<u16>(sock, &knobs::SKC_FAMILY))
    else {
        return;
    };
    life.lport = lport;
    life.rport = u16::from_be(rport);
    if family == AF_INET6 {
        let (Some(laddr), Some(raddr)) =
            (field::<[u32; 4]>(sock, &knobs::SKC_V6_RCV_SADDR), field::<[u32; 4]>(sock, &knobs::SKC_V6_DADDR))
        else {
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
        let (Some(laddr), Some(raddr)) =
            (field::<u32>(sock, &knobs::SKC_RCV_SADDR), field::<u32>(sock, &knobs::SKC_DADDR))
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

/// The key under which a socket and the minisock that replaces it meet. Equal for both: raw addresses, no mapping.
#[inline(always)]
pub fn meeting_point(sock: u64, is_minisock: bool, key: &mut Tuple) -> Option<()> {
    key.net = field(sock, &knobs::SKC_NET)?;
    key.bound_if = field(sock, &knobs::SKC_BOUND_IF)?;
    key.rport = field(sock, &knobs::SKC_DPORT)?;
    key.lport =
        if is_minisock { field(sock, &knobs::SKC_NUM)? } else { u16::from_be(field(sock, &knobs::INET_SPORT)?) };
    if field::<u16>(sock, &knobs::SKC_FAMILY)? == AF_INET6 {
        put(&mut key.laddr, field(sock, &knobs::SKC_V6_RCV_SADDR)?);
        put(&mut key.raddr, field(sock, &knobs::SKC_V6_DADDR)?);
    } else {
        put(&mut key.laddr, [field(sock, &knobs::SKC_RCV_SADDR)?, 0, 0, 0]);
        put(&mut key.raddr, [field(sock, &knobs::SKC_DADDR)?, 0, 0, 0]);
    }
    Some(())
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
pub fn death_row(sock: u64) -> Option<u64> {
    let offset = knobs::NET_DEATH_ROW.load();
    if offset == ABSENT {
        return None;
    }
    let place = field::<u64>(sock, &knobs::SKC_NET)? + u64::from(offset);
    if knob!(DUTIES.death_row_pointer) == 1 { read(place) } else { Some(place) }
}
