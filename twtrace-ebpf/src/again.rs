//! Events inside events. The kernel does not run a program on a CPU where the same program is running, for what
//! interrupts or preempts it there (bpf_prog_inc_misses_counter). So each hook whose events nest has a second program,
//! called right after the first for every event, which acts if the first was not run.
//!
//! The first leaves a token of the event on its CPU, last of all, and the second takes it away. No token, or another's:
//! the first was skipped, or somebody came between the two programs and left a token of his own. Then, which is rare, the
//! second asks whether the event has left its trace in the tables. There is no moment in which the first is busy and
//! nobody knows.

use crate::maps::{self, bump};

/// `inet_sock_set_state`: opening and closing run in tasks, the rest in softirqs on top of them.
pub const CONN: usize = 0;
/// `inet_twsk_alloc`: closing runs in tasks.
pub const REFUSAL: usize = 1;
/// `inet_twsk_kill`: SOCK_DESTROY runs in a task, with softirqs on.
pub const DEATH: usize = 2;
/// How many hooks have a second program.
pub const HOOKS: usize = 3;

/// An event: the object's address and what becomes of it. Two words, for the verifier knows the address as a pointer, with
/// which no arithmetic is done.
pub type Token = [u64; 2];

/// This CPU's place for a hook's token.
#[inline(always)]
fn place(hook: usize) -> Option<*mut u64> {
    // SAFETY: a place inside the map value; `hook` is one of the constants above.
    maps::scratch().map(|scratch| unsafe { (&raw mut (*scratch).tokens).cast::<Token>().add(hook).cast() })
}

/// The first program of a hook says, last of all, which event it has told.
#[inline(always)]
pub fn told(hook: usize, [object, change]: Token) {
    if let Some(place) = place(hook) {
        // SAFETY: this CPU's entry. Volatile, for the second program is another one.
        unsafe {
            place.write_volatile(object);
            place.add(1).write_volatile(change);
        }
    }
}

/// The second program of a hook: `body` is what the first would have done, `done` tells from the tables whether it has.
#[inline(always)]
pub fn if_untold(hook: usize, [object, change]: Token, done: impl FnOnce() -> bool, body: impl FnOnce()) {
    let Some(place) = place(hook) else { return };
    // SAFETY: this CPU's entry.
    unsafe {
        if place.read_volatile() == object && place.add(1).read_volatile() == change {
            place.write_volatile(0);
            return;
        }
    }
    if !done() {
        bump!(again);
        body();
    }
}
