//! What crosses the kernel boundary of twtrace: records, counters and knobs.
//!
//! Everything here is integers and byte arrays with explicit padding, so that the eBPF programs and user space agree on
//! every byte; sizes and offsets are asserted by the compiler. No logic lives here. An enumeration crosses the boundary
//! as an integer and is named again in user space, where an unknown value stays an unknown value.
#![no_std]

pub mod counter;
pub mod knob;
pub mod record;
pub mod state;

/// Version of this boundary. The programs carry it in every record; user space refuses records of another version.
pub const ABI: u8 = 4;

/// Length of a task's command name, `TASK_COMM_LEN` of include/linux/sched.h, in bytes, NUL included.
pub const COMM_LEN: usize = 16;

/// Bytes of `T`, for the `const` assertions of this crate.
const fn size<T>() -> usize {
    size_of::<T>()
}
