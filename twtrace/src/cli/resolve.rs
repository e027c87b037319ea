//! From names to numbers: cgroup paths to cgroup ids, namespace files to inode numbers.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

use super::{
    exit::{Code, Complaint, Exit},
    filter::{FilterSpec, NetnsSpec, Resolved},
};
use crate::host::cgroup;

/// `NSFS_MAGIC` of include/uapi/linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;
/// `CLONE_NEWNET` of include/uapi/linux/sched.h: what NS_GET_NSTYPE says of a network namespace.
const CLONE_NEWNET: i32 = 0x4000_0000;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory of the cgroup v2 tree: its inode number, which is the cgroup's id.
    Cgroup(u64),
    /// A network namespace: its inode number.
    Netns(u64),
    /// A namespace of another type.
    OtherNs,
    /// Anything else.
    Other,
}

/// Looks names up, below a root and with eyes that tests can replace.
#[derive(Clone, Debug)]
pub struct Resolver {
    root: PathBuf,
    look: fn(&Path) -> io::Result<Place>,
}

impl Default for Resolver {
    /// This machine.
    fn default() -> Self {
        Self::new("/", look)
    }
}

impl Resolver {
    /// A resolver that takes every path to be below `root` and asks `look` what is there.
    pub fn new(root: impl Into<PathBuf>, look: fn(&Path) -> io::Result<Place>) -> Self {
        Self { root: root.into(), look }
    }

    /// Everything that a filter names.
    ///
    /// # Errors
    ///
    /// The [`Exit`] to take about the first name that leads nowhere.
    pub fn resolve(&self, spec: &FilterSpec) -> Result<Resolved, Exit> {
        Ok(Resolved {
            cgroups: spec.cgroup.try_map(|path| self.cgroup(path))?,
            netns: spec.netns.try_map(|spec| self.netns(spec))?,
        })
    }

    /// A cgroup's id.
    ///
    /// # Errors
    ///
    /// The [`Exit`] to take if the path leads to no cgroup.
    pub fn cgroup(&self, path: &Path) -> Result<u64, Exit> {
        const REMEDY: &str = "name a directory below /sys/fs/cgroup, e.g. --cgroup system.slice/nginx.service";
        let what = format!("--cgroup {}", path.display());
        let full = match path.strip_prefix("/") {
            Ok(below) => self.root.join(below),
            Err(_) => {
                let mut places = cgroup::MOUNTS.iter().map(|mount| self.root.join(mount).join(path));
                let found = places.find(|full| matches!((self.look)(full), Ok(Place::Cgroup(_))));
                found.unwrap_or_else(|| self.root.join(cgroup::MOUNTS[0]).join(path))
            }
        };
        match (self.look)(&full) {
            Ok(Place::Cgroup(id)) => Ok(id),
            Ok(_) => {
                let why = format!("{} is no directory of the cgroup v2 tree", full.display());
                Err(Complaint::new(what, why, REMEDY).into())
            }
            // /proc/PID/cgroup writes paths from the tree's own root.
            Err(error) if path.is_absolute() && error.kind() == ErrorKind::NotFound => {
                let remedy =
                    "name it as below /sys/fs/cgroup: a path from /proc/PID/cgroup goes without its first slash";
                Err(failed(what, &full, &error, remedy))
            }
            Err(error) => Err(failed(what, &full, &error, REMEDY)),
        }
    }

    /// A network namespace's inode number.
    ///
    /// # Errors
    ///
    /// The [`Exit`] to take if the path leads to no network namespace.
    pub fn netns(&self, spec: &NetnsSpec) -> Result<u32, Exit> {
        const REMEDY: &str = "name a file such as /run/netns/blue or /proc/PID/ns/net, an inode number, or self";
        let (what, full) = match spec {
            NetnsSpec::Inum(inum) => return Ok(*inum),
            NetnsSpec::Own => ("--netns self".to_owned(), self.root.join("proc/self/ns/net")),
            NetnsSpec::Path(path) => {
                // A relative path is the user's own, from where he stands.
                let full = path.strip_prefix("/").map_or_else(|_| path.clone(), |below| self.root.join(below));
                (format!("--netns {}", path.display()), full)
            }
        };
        let why = match (self.look)(&full) {
            Ok(Place::Netns(inum)) => match u32::try_from(inum) {
                Ok(inum) => return Ok(inum),
                Err(_) => format!("{} has the inode number {inum}, which no namespace has", full.display()),
            },
            Ok(Place::OtherNs) => format!("{} is a namespace of another type", full.display()),
            Ok(_) => format!("{} is no namespace", full.display()),
            Err(error) => {
                let remedy = match spec {
                    // What `ip netns` calls blue is a file of that name.
                    NetnsSpec::Path(name) if name.components().count() == 1 => {
                        &format!("write --netns /run/netns/{}", name.display())
                    }
                    _ => REMEDY,
                };
                return Err(failed(what, &full, &error, remedy));
            }
        };
        Err(Complaint::new(what, why, REMEDY).into())
    }
}

