//! What builds, tests and documents twtrace. One file per verb; every external command is printed before it runs.

mod apt;
mod bench;
mod build;
mod ci;
mod docs;
mod ebpf_toolchain;
mod exec;
mod inputs;
mod paths;
mod run;
mod setup;
mod tally;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests and documents twtrace", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find or install the eBPF toolchain (nothing to do the second time)
    Setup,
    /// Build target/release/twtrace
    Build,
    /// Build, then trace as root: `cargo xtask run -- --duration 30s`
    Run(run::Args),
    /// Every test: unit, native end to end, and the kernels in QEMU
    Test(test::Args),
    /// The end-to-end tests on other kernels, each in a QEMU guest
    Vm(vm::Args),
    /// Measure what twtrace costs beside other tools, and write docs/overhead.md
    Bench(bench::Args),
    /// Write docs/kernel-support.md and docs/events.md from what was measured
    Docs(docs::Args),
    /// What CI runs: formatting, lints, documentation, every test, the short bench
    Ci(test::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Setup => setup::verb(),
        Verb::Build => build::verb(),
        Verb::Run(args) => run::verb(args),
        Verb::Test(args) => test::verb(&args),
        Verb::Vm(args) => vm::verb(&args),
        Verb::Bench(args) => bench::verb(&args),
        Verb::Docs(args) => docs::verb(&args),
        Verb::Ci(args) => ci::verb(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        <super::Cli as clap::CommandFactory>::command().debug_assert();
    }
}
