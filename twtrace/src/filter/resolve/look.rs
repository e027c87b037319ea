//! What a path leads to: a network namespace, a cgroup, or neither.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

use super::{CLONE_NEWNET, NSFS_MAGIC, Place};
use crate::host::cgroup;

/// What is really there.
pub(super) fn look(path: &Path) -> io::Result<Place> {
    if let Some(id) = cgroup::id(path)? {
        return Ok(Place::Cgroup(id));
    }
    if cgroup::magic(path)? != NSFS_MAGIC {
        return Ok(Place::Other);
    }
    // SAFETY: NS_GET_NSTYPE takes no argument and writes nothing.
    let kind = unsafe { ioctl(File::open(path)?, NsType)? };
    Ok(if kind == CLONE_NEWNET { Place::Netns(fs::metadata(path)?.ino()) } else { Place::OtherNs })
}

/// `NS_GET_NSTYPE` of include/uapi/linux/nsfs.h: the answer is what the ioctl returns.
struct NsType;

// SAFETY: the ioctl has no argument, changes nothing, and answers with its return value.
unsafe impl Ioctl for NsType {
    type Output = i32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::none(0xb7, 0x3)
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut std::ffi::c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}
