//! `cargo xtask docs`: the pages that are generated from what was measured.

pub mod kernels;

use std::{collections::BTreeSet, fs, process::Command, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use self::kernels::FILE as KERNELS;
use crate::{build, exec, paths, tally::Tally};

/// What the program itself prints: files, and what it calls them.
const PRINTED: [(&str, &str); 3] =
    [("docs/events.md", "events"), ("docs/doctor.md", "doctor"), ("docs/doctor.schema.json", "doctor-schema")];

#[derive(clap::Args, Default)]
pub struct Args {
    /// Write nothing; fail if a page is not what would be written
    #[arg(long)]
    check: bool,
    /// Write docs/verifier.json as well, against which later runs are held
    #[arg(long, conflicts_with = "check")]
    verifier: bool,
}

pub fn verb(args: &Args) -> Result<ExitCode> {
    if args.check {
        return Ok(check().finish());
    }
    if args.verifier {
        kernels::verifier()?;
    }
    let kernels = kernels::page()?;
    match &kernels {
        Ok(page) => write(KERNELS, page)?,
        Err(reason) => println!("left as it is: {KERNELS}: {reason}"),
    }
    for (page, name) in PRINTED {
        write(page, &printed(name)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Compares the pages with what would be written.
pub fn check() -> Tally {
    let mut tally = Tally::default();
    tally += match kernels::page() {
        Ok(Ok(page)) => match kernels::others(&page) {
            Some(why) => {
                println!("skipped: {KERNELS}: {why}; run: cargo xtask docs");
                Tally::SKIPPED
            }
            None => compare(KERNELS, &page),
        },
        Ok(Err(reason)) => {
            println!("skipped: {KERNELS}: {reason}");
            Tally::SKIPPED
        }
        Err(error) => failed(KERNELS, &format!("{error:#}")),
    };
    for (page, name) in PRINTED {
        tally += match printed(name) {
            Ok(text) => compare(page, &text),
            Err(error) => failed(page, &format!("{error:#}")),
        };
    }
    tally
}

fn failed(page: &str, error: &str) -> Tally {
    println!("failed: {page}: {error}");
    Tally::FAILED
}

fn write(page: &str, text: &str) -> Result<()> {
    let file = paths::root().join(page);
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    println!("wrote {page}");
    Ok(())
}

fn compare(page: &str, generated: &str) -> Tally {
    let Ok(committed) = fs::read_to_string(paths::root().join(page)) else {
        return failed(page, "there is no such file; run: cargo xtask docs");
    };
    let (old, new) = kernels::comparable(&committed, generated);
    if old == new {
        println!("passed: {page} is up to date");
        return Tally::PASSED;
    }
    failed(page, &format!("not what `cargo xtask docs` writes; run it\n{}", difference(&old, &new)))
}

/// A page from the binary that prints it.
fn printed(name: &str) -> Result<String> {
    let twtrace = build::release()?;
    let page = exec::capture(Command::new(&twtrace).args(["__page", name]))
        .with_context(|| format!("{} cannot print its page {name}", twtrace.display()))?;
    if page.trim().is_empty() {
        bail!("`{} __page {name}` printed nothing", twtrace.display());
    }
    Ok(page)
}

/// The lines that only one of the pages has: the first ones of each.
fn difference(old: &str, new: &str) -> String {
    const FIRST: usize = 20;
    let only = |mark, these: &str, those: &str| -> String {
        let those: BTreeSet<&str> = those.lines().collect();
        let lines: Vec<&str> = these.lines().filter(|line| !those.contains(line)).collect();
        let mut text: String = lines.iter().take(FIRST).map(|line| format!("{mark} {line}\n")).collect();
        if lines.len() > FIRST {
            text.push_str(&format!("{mark} ... {} more\n", lines.len() - FIRST));
        }
        text
    };
    only('-', old, new) + &only('+', new, old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_names_lines() {
        assert_eq!(difference("a\nb\n", "a\nc\n"), "- b\n+ c\n");
        let many: String = (0..25).map(|n| format!("{n}\n")).collect();
        assert!(difference(&many, "0\n").ends_with("- 20\n- ... 4 more\n"));
    }
}
