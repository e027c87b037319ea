//! Events inside events. The kernel does not run a program on a CPU where the same program is running, for what
//! interrupts or preempts it there (bpf_prog_inc_misses_counter). So each hook whose events nest has a second program,
//! called right after the first for every event, which acts if the first was not run.
//!
//! It knows by two counts of its CPU: how often the first has finished, and how often when the second last looked. Equal
//! means that the first was skipped, or that something came between the two programs and took the count along; whoever
//! has to tell these apart asks whether the event has left its trace already. There is no moment in which the first is
//! busy and nobody knows.

use crate::maps::{self, bump, count};

/// `inet_sock_set_state`: opening and closing run in tasks, the rest in softirqs on top of them.
pub const CONN: usize = 0;
/// `inet_twsk_alloc`: closing runs in tasks.
pub const REFUSAL: usize = 1;
/// `inet_twsk_kill`: SOCK_DESTROY runs in a task, with softirqs on.
pub const DEATH: usize = 2;
/// How many hooks have a second program.
pub const HOOKS: usize = 3;

/// One hook's counts on one CPU.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Turns {
    /// How often the first program has finished.
    finished: u64,
    /// What that was when the second last looked.
    seen: u64,
}

#[inline(always)]
fn turns(hook: usize) -> Option<*mut Turns> {
    // SAFETY: a place inside the map value; `hook` is one of the constants above.
    maps::scratch().map(|scratch| unsafe { (&raw mut (*scratch).turns).cast::<Turns>().add(hook) })
}

/// The first program of a hook says, last of all, that it was run.
#[inline(always)]
pub fn finished(hook: usize) {
    if let Some(turns) = turns(hook) {
        // SAFETY: this CPU's entry. Atomic, for kernels without the guard nest the program in itself.
        count(unsafe { &(*turns).finished });
    }
}

/// The second program of a hook: `body` is what the first would have done, `done` tells whether it has.
#[inline(always)]
pub fn if_skipped(hook: usize, done: impl FnOnce() -> bool, body: impl FnOnce()) {
    let Some(turns) = turns(hook) else { return };
    // SAFETY: this CPU's entry. Volatile, for an interrupt may change it between two looks.
    let skipped = unsafe {
        let skipped = (&raw const (*turns).finished).read_volatile() == (&raw const (*turns).seen).read_volatile();
        // Read anew: what an interrupt has added since is seen as well.
        (&raw mut (*turns).seen).write_volatile((&raw const (*turns).finished).read_volatile());
        skipped
    };
    if skipped && !done() {
        bump!(again);
        body();
    }
}
