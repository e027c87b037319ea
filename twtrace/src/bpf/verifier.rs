//! What the kernel's verifier says of programs that it accepts.
//!
//! aya hands the verifier's log out with a refusal alone. So each program is refused after it was verified: there is no
//! descriptor left for it (bpf_prog_new_fd comes last in bpf_prog_load).

use aya::{
    VerifierLogLevel,
    programs::{Iter, ProgramError},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use super::{
    attach::{AttachError, BpfError, Kernel, Settings, chain, load_program, open},
    seed::{BURY, SEED, load_bury},
};
use crate::plan::Plan;

/// What verifying a program took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Name of the program.
    pub program: &'static str,
    /// Instructions that the verifier went through, of a million that it may.
    pub insns: u32,
    /// States that it kept at once.
    pub states: u32,
    /// Bytes of stack, of 512; of functions that are not inlined the sum.
    pub stack: u32,
}

/// The figures of each program of the plan. Nothing is attached. While it works, no other thread may need a descriptor.
///
/// # Errors
/// If the object cannot be loaded, or a program is refused for another reason.
pub fn figures(kernel: &Kernel, plan: &Plan, settings: &Settings) -> Result<Vec<Figures>, AttachError> {
    let mut ebpf = open(kernel, plan, settings, VerifierLogLevel::STATS)?;
    let mut all = Vec::new();
    for hook in &plan.hooks {
        let program = ebpf.program_mut(hook.program).ok_or(BpfError::Missing(hook.program))?;
        all.push(of(hook.program, || load_program(program, *hook, &kernel.btf))?);
    }
    let program = ebpf.program_mut(SEED).ok_or(BpfError::Missing(SEED))?;
    all.push(of(SEED, || <&mut Iter>::try_from(program)?.load("tcp", &kernel.btf))?);
    let program = ebpf.program_mut(BURY).ok_or(BpfError::Missing(BURY))?;
    all.push(of(BURY, || load_bury(program).map(drop))?);
    Ok(all)
}

fn of(program: &'static str, load: impl FnOnce() -> Result<(), ProgramError>) -> Result<Figures, BpfError> {
    let wrong = |why: String| BpfError::Verifier(program, why);
    let limit = getrlimit(Resource::Nofile);
    let set = |limit| setrlimit(Resource::Nofile, limit).map_err(|error| wrong(error.to_string()));
    set(Rlimit { current: Some(0), ..limit })?;
    let loaded = load();
    set(limit)?;
    let error = match loaded {
        Ok(()) => return Err(wrong("it has a descriptor all the same".to_owned())),
        Err(error) => error,
    };
    let ProgramError::LoadError { verifier_log, .. } = &error else { return Err(wrong(chain(&error))) };
    parse(program, &verifier_log.to_string()).ok_or_else(|| wrong(chain(&error)))
}

/// Reads the last lines of the log (print_verification_stats of kernel/bpf/verifier.c).
fn parse(program: &'static str, log: &str) -> Option<Figures> {
    let stack = log.lines().rev().find_map(|line| line.strip_prefix("stack depth "))?;
    // Since 7.2 followed by the most that any chain of calls takes: `288+16 max 304`.
    let stack = stack.split(" max ").next()?;
    let stack = stack.split('+').map(|bytes| bytes.trim().parse::<u32>().ok()).sum::<Option<u32>>()?;
    let words: Vec<&str> = log.lines().rev().find(|line| line.starts_with("processed "))?.split_whitespace().collect();
    let after = |name| {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1)?.parse().ok()
    };
    Some(Figures { program, insns: after("processed")?, states: after("peak_states")?, stack })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_the_log() {
        let log = "verification time 1094 usec\nstack depth 288+16\nprocessed 4710 insns (limit 1000000) \
                   max_states_per_insn 4 total_states 210 peak_states 209 mark_read 31\n";
        assert_eq!(parse("p", log), Some(Figures { program: "p", insns: 4710, states: 209, stack: 304 }));
        let log = log.replace("288+16", "288+16 max 304");
        assert_eq!(parse("p", &log).map(|figures| figures.stack), Some(304));
        assert_eq!(parse("p", "R1 invalid mem access\nprocessed 5 insns\n"), None);
    }
}
