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

/// What verifying one program took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The backend that it was set up for.
    pub backend: String,
    /// Its name.
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
    /// Bytes of stack.
    pub stack: u32,
}

impl Figures {
    fn named(self) -> [(&'static str, u32); 3] {
        [("instructions", self.insns), ("states", self.states), ("stack", self.stack)]
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
pub fn write(guests: &[Guest]) -> Result<()> {
    let mut table = read()?;
    let said = guests.iter().filter(|guest| !guest.verified.is_empty());
    table.extend(said.map(|guest| (guest.kernel.clone(), rows(guest))));
    let file = paths::root().join(FILE);
    let text = serde_json::to_string_pretty(&table).context("writing the verifier's figures as JSON")?;
    fs::write(&file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
    println!("wrote {FILE}");
    Ok(())
}

/// One check a kernel: nothing has jumped. Guests that ran no test are not checked, for they have no figures.
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
        let Some(before) = table.get(&guest.kernel) else {
            println!("skipped: verifier of {}: {FILE} has nothing to compare with", guest.kernel);
            tally += Tally::SKIPPED;
            continue;
        };
        let jumps = jumps(before, &rows(guest));
        for jump in &jumps {
            println!("[{}] {jump}", guest.kernel);
        }
        tally += if jumps.is_empty() {
            println!("passed: verifier of {}: {} programs", guest.kernel, guest.verified.len());
            Tally::PASSED
        } else {
            println!("failed: verifier of {}: if that has to be, run: cargo xtask docs --verifier", guest.kernel);
            Tally::FAILED
        };
    }
    tally
}

/// What has grown by more than it may, in words.
fn jumps(before: &BTreeMap<String, Figures>, now: &BTreeMap<String, Figures>) -> Vec<String> {
    let mut jumps = Vec::new();
    for (program, now) in now {
        let Some(before) = before.get(program) else { continue };
        for ((name, now), (_, before)) in now.named().into_iter().zip(before.named()) {
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
        [("fentry birth".to_owned(), Figures { insns, states: 5, stack })].into_iter().collect()
    }

    #[test]
    fn a_jump_is_told_and_a_step_is_not() {
        assert_eq!(jumps(&table(1000, 100), &table(1200, 120)), Vec::<String>::new());
        assert_eq!(jumps(&table(1000, 100), &table(1201, 8)), ["fentry birth: instructions 1000 -> 1201"]);
        assert_eq!(jumps(&table(1000, 100), &table(10, 121)), ["fentry birth: stack 100 -> 121"]);
        assert_eq!(jumps(&BTreeMap::new(), &table(1, 1)), Vec::<String>::new());
    }
}
