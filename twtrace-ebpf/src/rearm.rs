//! Capabilities `turn` and `rearm`: a minisock's timer is armed anew, be it for a stray segment or because the peer's
//! FIN turned FIN_WAIT2 into TIME_WAIT in place.
//!
//! fentry and kprobe see `__inet_twsk_schedule(.., rearm = true)`, which `tcp_timewait_state_process` calls for both; the
//! substate is changed before. (It is no hook for births: arm64 kernels call a `.part.0` for those.) The timer
//! tracepoints see a re-arm only if it moves the timer to another bucket of the wheel; a turn that they missed is told at
//! the minisock's next timer event, marked late.

use core::mem::MaybeUninit;

use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use twtrace_common::{
    counter::Counters,
    knob::stage,
    record::{Life, Touch, flag, kind, substate, valid},
    state::{Alive, alive},
};

use crate::{
    emit::{self, head, now},
    filter,
    kernel::{self, Head, Object, Of, Raw, Typed},
    knobs::{self, knob},
    maps::{self, LIVES, Reader, count},
    plain::clear,
};

/// `void __inet_twsk_schedule(struct inet_timewait_sock *tw, int timeo, bool rearm)`
#[fentry]
pub fn rearm_fentry(ctx: FEntryContext) -> i32 {
    if !maps::acts(stage::MINISOCKS) {
        return 0;
    }
    if ctx.arg::<u8>(2) != 0 {
        let now_jiffies = kernel::jiffies();
        touched(Typed(ctx.arg(0)), UNTOLD, now_jiffies + ctx.arg::<i32>(1) as u64, now_jiffies);
    }
    0
}

/// As [`rearm_fentry`].
#[kprobe]
pub fn rearm_kprobe(ctx: ProbeContext) -> u32 {
    if !maps::acts(stage::MINISOCKS) {
        return 0;
    }
    if let (Some(timeo), Some(rearm)) = (ctx.arg::<i32>(1), ctx.arg::<u8>(2))
        && rearm != 0
        && let Some(tw) = ctx.arg(0).and_then(|tw| Head::of(tw, Reader::Kprobe))
    {
        let now_jiffies = kernel::jiffies();
        touched(tw, UNTOLD, now_jiffies + timeo as u64, now_jiffies);
    }
    0
}

/// What stands for the earlier end of a timer that a hook does not tell, because it sees each re-arm.
const UNTOLD: u64 = 0;

/// ktime_get_seconds() is as of the last tick, which at HZ 100 is up to 10 ms ago.
const TICK_NS: u64 = 20_000_000;

/// The tracepoint twin, called where timer_start follows a timer_cancel of the same timer. `before`: when the timer was to
/// expire until then.
#[inline(always)]
pub fn timer_moved(tw: u64, before: u64, expires: u64, now_jiffies: u64) {
    if knob!(DUTIES.tp_rearm) == 0 {
        return;
    }
    // A CPU that goes away hands its timers on as they are (migrate_timer_list of kernel/time/timer.c). A timer that is armed
    // anew for the very jiffy stays where it is (__mod_timer). What the table knows of the end does not help: a re-arm inside
    // the bucket has changed it unseen.
    if before == expires {
        return;
    }
    if let Some(tw) = Head::of(tw, Reader::Wheel) {
        touched(tw, before, expires, now_jiffies);
    }
}

#[inline(always)]
fn touched(tw: impl Object, before: u64, expires: u64, now_jiffies: u64) {
    let Some(counters) = maps::counters() else { return };
    let now = now();
    let mut life = MaybeUninit::<Life>::uninit();
    let life = clear(&mut life);
    life.substate = tw.get::<u8>(&knobs::TW_SUBSTATE).unwrap_or(0);
    life.valid |= valid::SUBSTATE | valid::TIMEOUT;
    let mut after_ns = 0;
    let mut kind = kind::REARMED;
    let matched = if let Some(entry) = LIVES.get_ptr_mut(tw.address()) {
        // SAFETY: a map value, which stays mapped. Should the timer run out on another CPU within these lines, and a life
        // with this slot begin there, two words of that one are written over.
        let entry = unsafe { &mut *entry };
        after_ns = recall(entry, now, life);
        kernel::tuple(tw, Of::Minisock, life);
        let matched = entry.state & alive::MATCHED != 0;
        if entry.substate == substate::FIN_WAIT2 && life.substate == substate::TIME_WAIT {
            // Armed anew inside its bucket meanwhile, it turned then, for a FIN_WAIT2 is armed by nothing else.
            if before != UNTOLD && (before != entry.expires || turned_before(tw, now)) {
                late_turn(counters, tw, entry, life, now, matched);
            } else {
                kind = kind::TURNED;
            }
        }
        (entry.substate, entry.expires) = (life.substate, expires);
        matched
    } else {
        if !kernel::is_tcp_minisock(tw) {
            count(&counters.trouble.not_tcp);
            return;
        }
        kernel::tuple(tw, Of::Minisock, life);
        life.flags |= flag::UNKNOWN_BIRTH;
        filter::lets_through(life)
    };
    let timeout_ms = kernel::jiffies_to_ms(expires.saturating_sub(now_jiffies));
    // Two calls, so that each kind is a constant.
    if kind == kind::TURNED {
        count_turn(counters, life, matched);
        send(counters, kind::TURNED, now, life, matched, after_ns, timeout_ms);
    } else {
        if matched && life.flags & flag::SELF_TEST == 0 {
            count(&counters.rearmed);
        }
        send(counters, kind::REARMED, now, life, matched, after_ns, timeout_ms);
    }
}

