//! `cargo xtask test`: everything, and one line that counts it.

use std::{env, fs, path::PathBuf, process::Command, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    apt, exec, paths, setup,
    tally::Tally,
    vm,
    vm::verdict::{Counted, Guest, Line, Results},
};

#[derive(clap::Args, Default)]
pub struct Args {
    /// Without the guests
    #[arg(long)]
    pub no_vm: bool,
    /// Without the end-to-end tests on this machine's own kernel
    #[arg(long)]
    pub no_native: bool,
    /// Only these kernels in the guests; see `cargo xtask vm --help`
    #[arg(long, value_delimiter = ',', num_args = 1.., value_name = "SERIES", value_parser = vm::kernel)]
    pub kernel: Vec<&'static vm::Kernel>,
}

/// The end-to-end tests, which take root and are run apart.
pub const E2E: &str = "e2e";
/// Programs that these tests use on this machine, and Debian's packages with them.
const PROGRAMS: [(&str, &str); 7] = [
    ("tmux", "tmux"),
    ("wrk", "wrk"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("nstat", "iproute2"),
    ("sysctl", "procps"),
    ("setpriv", "util-linux"),
];
/// Servers that they start in namespaces of their own; each package has the name of its program.
const SERVERS: [&str; 2] = ["nginx", "haproxy"];

pub fn verb(args: &Args) -> Result<ExitCode> {
    Ok(run(args)?.0.finish())
}

/// Runs every part, whatever becomes of the others.
pub fn run(args: &Args) -> Result<Counted> {
    setup::ensure()?;
    let (mut total, mut verdicts) = part("unit", unit().map(bare));
    let native = if args.no_native { skip("native", "--no-native") } else { part("native", native()) };
    let guests = if args.no_vm { skip("guests", "--no-vm") } else { part("guests", guests(args)) };
    for (tally, guests) in [native, guests] {
        total += tally;
        verdicts.extend(guests);
    }
    Ok((total, verdicts))
}

/// Counts of what prints no verdicts.
const fn bare(tally: Tally) -> Counted {
    (tally, Vec::new())
}

/// What needs neither root nor a kernel nor a network.
fn unit() -> Result<Tally> {
    let mut targets = vec!["--lib".to_owned(), "--bins".to_owned()];
    for test in integration_tests()?.into_iter().filter(|test| test != E2E) {
        targets.extend(["--test".to_owned(), test]);
    }
    let mut tally = Tally::default();
    // Examples in the documentation cannot be asked for together with other targets.
    for targets in [targets, vec!["--doc".to_owned()]] {
        let mut cargo = exec::cargo();
        cargo.args(["test", "--workspace", "--exclude", "twtrace-ebpf", "--no-fail-fast"]).args(&targets);
        tally += counted(&mut cargo)?.0;
    }
    Ok(tally)
}

/// The names of the integration tests of all packages.
fn integration_tests() -> Result<Vec<String>> {
    let metadata = paths::metadata()?;
    let packages = metadata["packages"].as_array().context("`cargo metadata` names no packages")?;
    let targets = packages.iter().filter_map(|package| package["targets"].as_array()).flatten();
    let tests = targets.filter(|target| target["kind"][0] == "test").filter_map(|target| target["name"].as_str());
    Ok(tests.map(str::to_owned).collect())
}

/// The end-to-end tests on this machine's own kernel.
fn native() -> Result<Counted> {
    if !exec::is_root() {
        return Ok(skip("native", "the end-to-end tests take root; run: sudo -E cargo xtask test"));
    }
    // The live view is looked at on a terminal, the doctor's advice is tried on proxies and a NAT, and its numbers are
    // compared with other tools'. Without these programs their tests are skipped, and say so.
    for (program, package) in PROGRAMS {
        if let Err(error) = apt::install_program(program, package) {
            eprintln!("xtask: warning: {error:#}");
        }
    }
    let mut cargo = exec::cargo();
    cargo.args(["test", "--release", "--package", "twtrace", "--test", E2E]);
    add_servers(&mut cargo)?;
    let (tally, guest) = counted(&mut cargo)?;
    let has_verdicts = !guest.verdicts.is_empty();
    let results = Results { guests: vec![guest] };
    if has_verdicts {
        results.write(&paths::target()?.join("e2e/native.json"))?;
    }
    Ok((tally, results.guests))
}

/// Puts the servers that there are not on the command's PATH. They are not installed: that would start them as services.
fn add_servers(command: &mut Command) -> Result<()> {
    let mut path: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    for server in SERVERS.into_iter().filter(|server| exec::which(server).is_none()) {
        let unpacked = apt::install_libraries(server).and_then(|()| apt::unpacked(server));
        match unpacked {
            Ok(tree) => path.insert(0, tree.join("usr/sbin")),
            Err(error) => eprintln!("xtask: warning: {error:#}"),
        }
    }
    command.env("PATH", env::join_paths(path).context("adding to PATH")?);
    Ok(())
}

fn guests(args: &Args) -> Result<Counted> {
    if let Err(error) = vm::ready() {
        return Ok(skip("guests", &format!("{error:#}")));
    }
    vm::run(&vm::Args::of_kernels(args.kernel.clone())?)
}

/// The counts of a part; its error is a failure.
fn part(name: &str, ran: Result<Counted>) -> Counted {
    let ran = ran.unwrap_or_else(|error| {
        println!("failed: {name}: {error:#}");
        bare(Tally::FAILED)
    });
    println!("== {name}: {}\n", ran.0);
    ran
}

fn skip(name: &str, reason: &str) -> Counted {
    println!("skipped: {name}: {reason}");
    bare(Tally::SKIPPED)
}

/// Runs a `cargo test`, shows what it prints, and counts it. Tests that print verdicts are counted by them: only a verdict
/// can tell a skip from a pass.
fn counted(cargo: &mut Command) -> Result<(Tally, Guest)> {
    let (mut results, mut finished) = (Tally::default(), false);
    let mut guest = Guest { kernel: "native".to_owned(), release: release()?, ..Guest::default() };
    let status = exec::lines(cargo, |line| {
        println!("{line}");
        if let Some(counts) = Tally::from_result_line(line) {
            results += counts;
            finished = true;
        }
        if let Some(Line::Verdict(verdict)) = Line::parse(line) {
            guest.verdicts.push(verdict);
        }
    })?;
    let mut tally = if guest.verdicts.is_empty() { results } else { guest.tally() };
    if !status.success() && tally.failed == 0 {
        println!("failed: `{}` ended with {status}", exec::show(cargo));
        tally += Tally::FAILED;
    } else if !finished && tally.total() == 0 {
        println!("failed: `{}` ran no test", exec::show(cargo));
        tally += Tally::FAILED;
    }
    Ok((tally, guest))
}

/// `uname -r`
fn release() -> Result<String> {
    let file = "/proc/sys/kernel/osrelease";
    Ok(fs::read_to_string(file).with_context(|| format!("reading {file}"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Option<(Tally, Guest)> {
        counted(Command::new("sh").args(["-c", script])).ok()
    }

    #[test]
    fn result_lines_add_up() {
        let line = "echo 'test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured'";
        let tally = sh(&format!("{line}; {line}")).map(|(tally, _)| tally);
        assert_eq!(tally, Some(Tally { passed: 4, failed: 0, skipped: 2 }));
    }

    #[test]
    fn verdicts_count_in_place_of_result_lines() {
        let script = r#"echo 'x@verdict {"test":"t","backend":"b","verdict":"skipped","reason":"r","millis":1}'
            echo 'test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured'"#;
        let counted = sh(script).map(|(tally, guest)| (tally, guest.verdicts.len()));
        assert_eq!(counted, Some((Tally::SKIPPED, 1)));
    }

    #[test]
    fn tests_that_do_not_run_failed() {
        assert_eq!(sh("exit 101").map(|(tally, _)| tally), Some(Tally::FAILED));
        assert_eq!(sh("true").map(|(tally, _)| tally), Some(Tally::FAILED));
    }
}
