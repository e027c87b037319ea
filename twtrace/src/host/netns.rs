//! Network namespaces: which there are, and entering one for a while.

mod device;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    thread,
};

use arrayvec::ArrayVec;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::Host;
pub use device::{loopback_alias, loopback_up};

/// An open network namespace: it lives as long as this does.
#[derive(Debug)]
pub struct Netns {
    file: File,
    inum: u32,
}

impl Netns {
    /// The calling thread's namespace.
    ///
    /// # Errors
    /// If /proc does not tell.
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net".into())
    }

    /// A namespace by its file (`/proc/PID/ns/net`, `/run/netns/NAME`).
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let file = File::open(path)?;
        // Namespace inode numbers are 32 bits (proc_alloc_inum).
        let inum = u32::try_from(file.metadata()?.ino()).map_err(io::Error::other)?;
        Ok(Self { file, inum })
    }

    /// A new namespace with its loopback device up.
    ///
    /// # Errors
    /// If the kernel refuses (no CAP_SYS_ADMIN, no CONFIG_NET_NS).
    pub fn new() -> io::Result<Self> {
        in_thread(|| {
            // SAFETY: CLONE_NEWNET changes this short-lived thread alone; no file descriptor table is unshared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            loopback_up()?;
            Self::current()
        })
    }

    /// The namespace's inode number.
    #[must_use]
    pub fn inum(&self) -> u32 {
        self.inum
    }

    /// This namespace with a descriptor of its own.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, inum: self.inum })
    }

    /// Runs `work` in a thread inside the namespace. The caller's thread stays where it is.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or `work` fails.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        in_thread(|| {
            // Whoever is there already needs no privilege for it.
            if Self::current()?.inum != self.inum {
                self.enter()?;
            }
            work()
        })
    }

    /// Runs `work` in the calling thread, moved into the namespace for as long as that takes; `home` is where it belongs. For
    /// threads that have nothing else to do: on a busy machine each thread that is started waits for its turn, twice.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or `work` fails; and if the thread cannot come back, where it must not stay: it would
    /// keep another namespace alive.
    pub fn visit<T>(&self, home: &Self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.inum == home.inum {
            return work();
        }
        self.enter()?;
        let done = work();
        home.enter()?;
        done
    }

    /// Moves the calling thread into the namespace, for good.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}

fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("twtrace-netns".to_owned())
            .spawn_scoped(scope, work)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace panicked")))
    })
}

/// The most namespaces that are looked into.
const MOST: usize = 4096;

/// Every network namespace that a process or a name under /run/netns holds, by inode number, and how many could not be
/// opened. Namespaces that only an open file holds are not to be found.
#[must_use]
pub fn all(host: &Host) -> (BTreeMap<u32, Netns>, usize) {
    let mut found = BTreeMap::new();
    let mut missed = 0;
    for path in files(host) {
        match Netns::open(path) {
            Ok(netns) if found.len() < MOST || found.contains_key(&netns.inum) => {
                found.entry(netns.inum).or_insert(netns);
            }
            Ok(_) => missed += 1,
            // The process is gone, or a kernel thread's file: nothing of ours.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => missed += 1,
        }
    }
    (found, missed)
}

/// The most files of a namespace that are kept: if a process is gone when its turn comes, another may be there.
const FILES: usize = 4;

/// A network namespace, and where it was found. It is not open, and may be gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    inum: u32,
    files: ArrayVec<PathBuf, FILES>,
}

impl Place {
    /// Opens it, if it is still there.
    #[must_use]
    pub fn open(&self) -> Option<Netns> {
        let is_it = |path: &PathBuf| Netns::open(path.clone()).ok().filter(|netns| netns.inum == self.inum);
        self.files.iter().find_map(is_it)
    }
}

