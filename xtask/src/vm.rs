//! `cargo xtask vm`: the end-to-end tests on other kernels.

mod boot;
mod fetch;
pub mod grid;
mod initramfs;
mod table;
mod unpack;
pub mod verdict;
pub mod verifier;

pub use self::{
    fetch::{KERNELS, Kernel},
    table::failures,
};

use std::{
    collections::VecDeque,
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use self::{
    boot::{Accel, Boot, QEMU},
    verdict::{Counted, Guest, Outcome, Results, Verdict},
};
use crate::{apt, exec, paths, setup, tally::Tally};

/// The guests' architecture. A triple of its own also keeps the static build apart from the usual one.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

#[derive(clap::Args)]
pub struct Args {
    /// Only these kernels, for example 6.1; all by default
    #[arg(long, value_delimiter = ',', num_args = 1.., value_name = "SERIES", value_parser = kernel)]
    pub kernel: Vec<&'static Kernel>,
    /// Only these backends
    #[arg(long, value_delimiter = ',', num_args = 1.., default_values = grid::BACKENDS)]
    pub backend: Vec<String>,
    /// How many guests run at a time
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: u16,
    /// Keep the console log of a guest that passed; that of one that failed is always kept
    #[arg(long)]
    pub keep_log: bool,
    /// Only tests whose name contains this
    #[arg(long, value_name = "FILTER")]
    pub test: Option<String>,
    /// Fetch the newest kernel packages even if some are cached
    #[arg(long)]
    pub refresh: bool,
    /// How many minutes a guest may take
    #[arg(long, default_value_t = 25)]
    pub timeout: u64,
    /// Boot this static program in place of the end-to-end tests
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
}

/// The kernel of this series, or which there are.
pub fn kernel(series: &str) -> Result<&'static Kernel, String> {
    let known = || KERNELS.map(|kernel| kernel.series).join(", ");
    Kernel::find(series).ok_or_else(|| format!("the kernels are {}", known()))
}

impl Args {
    /// As on the command line, with only the kernels named.
    pub fn of_kernels(kernel: Vec<&'static Kernel>) -> Result<Self> {
        let mut args = <Alone as clap::Parser>::try_parse_from(["vm"]).context("the defaults of `vm`")?.vm;
        args.kernel = kernel;
        Ok(args)
    }

    fn kernels(&self) -> Vec<&'static Kernel> {
        KERNELS.iter().filter(|kernel| self.kernel.is_empty() || self.kernel.contains(kernel)).collect()
    }

    /// A part of the tests says nothing about the rest, and must not replace what is known of it.
    fn is_partial(&self) -> bool {
        self.test.is_some() || self.init.is_some() || self.backend.len() < grid::BACKENDS.len()
    }
}

#[derive(clap::Parser)]
struct Alone {
    #[command(flatten)]
    vm: Args,
}

pub fn verb(args: &Args) -> Result<ExitCode> {
    ready()?;
    Ok(run(args)?.0.finish())
}

/// Makes sure that there is a QEMU; else says why there is none.
pub fn ready() -> Result<()> {
    if env::consts::ARCH != "x86_64" {
        bail!("the guests are x86-64, and their tests are built on x86-64 only");
    }
    apt::install_program(QEMU.0, QEMU.1)
}

/// Runs the guests and prints what came of them.
pub fn run(args: &Args) -> Result<Counted> {
    let kernels = args.kernels();
    let programs = Programs::build(args.init.as_deref())?;
    fetch::fetch(&kernels, args.refresh)?;
    let dir = dir()?;

    let mut guests: Vec<Guest> = Vec::new();
    let mut queue = VecDeque::new();
    for kernel in &kernels {
        let config =
            format!("BACKENDS={}\nTEST={}\n", args.backend.join(","), args.test.as_deref().unwrap_or_default());
        match prepare(kernel, &programs, &config, &dir) {
            Ok(prepared) => queue.push_back(prepared),
            Err(error) => guests.push(Guest::broken(kernel.series, format!("{error:#}"))),
        }
    }
    if let Some(first) = queue.front() {
        let accel = boot::accel(&first.vmlinuz);
        guests.extend(boot_all(queue, accel, args, &dir));
    }
    guests.sort_by_key(|guest| kernels.iter().position(|kernel| kernel.series == guest.kernel));

    println!("\n{}", table::render(&guests).trim_end());
    let file = dir.join(if args.is_partial() { "results-partial.json" } else { "results.json" });
    let mut results = if args.is_partial() { Results::default() } else { Results::read(&file)?.unwrap_or_default() };
    results.replace(&guests);
    results.write(&file)?;
    println!("results: {}", file.display());

    let mut tally = Tally::default();
    for guest in &guests {
        tally += guest.tally();
    }
    tally += verifier::check(&guests);
    Ok((tally, guests))
}

/// What the guests are made of, and what came of them.
fn dir() -> Result<PathBuf> {
    let dir = paths::target()?.join("vm");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}

struct Prepared {
    series: &'static str,
    vmlinuz: PathBuf,
    initramfs: PathBuf,
}

fn prepare(kernel: &'static Kernel, programs: &Programs, config: &str, dir: &Path) -> Result<Prepared> {
    let bootable = unpack::unpack(kernel, &dir.join("kernels").join(kernel.series))?;
    let initramfs = dir.join(format!("{}.cpio", kernel.series));
    initramfs::write(&initramfs, &programs.init, &programs.more, &bootable, config)?;
    Ok(Prepared { series: kernel.series, vmlinuz: bootable.vmlinuz, initramfs })
}

