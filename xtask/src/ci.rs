//! `cargo xtask ci`: the gates that a change has to pass. Each is one check, beside the tests.

use std::{process::Command, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result};

use crate::{bench, docs, ebpf_toolchain, exec, paths, setup, tally::Tally, test, vm};

pub fn verb(tests: &test::Args) -> Result<ExitCode> {
    let mut total = Tally::default();
    total += gate("format", || exec::run(exec::cargo().args(["fmt", "--all", "--check"])));
    total += gate("eBPF toolchain", || setup::ensure().map(drop));
    total += gate("lints", lints);
    total += gate("lints of the eBPF programs", ebpf_lints);
    total += gate("documentation", documentation);
    let (tests, verdicts) = test::run(tests).unwrap_or_else(|error| (failed("tests", &error), Vec::new()));
    total += tests;
    total += bench::check();
    total += docs::check();
    // The tests that failed, once more at the end: hours of output are above, and often only the end is kept.
    print!("{}", vm::failures(&verdicts));
    Ok(total.finish())
}

fn gate(name: &str, check: impl FnOnce() -> Result<()>) -> Tally {
    let start = Instant::now();
    let done = check();
    let took = start.elapsed().as_secs_f64();
    match done {
        Ok(()) => {
            println!("passed: {name} ({took:.1} s)");
            Tally::PASSED
        }
        Err(error) => failed(name, &error),
    }
}

fn failed(name: &str, error: &anyhow::Error) -> Tally {
    println!("failed: {name}: {error:#}");
    Tally::FAILED
}

fn lints() -> Result<()> {
    let clippy = |targets: &[&str]| exec::run(exec::cargo().arg("clippy").args(targets).args(["--", "-D", "warnings"]));
    clippy(&["--workspace", "--exclude", "twtrace-ebpf", "--all-targets"])?;
    // What stands behind a feature: benches, and the programs that they run.
    clippy(&["--package", "twtrace", "--features", "extra", "--all-targets"])?;
    // `--all-targets` leaves out a test that plain `cargo test` leaves out.
    clippy(&["--package", "twtrace", "--features", "extra", "--test", test::E2E])
}

/// By the clippy of the toolchain that builds them: another one has no core for the target.
fn ebpf_lints() -> Result<()> {
    let toolchain = setup::ensure()?;
    let clippy = setup::clippy(&toolchain)?;
    let mut command: Command = toolchain.command(&clippy, std::env::consts::ARCH);
    command.current_dir(paths::root());
    command.args(["clippy", "--package", "twtrace-ebpf", "--features", "extra", "--bins", "--release"]);
    command.args(["--target", ebpf_toolchain::TARGET, "-Z", "build-std=core"]);
    command.arg("--target-dir").arg(paths::target()?.join("ebpf/extra"));
    exec::run(command.args(["--", "-D", "warnings"]))
}

fn documentation() -> Result<()> {
    let mut cargo = exec::cargo();
    cargo.args(["doc", "--workspace", "--exclude", "twtrace-ebpf", "--no-deps"]);
    exec::run(cargo.env("RUSTDOCFLAGS", "-D warnings")).context("the documentation has warnings")
}
