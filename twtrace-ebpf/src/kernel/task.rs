//! The current task.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid,
    generated::{bpf_get_current_cgroup_id, bpf_get_current_task, bpf_probe_read_kernel as bpf_probe_read_kernel_raw},
};

use super::put;
use crate::knobs;

/// The current task: thread group id and command name, padded with NULs.
///
/// The name is read where it is: bpf_get_current_comm measures, clears and copies it, which takes five times as long. Older
/// kernels leave what an earlier name had behind the end of this one.
#[inline(always)]
pub fn current(comm: &mut [u8; 16]) -> u32 {
    let mut name = MaybeUninit::<[u64; 2]>::uninit();
    // SAFETY: the helper takes nothing and cannot fail.
    let at = unsafe { bpf_get_current_task() } + u64::from(knobs::TASK_COMM.load());
    // SAFETY: the helper writes all 16 bytes, zeroes if it fails.
    let [first, second] = unsafe {
        bpf_probe_read_kernel_raw(name.as_mut_ptr().cast(), 16, at as *const _);
        name.assume_init()
    };
    let second = if nuls(first) == 0 { until_nul(second) } else { 0 };
    let first = until_nul(first);
    put(comm, [first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32]);
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The highest bit of each byte that is zero, and perhaps of bytes above the lowest such.
#[inline(always)]
fn nuls(word: u64) -> u64 {
    word.wrapping_sub(0x0101_0101_0101_0101) & !word & 0x8080_8080_8080_8080
}

/// The bytes below the first zero, the others cleared. On little-endian machines, the only ones built for, the lowest byte
/// is the first.
#[inline(always)]
fn until_nul(word: u64) -> u64 {
    let nuls = nuls(word);
    // The lowest bit alone, less one: all bits below it. Without a zero byte that is all of them.
    word & (nuls & nuls.wrapping_neg()).wrapping_sub(1)
}

/// The current task's cgroup v2 id.
#[inline(always)]
pub fn current_cgroup() -> u64 {
    // SAFETY: the helper takes nothing and cannot fail.
    unsafe { bpf_get_current_cgroup_id() }
}
