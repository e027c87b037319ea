//! Reading the kernel's structures at the offsets that user space found in BTF.

mod object;
mod task;
mod tuple;

use aya_ebpf::helpers::generated::bpf_jiffies64;
use twtrace_common::knob::ABSENT;

use crate::knobs::{self, knob};

pub use object::{Head, Object, Raw, Typed, read};
pub use task::{current, current_cgroup};
pub use tuple::{Of, is_loopback, local_port, meeting_point, minisock, tuple};

/// IPPROTO_TCP: MPTCP's own sockets, SCTP and DCCP share the hooks.
pub const IPPROTO_TCP: u16 = 6;
/// IPPROTO_MPTCP.
const IPPROTO_MPTCP: u16 = 262;

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

/// The lower 32 bits of what may be an address. In assembly: with what the verifier knows as a pointer no arithmetic is
/// done, but a copy of half of it is a number.
#[inline(always)]
pub fn lower_half(address: u64) -> u64 {
    let half;
    // SAFETY: a move between registers.
    unsafe { core::arch::asm!("w2 = w1", in("r1") address, lateout("r2") half, options(pure, nomem, nostack)) };
    half
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
