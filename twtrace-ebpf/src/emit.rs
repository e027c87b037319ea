//! From the programs into the ring, every record counted.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_ktime_get_ns,
};
use twtrace_common::{
    ABI,
    record::{Header, Life, flag, kind},
};

use crate::{
    filter, knobs,
    maps::{self, RING, bump, count},
};

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper takes nothing and cannot fail.
    unsafe { bpf_ktime_get_ns() }
}

/// A life of which nothing is known yet.
#[inline(always)]
pub fn blank() -> Life {
    Life {
        id: 0,
        cgroup_id: 0,
        laddr: [0; 16],
        raddr: [0; 16],
        netns: 0,
        valid: 0,
        lport: 0,
        rport: 0,
        family: 0,
        substate: 0,
        role: 0,
        flags: 0,
        closer_pid: 0,
        closer_comm: [0; 16],
        pad: [0; 4],
    }
}

#[inline(always)]
pub fn header(kind: u8, mono_ns: u64) -> Header {
    Header { mono_ns, kind, abi: ABI, pad: [0; 6] }
}

/// Sends one record: `fill` writes every byte of it in the ring's own memory. `matched` is the filters' verdict on the
/// life; whether this kind is wanted is asked here. Events of the self-test always pass and are never counted.
#[inline(always)]
pub fn emit<T: 'static>(kind: u8, life: &Life, matched: bool, fill: impl FnOnce(&mut MaybeUninit<T>)) {
    let counted = life.flags & flag::SELF_TEST == 0;
    let Some(counters) = maps::counters() else { return };
    let index = usize::from(kind) % kind::COUNT;
    if counted {
        count(&counters.seen[index]);
        if !matched || !filter::wants(kind) {
            count(&counters.filtered[index]);
            return;
        }
    }
    let Some(mut entry) = RING.reserve::<T>(0) else {
        if counted {
            count(&counters.lost[index]);
        } else {
            bump!(trouble.self_test_lost);
        }
        return;
    };
    fill(&mut entry);
    // A wake-up costs more than everything else here: the reader drains on a timer, and is woken only if the ring fills
    // faster than that.
    let flags = if RING.query(u64::from(BPF_RB_AVAIL_DATA)) >= knobs::WAKE_AT.load() {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    entry.submit(u64::from(flags));
    if counted {
        count(&counters.emitted[index]);
    }
}
