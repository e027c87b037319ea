//! The programs' counters, added up over all CPUs.

use aya::maps::PerCpuArray;
use twtrace_common::counter::Counters;

use super::{
    attach::{Attached, BpfError},
    stats::{fdinfo, field},
};

/// A [`Counters`] is an array of `u64`, which is how the CPUs' blocks are added up.
const FIELDS: usize = size_of::<Counters>() / size_of::<u64>();

/// In the name of every program that stands in for another that was not run.
const AGAIN: &str = "_again";
/// Tries to find the kernel's counters and the programs' at one moment.
const ATTEMPTS: usize = 16;

impl Attached {
    /// The counters now. Each is exact; a set taken under traffic may be torn by an event in flight.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn counters(&self) -> Result<Counters, BpfError> {
        let map = self.ebpf.map("COUNTERS").ok_or(BpfError::Missing("map COUNTERS"))?;
        let wrong = |source| BpfError::Map { name: "COUNTERS", source };
        let blocks: PerCpuArray<_, Counters> = PerCpuArray::try_from(map).map_err(wrong)?;
        let blocks = blocks.get(&0, 0).map_err(wrong)?;
        let mut sum = [0u64; FIELDS];
        for block in blocks.iter() {
            // SAFETY: Counters is repr(C) and consists of u64 alone; the size is FIELDS times theirs.
            let fields = unsafe { &*std::ptr::from_ref(block).cast::<[u64; FIELDS]>() };
            for (total, field) in sum.iter_mut().zip(fields) {
                *total = total.wrapping_add(*field);
            }
        }
        // SAFETY: as above, the other way round.
        Ok(unsafe { std::mem::transmute::<[u64; FIELDS], Counters>(sum) })
    }

    /// Events that the kernel ran no program for, and no second program made up for: while a program runs on a CPU, it
    /// is not run again there for what interrupts or preempts it (bpf_prog_inc_misses_counter). 0 where the kernel does
    /// not count them (before 5.12).
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn missed_runs(&self) -> Result<u64, BpfError> {
        let of = |program: &aya::programs::Program| field(&fdinfo(program)?, "recursion_misses:");
        // What a second program misses, the first has missed as well.
        let first = |(name, _): &(&str, _)| !name.contains(AGAIN);
        let (mut counters, mut unmet) = (self.counters()?, 0);
        for _ in 0..ATTEMPTS {
            let skipped: u64 = self.ebpf.programs().filter(first).filter_map(|(_, program)| of(program)).sum();
            let then = std::mem::replace(&mut counters, self.counters()?);
            unmet = skipped.saturating_sub(counters.again);
            if then.again == counters.again {
                break;
            }
        }
        Ok(unmet)
    }
}
