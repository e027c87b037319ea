//! Looks at the kernel's own minisocks. A BPF iterator over the TCP sockets of one network namespace enters those that no
//! birth told into the table of lives, if absent, and writes those that the filters let through to whoever reads the iterator:
//! the minisocks that were there before the programs, and later the births that were missed. It gives the minisock's own
//! address, the key of every later event, which sock_diag does not. Those that are in the table it marks as met; what is in the
//! table and is met no more may have ended unseen, which [`bury`] finds out.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::{
    Global,
    bindings::seq_file,
    helpers::{bpf_probe_read_kernel, generated::bpf_seq_write},
    programs::{FEntryContext, RawTracePointContext},
};
use twtrace_common::{
    record::{Life, flag},
    state::{Alive, alive, met, verdict},
};

use crate::{
    birth::timer_of,
    filter,
    kernel::{self, Object as _, Raw},
    knobs,
    maps::{self, LIVES, add, bump, count},
    plain::clear,
};

/// TCP_TIME_WAIT, `skc_state` of every minisock whatever its substate.
const TIME_WAIT: u8 = 6;

/// The number of the first look, which finds what is older than the run.
const FIRST: u32 = 1;

/// A minisock's timer expires no further from now than this, seconds: 3.5 RTO of at most 120 s are the longest that it is armed
/// for (tcp_time_wait), and an eighth of it the latest that the timer wheel is.
const HORIZON_S: u64 = 600;

/// `int bpf_iter_tcp(struct bpf_iter_meta *meta, struct sock_common *sk_common, uid_t uid)`
///
/// aya-ebpf has no iterator macro; a section named so is all that aya needs. The context is an array of the arguments,
/// as fentry's is.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub fn seed_iter(ctx: *mut c_void) -> i32 {
    let ctx = FEntryContext::new(ctx);
    let sock = ctx.arg::<u64>(1);
    if sock != 0 && Raw(sock).get::<u8>(&knobs::SKC_STATE) == Some(TIME_WAIT) {
        seed(&ctx, sock);
    }
    0
}

#[inline(always)]
fn seed(ctx: &FEntryContext, tw: u64) {
    let look = maps::look();
    let mut was_over = false;
    // An entry that is there already is a birth that the hooks have told, or of an earlier walk: each is told once. Later
    // walks find little else.
    if let Some(entry) = LIVES.get_ptr_mut(tw) {
        // SAFETY: a map value; it may become another life's at any time, see `met`.
        unsafe {
            let met = &raw mut (*entry).met;
            if met.read_volatile() != met::OVER | (*entry).id {
                // What this very look has entered stays new.
                if met.read_volatile() & met::LOOK != u64::from(look) {
                    met.write_volatile(u64::from(look));
                }
                return;
            }
        }
        was_over = true;
    }
    // The kernel may show one that has ended since: from 5.15 on it collects some, and shows them later.
    if !is_followed(tw) {
        return;
    }
    let mut life = MaybeUninit::uninit();
    let life = clear(&mut life);
    kernel::minisock(Raw(tw), life);
    // Of one that a later look finds nobody knows whether it is older than the run: its namespace may have been out of sight.
    life.flags = if look == FIRST { flag::PREEXISTING } else { flag::UNKNOWN_BIRTH };
    let Some(counters) = maps::counters() else { return };
    let mut entry = MaybeUninit::<Alive>::uninit();
    let entry: &mut Alive = clear(&mut entry);
    entry.id = maps::seed_id(counters);
    entry.expires = timer_of(tw).get(&knobs::TIMER_EXPIRES).unwrap_or(0);
    entry.substate = life.substate;
    entry.flags = life.flags;
    entry.met = u64::from(look) | met::NEW;
    let matched = filter::lets_through(life);
    entry.state = if matched { alive::MATCHED } else { 0 };
    life.id = entry.id;
    // A birth that comes between has told its own.
    let is_entered = if was_over { LIVES.insert(tw, entry) } else { LIVES.insert_new(tw, entry) };
    if !is_entered {
        if LIVES.get_ptr(tw).is_none() {
            bump!(trouble.lives_full);
        }
        return;
    }
    // Its end may have been told between the look at it and its entry, and will not be told again. The programs tell an end
    // after the timer was taken off, so whoever did not find this entry was preceded by that; an atomic addition keeps the
    // processor from looking before the entry is there for all to see. The one exception is death_tp, which is called a moment
    // before the timer is off: for that, user space asks once more after the walk.
    add(&counters.ids, 0);
    if !is_followed(tw)
        && let Some(place) = LIVES.get_ptr_mut(tw)
    {
        // Else its end was told with this entry, and took it away.
        // SAFETY: as above; the id says whose end it was.
        unsafe { (&raw mut (*place).met).write_volatile(met::OVER | entry.id) };
        return;
    }
    count(&counters.seeded);
    if matched && !write(ctx, life) {
        bump!(trouble.seeds_full);
    }
}

