//! From the programs into the ring, every record counted.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::bpf_ktime_get_ns,
};
use twtrace_common::{
    ABI,
    counter::Counters,
    record::{Header, Life, flag, kind},
};

use crate::{
    filter, knobs,
    maps::{RING, count},
};

/// What the kernel puts before each record in the ring (BPF_RINGBUF_HDR_SZ), bytes.
const RECORD_HEADER: u64 = 8;

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper takes nothing and cannot fail.
    unsafe { bpf_ktime_get_ns() }
}

/// Enters the kind and the time into a record's cleared header.
#[inline(always)]
pub fn head(header: &mut Header, kind: u8, mono_ns: u64) {
    header.mono_ns = mono_ns;
    header.kind = kind;
    header.abi = ABI;
}

/// Sends one record: `fill` writes every byte of it in the ring's own memory. `matched` is the filters' verdict on the
/// life; whether this kind is wanted is asked here. Events of the self-test always pass and are never counted.
#[inline(always)]
pub fn emit<T: 'static>(
    counters: &Counters,
    kind: u8,
    life: &Life,
    matched: bool,
    fill: impl FnOnce(&mut MaybeUninit<T>),
) {
    let counted = life.flags & flag::SELF_TEST == 0;
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
            count(&counters.trouble.self_test_lost);
        }
        return;
    };
    fill(&mut entry);
    // A wake-up costs more than everything else here: the reader drains on a timer, and is woken only if the ring fills
    // faster than that; once for each further sixteenth of the ring, for it may be awake and busy.
    let (filled, wake_at) = (RING.query(u64::from(BPF_RB_AVAIL_DATA)), knobs::WAKE_AT.load());
    let is_step = filled & (wake_at / 4).wrapping_sub(1) < size_of::<T>() as u64 + RECORD_HEADER;
    let flags = if filled >= wake_at && is_step { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    entry.submit(u64::from(flags));
    if counted {
        count(&counters.emitted[index]);
    }
}
