//! The cgroup v2 tree: a cgroup's id is the inode number of its directory (kernfs), which is what
//! bpf_get_current_cgroup_id reports.

mod namer;

pub use namer::{Answer, Namer};

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{DirEntryExt as _, MetadataExt as _},
        },
    },
    path::{Path, PathBuf},
};

use rustix::fs::statfs;

use super::Host;
use crate::model::name;

/// Where the tree is mounted, below the root; the second on machines that have both versions.
pub const MOUNTS: [&str; 2] = ["sys/fs/cgroup", "sys/fs/cgroup/unified"];
/// `CGROUP2_SUPER_MAGIC` of include/uapi/linux/magic.h.
const MAGIC: u64 = 0x6367_7270;
/// The most cgroups that are looked at in one walk.
const MOST: usize = 1 << 16;

/// A file system's magic number.
///
/// # Errors
/// Those of statfs(2).
pub fn magic(path: &Path) -> io::Result<u64> {
    // The type of f_type differs from one architecture to the next; the magic numbers fit all of them.
    Ok(statfs(path)?.f_type as u64 & u64::from(u32::MAX))
}

/// The cgroup that a directory is; `None` if it is none.
///
/// # Errors
/// If there is no such file, or it cannot be looked at.
pub fn id(path: &Path) -> io::Result<Option<u64>> {
    let metadata = fs::metadata(path)?;
    Ok((magic(path)? == MAGIC && metadata.is_dir()).then_some(metadata.ino()))
}

/// The tree's root directory; `None` if it is not mounted.
#[must_use]
pub fn root(host: &Host) -> Option<PathBuf> {
    MOUNTS.iter().map(|mount| host.path(mount)).find(|path| matches!(id(path), Ok(Some(_))))
}

/// Every cgroup of the tree below `root`, its path by its id: as in /proc/PID/cgroup, `/` for the root itself. Cgroups that
/// come and go meanwhile may be missing.
#[must_use]
pub fn paths(root: &Path) -> HashMap<u64, String> {
    let mut found = HashMap::new();
    let Ok(metadata) = fs::metadata(root) else { return found };
    found.insert(metadata.ino(), "/".to_owned());
    let mut open = vec![(root.to_owned(), String::new())];
    while let Some((directory, path)) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if found.len() >= MOST || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = format!("{path}/{}", name::text(entry.file_name().as_bytes()));
            found.insert(entry.ino(), path.clone());
            open.push((entry.path(), path));
        }
    }
    found
}

/// Ids of a cgroup and of all cgroups below it, as they are now.
#[must_use]
pub fn subtree(top: &Path) -> Vec<u64> {
    paths(top).into_keys().collect()
}

/// `FILEID_KERNFS` of include/linux/exportfs.h: the handle is the id, 64 bits.
const FILEID_KERNFS: libc::c_int = 0xfe;

/// A `struct file_handle` with room for one id.
#[repr(C)]
struct Handle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    id: [u8; 8],
}

/// Where a cgroup is below `root`, as in /proc/PID/cgroup: one system call for each id, however large the tree is.
/// `Ok(None)`: there is no such cgroup any more.
///
/// # Errors
/// If the kernel does not open cgroups by their id (before 5.5, or without CAP_DAC_READ_SEARCH), or shows them elsewhere.
pub fn path_of(root: &Path, id: u64) -> io::Result<Option<String>> {
    let mount = File::open(root)?;
    let mut handle = Handle { bytes: 8, kind: FILEID_KERNFS, id: id.to_ne_bytes() };
    // SAFETY: the handle is a file_handle followed by as many bytes as it says, and outlives the call.
    let descriptor = unsafe {
        let handle = std::ptr::from_mut(&mut handle).cast::<libc::file_handle>();
        libc::open_by_handle_at(mount.as_raw_fd(), handle, libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
    };
    if descriptor < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ESTALE) { Ok(None) } else { Err(error) };
    }
    // SAFETY: the call above has just opened it, and nobody else knows of it.
    let directory = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let link = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    if link.as_os_str().as_bytes().ends_with(b" (deleted)") {
        return Ok(None);
    }
    let path = link.strip_prefix(root);
    let path = path.map_err(|_| io::Error::other(format!("{} is not below {}", link.display(), root.display())))?;
    Ok(Some(format!("/{}", name::text(path.as_os_str().as_bytes()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_walked_to_its_leaves() {
        let root = std::env::temp_dir().join(format!("twtrace-cgroup-{}", std::process::id()));
        fs::create_dir_all(root.join("a.slice/b.service")).unwrap();
        fs::create_dir_all(root.join("c.slice")).unwrap();
        fs::write(root.join("a.slice/cgroup.procs"), "1").unwrap();
        let found = paths(&root);
        let expected = ["", "a.slice", "a.slice/b.service", "c.slice"];
        let told: Vec<_> =
            expected.iter().map(|path| found.get(&fs::metadata(root.join(path)).unwrap().ino()).cloned()).collect();
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found.len(), expected.len());
        assert_eq!(told, expected.map(|path| Some(format!("/{path}"))));
        assert!(paths(Path::new("/gone")).is_empty() && subtree(Path::new("/gone")).is_empty());
    }

    #[test]
    fn this_machine_has_a_cgroup_tree() {
        let Some(root) = root(&Host::default()) else {
            println!("skipped: no cgroup v2 tree here");
            return;
        };
        let found = paths(&root);
        // A directory's entry has the number of the directory itself. Some may be gone by now.
        let is_right = |(own, path): &(&u64, &String)| {
            id(&root.join(path.trim_start_matches('/'))).is_ok_and(|id| id == Some(**own))
        };
        let right = found.iter().filter(is_right).count();
        assert!(right > 0 && right >= found.len() / 2, "{right} of {}", found.len());
        // By their ids, too, where the kernel allows that.
        for (id, path) in found.iter().take(50) {
            match path_of(&root, *id) {
                Ok(Some(by_id)) => assert_eq!(by_id, *path),
                Ok(None) => {}
                Err(error) => {
                    println!("skipped: {error}");
                    break;
                }
            }
        }
        assert!(path_of(&root, u64::MAX).map_or(true, |path| path.is_none()));
        assert!(id(Path::new("/proc")).is_ok_and(|id| id.is_none()) && id(Path::new("/gone")).is_err());
    }
}
