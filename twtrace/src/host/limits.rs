//! What this process may use: descriptors, memory, and the rights of which user namespace. For the words of an error, and
//! for nothing else.

use std::{fs, os::unix::fs::MetadataExt as _};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Host;

/// Inode number of the initial user namespace: `PROC_USER_INIT_INO` of include/linux/proc_ns.h.
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;
/// A cgroup v1 without a limit says this or a little less (PAGE_COUNTER_MAX, in bytes).
const UNLIMITED: u64 = 1 << 62;

/// The limits, as far as they can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Files that may be open at once (RLIMIT_NOFILE); `None`: without limit.
    pub descriptors: Option<u64>,
    /// The least `memory.max` (v1: `memory.limit_in_bytes`) of the process's cgroup and those above, bytes; `None`: without
    /// limit, or not known.
    pub memory_bytes: Option<u64>,
    /// The process is in a user namespace of its own: its capabilities do not hold for the machine.
    pub in_user_namespace: bool,
}

impl Limits {
    /// Reads them.
    #[must_use]
    pub fn read(host: &Host) -> Self {
        let user = fs::metadata(host.path("proc/self/ns/user")).ok();
        Self {
            descriptors: getrlimit(Resource::Nofile).current,
            memory_bytes: memory(host),
            in_user_namespace: user.is_some_and(|user| user.ino() != INITIAL_USER_NAMESPACE),
        }
    }
}

/// Takes all the descriptors that this process may have without asking anybody: the soft limit becomes the hard one.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // It stays as it is, which an error will tell if it is too low.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

fn memory(host: &Host) -> Option<u64> {
    let groups = host.read("proc/self/cgroup").ok()?;
    let limits = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (mounts, file): (&[&str], _) = match controllers {
            "" => (&super::cgroup::MOUNTS, "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (&["sys/fs/cgroup/memory"], "memory.limit_in_bytes")
            }
            _ => (&[], ""),
        };
        let path = path.trim_start_matches('/').to_owned();
        mounts.iter().filter_map(move |mount| least(host, mount, &path, file))
    });
    limits.min()
}

/// The least limit from this cgroup up to the root of its tree.
fn least(host: &Host, mount: &str, path: &str, file: &str) -> Option<u64> {
    let mut paths = vec![path];
    while let Some((above, _)) = paths.last()?.rsplit_once('/') {
        paths.push(above);
    }
    paths.push("");
    let read = |path: &str| host.read(&format!("{mount}/{path}/{file}")).ok()?.trim().parse::<u64>().ok();
    paths.into_iter().filter_map(read).filter(|&bytes| bytes < UNLIMITED).min()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn machine(name: &str, files: &[(&str, &str)]) -> (std::path::PathBuf, Host) {
        let root = std::env::temp_dir().join(format!("twtrace-limits-{name}-{}", std::process::id()));
        for (path, text) in files {
            let file = root.join(path);
            fs::create_dir_all(file.parent().unwrap_or(Path::new("/"))).unwrap();
            fs::write(file, text).unwrap();
        }
        let host = Host::at(&root);
        (root, host)
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let (root, host) = machine(
            "v2",
            &[
                ("proc/self/cgroup", "0::/a.slice/b.service\n"),
                ("sys/fs/cgroup/a.slice/memory.max", "67108864\n"),
                ("sys/fs/cgroup/a.slice/b.service/memory.max", "max\n"),
            ],
        );
        assert_eq!(memory(&host), Some(64 << 20));
        fs::write(root.join("sys/fs/cgroup/a.slice/b.service/memory.max"), "33554432\n").unwrap();
        assert_eq!(memory(&host), Some(32 << 20));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn version_one_has_another_file_and_a_large_number_for_none() {
        let (root, host) = machine(
            "v1",
            &[
                ("proc/self/cgroup", "4:memory:/x\n2:cpu,cpuacct:/\n0::/\n"),
                ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "9223372036854771712\n"),
            ],
        );
        assert_eq!(memory(&host), None);
        fs::write(root.join("sys/fs/cgroup/memory/x/memory.limit_in_bytes"), "73400320\n").unwrap();
        assert_eq!(memory(&host), Some(70 << 20));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn where_nothing_can_be_read_nothing_is_said() {
        let host = Host::at("/nonexistent");
        assert_eq!(memory(&host), None);
        assert!(!Limits::read(&host).in_user_namespace);
    }
}
