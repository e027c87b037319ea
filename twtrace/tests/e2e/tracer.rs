//! The real `twtrace run`, as a child in the namespace of the test, and what it said.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        mpsc::{Receiver, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use twtrace::host::netns::Netns;

/// Longest that anything short of a real TIME_WAIT may take. Emulated machines that share their processors take minutes to
/// verify the programs of several tracers.
pub const PATIENCE: Duration = Duration::from_secs(360);

thread_local! {
    static MISSED: RefCell<BTreeMap<String, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Notes what a tracer of this test said itself that it missed: program runs that the kernel skipped, tables that took
/// nothing more, births and ends that were not seen, a self-test that could not be made.
pub fn missed(what: &str, count: u64) {
    if count > 0 {
        MISSED.with_borrow_mut(|missed| *missed.entry(what.to_owned()).or_default() += count);
    }
}

/// What was noted since the last call.
pub fn take_missed() -> BTreeMap<String, u64> {
    MISSED.take()
}

/// The binary under test: beside PID 1 in a guest, cargo's otherwise.
pub fn binary() -> PathBuf {
    if std::process::id() == 1 || std::path::Path::new("/config.env").exists() {
        "/twtrace".into()
    } else {
        env!("CARGO_BIN_EXE_twtrace").into()
    }
}

/// Forking and making traffic exclude each other: between fork and exec a child holds every descriptor of this process,
/// and if it is the last to close a connection then it is its closer, as the tracer says rightly.
static FORKING: RwLock<()> = RwLock::new(());

/// As long as this is held, no child is started. Not together with [`traffic`] in one thread.
pub fn nobody_forks() -> RwLockReadGuard<'static, ()> {
    FORKING.read().unwrap_or_else(PoisonError::into_inner)
}

/// As long as this is held, no traffic is made: to start a child that is none of twtrace's.
pub fn forking() -> RwLockWriteGuard<'static, ()> {
    FORKING.write().unwrap_or_else(PoisonError::into_inner)
}

/// Makes traffic inside a namespace, while no child is being started.
pub fn traffic<T: Send>(netns: &Netns, work: impl FnOnce() -> io::Result<T> + Send) -> Result<T, String> {
    let _nobody_forks = nobody_forks();
    netns.run(work).map_err(|error| format!("making the traffic: {error}"))
}

/// A command for the binary, started inside a namespace.
pub fn spawn(netns: &Netns, args: &[&str], set_up: impl FnOnce(&mut Command) + Send) -> Result<Child, String> {
    let _no_traffic = forking();
    netns
        .run(|| {
            let mut command = Command::new(binary());
            command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            set_up(&mut command);
            command.spawn()
        })
        .map_err(|error| format!("starting {}: {error}", binary().display()))
}

/// A tracer that runs.
pub struct Tracer {
    child: Child,
    lines: Receiver<Value>,
    reader: JoinHandle<Result<(), String>>,
    errors: JoinHandle<String>,
    /// Lines that were waited for.
    read: Vec<Value>,
    /// The `start` line.
    pub start: Value,
}

/// All that a tracer said.
pub struct Said {
    /// Every line between `start` and `summary`.
    pub lines: Vec<Value>,
    /// The last line.
    pub summary: Value,
    /// What went to standard error.
    pub errors: String,
}

impl Tracer {
    /// Starts `twtrace run --format json` and waits for its `start` line.
    pub fn start(netns: &Netns, backend: &str, more: &[&str]) -> Result<Self, String> {
        let mut args = vec!["run", "--format", "json", "--backend", backend, "--netns", "self"];
        args.extend(more);
        let mut child = spawn(netns, &args, |_| {})?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let mut stderr = child.stderr.take().ok_or("no standard error")?;
        let errors = thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let (send, lines) = channel();
        let reader = thread::spawn(move || read(stdout, &send));
        let first = lines.recv_timeout(PATIENCE);
        let Ok(start) = first else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("no start line; it said: {}", errors.join().unwrap_or_default()));
        };
        if start["type"] != "start" {
            return Err(format!("the first line is {start}"));
        }
        if start["self_test"] != "passed" {
            missed("self_test", 1);
        }
        Ok(Self { child, lines, reader, errors, read: Vec::new(), start })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Names of the BPF programs whose descriptors it holds, links' included.
    pub fn programs(&self) -> Result<Vec<String>, String> {
        let held = programs_of(self.pid())?;
        let loaded = aya::programs::loaded_programs().filter_map(Result::ok);
        Ok(loaded
            .filter(|program| held.contains(&program.id()))
            .map(|program| program.name_as_str().unwrap_or("?").to_owned())
            .collect())
    }

    /// Reads on to the first line that is wanted.
    pub fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).map_err(|_| {
                let last = self.read.last();
                format!("the line that was waited for never came; the last is {last:?}")
            })?;
            let found = wanted(&line);
            self.read.push(line);
            if found {
                return Ok(());
            }
        }
    }

    /// Asks it to end by a signal, and collects what it said.
    pub fn stop(self, signal: Signal) -> Result<Said, String> {
        self.signal(signal)?;
        self.end()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), String> {
        kill_process(Pid::from_child(&self.child), signal).map_err(|error| format!("signalling it: {error}"))
    }

    /// Waits for its end, and collects what it said.
    pub fn end(mut self) -> Result<Said, String> {
        let mut lines = self.read;
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            lines.push(line);
        }
        let status = self.child.wait().map_err(|error| format!("waiting for it: {error}"))?;
        let errors = self.errors.join().unwrap_or_default();
        match self.reader.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err("the reading thread panicked".to_owned()),
        }
        let summary = lines.pop().unwrap_or_default();
        if summary["type"] != "summary" {
            return Err(format!("the last line is {summary}; status {status}; it said: {errors}"));
        }
        for (what, count) in crate::attempts::trouble_of(&summary) {
            missed(&what, count);
        }
        // An end without an id is told of a minisock whose birth nobody saw.
        let unborn = lines.iter().filter(|line| line["type"] == "died" && line["id"].is_null()).count();
        missed("unborn", unborn as u64);
        if status.code() != Some(0) || status.signal().is_some() {
            return Err(format!("it ended with {status}; it said: {errors}"));
        }
        Ok(Said { lines, summary, errors })
    }

    /// `kill -9`.
    pub fn kill(mut self) -> Result<(), String> {
        self.child.kill().map_err(|error| error.to_string())?;
        self.child.wait().map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// Ids of the BPF programs whose descriptors a process holds, links' included.
pub fn programs_of(pid: u32) -> Result<Vec<u32>, String> {
    let directory = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).map_err(|error| error.to_string())?;
    let mut ids: Vec<u32> = directory
        .filter_map(Result::ok)
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .filter_map(|text| text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok()))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn read(stdout: ChildStdout, send: &std::sync::mpsc::Sender<Value>) -> Result<(), String> {
    for line in BufReader::new(stdout).lines() {
        let line = line.map_err(|error| error.to_string())?;
        let value = serde_json::from_str(&line).map_err(|error| format!("no JSON ({error}): {line}"))?;
        if send.send(value).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
