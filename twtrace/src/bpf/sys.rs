//! Three commands of bpf(2) that aya offers only to whoever holds the program: a thread of its own has descriptors alone.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// Commands and a type of link, enum bpf_cmd and enum bpf_attach_type of include/uapi/linux/bpf.h.
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_ITER_CREATE: libc::c_int = 33;
const BPF_TRACE_ITER: u32 = 28;

/// The first bytes of `union bpf_attr` for each of them. The kernel takes what is not given as zeroes (bpf_check_uarg_tail_zero
/// and the copy before it).
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes within the size that it is told; what the attributes point to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(descriptor: libc::c_long) -> io::Result<OwnedFd> {
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just handed it out.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A link of an iterator's program, from which iterators are made.
pub(super) fn iter_link(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let prog_fd = program.as_raw_fd().cast_unsigned();
    owned(bpf(BPF_LINK_CREATE, &mut LinkCreate { prog_fd, attach_type: BPF_TRACE_ITER, ..LinkCreate::default() })?)
}

/// An iterator. One over sockets shows those of the calling thread's network namespace.
pub(super) fn iterate(link: BorrowedFd<'_>) -> io::Result<File> {
    let link_fd = link.as_raw_fd().cast_unsigned();
    Ok(owned(bpf(BPF_ITER_CREATE, &mut IterCreate { link_fd, flags: 0 })?)?.into())
}

/// Runs a raw tracepoint's program with these arguments, and hands back what it returns (Linux 5.10).
pub(super) fn run<const N: usize>(program: BorrowedFd<'_>, arguments: &[u64; N]) -> io::Result<u32> {
    let mut attributes = TestRun {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        ctx_size_in: u32::try_from(size_of_val(arguments)).map_err(io::Error::other)?,
        ctx_in: arguments.as_ptr() as u64,
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attributes)?;
    Ok(attributes.retval)
}
