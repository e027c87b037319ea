//! Lives without sockets, for the benches: see `twtrace-ebpf/src/bench.rs`. No run asks for them.

use std::time::Duration;

use aya::{
    TestRun as _, TestRunOptions,
    programs::{Program, ProgramError, SchedClassifier},
};

use super::attach::{Attached, BpfError, chain};

const PRODUCER: &str = "bench_produce";

/// Where the packet says how many live at once and to how many destinations: as the program has it.
const LIVE_AT: usize = 16;
const DESTINATIONS_AT: usize = 20;

/// Lives to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// How many live at once, per CPU: each beyond them ends the oldest. 0: births alone, without a table.
    pub live: u32,
    /// Towards how many destinations.
    pub destinations: u32,
}

impl Attached {
    /// Loads the program that makes them.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn load_producer(&mut self) -> Result<(), BpfError> {
        let program = self.ebpf.program_mut(PRODUCER).ok_or(BpfError::Missing("program bench_produce"))?;
        let load = |program: &mut Program| <&mut SchedClassifier>::try_from(program)?.load();
        load(program).map_err(wrong)
    }

    /// Has so many born on this CPU, and says how long the kernel took for one of them and the end of another.
    ///
    /// # Errors
    /// If the program is not loaded, or cannot be run.
    pub fn produce(&self, Lives { live, destinations }: Lives, births: u32) -> Result<Duration, BpfError> {
        let program = self.ebpf.program(PRODUCER).ok_or(BpfError::Missing("program bench_produce"))?;
        let program = <&SchedClassifier>::try_from(program).map_err(wrong)?;
        let mut packet = [0; 64];
        packet[LIVE_AT..][..4].copy_from_slice(&live.to_ne_bytes());
        packet[DESTINATIONS_AT..][..4].copy_from_slice(&destinations.to_ne_bytes());
        let options = TestRunOptions { data_in: Some(&packet), repeat: births, ..TestRunOptions::default() };
        Ok(program.test_run(options).map_err(wrong)?.duration)
    }
}

fn wrong(error: ProgramError) -> BpfError {
    BpfError::Producer(chain(&error))
}
