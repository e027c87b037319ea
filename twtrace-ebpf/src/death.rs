//! Capabilities `death` and `cause`: a minisock ends.
//!
//! fentry and kprobe see `inet_twsk_kill`, the one function that ends a minisock on every kernel, and `tw_timer_handler`
//! before it where the timer ran out. The tracepoint twin sees the timer: taken off the wheel for good (timer_cancel) or
//! run out (timer_expire_entry). How the cause is told is the same for all: the timer's own callback; out of the hash
//! before its end, so a connect() has it; else who called `inet_twsk_deschedule_put`.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, fentry, kprobe},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext},
};
use twtrace_common::{
    counter::Counters,
    knob::stage,
    record::{Death, cause, flag, kind, substate, valid},
    state::{Alive, alive, met},
};

use crate::{
    again::{self, Done},
    birth::is_minisock_timer,
    emit::{self, head, now},
    filter,
    kernel::{self, Head, Object, Raw, Typed},
    knobs::{self, knob},
    maps::{self, LIVES, Reader},
    plain::{clear, forget},
    rearm,
    stack::{self, End},
};

/// How far above a program's context the wheel's own frame is looked for, bytes. Less than the guard page between two
/// stacks (CONFIG_VMAP_STACK): timers on a sleeping task's stack, next to this one, are no sign of anything.
const FRAMES: u64 = 4 << 10;

/// `static void tw_timer_handler(struct timer_list *t)`
#[fentry]
pub fn expiry_fentry(ctx: FEntryContext) -> i32 {
    if !maps::acts(stage::MINISOCKS) {
        return 0;
    }
    expiring(ctx.arg(0));
    0
}

/// As [`expiry_fentry`].
#[kprobe]
pub fn expiry_kprobe(ctx: ProbeContext) -> u32 {
    if !maps::acts(stage::MINISOCKS) {
        return 0;
    }
    if let Some(timer) = ctx.arg(0) {
        expiring(timer);
    }
    0
}

/// `static void inet_twsk_kill(struct inet_timewait_sock *tw)`
#[fentry]
pub fn death_fentry(ctx: FEntryContext) -> i32 {
    if !maps::acts(stage::MINISOCKS) {
        return 0;
    }
    killed(&ctx, Typed(ctx.arg(0)));
    again::told(again::DEATH, [ctx.arg(0), 0]);
    0
}

/// As [`death_fentry`], where that is not run: the minisock is in the table of lives still.
#[fentry]
pub fn death_again_fentry(ctx: FEntryContext) -> i32 {
    if !maps::acts(stage::MINISOCKS) {
        return 0;
    }
    let done = || if LIVES.get_ptr(ctx.arg::<u64>(0)).is_none() { Done::Yes } else { Done::No };
    again::if_untold(again::DEATH, [ctx.arg(0), 0], done, || killed(&ctx, Typed(ctx.arg(0))));
    0
}

/// As [`death_fentry`].
#[kprobe]
pub fn death_kprobe(ctx: ProbeContext) -> u32 {
    if !maps::acts(stage::MINISOCKS) {
        return 0;
    }
    if let Some(tw) = ctx.arg(0).and_then(|tw| Head::of(tw, Reader::Kprobe)) {
        killed(&ctx, tw);
    }
    0
}

/// Leaves word for [`killed`], which the callback calls next, on this CPU.
#[inline(always)]
fn expiring(timer: u64) {
    if let Some(scratch) = maps::scratch() {
        // SAFETY: this CPU's entry; timer callbacks of one CPU do not nest.
        unsafe { (*scratch).expiring = kernel::minisock_of(timer) };
    }
}

#[inline(always)]
fn killed(ctx: &impl EbpfContext, tw: impl Object) {
    let mut by_timer = false;
    if let Some(scratch) = maps::scratch() {
        // SAFETY: this CPU's entry. The word is taken away, so it cannot speak of the next minisock at this address.
        unsafe {
            if (*scratch).expiring == tw.address() {
                (*scratch).expiring = 0;
                by_timer = true;
            }
        }
    }
    ended(ctx, tw, by_timer);
}

/// `void timer_cancel(struct timer_list *timer)`: taken off the wheel to expire, to be armed anew, or for good.
#[btf_tracepoint(function = "timer_cancel")]
pub fn death_tp(ctx: BtfTracePointContext) -> i32 {
    let timer = ctx.arg::<*const u8>(0);
    if !is_minisock_timer(timer) || !maps::acts(stage::MINISOCKS) {
        return 0;
    }
    // SAFETY: as in is_minisock_timer.
    let pprev = unsafe { timer.add(usize::from(knobs::TIMER_PPREV.load())).cast::<u64>().read_volatile() };
    let Some(scratch) = maps::scratch() else { return 0 };
    // SAFETY: this CPU's entry, interrupts are off. Through memory, because older verifiers do no arithmetic with a
    // context's address.
    let here = unsafe {
        (&raw mut (*scratch).here).write_volatile(ctx.as_ptr() as u64);
        (&raw const (*scratch).here).read_volatile()
    };
    // The wheel moves what is due to lists on its stack (`heads` in __run_timers) and takes each timer off from there,
    // so a predecessor just above on this stack means: it expires, timer_expire_entry is next. This saves taking
    // the stack for the commonest end; should it fail on some kernel, the stack tells the same.
    if pprev > here && pprev - here < FRAMES {
        return 0;
    }
    let Some(tw) = Head::of(kernel::minisock_of(timer as u64), Reader::Wheel) else { return 0 };
    let (cause, by_current) = if kernel::is_hashed(tw) {
        let substate = tw.get::<u8>(&knobs::TW_SUBSTATE).unwrap_or(substate::TIME_WAIT);
        let End::Early(cause) = stack::end_of_minisock(&ctx, substate) else {
            // SAFETY: this CPU's entry, interrupts are off; else as in is_minisock_timer.
            unsafe {
                (*scratch).rearming = tw.address();
                (*scratch).expires = timer.add(usize::from(knobs::TIMER_EXPIRES.load())).cast::<u64>().read_volatile();
            }
            return 0;
        };
        (cause, false)
    } else {
        (taken_by_connect(tw), true)
    };
    if knob!(DUTIES.tp_death) == 1 {
        died(tw, cause, by_current);
    }
    0
}

