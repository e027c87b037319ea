//! The programs' counters, added up over all CPUs.

use aya::maps::PerCpuArray;
use twtrace_common::counter::{Counters, hook};

use super::{
    attach::{Attached, BpfError},
    stats::{fdinfo, field},
};
use crate::{model::report::Missed, plan::Counting};

/// A [`Counters`] is an array of `u64`, which is how the CPUs' blocks are added up.
const FIELDS: usize = size_of::<Counters>() / size_of::<u64>();

/// In the name of every program that stands in for another that was not run.
const AGAIN: &str = "_again";
/// Programs that have such a second, and its row of [`Counters::again`].
const FIRST: [(&str, usize); 3] =
    [("conn_tp", hook::CONN), ("refusal_fexit", hook::REFUSAL), ("death_fentry", hook::DEATH)];
/// Tries to find the kernel's counters and the programs' at one moment.
const ATTEMPTS: usize = 16;

/// Events that the kernel did not run a program for, because it was running already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skips {
    /// Name of the program.
    pub program: &'static str,
    /// How many; `None` if this kernel does not count them.
    pub skipped: Option<u64>,
    /// Skipped events that its second program found; 0 if it has none.
    pub met: u64,
}

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

    /// Events that the kernel ran no program for, for each program of the plan that is nobody's second: while a program
    /// runs on a CPU, it is not run again there for what interrupts or preempts it (bpf_prog_inc_misses_counter).
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn skips(&self) -> Result<Vec<Skips>, BpfError> {
        let mut before = self.counters()?;
        let mut all = Vec::new();
        for _ in 0..ATTEMPTS {
            all = self.counting.iter().filter_map(|&(name, how)| self.skips_of(name, how, &before)).collect();
            let after = self.counters()?;
            if after.again == before.again {
                break;
            }
            before = after;
        }
        Ok(all)
    }

    fn skips_of(&self, program: &'static str, how: Counting, counters: &Counters) -> Option<Skips> {
        // What a second program misses, the first has missed as well, or has told.
        if program.contains(AGAIN) {
            return None;
        }
        let skipped = match how {
            Counting::Counted => {
                self.ebpf.program(program).and_then(fdinfo).and_then(|info| field(&info, "recursion_misses:"))
            }
            Counting::NeverSkipped => Some(0),
            Counting::Unknown => None,
        };
        let row = FIRST.iter().find(|(first, _)| *first == program).map(|&(_, row)| row);
        Some(Skips { program, skipped, met: row.map_or(0, |row| counters.again[row]) })
    }

    /// Events that no program was run for. Once the programs are stopped their numbers are gone.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn missed(&self) -> Result<Missed, BpfError> {
        Ok(missed(&self.skips()?))
    }
}

/// Each program's misses by itself: what a second program found makes up for its own first alone.
fn missed(all: &[Skips]) -> Missed {
    let of = |skips: &Skips| Some(skips.skipped?.saturating_sub(skips.met));
    Missed {
        runs: all.iter().map(of).sum(),
        by: all
            .iter()
            .filter_map(|skips| Some((skips.program.into(), of(skips).filter(|count| *count > 0)?)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(program: &'static str, skipped: Option<u64>, met: u64) -> Skips {
        Skips { program, skipped, met }
    }

    #[test]
    fn what_one_program_makes_up_for_hides_no_other_miss() {
        let all = [of("conn_tp", Some(5), 7), of("birth_fentry", Some(2), 0), of("death_fentry", Some(4), 3)];
        let by = vec![("birth_fentry", 2), ("death_fentry", 1)]
            .into_iter()
            .map(|(name, count): (&str, u64)| (name.to_owned().into(), count))
            .collect();
        assert_eq!(missed(&all), Missed { runs: Some(3), by });
        assert_eq!(missed(&[]), Missed { runs: Some(0), by: vec![] });
    }

    #[test]
    fn one_program_that_is_not_counted_leaves_the_sum_unknown() {
        let all = [of("conn_tp", Some(6), 5), of("birth_kprobe", None, 0)];
        assert_eq!(missed(&all), Missed { runs: None, by: vec![("conn_tp".into(), 1)] });
    }
}
