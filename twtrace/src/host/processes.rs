//! Who holds descriptors and sockets: one walk over /proc/PID/fd.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    fs,
    io::{self, Read as _},
    mem::MaybeUninit,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::{Mode, OFlags, RawDir, readlinkat_raw};

use super::{Host, cgroup::magic};

/// `PROC_SUPER_MAGIC` of include/uapi/linux/magic.h.
const MAGIC: u64 = 0x9fa0;
/// How long descriptors are counted when there is no time to look at them.
const COUNTING: Duration = Duration::from_millis(500);
/// Bytes of a directory that are read at once.
const ENTRIES: usize = 32 << 10;
/// Bytes of a link that are read: `socket:[4294967295]` has 19.
const LINK: usize = 32;
/// Bytes of a command line that are read: class paths are long.
const COMMAND: u64 = 16 << 10;

/// A process that holds a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id, in the pid namespace of /proc.
    pub pid: u32,
    /// The main thread's name; `?` if it was gone by then.
    pub comm: String,
    /// Effective user.
    pub uid: u32,
    /// Descriptors that it holds; before Linux 6.2 at least so many, if it is not `whole`.
    pub descriptors: u64,
    /// Descriptors that are sockets, as far as they were looked at.
    pub sockets: u64,
    /// All of its descriptors were looked at.
    pub whole: bool,
    /// The most descriptors that it may hold; `None` if that cannot be read.
    pub soft: Option<Limit>,
    /// The most that it may raise that to; `None` if that cannot be read.
    pub hard: Option<Limit>,
}

/// A limit of setrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// So many.
    Of(u64),
    /// Any number, up to `fs.nr_open`.
    Unlimited,
}

/// Open files of the whole machine (/proc/sys/fs/file-nr).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemFiles {
    /// Files that there are.
    pub allocated: u64,
    /// The most, `fs.file-max`. Who has CAP_SYS_ADMIN may open more.
    pub limit: u64,
}

/// Who holds what. Not seen are threads with descriptors of their own, and processes that outlived their main thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Every process that holds a descriptor, those with the most sockets first, then those with the most descriptors. Empty
    /// if /proc cannot be read.
    pub processes: Vec<Process>,
    /// Processes whose descriptors may not be looked at. Since Linux 6.2 they are in `processes` nevertheless, with their
    /// number.
    pub unreadable: usize,
    /// The processes that hold the wanted sockets, by the sockets' inode numbers; of several, the lowest.
    pub owners: HashMap<u32, u32>,
    /// `fs.nr_open`: the most descriptors that a process can be allowed.
    pub nr_open: Option<u64>,
    /// Open files of the whole machine; `None` if that cannot be read.
    pub system: Option<SystemFiles>,
    /// There was not the time to look at every descriptor: sockets and owners are missing.
    pub cut: bool,
    /// Processes that there was not even the time to count the descriptors of.
    pub missed: usize,
}

/// Looks at every process. `wanted`: inode numbers of the sockets whose owners are looked for. When the budget is used up,
/// descriptors are only counted, for half a second at most.
#[must_use]
pub fn census(host: &Host, wanted: &HashSet<u32>, budget: Duration) -> Census {
    let proc = host.path("proc");
    let is_proc = magic(&proc).is_ok_and(|magic| magic == MAGIC);
    let mut walk = Walk {
        host,
        wanted,
        started: Instant::now(),
        budget,
        is_proc,
        entries: Box::new([MaybeUninit::uninit(); ENTRIES]),
        census: Census {
            nr_open: host.sysctl("fs/nr_open"),
            system: host.read("proc/sys/fs/file-nr").ok().and_then(|text| system_files(&text)),
            ..Census::default()
        },
    };
    let pid = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    for pid in fs::read_dir(proc).into_iter().flatten().filter_map(pid) {
        if walk.may_count() {
            walk.process(pid);
        } else {
            walk.census.missed += 1;
        }
    }
    let mut census = walk.census;
    census.processes.sort_unstable_by_key(|found| (Reverse(found.sockets), Reverse(found.descriptors), found.pid));
    census
}

/// A process's name, that of its main thread; `None` if there is no such process.
#[must_use]
pub fn comm(host: &Host, pid: u32) -> Option<String> {
    let mut name = host.read(&format!("proc/{pid}/comm")).ok()?;
    // The name itself may end with white space.
    if name.ends_with('\n') {
        name.pop();
    }
    Some(name)
}

/// A process's command line, words parted by blanks, cut at 16 KiB; `None` if there is no such process, or none of
/// its own (a kernel thread).
#[must_use]
pub fn command(host: &Host, pid: u32) -> Option<String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(host.path(&format!("proc/{pid}/cmdline"))).ok()?;
    file.take(COMMAND).read_to_end(&mut bytes).ok()?;
    let words = String::from_utf8_lossy(&bytes).replace('\0', " ");
    Some(words.trim_end().to_owned()).filter(|words| !words.is_empty())
}