/// `void timer_expire_entry(struct timer_list *timer, unsigned long baseclk)`
#[btf_tracepoint(function = "timer_expire_entry")]
pub fn expiry_tp(ctx: BtfTracePointContext) -> i32 {
    let timer = ctx.arg::<*const u8>(0);
    if !is_minisock_timer(timer) || !maps::acts(stage::MINISOCKS) {
        return 0;
    }
    let tw = kernel::minisock_of(timer as u64);
    if let Some(scratch) = maps::scratch() {
        // SAFETY: this CPU's entry; it expires after all.
        unsafe {
            if (*scratch).rearming == tw {
                (*scratch).rearming = 0;
            }
        }
    }
    if let Some(tw) = Head::of(tw, Reader::Expiry) {
        ended(&ctx, tw, true);
    }
    0
}

/// One minisock's end, the timer's part in it known.
#[inline(always)]
fn ended(ctx: &impl EbpfContext, tw: impl Object, by_timer: bool) {
    let (cause, by_current) = if !kernel::is_hashed(tw) {
        // If connect() took it and the timer came first all the same, the current task is not the taker.
        (taken_by_connect(tw), !by_timer)
    } else if by_timer {
        (cause::EXPIRED, false)
    } else {
        let substate = tw.get::<u8>(&knobs::TW_SUBSTATE).unwrap_or(substate::TIME_WAIT);
        let cause = match stack::end_of_minisock(ctx, substate) {
            End::Early(cause) if cause != cause::UNKNOWN => cause,
            _ if kernel::netns_is_dead(tw) => cause::NETNS,
            _ => cause::UNKNOWN,
        };
        (cause, false)
    };
    died(tw, cause, by_current);
}

/// `__inet_hash_connect` takes the minisock out of its bind bucket before it ends it; a connect() from a bound port does
/// not, for the bucket is its own.
#[inline(always)]
fn taken_by_connect(tw: impl Object) -> u8 {
    if Raw(tw.address()).get::<u64>(&knobs::TW_TB) == Some(0) { cause::REUSED } else { cause::REUSED_BOUND }
}

#[inline(always)]
fn died(tw: impl Object, cause: u8, by_current: bool) {
    let Some(counters) = maps::counters() else { return };
    let (cause, by_current) = (forget(cause.into()) as u8, forget(by_current.into()) != 0);
    let now = now();
    let mut life = MaybeUninit::uninit();
    let life = clear(&mut life);
    kernel::minisock(tw, life);
    let mut life_ns = 0;
    let mut entry = MaybeUninit::<Alive>::uninit();
    let entry = clear(&mut entry);
    let mut matched = if LIVES.read(tw.address(), entry) {
        life_ns = rearm::recall(entry, now, life);
        let matched = entry.state & alive::MATCHED != 0;
        if entry.met == met::OVER | entry.id {
            // A look came between this end's beginning and this program, and has taken it out of the count.
            maps::count(&counters.unborn);
        }
        rearm::late_turn(counters, tw, entry, life, now, matched);
        LIVES.remove(tw.address());
        matched
    } else {
        if !kernel::is_tcp_minisock(tw) {
            maps::count(&counters.trouble.not_tcp);
            return;
        }
        maps::mark_self_test(life);
        life.flags |= flag::UNKNOWN_BIRTH;
        if life.flags & flag::SELF_TEST == 0 {
            maps::count(&counters.unborn);
        }
        filter::lets_through(life)
    };
    matched = matched && filter::wants_cause(cause);
    if life.flags & flag::SELF_TEST == 0 {
        tally(counters, life.netns == knobs::OWN_NETNS.load(), cause, matched);
    }
    emit::emit::<Death>(counters, kind::DIED, life, matched, |place| {
        let death = clear(place);
        head(&mut death.header, kind::DIED, now);
        (death.life, death.life_ns, death.cause) = (*life, life_ns, cause);
        if by_current && (cause == cause::REUSED || cause == cause::REUSED_BOUND) {
            death.taker_pid = kernel::current(&mut death.taker_comm);
            death.life.valid |= valid::TAKER;
        }
    });
}

#[inline(always)]
fn tally(counters: &Counters, own: bool, cause: u8, matched: bool) {
    if own {
        maps::count(&counters.own.died);
        match cause {
            cause::EXPIRED => maps::count(&counters.own.expired),
            cause::REUSED | cause::REUSED_BOUND => maps::count(&counters.own.taken),
            _ => {}
        }
    }
    if matched {
        // LLVM knows that no cause is larger and would drop the mask; the verifier does not, and needs it.
        maps::count(&counters.died[usize::from(core::hint::black_box(cause)) & (cause::SLOTS - 1)]);
    }
}
