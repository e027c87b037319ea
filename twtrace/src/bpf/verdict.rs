//! The programs' own verdict on a record, for the test that compares it with user space's: see `twtrace-ebpf/src/extra.rs`.
//! No run asks for it.

use aya::{
    TestRun as _, TestRunOptions,
    programs::{Program, ProgramError, SchedClassifier},
};

use super::attach::{Attached, BpfError, chain};

const PROGRAM: &str = "extra_verdict";

/// Where the packet has the record: as the program has it.
const RECORD_AT: usize = 16;

impl Attached {
    /// Loads the program that judges records.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn load_judge(&mut self) -> Result<(), BpfError> {
        let program = self.ebpf.program_mut(PROGRAM).ok_or(BpfError::Missing("program extra_verdict"))?;
        let load = |program: &mut Program| <&mut SchedClassifier>::try_from(program)?.load();
        load(program).map_err(wrong)
    }

    /// True if the filters of the programs let this record through; its bytes are those that the ring would have.
    ///
    /// # Errors
    /// If the program is not loaded, cannot be run, or finds the record too short.
    pub fn judge(&self, record: &[u8]) -> Result<bool, BpfError> {
        let program = self.ebpf.program(PROGRAM).ok_or(BpfError::Missing("program extra_verdict"))?;
        let program = <&SchedClassifier>::try_from(program).map_err(wrong)?;
        let mut packet = vec![0; RECORD_AT];
        packet.extend_from_slice(record);
        let options = TestRunOptions { data_in: Some(&packet), repeat: 1, ..TestRunOptions::default() };
        match program.test_run(options).map_err(wrong)?.return_value {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(BpfError::Judge(format!("it said {other} to a record of {} bytes", record.len()))),
        }
    }
}

fn wrong(error: ProgramError) -> BpfError {
    BpfError::Judge(chain(&error))
}
