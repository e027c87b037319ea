//! What the programs cost, as the kernel measures it.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use aya::{
    programs::Program,
    sys::{Stats, enable_stats},
};

use super::attach::{Attached, BpfError, chain};
use crate::model::own::Runs;

/// While this lives the kernel times every run of every program, which costs each some 50 ns.
pub struct Timing(#[expect(dead_code, reason = "closing it ends the timing")] OwnedFd);

impl Timing {
    /// Begins to time.
    ///
    /// # Errors
    /// If this kernel cannot be asked to (before 5.8).
    pub fn begin() -> Result<Self, BpfError> {
        enable_stats(Stats::RunTime).map(Self).map_err(|error| BpfError::Timing(chain(&error)))
    }
}

impl Attached {
    /// What each program that is loaded has cost so far; nothing while nobody keeps a [`Timing`].
    #[must_use]
    pub fn runs(&self) -> Vec<Runs> {
        let of = |name: &str, program: &Program| {
            // A program is known by the name that the plan gave it.
            let name = self.names.iter().find(|known| **known == name)?;
            let fdinfo = fdinfo(program)?;
            let (runs, run_ns) = (field(&fdinfo, "run_cnt:")?, field(&fdinfo, "run_time_ns:")?);
            Some(Runs { name: (*name).into(), runs, run_ns })
        };
        self.ebpf.programs().filter_map(|(name, program)| of(name, program)).collect()
    }
}

/// What the kernel says of a program that is loaded.
pub(super) fn fdinfo(program: &Program) -> Option<String> {
    let fd = program.fd().ok()?.as_fd().as_raw_fd();
    fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()
}

/// A number of a program's fdinfo (bpf_prog_show_fdinfo).
pub(super) fn field(fdinfo: &str, name: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_name() {
        let fdinfo = "pos:\t0\nprog_type:\t26\nrun_time_ns:\t5120\nrun_cnt:\t3\nrecursion_misses:\t17\n";
        assert_eq!(field(fdinfo, "recursion_misses:"), Some(17));
        assert_eq!(field(fdinfo, "run_time_ns:"), Some(5120));
        assert_eq!(field("pos:\t0\n", "run_cnt:"), None);
        assert_eq!(field("run_cnt:\tx\n", "run_cnt:"), None);
    }
}
