//! What the kernel says of a process: its CPU time, its memory, its eBPF programs and maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use anyhow::{Context as _, Result};

/// Nanoseconds of a tick of /proc/PID/stat (USER_HZ is 100 everywhere).
const TICK_NS: u64 = 10_000_000;

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(pub u32);

impl Process {
    fn path(self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.0))
    }

    fn read(self, file: &str) -> Result<String> {
        let path = self.path(file);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    /// The process's first child.
    pub fn child(self) -> Option<Self> {
        let children = self.read(&format!("task/{}/children", self.0)).ok()?;
        children.split_whitespace().next()?.parse().ok().map(Self)
    }

    /// CPU time of its threads, to the nanosecond, and of its children that have ended, to the tick.
    pub fn cpu_ns(self) -> Result<u64> {
        let threads = fs::read_dir(self.path("task")).with_context(|| format!("process {} is gone", self.0))?;
        let of = |thread: PathBuf| on_cpu(&fs::read_to_string(thread.join("schedstat")).ok()?);
        let own: u64 = threads.flatten().filter_map(|thread| of(thread.path())).sum();
        Ok(own + ticks_of_children(&self.read("stat")?).unwrap_or(0) * TICK_NS)
    }

    /// Resident memory, bytes, without the eBPF maps that it has mapped: those are counted by themselves.
    pub fn resident(self) -> Result<u64> {
        // Of a process that has ended the file is empty.
        resident(&self.read("smaps")?).with_context(|| format!("process {} has no resident memory", self.0))
    }

    fn descriptors(self) -> Vec<String> {
        let files = fs::read_dir(self.path("fdinfo")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_to_string(file.path()).ok()).collect()
    }

    /// The ids of its eBPF programs, by their own descriptors or those of links.
    pub fn programs(self) -> BTreeSet<u64> {
        self.descriptors().iter().filter_map(|info| field(info, "prog_id")).collect()
    }

    /// Kernel memory of its eBPF maps, bytes: what they take where the kernel counts that (6.4 and later), else what
    /// they may take.
    pub fn maps(self) -> u64 {
        let map = |info: &String| Some((field(info, "map_id")?, field(info, "memlock")?));
        let maps: BTreeMap<u64, u64> = self.descriptors().iter().filter_map(map).collect();
        maps.values().sum()
    }
}

/// `key: value ...`
fn field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The first field of schedstat: nanoseconds on a CPU.
fn on_cpu(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// cutime and cstime: fields 16 and 17, counted from 1; the second, the name, may hold anything up to its last bracket.
fn ticks_of_children(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |nth: usize| fields.get(nth - 3)?.parse::<u64>().ok();
    Some(ticks(16)? + ticks(17)?)
}

/// What /proc/PID/smaps says is resident, bytes, eBPF maps left out; `None`: it says nothing.
fn resident(smaps: &str) -> Option<u64> {
    let (mut sum, mut is_map) = (None, false);
    for line in smaps.lines() {
        // A mapping begins with its addresses: 7f400f600000-7f4010000000 r--s ...
        if line.split_once(' ').is_some_and(|(place, _)| place.contains('-')) {
            is_map = line.contains("anon_inode:bpf-map");
        } else if let Some(kib) = field(line, "Rss").filter(|_| !is_map) {
            *sum.get_or_insert(0) += kib * 1024;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_told_by_their_fields() {
        let program = "pos:\t0\nprog_type:\t26\nprog_id:\t71\nrun_time_ns:\t5\n";
        assert_eq!((field(program, "prog_id"), field(program, "map_id")), (Some(71), None));
        let map = "pos:\t0\nmap_type:\t1\nmemlock:\t4096\nmap_id:\t9\nfrozen:\t0\n";
        assert_eq!((field(map, "map_id"), field(map, "memlock")), (Some(9), Some(4096)));
        assert_eq!(field("VmRSS:\t    1234 kB\n", "VmRSS"), Some(1234));
    }

    #[test]
    fn times_of_children_are_found_behind_any_name() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 5";
        assert_eq!(ticks_of_children(stat), Some(70));
        assert_eq!(on_cpu("123456 7 8\n"), Some(123_456));
    }

    #[test]
    fn maps_of_the_kernel_are_no_memory_of_the_process() {
        let smaps = "55fd-55fe r-xp 005d0000 fe:00 5810072  /twtrace\nSize: 8 kB\nRss:  5004 kB\nVmFlags: rd ex mr\n\
                     7f40-7f41 r--s 00000000 00:10 1038  anon_inode:bpf-map\nRss: 10240 kB\n\
                     7ffd-7ffe rw-p 00000000 00:00 0  [stack]\nRss: 20 kB\n";
        assert_eq!(resident(smaps), Some(5024 * 1024));
        assert_eq!(resident(""), None, "no memory is not little memory");
    }
}
