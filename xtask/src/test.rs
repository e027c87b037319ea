//! `cargo xtask test`: everything, and one line that counts it.

use std::{env, fs, path::PathBuf, process::Command, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    apt,
    docs::kernels::{self, Recorded},
    exec, inputs, paths, setup,
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
    /// Only these kernels in the guests, with all tests; see `cargo xtask vm --help`
    #[arg(long, value_delimiter = ',', num_args = 1.., value_name = "SERIES", value_parser = vm::Role::parse)]
    pub kernel: Vec<vm::Role>,
    /// All tests on all kernels, even if the programs and their tests are as docs/kernel-support.md has them
    #[arg(long, conflicts_with_all = ["no_vm", "kernel"])]
    pub full: bool,
}

/// The end-to-end tests, which take root and are run apart.
pub const E2E: &str = "e2e";
/// Programs that these tests use on this machine, and Debian's packages with them.
const PROGRAMS: [(&str, &str); 8] = [
    ("tmux", "tmux"),
    ("wrk", "wrk"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("nstat", "iproute2"),
    ("ss", "iproute2"),
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
        cargo.args(["test", "--workspace", "--exclude", "twtrace-ebpf", "--exclude", "xtask", "--no-fail-fast"]);
        // What passed is shown too: a test that found nothing to test says so there.
        tally += counted(cargo.args(&targets).args(["--", "--show-output"]))?.0;
    }
    // The tests of the counting print results and verdicts that are none: what passed is not shown.
    tally += counted(exec::cargo().args(["test", "--package", "xtask"]))?.0;
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
    cargo.args(["test", "--release", "--package", "twtrace", "--features", "extra", "--test", E2E]);
    add_servers(&mut cargo)?;
    let (tally, guest) = counted(&mut cargo)?;
    let has_verdicts = !guest.verdicts.is_empty();
    let results = Results { guests: vec![guest], ..Results::default() };
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
    let args = match known(args, kernels::recorded(), &inputs::hash()?) {
        Ok(series) => {
            println!(
                "guests: the tracer, the doctor and their tests are as in {}, which has all tests on {}: the oldest and the newest \
                 kernel run the quick lab; --full runs all",
                kernels::FILE,
                series.join(", ")
            );
            vm::Args::short(series)?
        }
        Err(why) => {
            println!("guests: all tests: {why}");
            vm::Args::of_kernels(args.kernel.clone())?
        }
    };
    vm::run(&args)
}

/// The kernels on which all is known; or why it is not, or not enough.
fn known(args: &Args, recorded: Option<Recorded>, inputs: &str) -> Result<Vec<String>, String> {
    let page = kernels::FILE;
    match recorded {
        _ if args.full => Err("--full".to_owned()),
        _ if !args.kernel.is_empty() => Err("--kernel".to_owned()),
        None => Err(format!("{page} does not say what was tested")),
        Some(recorded) if recorded.inputs != inputs => Err(format!("what they test has changed since {page}")),
        Some(recorded) if !recorded.is_good => Err(format!("tests failed when {page} was written")),
        Some(recorded) => Ok(recorded.series),
    }
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
    let mut heard = Heard::default();
    let mut guest = Guest { kernel: "native".to_owned(), release: release()?, ..Guest::default() };
    let status = exec::lines(cargo, |line| {
        println!("{line}");
        heard.line(line);
        if let Some(Line::Verdict(verdict)) = Line::parse(line) {
            guest.verdicts.push(verdict);
        }
    })?;
    for (test, reason) in &heard.skipped {
        println!("skipped: {test}: {reason}");
    }
    let mut tally = if guest.verdicts.is_empty() { heard.tally } else { guest.tally() };
    if !status.success() && tally.failed == 0 {
        println!("failed: `{}` ended with {status}", exec::show(cargo));
        tally += Tally::FAILED;
    } else if !heard.is_over && tally.total() == 0 {
        println!("failed: `{}` ran no test", exec::show(cargo));
        tally += Tally::FAILED;
    }
    Ok((tally, guest))
}

/// What the test harnesses of a `cargo test` have printed so far.
#[derive(Debug, Default)]
struct Heard {
    tally: Tally,
    /// Tests that passed because there was nothing to test, and why. The harness cannot skip a test that has begun; such a
    /// test prints `skipped: WHY`, and `--show-output` shows it.
    skipped: Vec<(String, String)>,
    /// How many of them are of the harness that is at work.
    now: u64,
    /// Among what those printed that passed: the test.
    succeeded: Option<String>,
    is_success: bool,
    /// A harness came to its end.
    is_over: bool,
}

impl Heard {
    fn line(&mut self, line: &str) {
        if let Some(mut counts) = Tally::from_result_line(line) {
            let moved = self.now.min(counts.passed);
            (counts.passed, counts.skipped) = (counts.passed - moved, counts.skipped + moved);
            self.tally += counts;
            (self.now, self.succeeded, self.is_success, self.is_over) = (0, None, false, true);
        } else if line == "successes:" || line == "failures:" {
            self.is_success = line == "successes:";
            self.succeeded = None;
        } else if let Some(test) = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----")) {
            self.succeeded = self.is_success.then(|| test.to_owned());
        } else if let Some(reason) = line.strip_prefix("skipped: ")
            && let Some(test) = self.succeeded.take()
        {
            self.skipped.push((test, reason.to_owned()));
            self.now += 1;
        }
    }
}

/// `uname -r`
fn release() -> Result<String> {
    let file = "/proc/sys/kernel/osrelease";
    Ok(fs::read_to_string(file).with_context(|| format!("reading {file}"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "\
running 3 tests
test a ... ok

successes:

---- a stdout ----
skipped: no table
here
skipped: a second line of the same test

---- b stdout ----
it says nothing of being skipped: no

successes:
    a
    b

failures:

---- c stdout ----
skipped: and failed all the same

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn a_test_that_says_so_is_skipped() {
        let mut heard = Heard::default();
        SHOWN.lines().chain(SHOWN.lines()).for_each(|line| heard.line(line));
        assert_eq!(heard.tally, Tally { passed: 2, failed: 2, skipped: 2 });
        assert_eq!(heard.skipped, [("a".to_owned(), "no table".to_owned()), ("a".to_owned(), "no table".to_owned())]);
        assert!(heard.is_over);
    }

    #[test]
    fn the_short_run_needs_a_page_of_the_same_inputs() {
        let page =
            |inputs: &str, is_good| Some(Recorded { inputs: inputs.into(), series: vec!["5.10".into()], is_good });
        let none = Args::default();
        assert_eq!(known(&none, page("a", true), "a"), Ok(vec!["5.10".to_owned()]));
        for (args, page) in [
            (Args { full: true, ..Args::default() }, page("a", true)),
            (Args { kernel: vec![vm::Role::Newest], ..Args::default() }, page("a", true)),
            (Args::default(), page("b", true)),
            (Args::default(), page("a", false)),
            (Args::default(), None),
        ] {
            assert!(known(&args, page, "a").is_err());
        }
    }

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
