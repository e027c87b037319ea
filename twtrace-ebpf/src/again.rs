//! Events inside events. The kernel does not run a program on a CPU where the same program is running, for what
//! interrupts or preempts it there (bpf_prog_inc_misses_counter). So each hook whose events nest has a second program,
//! which acts only while the first is busy on its CPU. It is right whatever order the two are called in.
//!
//! Kernels without that guard (tp_btf before 6.1, trampolines before 5.12) would run both: there the first leaves the
//! event to the second.

use crate::maps::{self, bump};

/// `inet_sock_set_state`: opening and closing run in tasks, the rest in softirqs on top of them.
pub const CONN: usize = 0;
/// `inet_twsk_alloc`: closing runs in tasks.
pub const REFUSAL: usize = 1;
/// `inet_twsk_kill`: SOCK_DESTROY runs in a task, with softirqs on.
pub const DEATH: usize = 2;
/// How many hooks have a second program.
pub const HOOKS: usize = 3;

/// This CPU's mark that the first program of a hook is busy.
#[inline(always)]
fn busy(hook: usize) -> Option<*mut u64> {
    // SAFETY: a place inside the map value; `hook` is one of the constants above.
    maps::scratch().map(|scratch| unsafe { (&raw mut (*scratch).busy).cast::<u64>().add(hook) })
}

/// The first program of a hook; to be called before all else. What comes before the mark stands, or after it is gone, is
/// lost, and counted by the kernel: a few nanoseconds for interrupts, but as long as it takes for a task that is preempted
/// just there (7.x).
#[inline(always)]
pub fn first(hook: usize, body: impl FnOnce()) {
    let Some(busy) = busy(hook) else { return };
    // SAFETY: this CPU's entry, written by this hook's first program alone. Volatile: whoever interrupts has to see it.
    unsafe {
        if busy.read_volatile() != 0 {
            bump!(left);
            return;
        }
        busy.write_volatile(1);
        body();
        busy.write_volatile(0);
    }
}

/// The second program of a hook.
#[inline(always)]
pub fn second(hook: usize, body: impl FnOnce()) {
    let Some(busy) = busy(hook) else { return };
    // SAFETY: as in `first`.
    if unsafe { busy.read_volatile() } != 0 {
        bump!(again);
        body();
    }
}
