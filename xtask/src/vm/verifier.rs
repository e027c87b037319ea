//! What the verifiers of all kernels took for each program, held against what they took before.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::verdict::Guest;
use crate::{paths, tally::Tally};

/// What they took when the programs were last looked at, for review beside the programs.
pub const FILE: &str = "docs/verifier.json";

/// By how much each figure may grow unremarked, times. A verifier refuses what is too large, and does so on a kernel that
/// nobody has tried: a jump is to be seen before.
const JUMP: f64 = 1.2;

/// How many bytes of stack the deepest chain of calls may take. The verifier refuses more than 512 (MAX_BPF_STACK), and
/// compilers and verifiers differ by a few registers that they spill.
const DEEPEST: u32 = 480;

/// What verifying one program took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The backend that it was set up for.
    pub backend: String,
    /// Name of the program.
    pub program: String,
    /// What it took.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What verifying a program took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Instructions that the verifier went through.
    pub insns: u32,
    /// States that it kept at once.
    pub states: u32,
    /// Bytes of stack of all its functions together.
    pub stack: u32,
    /// Bytes of stack of the deepest chain of calls, without functions that get a private stack; `None` where the kernel
    /// does not say it.
    #[serde(default)]
    pub chain: Option<u32>,
}

impl Figures {
    fn named(self) -> [(&'static str, Option<u32>); 4] {
        let Self { insns, states, stack, chain } = self;
        [("instructions", Some(insns)), ("states", Some(states)), ("stack", Some(stack)), ("deepest chain", chain)]
    }
}

/// By kernel, then by backend and program.
type Table = BTreeMap<String, BTreeMap<String, Figures>>;

fn rows(guest: &Guest) -> BTreeMap<String, Figures> {
    guest.verified.iter().map(|row| (format!("{} {}", row.backend, row.program), row.figures)).collect()
}

fn read() -> Result<Table> {
    let file = paths::root().join(FILE);
    match fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("reading {}", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Table::default()),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

/// Writes what these guests said, in place of what is known of the same kernels.
pub fn write(guests: &[&Guest]) -> Result<()> {
    let mut table = read()?;
    let said = guests.iter().filter(|guest| !guest.verified.is_empty());
    table.extend(said.map(|guest| (guest.kernel.clone(), rows(guest))));
    let file = paths::root().join(FILE);
    let text = serde_json::to_string_pretty(&table).context("writing the verifier's figures as JSON")?;
    fs::write(&file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
    println!("wrote {FILE}");
    Ok(())
}

/// One check a kernel: nothing is too deep, nothing has jumped, nothing is new. Guests that ran no test are not checked, for
/// they have no figures.
pub fn check(guests: &[Guest]) -> Tally {
    let table = match read() {
        Ok(table) => table,
        Err(error) => {
            println!("failed: verifier: {error:#}");
            return Tally::FAILED;
        }
    };
    let mut tally = Tally::default();
    for guest in guests.iter().filter(|guest| !guest.verdicts.is_empty()) {
        if guest.verified.is_empty() {
            println!("failed: verifier of {}: the guest told no figures; its console says why", guest.kernel);
            tally += Tally::FAILED;
            continue;
        }
        let now = rows(guest);
        let faults = match table.get(&guest.kernel) {
            Some(before) => [too_deep(&now), new(before, &now), jumps(before, &now)].concat(),
            None => too_deep(&now),
        };
        for fault in &faults {
            println!("[{}] {fault}", guest.kernel);
        }
        tally += if !faults.is_empty() {
            println!(
                "failed: verifier of {}: if that has to be, run all tests (cargo xtask test --full), then cargo xtask \
                 docs --verifier, and commit {FILE}",
                guest.kernel
            );
            Tally::FAILED
        } else if table.contains_key(&guest.kernel) {
            println!("passed: verifier of {}: {} programs", guest.kernel, now.len());
            Tally::PASSED
        } else {
            println!("skipped: verifier of {}: {FILE} has nothing of this kernel to compare with", guest.kernel);
            Tally::SKIPPED
        };
    }
    tally
}

/// Programs whose deepest chain of calls is near the verifier's limit.
fn too_deep(now: &BTreeMap<String, Figures>) -> Vec<String> {
    let deep = now.iter().filter_map(|(program, figures)| Some((program, figures.chain.filter(|it| *it > DEEPEST)?)));
    deep.map(|(program, chain)| format!("{program}: deepest chain {chain} bytes of stack, at most {DEEPEST}")).collect()
}

/// Programs that nobody has looked at yet: every later jump would be none.
fn new(before: &BTreeMap<String, Figures>, now: &BTreeMap<String, Figures>) -> Vec<String> {
    let new = now.keys().filter(|program| !before.contains_key(*program));
    new.map(|program| format!("{program}: {FILE} has no figures of this program")).collect()
}

/// What has grown by more than it may, in words.
fn jumps(before: &BTreeMap<String, Figures>, now: &BTreeMap<String, Figures>) -> Vec<String> {
    let mut jumps = Vec::new();
    for (program, now) in now {
        let Some(before) = before.get(program) else { continue };
        for ((name, now), (_, before)) in now.named().into_iter().zip(before.named()) {
            let (Some(now), Some(before)) = (now, before) else { continue };
            if f64::from(now) > f64::from(before) * JUMP {
                jumps.push(format!("{program}: {name} {before} -> {now}"));
            }
        }
    }
    jumps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(insns: u32, stack: u32) -> BTreeMap<String, Figures> {
        [("fentry birth".to_owned(), Figures { insns, states: 5, stack, chain: Some(stack) })].into_iter().collect()
    }

    #[test]
    fn a_jump_is_told_and_a_step_is_not() {
        assert_eq!(jumps(&table(1000, 100), &table(1200, 120)), Vec::<String>::new());
        assert_eq!(jumps(&table(1000, 100), &table(1201, 8)), ["fentry birth: instructions 1000 -> 1201"]);
        assert_eq!(
            jumps(&table(1000, 100), &table(10, 121)),
            ["fentry birth: stack 100 -> 121", "fentry birth: deepest chain 100 -> 121"]
        );
        // What is unknown is no number.
        let mut unknown = table(1000, 100);
        unknown.values_mut().for_each(|figures| figures.chain = None);
        assert_eq!(jumps(&unknown, &table(1000, 120)), Vec::<String>::new());
    }

    #[test]
    fn the_deepest_chain_has_a_bound() {
        assert_eq!(too_deep(&table(1, DEEPEST)), Vec::<String>::new());
        assert_eq!(too_deep(&table(1, DEEPEST + 1)), ["fentry birth: deepest chain 481 bytes of stack, at most 480"]);
        // The sum of all functions may be larger than any chain.
        let mut summed = table(1, 824);
        summed.values_mut().for_each(|figures| figures.chain = None);
        assert_eq!(too_deep(&summed), Vec::<String>::new());
    }

    #[test]
    fn a_new_program_needs_figures() {
        assert_eq!(
            new(&BTreeMap::new(), &table(1, 1)),
            ["fentry birth: docs/verifier.json has no figures of this program"]
        );
        assert_eq!(new(&table(1, 1), &table(2, 2)), Vec::<String>::new());
        // Backends that were not tried.
        assert_eq!(new(&table(1, 1), &BTreeMap::new()), Vec::<String>::new());
    }

    #[test]
    fn figures_without_a_chain_are_read() {
        let read: Result<Table, _> = serde_json::from_str(r#"{"6.1": {"p": {"insns": 1, "states": 2, "stack": 3}}}"#);
        assert!(read.is_ok_and(|table| table["6.1"]["p"].chain.is_none()));
    }
}
