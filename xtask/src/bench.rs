//! `cargo xtask bench`: what twtrace costs, beside what other tools cost, measured in turn under the same load.

mod bounds;
mod cost;
mod guest;
mod load;
mod memory;
mod page;
mod peers;
mod pipe;
mod plot;
mod process;
mod sample;
mod throughput;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    process::Command,
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use self::{
    bounds::name,
    cost::Cost,
    guest::OfGuest,
    load::Load,
    memory::Memory,
    peers::{Peer, Peers},
    pipe::Pipe,
    throughput::{Cell, Pace},
};
use crate::{exec, paths, setup, tally::Tally, vm};

#[derive(clap::Args, Default)]
pub struct Args {
    /// Write nothing; a short form, whose ratios are held against the bounds that are kept in the repository
    #[arg(long)]
    check: bool,
    /// How often each thing is measured, in turn with the others; the page wants 7 at least
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Measure this alone, and take the rest from the last run; the page is written once all parts are measured
    #[arg(long, value_name = "PART", conflicts_with = "check")]
    only: Option<Part>,
    /// In a guest: print what its backends cost beside tcplife
    #[arg(long, hide = true)]
    inside: bool,
}

/// How fast connections are made, from a trickle to as fast as it goes.
const PACES: [Pace; 3] = [
    Pace { connections: 2000, per_s: Some(1000) },
    Pace { connections: 8000, per_s: Some(5000) },
    Pace { connections: 30_000, per_s: None },
];
/// The short form.
const SHORT: [Pace; 1] = [Pace { connections: 10_000, per_s: None }];
const SHORT_ROUNDS: usize = 5;
/// How long the pipe is measured at a time, seconds.
const PIPE_LASTS: f64 = 1.0;
const SHORT_PIPE_LASTS: f64 = 0.3;
const SHORT_PIPE_ROUNDS: usize = 2;

/// What is measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
enum Part {
    /// Records through the ring, without sockets
    Pipe,
    /// Connections a second
    Throughput,
    /// Time in the kernel and in processes, whole lives
    Lives,
    /// Resident memory
    Memory,
    /// Other kernels
    Guests,
}

/// Where the last run's results are, in the target directory.
const RESULTS: &str = "bench/results.json";

/// All that was measured.
#[derive(Default, Serialize, Deserialize)]
pub struct Report {
    /// On which kernel.
    kernel: String,
    /// Which parts.
    measured: BTreeSet<Part>,
    /// How often.
    pub rounds: usize,
    /// Whom there was nobody to measure of, and why.
    pub missing: Vec<(String, String)>,
    /// Connections a second.
    pub throughput: Vec<Cell>,
    /// Whole lives.
    pub costs: Vec<Cost>,
    /// Other kernels.
    pub guests: Vec<OfGuest>,
    /// Memory.
    pub memory: Vec<Memory>,
    /// The pipe alone.
    pub pipe: Pipe,
}