/// The end because the kernel would not let us look.
fn failed(what: String, path: &Path, error: &io::Error, remedy: &str) -> Exit {
    let (code, remedy) = match error.kind() {
        ErrorKind::PermissionDenied => (Code::Privilege, "run twtrace as root"),
        _ => (Code::Usage, remedy),
    };
    Exit::error(code, Complaint::new(what, format!("{}: {error}", path.display()), remedy))
}

/// What is really there.
fn look(path: &Path) -> io::Result<Place> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::few::Few, host::Host};

    /// A machine with both versions of cgroups.
    fn fake(path: &Path) -> io::Result<Place> {
        match path.to_str() {
            Some("/r/sys/fs/cgroup/unified/a.slice" | "/r/sys/fs/cgroup/unified") => Ok(Place::Cgroup(77)),
            Some("/r/proc/self/ns/net") => Ok(Place::Netns(4_026_531_840)),
            Some("/r/run/netns/blue") => Ok(Place::Netns(4_026_532_000)),
            Some("/r/sys/fs/cgroup/a.slice") => Ok(Place::Other),
            _ => Err(ErrorKind::NotFound.into()),
        }
    }

    fn fakes() -> Resolver {
        Resolver::new("/r", fake)
    }

    #[test]
    fn names_lead_to_numbers() {
        let cgroup = |path: &str| fakes().cgroup(path.as_ref()).map_err(|exit| exit.stderr);
        assert_eq!(cgroup("a.slice"), Ok(77));
        assert_eq!(cgroup("/sys/fs/cgroup/unified"), Ok(77));
        let netns = |spec| fakes().netns(&spec).map_err(|exit| exit.stderr);
        assert_eq!(netns(NetnsSpec::Own), Ok(4_026_531_840));
        assert_eq!(netns(NetnsSpec::Inum(7)), Ok(7));
        assert_eq!(netns(NetnsSpec::Path("/run/netns/blue".into())), Ok(4_026_532_000));
    }

    #[test]
    fn a_filter_is_resolved_whole_or_not_at_all() {
        let good = FilterSpec {
            cgroup: Few::new(["a.slice".into()]).unwrap_or_default(),
            netns: Few::new([NetnsSpec::Own, NetnsSpec::Inum(7)]).unwrap_or_default(),
            ..FilterSpec::default()
        };
        let resolved = fakes().resolve(&good).map(|found| (found.cgroups.to_vec(), found.netns.to_vec()));
        assert_eq!(resolved, Ok((vec![77], vec![4_026_531_840, 7])));
        let bad = FilterSpec { cgroup: Few::new(["gone".into()]).unwrap_or_default(), ..good };
        assert!(fakes().resolve(&bad).is_err());
    }

    #[test]
    fn this_machine_has_namespaces_of_more_than_one_type() {
        assert!(matches!(look("/proc/self/ns/net".as_ref()), Ok(Place::Netns(1..))));
        assert!(matches!(look("/proc/self/ns/mnt".as_ref()), Ok(Place::OtherNs)));
        assert!(matches!(look("/proc/self/status".as_ref()), Ok(Place::Other)));
        assert!(look("/gone".as_ref()).is_err());
    }

    #[test]
    fn this_machine_has_a_cgroup_tree() {
        match cgroup::root(&Host::default()) {
            Some(root) => assert!(matches!(look(&root), Ok(Place::Cgroup(1..)))),
            None => println!("skipped: no cgroup v2 tree here"),
        }
    }
}