fn boot_all(queue: VecDeque<Prepared>, accel: Accel, args: &Args, dir: &Path) -> Vec<Guest> {
    let queue = Mutex::new(queue);
    let guests = Mutex::new(Vec::new());
    // A thread that panicked would have printed why; its lock is as good as before.
    let next = || queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop_front();
    thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                while let Some(prepared) = next() {
                    let guest = boot_one(&prepared, accel, args, dir);
                    guests.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(guest);
                }
            });
        }
    });
    guests.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn boot_one(prepared: &Prepared, accel: Accel, args: &Args, dir: &Path) -> Guest {
    let Prepared { series, vmlinuz, initramfs } = prepared;
    let log = dir.join(format!("{series}.log"));
    let timeout = Duration::from_secs(args.timeout.saturating_mul(60));
    let boot = Boot { series, vmlinuz, initramfs, accel, log: log.clone(), timeout };
    let started = Instant::now();
    let guest = boot::boot(&boot, |verdict| println!("[{series}] {}", told(verdict)));
    let mut guest = guest.unwrap_or_else(|error| Guest::broken(series, format!("{error:#}")));
    println!("[{series}] {} in {:.1} s", guest.tally(), started.elapsed().as_secs_f64());
    if let Some(problem) = &guest.problem {
        println!("[{series}] {problem}; the console is in {}", log.display());
        guest.console = boot::tail(&log);
    }
    if guest.tally().failed == 0 && !args.keep_log {
        let _ = fs::remove_file(&log);
    }
    guest
}

fn told(verdict: &Verdict) -> String {
    let (word, reason) = match verdict.verdict {
        Outcome::Passed => ("passed", String::new()),
        Outcome::Failed => ("FAILED", format!(": {}", verdict.reason())),
        Outcome::Skipped => ("skipped", format!(": {}", verdict.reason())),
    };
    let Verdict { test, backend, millis, .. } = verdict;
    format!("{word} {test} on {backend} ({millis} ms){reason}")
}

/// What the guests run.
pub struct Programs {
    /// The first process.
    pub init: PathBuf,
    /// Other files, by their place in the guest.
    pub more: Vec<(String, PathBuf)>,
}

impl Programs {
    /// The tests are the guest's init, so they and twtrace must need no file besides themselves.
    fn build(init: Option<&Path>) -> Result<Self> {
        if let Some(init) = init {
            return Ok(Self { init: init.to_owned(), more: Vec::new() });
        }
        let built = build_static(&["test", "--no-run", "--package", "twtrace", "--test", "e2e"])?;
        Ok(Self { init: built("test", "e2e")?, more: vec![("/twtrace".to_owned(), built("bin", "twtrace")?)] })
    }
}

/// Has cargo build programs that need no file besides themselves; answers where each is, by kind and name.
pub fn build_static(args: &[&str]) -> Result<impl Fn(&str, &str) -> Result<PathBuf>> {
    setup::ensure()?;
    let mut cargo = exec::cargo();
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    cargo.args(args).args(["--release", "--target", TRIPLE, "--message-format=json-render-diagnostics"]);
    let messages = exec::capture(&mut cargo)?;
    Ok(move |kind: &str, name: &str| built(&messages, kind, name))
}

/// What a guest did instead of the tests.
pub struct Ran {
    /// `uname -r`
    pub release: String,
    /// Its processors were emulated.
    pub emulated: bool,
    /// Its console.
    pub console: String,
}

/// Boots one guest in which the e2e tests' init runs a program of the guest, and ends with it.
pub fn run_in(kernel: &'static Kernel, programs: &Programs, command: &str, minutes: u64) -> Result<Ran> {
    fetch::fetch(&[kernel], false)?;
    let dir = dir()?;
    let Prepared { series, vmlinuz, initramfs } = prepare(kernel, programs, &format!("RUN={command}\n"), &dir)?;
    let accel = boot::accel(&vmlinuz);
    let (log, timeout) = (dir.join(format!("{series}.run.log")), Duration::from_secs(minutes * 60));
    let boot = Boot { series, vmlinuz: &vmlinuz, initramfs: &initramfs, accel, log: log.clone(), timeout };
    let Guest { release, .. } = boot::boot(&boot, |_| {})?;
    let console = fs::read(&log).with_context(|| format!("reading {}", log.display()))?;
    Ok(Ran { release, emulated: accel == Accel::Tcg, console: String::from_utf8_lossy(&console).into_owned() })
}

/// Where cargo has put an executable, by its messages.
pub fn built(messages: &str, kind: &str, name: &str) -> Result<PathBuf> {
    executable(messages, kind, name).with_context(|| format!("cargo built no {kind} {name}"))
}

/// The path of an executable in the messages of cargo.
fn executable(messages: &str, kind: &str, name: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut executables = messages.filter(|message| {
        let target = &message["target"];
        target["name"] == name && target["kind"][0] == kind && message["executable"].is_string()
    });
    executables.next()?["executable"].as_str().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_by_kind() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"name":"twtrace","kind":["lib"]},"executable":null}
            {"reason":"compiler-artifact","target":{"name":"twtrace","kind":["bin"]},"executable":"/t/twtrace"}
            {"reason":"compiler-artifact","target":{"name":"e2e","kind":["test"]},"executable":"/t/e2e-1"}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "bin", "twtrace"), Some("/t/twtrace".into()));
        assert_eq!(executable(messages, "test", "e2e"), Some("/t/e2e-1".into()));
        assert_eq!(executable(messages, "test", "other"), None);
    }

    #[test]
    fn defaults_are_a_full_run() {
        let args = Args::of_kernels(vec![&KERNELS[1]]);
        let full = args.map(|args| (args.is_partial(), args.kernels().len(), args.jobs)).ok();
        assert_eq!(full, Some((false, 1, 2)));
    }
}
