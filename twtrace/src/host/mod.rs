//! What this machine is: facts only, no decisions. Everything is read below an injectable root, so that recorded hosts
//! can be tested without one.

pub mod btf;
pub mod buckets;
pub mod cgroup;
pub mod clock;
pub mod conntrack;
pub mod containers;
pub mod counters;
pub mod diag;
pub mod holders;
pub mod ksyms;
pub mod limits;
pub mod meminfo;
pub mod netns;
pub mod nginx;
pub mod occupancy;
pub mod openers;
pub mod own;
pub mod privilege;
pub mod processes;
pub mod slab;
pub mod sockets;
pub mod states;
pub mod sysctl_files;
pub mod sysctl_scope;

#[cfg(test)]
mod recorded;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use btf::KernelTypes;
use ksyms::KernelSymbols;

use crate::{
    model::name,
    plan::{FUNCTIONS, Facts, Misses, TRACEPOINTS},
};

/// A file of this machine could not be read or understood.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The file could not be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file does not say what it should.
    #[error("{}: {what}", path.display())]
    Strange {
        /// The file.
        path: PathBuf,
        /// What is missing or wrong.
        what: String,
    },
}

/// The machine, seen from a root directory: `/`, or a recorded tree in tests.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Host {
    /// The machine below `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A path of the machine; `path` is relative to the root.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A text file of the machine.
    ///
    /// # Errors
    /// If it cannot be read; bytes that are no UTF-8 are replaced.
    pub fn read(&self, path: &str) -> Result<String, HostError> {
        read(&self.path(path))
    }

    /// `uname -r`, to be shown: nothing is decided by it.
    #[must_use]
    pub fn kernel_release(&self) -> String {
        self.read("proc/sys/kernel/osrelease").map_or_else(|_| "?".to_owned(), |text| text.trim().to_owned())
    }

    /// True if the kernel is PREEMPT_RT, by `uname -v` (scripts/mkcompile_h, init/Makefile).
    #[must_use]
    pub fn is_realtime(&self) -> bool {
        self.read("proc/sys/kernel/version")
            .is_ok_and(|text| text.split_ascii_whitespace().any(|word| word == "PREEMPT_RT"))
    }

    /// How many CPUs run, by the ranges of /sys/devices/system/cpu/online; at least 1.
    #[must_use]
    pub fn cpus(&self) -> u64 {
        let count = |range: &str| -> Option<u64> {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            Some(last.checked_sub(first)?.saturating_add(1))
        };
        let online = self.read("sys/devices/system/cpu/online").unwrap_or_default();
        online.trim().split(',').filter_map(count).fold(0, u64::saturating_add).max(1)
    }

    /// A sysctl that is one number, e.g. `net/ipv4/tcp_max_tw_buckets`.
    #[must_use]
    pub fn sysctl(&self, name: &str) -> Option<u64> {
        self.read(&format!("proc/sys/{name}")).ok()?.trim().parse().ok()
    }
}

/// What the plan needs to know of this kernel. `missing_fields`, `unknown_fields`: see [`Facts`].
#[must_use]
pub fn facts(
    host: &Host,
    types: &KernelTypes,
    symbols: &KernelSymbols,
    missing_fields: Vec<&'static str>,
    unknown_fields: Vec<&'static str>,
) -> Facts {
    Facts {
        functions: FUNCTIONS.into_iter().filter_map(|name| Some((name, types.parameters(name)?))).collect(),
        tracepoints: TRACEPOINTS.into_iter().filter(|name| types.has_tracepoint(name)).collect(),
        kprobes: host.path("sys/bus/event_source/devices/kprobe/type").exists(),
        addresses: symbols.range("tw_timer_handler").is_some() && symbols.range("inet_twsk_deschedule_put").is_some(),
        addresses_hidden: symbols.hidden,
        misses: Misses {
            guarded: types.has("bpf_prog.active"),
            counted: types.has("bpf_prog_stats.misses"),
            kprobes_counted: types.has("bpf_link_info.perf_event.kprobe.missed"),
        },
        missing_fields,
        unknown_fields,
    }
}

/// Gives freed memory back to the kernel: the types of a whole kernel were parsed, and are not needed any more.
pub fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointer and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

pub(crate) fn read(path: &Path) -> Result<String, HostError> {
    fs::read(path).map(name::file).map_err(|source| HostError::Read { path: path.to_owned(), source })
}
