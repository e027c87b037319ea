//! The programs' counters, added up over all CPUs.

use aya::maps::PerCpuArray;
use twtrace_common::counter::Counters;

use super::attach::{Attached, BpfError};

/// A [`Counters`] is an array of `u64`, which is how the CPUs' blocks are added up.
const FIELDS: usize = size_of::<Counters>() / size_of::<u64>();

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
}