/// A process's parent; `None` if it has none here, or there is no such process.
#[must_use]
pub fn parent(host: &Host, pid: u32) -> Option<u32> {
    let status = host.read(&format!("proc/{pid}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
    (parent != 0).then_some(parent)
}

struct Walk<'a> {
    host: &'a Host,
    wanted: &'a HashSet<u32>,
    started: Instant,
    budget: Duration,
    /// The kernel's own /proc, no recorded one.
    is_proc: bool,
    entries: Box<[MaybeUninit<u8>; ENTRIES]>,
    census: Census,
}

/// What a process holds.
#[derive(Default)]
struct Held {
    descriptors: u64,
    sockets: u64,
    whole: bool,
}

impl Walk<'_> {
    fn process(&mut self, pid: u32) {
        let directory = self.host.path(&format!("proc/{pid}"));
        let Ok(metadata) = fs::metadata(&directory) else { return };
        let held = match self.held(pid, &directory.join("fd")) {
            Ok(held) => held,
            // It is gone.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return,
            Err(_) => {
                self.census.unreadable += 1;
                Held { descriptors: self.told(&directory.join("fd")).unwrap_or(0), ..Held::default() }
            }
        };
        // Kernel threads, among others.
        if held.descriptors == 0 {
            return;
        }
        let limits = self.host.read(&format!("proc/{pid}/limits")).unwrap_or_default();
        let (soft, hard) = limits_of(&limits);
        self.census.processes.push(Process {
            pid,
            comm: comm(self.host, pid).unwrap_or_else(|| "?".to_owned()),
            uid: metadata.uid(),
            descriptors: held.descriptors,
            sockets: held.sockets,
            whole: held.whole,
            soft,
            hard,
        });
    }

    /// Looks at the descriptors of a process, while there is time.
    fn held(&mut self, pid: u32, path: &Path) -> io::Result<Held> {
        if self.is_over() {
            return Ok(Held { descriptors: self.count(path)?, ..Held::default() });
        }
        let directory = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut held = Held { whole: true, ..Held::default() };
        let (wanted, started, budget) = (self.wanted, self.started, self.budget);
        let owners = &mut self.census.owners;
        let mut entries = RawDir::new(&directory, &mut self.entries[..]);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_bytes().starts_with(b".") {
                continue;
            }
            held.descriptors += 1;
            let mut link = [0; LINK];
            // A descriptor that was closed meanwhile is none.
            let length = readlinkat_raw(&directory, name, &mut link).unwrap_or(0);
            if let Some(inode) = link.get(..length).and_then(socket) {
                held.sockets += 1;
                if wanted.contains(&inode) {
                    owners.entry(inode).and_modify(|owner| *owner = pid.min(*owner)).or_insert(pid);
                }
            }
            if started.elapsed() >= budget {
                held.whole = false;
                break;
            }
        }
        if !held.whole {
            self.census.cut = true;
            held.descriptors = self.count(path)?;
        }
        Ok(held)
    }

    /// Whether the time is used up; if it was, something is missing.
    fn is_over(&mut self) -> bool {
        self.census.cut |= self.started.elapsed() >= self.budget;
        self.census.cut
    }

    /// Whether there is time to count.
    fn may_count(&self) -> bool {
        self.started.elapsed() < self.budget.saturating_add(COUNTING)
    }

    /// The number of descriptors; of a recorded machine and before Linux 6.2, those that there is time for.
    fn count(&self, path: &Path) -> io::Result<u64> {
        match self.told(path) {
            Some(number) => Ok(number),
            None => Ok(fs::read_dir(path)?.take_while(|_| self.may_count()).count() as u64),
        }
    }

    /// The number of descriptors as the kernel tells it, since Linux 6.2, to anybody (proc_readfd_count of fs/proc/fd.c).
    fn told(&self, path: &Path) -> Option<u64> {
        let size = fs::metadata(path).ok()?.size();
        (self.is_proc && size > 0).then_some(size)
    }
}

/// The inodes of the sockets that a process holds at the moment; none if that cannot be read.
#[must_use]
pub fn sockets(host: &Host, pid: u32) -> HashSet<u32> {
    let entries = fs::read_dir(host.path(&format!("proc/{pid}/fd"))).into_iter().flatten();
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter_map(|link| socket(link.as_os_str().as_encoded_bytes())).collect()
}

/// The inode number in `socket:[123]`.
fn socket(link: &[u8]) -> Option<u32> {
    let number = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    str::from_utf8(number).ok()?.parse().ok()
}

/// Soft and hard, of `Max open files            1024                 524288               files`.
fn limits_of(text: &str) -> (Option<Limit>, Option<Limit>) {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    let mut limits = line.split_ascii_whitespace().map(|word| match word {
        "unlimited" => Some(Limit::Unlimited),
        number => number.parse().ok().map(Limit::Of),
    });
    (limits.next().flatten(), limits.next().flatten())
}

/// `377 0 2466170`: allocated, of these free (always 0), and the limit.
fn system_files(text: &str) -> Option<SystemFiles> {
    let mut words = text.split_ascii_whitespace().map(str::parse);
    match (words.next(), words.next(), words.next()) {
        (Some(Ok(allocated)), Some(_), Some(Ok(limit))) => Some(SystemFiles { allocated, limit }),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
