//! `cargo xtask vm`: the end-to-end tests on other kernels.

mod boot;
mod fetch;
pub mod grid;
mod initramfs;
mod table;
mod tools;
mod unpack;
pub mod verdict;
pub mod verifier;

pub use self::{
    fetch::{Role, natural, series_of},
    table::failures,
};

use std::{
    collections::VecDeque,
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    slice,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use self::{
    boot::{Accel, Boot, QEMU},
    fetch::{Fetched, Kernel},
    verdict::{Counted, Guest, Outcome, Results, Verdict},
};
use crate::{apt, exec, inputs, paths, setup, tally::Tally};

/// The guests' architecture. A triple of its own also keeps the static build apart from the usual one.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

#[derive(clap::Args)]
pub struct Args {
    /// Only these kernels, for example oldest, 6.1 or newest; all by default
    #[arg(long, value_delimiter = ',', num_args = 1.., value_name = "SERIES", value_parser = Role::parse)]
    pub kernel: Vec<Role>,
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
    #[arg(long, default_value_t = 40)]
    pub timeout: u64,
    /// Boot this static program in place of the end-to-end tests
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// The series that need only the short run, since the rest is known.
    #[arg(skip)]
    known: Vec<String>,
}

/// What the guests of a short run are given: the lab without what waits for a real TIME_WAIT.
const SHORT: &str = "TEST=::lab\nSKIP=::lab_slow,::lab_sabotage\n";

impl Args {
    /// As on the command line, with only the kernels named.
    pub fn of_kernels(kernel: Vec<Role>) -> Result<Self> {
        let mut args = <Alone as clap::Parser>::try_parse_from(["vm"]).context("the defaults of `vm`")?.vm;
        args.kernel = kernel;
        Ok(args)
    }

    /// The oldest and the newest kernel. Of these series all is known but whether it is still so; one of another series
    /// runs all tests.
    pub fn short(known: Vec<String>) -> Result<Self> {
        Ok(Self { known, ..Self::of_kernels(vec![Role::Oldest, Role::Newest])? })
    }

    fn roles(&self) -> Vec<Role> {
        if self.kernel.is_empty() { Role::all() } else { self.kernel.clone() }
    }

    /// What the guest of this series is told to do.
    fn config(&self, series: &str) -> String {
        let backends = format!("BACKENDS={}\n", self.backend.join(","));
        if self.known.iter().any(|known| known == series) {
            return backends + SHORT;
        }
        format!("{backends}TEST={}\n", self.test.as_deref().unwrap_or_default())
    }

    /// A part of the tests says nothing about the rest, and must not replace what is known of it.
    fn is_partial(&self) -> bool {
        let is_short = !self.known.is_empty();
        is_short || self.test.is_some() || self.init.is_some() || self.backend.len() < grid::BACKENDS.len()
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
    let inputs = inputs::hash()?;
    let programs = Programs::build(args.init.as_deref())?;
    let Fetched { kernels, missing } = fetch::fetch(&args.roles(), args.refresh)?;
    let mut tally = Tally::default();
    for missing in &missing {
        println!("skipped: kernel {missing}");
        tally += Tally::SKIPPED;
    }
    let dir = dir()?;

    let mut guests: Vec<Guest> = Vec::new();
    let mut queue = VecDeque::new();
    let series: Vec<String> = kernels.iter().map(|(series, _)| series.clone()).collect();
    for (series, kernel) in kernels {
        match kernel.and_then(|kernel| prepare(&kernel, &programs, &args.config(&series), &dir)) {
            Ok(prepared) => queue.push_back(prepared),
            Err(error) => guests.push(Guest::broken(&series, format!("{error:#}"))),
        }
    }
    if let Some(first) = queue.front() {
        let accel = boot::accel(&first.vmlinuz);
        guests.extend(boot_all(queue, accel, args, &dir));
    }
    guests.sort_by(|a, b| natural(&a.kernel, &b.kernel));

    println!("\n{}", table::render(&guests).trim_end());
    let file = dir.join(if args.is_partial() { "results-partial.json" } else { "results.json" });
    let mut results = if args.is_partial() { Results::default() } else { Results::read(&file)?.unwrap_or_default() };
    if !args.is_partial() {
        guests.iter_mut().for_each(|guest| guest.inputs = Some(inputs.clone()));
        if args.kernel.is_empty() {
            results.series.clear();
        }
        results.add_series(series);
    }
    results.replace(&guests);
    results.write(&file)?;
    println!("results: {}", file.display());

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
    series: String,
    vmlinuz: PathBuf,
    initramfs: PathBuf,
}

fn prepare(kernel: &Kernel, programs: &Programs, config: &str, dir: &Path) -> Result<Prepared> {
    let bootable = unpack::unpack(kernel, &dir.join("kernels").join(&kernel.series))?;
    let initramfs = dir.join(format!("{}.cpio", kernel.series));
    initramfs::write(&initramfs, &programs.init, &programs.more, &bootable, config)?;
    Ok(Prepared { series: kernel.series.clone(), vmlinuz: bootable.vmlinuz, initramfs })
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
    let Verdict { test, backend, millis, attempts, .. } = verdict;
    let attempts = if *attempts > 1 { format!(", attempt {attempts}") } else { String::new() };
    format!("{word} {test} on {backend} ({millis} ms{attempts}){reason}")
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
        let built =
            build_static(&["test", "--no-run", "--package", "twtrace", "--features", "extra", "--test", "e2e"])?;
        let mut more = tools::files();
        more.push(("/twtrace".to_owned(), built("bin", "twtrace")?));
        Ok(Self { init: built("test", "e2e")?, more })
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
    /// The guest's processors were emulated.
    pub emulated: bool,
    /// The guest's console.
    pub console: String,
}

/// Boots one guest in which the e2e tests' init runs a program of the guest, and ends with it.
pub fn run_in(role: &Role, programs: &Programs, command: &str, minutes: u64) -> Result<Ran> {
    let fetched = fetch::fetch(slice::from_ref(role), false)?;
    let kernel = fetched.kernels.into_iter().next().map(|(_, kernel)| kernel);
    let kernel = kernel.with_context(|| format!("no kernel {}", role.name()))??;
    let dir = dir()?;
    let Prepared { series, vmlinuz, initramfs } = prepare(&kernel, programs, &format!("RUN={command}\n"), &dir)?;
    let accel = boot::accel(&vmlinuz);
    let (log, timeout) = (dir.join(format!("{series}.run.log")), Duration::from_secs(minutes * 60));
    let boot = Boot { series: &series, vmlinuz: &vmlinuz, initramfs: &initramfs, accel, log: log.clone(), timeout };
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
        let full =
            |kernel| Args::of_kernels(kernel).map(|args| (args.is_partial(), args.roles().len(), args.jobs)).ok();
        assert_eq!(full(vec![Role::Series("6.1".to_owned())]), Some((false, 1, 2)));
        assert_eq!(full(Vec::new()), Some((false, 6, 2)));
    }

    #[test]
    fn a_short_run_is_for_what_is_known() {
        let Ok(args) = Args::short(vec!["5.10".to_owned(), "7.2".to_owned()]) else { panic!("the defaults of `vm`") };
        assert!(args.is_partial());
        assert_eq!(args.roles(), [Role::Oldest, Role::Newest]);
        let backends = "BACKENDS=fentry,kprobe,tracepoint\n";
        assert_eq!(args.config("5.10"), format!("{backends}{SHORT}"));
        // The mirror may have a newer one than the page.
        assert_eq!(args.config("7.3"), format!("{backends}TEST=\n"));
    }
}