/// Every network namespace that this process, another, or a name under /run/netns holds, by inode number, and how many there
/// may be that could not be looked at, or were too many. No descriptor is held.
#[must_use]
pub fn find(host: &Host) -> (BTreeMap<u32, Place>, usize) {
    let (mut found, mut missed) = (BTreeMap::<u32, Place>::new(), 0);
    let held = held(host).into_iter().map(|(inum, path)| (Ok(inum), path));
    let others = files(host).map(|path| (number(&path), path));
    for (inum, path) in held.chain(others) {
        match inum {
            Ok(inum) if found.len() < MOST || found.contains_key(&inum) => {
                let place = found.entry(inum).or_insert_with(|| Place { inum, files: ArrayVec::new() });
                // The first few are as good as any.
                let _ = place.files.try_push(path);
            }
            Ok(_) => missed += 1,
            // The process is gone, or a kernel thread's file: nothing of ours.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => missed += 1,
        }
    }
    (found, missed)
}

/// A file of every network namespace that a process or a name under /run/netns holds, by inode number. Nothing is kept
/// open, so no namespace lives longer for it.
#[must_use]
pub fn places(host: &Host) -> BTreeMap<u32, PathBuf> {
    let mut found = BTreeMap::new();
    for path in files(host) {
        if let Some(inum) = inum_of(&path)
            && found.len() < MOST
        {
            found.entry(inum).or_insert(path);
        }
    }
    found
}

/// Namespaces that have a name under /run/netns, by inode number: `ip netns add blue` makes /run/netns/blue.
#[must_use]
pub fn named(host: &Host) -> BTreeMap<u32, PathBuf> {
    let mut found = BTreeMap::new();
    for path in names(host) {
        if let Some(inum) = inum_of(&path)
            && found.len() < MOST
        {
            found.entry(inum).or_insert(path);
        }
    }
    found
}

/// What is in a network namespace, or leads to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// The namespace's names below /run/netns, in alphabetical order.
    pub names: Vec<String>,
    /// Ids of the processes in it, ascending.
    pub pids: Vec<u32>,
}