pub fn verb(args: &Args) -> Result<ExitCode> {
    if args.inside {
        guest::inside()?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.check {
        return Ok(check().finish());
    }
    if !exec::is_root() {
        bail!("tracing takes root; run: sudo -E cargo xtask bench");
    }
    let binaries = Binaries::build()?;
    let report = measure(&binaries, usize::from(args.rounds), args.only)?;
    let left = Part::value_variants().iter().filter(|part| !report.measured.contains(part));
    let left: Vec<_> =
        left.filter_map(|part| Some(format!("--only {}", part.to_possible_value()?.get_name()))).collect();
    if left.is_empty() {
        page::write(&report)?;
    } else {
        println!("no page was written: not measured on this kernel yet: {}", left.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Keeps what was measured so far: all of it takes an hour, which may not be had at once.
fn keep(report: &Report) -> Result<()> {
    let file = paths::target()?.join(RESULTS);
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let text = serde_json::to_string_pretty(report).context("writing results as JSON")?;
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
}

/// The full form, or a part of it.
fn measure(binaries: &Binaries, rounds: usize, only: Option<Part>) -> Result<Report> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("which kernel this is")?;
    let last = if only.is_some() { last()?.filter(|last| last.kernel == kernel) } else { None };
    let mut report = last.unwrap_or_else(|| Report { kernel, ..Report::default() });
    let Peers { all, missing } = Peers::find(&binaries.twtrace);
    for (peer, reason) in &missing {
        println!("left out: {peer}: {reason}");
    }
    (report.rounds, report.missing) = (rounds, missing);
    for part in Part::value_variants().iter().copied().filter(|part| only.is_none_or(|only| only == *part)) {
        match part {
            Part::Pipe => {
                report.pipe = pipe::measure(&binaries.pipe, &["full", "loss", "growth"], rounds, PIPE_LASTS)?;
            }
            Part::Throughput => {
                report.throughput = throughput::measure(&mut Load::start(&binaries.load)?, &all, &PACES, rounds)?;
            }
            Part::Lives => {
                let others: Vec<Peer> = all.iter().filter(|peer| **peer != Peer::nothing()).cloned().collect();
                let long = Peer::twtrace(&binaries.twtrace, "json", &[]);
                report.costs = cost::whole_lives(&mut Load::start(&binaries.load)?, others, long, rounds)?;
            }
            Part::Memory => report.memory = memory::measure(&mut Load::start(&binaries.load)?, &binaries.twtrace)?,
            Part::Guests => report.guests = guest::measure(&mut report.missing),
        }
        report.measured.insert(part);
        keep(&report)?;
    }
    Ok(report)
}

/// What the last run measured, if there was one of this form.
fn last() -> Result<Option<Report>> {
    let file = paths::target()?.join(RESULTS);
    if !file.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    Ok(serde_json::from_str(&text).ok())
}

/// The short form, held against the bounds.
pub fn check() -> Tally {
    let mut tally = Tally::default();
    let failed = |what: &str, error: &anyhow::Error| {
        println!("failed: bench: {what}: {error:#}");
        Tally::FAILED
    };
    let binaries = match Binaries::build() {
        Ok(binaries) => binaries,
        Err(error) => return failed("building", &error),
    };
    // It holds what it measures against its own bound.
    tally += match exec::run(&mut Command::new(&binaries.model)) {
        Ok(()) => {
            println!("passed: bench: memory of the live view");
            Tally::PASSED
        }
        Err(error) => failed("memory of the live view", &error),
    };
    if !exec::is_root() {
        println!("skipped: bench: tracing takes root; run: sudo -E cargo xtask bench --check");
        tally += Tally::SKIPPED;
        return tally;
    }
    match ratios(&binaries) {
        Ok(ratios) => tally += bounds::check(&ratios),
        Err(error) => tally += failed("measuring", &error),
    }
    tally
}

/// The ratios that are bounded. What disturbs a measurement only ever adds to it, so the least of each is taken.
fn ratios(binaries: &Binaries) -> Result<BTreeMap<&'static str, Result<f64, String>>> {
    let mut ratios = BTreeMap::new();
    let pipe = pipe::measure(&binaries.pipe, &["full", "growth"], SHORT_PIPE_ROUNDS, SHORT_PIPE_LASTS)?;
    let per_s = |to: &str| pipe.full.get(to).map_or(f64::NAN, |full| full.per_s.most());
    ratios.insert(name::JSON, Ok(per_s("aggregates") / per_s("json")));
    for axis in [name::LIVE, name::DESTINATIONS] {
        let grows = pipe.grows(axis, |point| &point.kernel_ns).zip(pipe.grows(axis, |point| &point.user_ns));
        ratios.insert(axis, grows.map(|(kernel, user)| kernel.max(user)).ok_or_else(|| "not measured".to_owned()));
    }

    let mut load = Load::start(&binaries.load)?;
    let json = Peer::twtrace(&binaries.twtrace, "json", &[]);
    let cells = throughput::measure(&mut load, &[Peer::nothing(), json.clone()], &SHORT, SHORT_ROUNDS)?;
    let cost = |cell: Option<&Cell>| cell.map_or(f64::NAN, |cell| cell.cost_us().least());
    ratios.insert(name::COST, Ok(cost(cells.first()) / cost(cells.get(1))));
    match Peer::tcplife() {
        Ok(tcplife) => {
            let costs = cost::births(&mut load, &[json, tcplife], SHORT[0].connections, SHORT_ROUNDS)?;
            let least = |index: usize, of: fn(&Cost) -> f64| costs.get(index).map_or(f64::NAN, of);
            let bpf = |cost: &Cost| cost.bpf_ns.least();
            let user = |cost: &Cost| cost.user_us.least();
            ratios.insert(name::KERNEL, Ok(least(0, bpf) / least(1, bpf)));
            ratios.insert(name::USER, Ok(least(0, user) / least(1, user)));
        }
        Err(error) => {
            for name in [name::KERNEL, name::USER] {
                ratios.insert(name, Err(format!("{error:#}")));
            }
        }
    }
    Ok(ratios)
}

/// What is measured, and what measures.
struct Binaries {
    twtrace: PathBuf,
    load: PathBuf,
    pipe: PathBuf,
    model: PathBuf,
}

impl Binaries {
    fn build() -> Result<Self> {
        setup::ensure()?;
        let mut cargo = exec::cargo();
        cargo.args(["bench", "--no-run", "--package", "twtrace", "--features", "extra"]);
        cargo.args(["--bench", "load", "--bench", "pipe", "--bench", "model"]);
        let messages = exec::capture(cargo.arg("--message-format=json-render-diagnostics"))?;
        let find = |kind, name| vm::built(&messages, kind, name);
        Ok(Self {
            twtrace: find("bin", "twtrace")?,
            load: find("bench", "load")?,
            pipe: find("bench", "pipe")?,
            model: find("bench", "model")?,
        })
    }
}
