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
    /// Bytes of stack of all its functions together.
    pub stack: u32,
    /// Bytes of stack of the deepest chain of calls, of 512 (MAX_BPF_STACK), each function's rounded up. Verifiers that print
    /// it (7.2) leave out functions that get a private stack, so it may be less than that of one function. `None` where the
    /// kernel does not say it, and there are so many functions that it does not follow. A test in `stack.rs` bounds the
    /// chains of all kernels.
    pub chain: Option<u32>,
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
    let line = log.lines().rev().find_map(|line| line.strip_prefix("stack depth "))?;
    // Since 7.3 each function has a line of its own: `subprog 0 (birth_tp) main insns_self 9 insns_total 9 stack 424`.
    let functions = log.lines().filter(|line| line.starts_with("subprog "));
    let functions: Vec<&str> = functions.filter_map(|line| Some(line.rsplit_once(" stack ")?.1)).collect();
    let (stack, chain) = match line.strip_prefix("max ") {
        Some(told) => stack(&format!("{} max {told}", functions.join("+")))?,
        None => stack(line)?,
    };
    let words: Vec<&str> = log.lines().rev().find(|line| line.starts_with("processed "))?.split_whitespace().collect();
    let after = |name| {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1)?.parse().ok()
    };
    Some(Figures { program, insns: after("processed")?, states: after("peak_states")?, stack, chain })
}

/// Reads `288+16`, the stack of the program and of each of its functions that are not inlined; since 7.2 `288+16 max 304`,
/// with the most that any chain of calls takes. Answers the sum, and the deepest chain.
fn stack(line: &str) -> Option<(u32, Option<u32>)> {
    /// What check_max_stack_depth_subprog rounds each function's stack up to, at most; less where the program is compiled.
    const STEP: u32 = 32;
    let (depths, told) = match line.split_once(" max ") {
        Some((depths, told)) => (depths, Some(told.trim().parse::<u32>().ok()?)),
        None => (line, None),
    };
    let depths: Vec<u32> = depths.split('+').map(|bytes| bytes.trim().parse().ok()).collect::<Option<_>>()?;
    let sum = depths.iter().try_fold(0u32, |sum, depth| sum.checked_add(*depth))?;
    // One function is the chain; of two, the second is called by the first: code that nobody calls is removed before.
    let follows = || {
        let rounded = depths.iter().map(|depth| depth.max(&1).checked_next_multiple_of(STEP));
        rounded.sum::<Option<u32>>().filter(|_| depths.len() <= 2)
    };
    Some((sum, told.or_else(follows)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn figures_are_found_in_the_log() {
        let log = "verification time 1094 usec\nstack depth 288+16\nprocessed 4710 insns (limit 1000000) \
                   max_states_per_insn 4 total_states 210 peak_states 209 mark_read 31\n";
        let figures = Figures { program: "p", insns: 4710, states: 209, stack: 304, chain: Some(320) };
        assert_eq!(parse("p", log), Some(figures.clone()));
        let log = log.replace("288+16", "288+16 max 304");
        assert_eq!(parse("p", &log), Some(Figures { chain: Some(304), ..figures }));
        let log = log.replace("stack depth 288+16 max 304", "stack depth max 304");
        assert_eq!(parse("p", &log), None, "no function");
        let functions = "subprog 0 (p) main insns_self 7 insns_total 9 stack 288\n\
                         subprog 1 (f) static insns_self 2 insns_total 2 stack 16\nprocessed ";
        let log = log.replace("processed ", functions);
        let figures = Figures { program: "p", insns: 4710, states: 209, stack: 304, chain: Some(304) };
        assert_eq!(parse("p", &log), Some(figures));
        assert_eq!(parse("p", "R1 invalid mem access\nprocessed 5 insns\n"), None);
    }

    #[test]
    fn the_deepest_chain_is_told_or_follows() {
        assert_eq!(stack("456"), Some((456, Some(480))));
        assert_eq!(stack("0"), Some((0, Some(32))));
        assert_eq!(stack("440+16"), Some((456, Some(480))));
        // Which of three calls which, the line does not say.
        assert_eq!(stack("360+232+232"), Some((824, None)));
        assert_eq!(stack("360+232+232 max 592"), Some((824, Some(592))));
        for wrong in ["", "a", "1+", "1 max", "1 max x", "4294967295+1", "-8"] {
            assert_eq!(stack(wrong), None, "{wrong:?}");
        }
        assert_eq!(stack("4294967295"), Some((u32::MAX, None)));
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in "[0-9+ max-]{0,40}") {
            if let Some((sum, Some(chain))) = stack(&line) && !line.contains("max") {
                prop_assert!(chain >= sum);
            }
        }
    }
}