/// Who is in the network namespaces that this process may look at, by inode number.
#[must_use]
pub fn holders(host: &Host) -> BTreeMap<u32, Holders> {
    let mut found: BTreeMap<u32, Holders> = BTreeMap::new();
    for pid in pids(host) {
        if let Some(inum) = of_process(host, pid) {
            found.entry(inum).or_default().pids.push(pid);
        }
    }
    for path in names(host) {
        if let (Some(inum), Some(name)) = (inum_of(&path), path.file_name()) {
            let (names, name) = (&mut found.entry(inum).or_default().names, name.to_string_lossy().into_owned());
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    for holders in found.values_mut() {
        holders.pids.sort_unstable();
        holders.names.sort_unstable();
    }
    found
}

/// The inode number of a process's network namespace; `None` if there is no such process, or it may not be looked at.
#[must_use]
pub fn of_process(host: &Host, pid: u32) -> Option<u32> {
    inum_of(&host.path(&format!("proc/{pid}/ns/net")))
}

/// The number of the namespace that a link or a mount leads to.
fn number(path: &Path) -> io::Result<u32> {
    u32::try_from(fs::metadata(path)?.ino()).map_err(io::Error::other)
}

/// The inode number of a file, if it can be had.
fn inum_of(path: &Path) -> Option<u32> {
    number(path).ok()
}

/// Namespaces that this process holds open itself, such as the demo's: no process is in them as its main thread.
#[must_use]
pub fn held(host: &Host) -> BTreeMap<u32, PathBuf> {
    let descriptors = fs::read_dir(host.path("proc/self/fd")).into_iter().flatten();
    let path = |entry: io::Result<fs::DirEntry>| {
        let path = entry.ok()?.path();
        let target = fs::read_link(&path).ok()?;
        // `net:[4026531840]`
        let inum = target.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()?;
        Some((inum, path))
    };
    descriptors.filter_map(path).take(MOST).collect()
}

/// True if /proc does not show other users' processes (mount option `hidepid`): namespaces that they alone hold are not to
/// be found then, not even to be counted.
#[must_use]
pub fn hides_processes(host: &Host) -> bool {
    let mounts = host.read("proc/self/mountinfo").unwrap_or_default();
    let hides = |line: &str| {
        // ... MOUNT-POINT OPTIONS ... - TYPE SOURCE SUPER-OPTIONS (Documentation/filesystems/proc.rst)
        let (mount, kind) = line.split_once(" - ")?;
        let is_proc = kind.starts_with("proc ") && mount.split(' ').nth(4) == Some("/proc");
        let options = kind.split(' ').nth(2)?.split(',');
        let hidden =
            |option: &str| matches!(option, "hidepid=2" | "hidepid=4" | "hidepid=invisible" | "hidepid=ptraceable");
        Some(is_proc && options.into_iter().any(hidden))
    };
    // The last mount lies on top.
    mounts.lines().rfind(|line| line.split(' ').nth(4) == Some("/proc")).and_then(hides).unwrap_or(false)
}

/// Where namespaces may be found: processes first, by their ids, then names.
fn files(host: &Host) -> impl Iterator<Item = PathBuf> {
    pids(host).map(|pid| host.path(&format!("proc/{pid}/ns/net"))).chain(names(host))
}

fn pids(host: &Host) -> impl Iterator<Item = u32> {
    let pid = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    fs::read_dir(host.path("proc")).into_iter().flatten().filter_map(pid)
}

/// What `ip netns` names.
fn names(host: &Host) -> impl Iterator<Item = PathBuf> {
    ["run/netns", "var/run/netns"]
        .into_iter()
        .filter_map(|dir| fs::read_dir(host.path(dir)).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_namespace_is_found_once_and_at_a_few_places() {
        let root = std::env::temp_dir().join(format!("twtrace-find-{}", std::process::id()));
        let (first, second) = (root.join("first"), root.join("second"));
        fs::create_dir_all(&root).unwrap();
        [&first, &second].into_iter().for_each(|file| fs::write(file, "").unwrap());
        for (pid, netns) in (1..=6).zip([&first, &first, &second, &first, &first, &first]) {
            fs::create_dir_all(root.join(format!("proc/{pid}/ns"))).unwrap();
            fs::hard_link(netns, root.join(format!("proc/{pid}/ns/net"))).unwrap();
        }
        // A process without: a kernel thread, or one that is gone.
        fs::create_dir_all(root.join("proc/7")).unwrap();
        let (mut found, missed) = find(&Host::at(&root));
        assert_eq!((found.len(), missed), (2, 0));
        let (of_first, of_second) = (inum_of(&first).unwrap(), inum_of(&second).unwrap());
        let (first, second) = (found.remove(&of_first).unwrap(), found.remove(&of_second).unwrap());
        assert_eq!((first.files.len(), second.files.len()), (FILES, 1));
        assert_eq!(first.open().map(|netns| netns.inum()), Some(of_first));
        // Those that are gone are passed over, and so is a file that has become another's.
        first.files[..FILES - 1].iter().for_each(|file| fs::remove_file(file).unwrap());
        assert_eq!(first.open().map(|netns| netns.inum()), Some(of_first));
        fs::rename(&second.files[0], &first.files[FILES - 1]).unwrap();
        assert!(first.open().is_none() && second.open().is_none());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_proc_that_hides_processes_is_known_by_its_mount() {
        let root = std::env::temp_dir().join(format!("twtrace-hidepid-{}", std::process::id()));
        fs::create_dir_all(root.join("proc/self")).unwrap();
        let host = Host::at(&root);
        let of = |lines: &str| {
            fs::write(root.join("proc/self/mountinfo"), lines).unwrap();
            hides_processes(&host)
        };
        let plain = "22 1 0:20 / /proc rw,nosuid shared:5 - proc proc rw\n";
        let hidden = "40 22 0:20 / /proc rw,nosuid - proc proc rw,hidepid=invisible\n";
        assert!(!of(plain));
        assert!(of(hidden));
        assert!(of(&format!("{plain}{hidden}")), "the last one counts");
        assert!(!of(&format!("{hidden}{plain}")));
        assert!(!of("40 22 0:20 / /mnt/proc rw - proc proc rw,hidepid=2\n"), "another place");
        assert!(
            !of("40 22 0:20 / /proc rw - proc proc rw,hidepid=1\n"),
            "their directories are there, and are counted"
        );
        assert!(!of(""));
        fs::remove_dir_all(root).unwrap();
    }
}