/// True if a TIME_WAIT that was a FIN_WAIT2 has turned some time ago: `tcp_timewait_state_process` writes the second into
/// `tw_ts_recent_stamp` then, if the FIN has a timestamp, before it arms the timer; at a re-arm only after that. This tells
/// a turn in the very jiffy of the birth, which leaves `expires` as it was.
#[inline(always)]
fn turned_before(tw: impl Object, now: u64) -> bool {
    let stamp = Raw(tw.address()).get::<u32>(&knobs::TCPTW_TS_STAMP).unwrap_or(0);
    stamp != 0 && u64::from(stamp) < now.saturating_sub(TICK_NS) / 1_000_000_000
}

#[inline(always)]
fn count_turn(counters: &Counters, life: &Life, matched: bool) {
    if matched && life.flags & flag::SELF_TEST == 0 {
        count(&counters.turned);
    }
}

#[inline(always)]
fn send(counters: &Counters, kind: u8, at: u64, life: &Life, matched: bool, after_ns: u64, timeout_ms: u32) {
    emit::emit::<Touch>(counters, kind, life, matched, |place| {
        let touch = clear(place);
        head(&mut touch.header, kind, at);
        (touch.life, touch.after_ns, touch.timeout_ms) = (*life, after_ns, timeout_ms);
    });
}

/// What the table of lives knows, into a record; returns the age in nanoseconds.
#[inline(always)]
pub fn recall(entry: &Alive, now: u64, life: &mut Life) -> u64 {
    life.id = entry.id;
    life.role = entry.role;
    life.flags |= entry.flags;
    if entry.state & alive::HAS_CLOSER != 0 {
        life.closer_pid = entry.closer_pid;
        life.closer_comm = entry.closer_comm;
        life.cgroup_id = entry.cgroup_id;
        life.valid |= valid::CLOSER;
    }
    if entry.born_ns == 0 {
        return 0;
    }
    life.valid |= valid::AGE;
    now.saturating_sub(entry.born_ns)
}

/// A turn that no timer event told, found out at the minisock's end. From 6.14 `tw_entry_stamp` (milliseconds of
/// `tcp_clock_ms`, 32 bits) says when, if the FIN carried a timestamp; else the time stays unknown.
#[inline(always)]
pub fn late_turn(counters: &Counters, tw: impl Object, entry: &Alive, life: &Life, now: u64, matched: bool) {
    if knob!(DUTIES.tp_rearm) == 0 || entry.substate != substate::FIN_WAIT2 || life.substate != substate::TIME_WAIT {
        return;
    }
    let mut turned = *life;
    turned.flags |= flag::LATE;
    turned.valid &= !valid::AGE;
    let mut at = now;
    let mut after_ns = 0;
    if let Some(stamp) = tw.get::<u32>(&knobs::TW_ENTRY_STAMP)
        && entry.born_ns != 0
    {
        let born_ms = (entry.born_ns / 1_000_000) as u32;
        let after_ms = stamp.wrapping_sub(born_ms);
        // The stamp of the birth itself means that the FIN brought none.
        if after_ms > 0 && after_ms < 1 << 31 {
            after_ns = u64::from(after_ms) * 1_000_000;
            // Whole milliseconds may lie behind the end.
            if entry.born_ns + after_ns < now {
                at = entry.born_ns + after_ns;
            }
            turned.valid |= valid::AGE;
        }
    }
    count_turn(counters, life, matched);
    send(counters, kind::TURNED, at, &turned, matched, after_ns, 0);
}
