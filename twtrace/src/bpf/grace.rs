//! Waiting until every program that was running has ended.

use std::{thread, time::Duration};

/// Where the kernel cannot be asked: far longer than a program runs, unless its CPU is taken away by a hypervisor.
const A_MOMENT: Duration = Duration::from_millis(30);

/// MEMBARRIER_CMD_GLOBAL (include/uapi/linux/membarrier.h).
const GLOBAL: libc::c_int = 1;

/// Returns when no program runs any more that was running when this was called.
///
/// Programs run inside RCU read-side critical sections (`__bpf_prog_enter_recur`, `__bpf_trace_run`, `trace_call_bpf`), and
/// `membarrier(MEMBARRIER_CMD_GLOBAL)` is `synchronize_rcu` (kernel/sched/membarrier.c). It takes some 10 ms, and is refused
/// where CPUs run without a tick (nohz_full).
pub(super) fn period() {
    // SAFETY: takes three integers and touches no memory of this process.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if done != 0 {
        thread::sleep(A_MOMENT);
    }
}
