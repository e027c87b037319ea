//! Events inside events. The kernel does not run a program on a CPU where the same program is running, for what
//! interrupts or preempts it there (bpf_prog_inc_misses_counter). So each hook whose events nest has a second program,
//! called right after the first for every event, which acts if the first was not run.
//!
//! The first leaves a token of the event on its CPU, last of all, and the second takes it away. No token: the first was
//! skipped, and only that is counted in `again`, whatever the event: of as many runs the kernel says that it skipped them,
//! also where nothing was to be done. Many events that came between the two programs may have pushed the token out; then
//! the tables may tell whether the first was there. Where they do not, nothing is counted, and twtrace reports one miss too
//! many rather than one too few. (What is left: a task that moves to another CPU in the nanoseconds between the two programs,
//! which trampolines allow, and tracepoints of kernels that do not disable preemption for them, leaves its token behind.)

use aya_ebpf::helpers::generated::bpf_get_current_pid_tgid;
use twtrace_common::counter::hook;

use crate::{emit::now, kernel::lower_half, knobs::knob, maps, plain::forget};

/// `inet_sock_set_state`: opening and closing run in tasks, the rest in softirqs on top of them.
pub const CONN: usize = hook::CONN;
/// `inet_twsk_alloc`: closing runs in tasks.
pub const REFUSAL: usize = hook::REFUSAL;
/// `inet_twsk_kill`: SOCK_DESTROY runs in a task, with softirqs on.
pub const DEATH: usize = hook::DEATH;

/// An event: the object's address and what becomes of it, 32 bits. Two words, for the verifier knows the address as a
/// pointer, with which no arithmetic is done.
pub type Token = [u64; 2];

/// What a hook's programs leave on one CPU.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tokens {
    /// How many were left so far: their upper half says which of them a token is.
    count: u64,
    /// By the object's address, the newest first; an object of 0 is no token.
    slots: [[Token; DEPTH]; SLOTS],
}

/// Objects whose events nest have different slots, mostly.
const SLOTS: usize = 8;
/// Tokens in a slot: of an event, and of one that came on top of it.
const DEPTH: usize = 2;
/// Tokens that were left since, after which one is of an event long past, whose second program was skipped.
const FRESH: u64 = 256;

/// What the tables tell of an event that has no token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// The first program has acted, or nobody can say and it must not be done twice.
    Yes,
    /// The first program has not.
    No,
    /// Nobody can say, and it may be done twice.
    Perhaps,
}

/// This CPU's count of a hook's tokens and the slot of an object.
#[inline(always)]
fn place(hook: usize, object: u64) -> Option<(*mut u64, *mut Token)> {
    /// Bits of an address that tell nothing: the sizes of `struct tcp_sock` and `struct tcp_timewait_sock`.
    const CELL: [u32; hook::COUNT] = [11, 11, 8];
    let slot = (lower_half(object) >> CELL[hook]) as usize & (SLOTS - 1);
    let scratch = maps::scratch()?;
    // SAFETY: places inside the map value; `hook` is one of the constants above.
    unsafe {
        let tokens = (&raw mut (*scratch).tokens).cast::<Tokens>().add(hook);
        Some((&raw mut (*tokens).count, (&raw mut (*tokens).slots).cast::<[Token; DEPTH]>().add(slot).cast()))
    }
}

/// The first program of a hook says, last of all, which event it has told.
#[inline(always)]
pub fn told(hook: usize, [object, change]: Token) {
    linger(knob!(LINGER.first_ns), change);
    let Some((count, slot)) = place(hook, object) else { return };
    // SAFETY: this CPU's entry. Volatile, for the second program is another one.
    unsafe {
        let number = count.read_volatile().wrapping_add(1);
        count.write_volatile(number);
        let [newest, older] = [slot.cast::<u64>(), slot.add(1).cast::<u64>()];
        let former = newest.read_volatile();
        if former != 0 {
            older.add(1).write_volatile(newest.add(1).read_volatile());
            older.write_volatile(former);
        }
        newest.add(1).write_volatile(number << 32 | change);
        newest.write_volatile(object);
    }
}

/// What stands in the slot of an event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// The event's token, which was taken away.
    Token,
    /// Not its token, and there was room for it.
    Nothing,
    /// Tokens of others, which may have pushed it out.
    Others,
}

#[inline(always)]
fn take(hook: usize, object: u64, change: u64) -> Left {
    let Some((count, slot)) = place(hook, object) else { return Left::Others };
    // SAFETY: this CPU's entry.
    unsafe {
        let number = count.read_volatile();
        let mut others = 0;
        for depth in 0..DEPTH {
            let token = slot.add(depth).cast::<u64>();
            let said = token.add(1).read_volatile();
            let left = token.read_volatile();
            // The upper half of the number, as far as it goes.
            if left != 0 && (number.wrapping_sub(said >> 32) & 0xffff_ffff) < FRESH {
                if left == object && said & 0xffff_ffff == change {
                    token.write_volatile(0);
                    return Left::Token;
                }
                others += 1;
            }
        }
        if others == DEPTH { Left::Others } else { Left::Nothing }
    }
}

/// The second program of a hook: `body` is what the first would have done, `done` tells from the tables whether it has.
#[inline(always)]
pub fn if_untold(hook: usize, [object, change]: Token, done: impl FnOnce() -> Done, body: impl FnOnce()) {
    linger(knob!(LINGER.second_ns), change);
    let left = take(hook, object, change);
    if left == Left::Token {
        return;
    }
    let done = done();
    if done == Done::Yes {
        return;
    }
    let is_sure = left == Left::Nothing || done == Done::No;
    if let Some(counters) = maps::counters() {
        // No branch: the verifier would go through all that follows twice.
        maps::add(&counters.again[hook], forget(is_sure.into()) as i64);
    }
    body();
}

/// Lets time pass while the kernel takes this program for busy: for tests.
#[inline(always)]
fn linger(ns: u32, change: u64) {
    /// Reads of the clock, 30 ns each: what the verifier has to walk through.
    const ROUNDS: u32 = 1 << 14;
    if ns == 0 || knob!(LINGER.changes) >> (change as u32 & 31) & 1 == 0 {
        return;
    }
    // SAFETY: the helper takes nothing and cannot fail.
    if unsafe { bpf_get_current_pid_tgid() } as u32 != knob!(LINGER.tid) {
        return;
    }
    let began = now();
    for _ in 0..ROUNDS {
        if now().wrapping_sub(began) >= u64::from(ns) {
            break;
        }
    }
}