/// Hands a seed to the reader. `false`: the file's buffer has no room for it, which user space sees to.
#[inline(always)]
fn write(ctx: &FEntryContext, life: &Life) -> bool {
    let meta = ctx.arg::<*const *mut seq_file>(0);
    // SAFETY: `seq` is the first field of struct bpf_iter_meta; a direct load of a typed pointer, which cannot fault. The
    // helper reads the record, which lives on this stack, and checks the file's type.
    unsafe { bpf_seq_write(meta.read_volatile(), ptr::from_ref(life).cast(), size_of::<Life>() as u32) == 0 }
}

/// Whether a life is over that no look has met: arguments are its address, its id, and 1 if the answer was 'dead' before, a
/// while ago. Then it is marked so. Called by BPF_PROG_RUN, for a life at a time; attached to nothing.
///
/// Between the ends of a minisock's timer and the program that tells it pass microseconds: who is dead at two moments that are
/// further apart, and still in the table with the same id, ended unseen.
///
/// aya-ebpf's macro makes a program that returns nothing; a section named so is all that aya needs.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
pub fn bury(ctx: *mut c_void) -> i32 {
    let ctx = RawTracePointContext::new(ctx);
    let (tw, id, is_sure) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1), ctx.arg::<u64>(2));
    // First: if the address is born again after this, the entry's id changes, or will.
    if is_followed(tw) && is_near(timer_of(tw).0) {
        return verdict::ALIVE as i32;
    }
    let Some(entry) = LIVES.get_ptr_mut(tw) else { return verdict::CHANGED as i32 };
    // SAFETY: a map value, see `met`.
    unsafe {
        if (*entry).id != id {
            return verdict::CHANGED as i32;
        }
        if is_sure != 0 {
            (&raw mut (*entry).met).write_volatile(met::OVER | id);
        }
    }
    verdict::DEAD as i32
}

/// True if there is a minisock that the kernel has not begun to end: in the established hash, its timer armed. The memory may
/// be anything: minisocks are freed after a grace period, and their pages go to others.
#[inline(always)]
fn is_followed(tw: u64) -> bool {
    peek::<u8>(tw, &knobs::SKC_STATE) == TIME_WAIT
        && peek::<u64>(tw, &knobs::SKC_PPREV) != 0
        && peek::<u64>(timer_of(tw).0, &knobs::TIMER_PPREV) != 0
}

/// True if what would be a minisock's timer expires at a time at which one may.
#[inline(always)]
fn is_near(timer: u64) -> bool {
    let horizon = HORIZON_S * u64::from(knobs::HZ.load());
    peek::<u64>(timer, &knobs::TIMER_EXPIRES).wrapping_sub(kernel::jiffies()).wrapping_add(horizon) < 2 * horizon
}

/// A field of what may be no object any more; zero if it cannot be read, which is no failure here. The fields asked for are
/// those without which nothing runs.
#[inline(always)]
fn peek<T: Copy + Default>(address: u64, offset: &Global<u16>) -> T {
    // SAFETY: bpf_probe_read_kernel checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel((address + u64::from(offset.load())) as *const T) }.unwrap_or_default()
}
