//! Who is measured: twtrace in each of its forms, and the tools that people use for want of it.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::process::Process;
use crate::{apt, exec, vm::grid::BACKENDS};

/// The packages of the others.
const PACKAGES: [(&str, &str); 4] =
    [("tcplife", "libbpf-tools"), ("tcpstates", "libbpf-tools"), ("bpftrace", "bpftrace"), ("ss", "iproute2")];
/// Counts every transition, and does nothing else.
const COUNTING: &str = "tracepoint:sock:inet_sock_set_state { @[args->newstate] = count(); }";
/// How long a tool may take until its programs run, and to end.
const PATIENCE: Duration = Duration::from_secs(120);
/// A tool whose programs have been the same for so long is ready.
const SETTLED: Duration = Duration::from_millis(400);
/// How many times as slow emulated processors are.
const SLOWER: u32 = 12;
const GLANCE: Duration = Duration::from_millis(50);

/// A tool, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What the tables call it.
    pub name: String,
    how: How,
    /// The peer is ready if its programs have been the same for so long.
    settled: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum How {
    Nothing,
    /// A program, and its arguments.
    Plain(Vec<String>),
    /// `twtrace run` on a terminal.
    Screen(PathBuf, Vec<String>),
    /// A tool that needs tracefs.
    Tool(Vec<String>),
    /// In the load's own namespace, each second.
    Ss,
}

/// Whom there is to measure, and whom not, with the reason.
pub struct Peers {
    /// Peers that there are: nothing first, then twtrace, then the others.
    pub all: Vec<Peer>,
    /// Names and reasons.
    pub missing: Vec<(String, String)>,
}

impl Peer {
    fn new(name: &str, how: How) -> Self {
        Self { name: name.to_owned(), how, settled: SETTLED }
    }

    /// A tool that needs nothing, where processors are emulated.
    pub fn emulated(name: &str, words: &[&str]) -> Self {
        let how = How::Plain(words.iter().map(|&word| word.to_owned()).collect());
        Self { settled: SETTLED * SLOWER, ..Self::new(name, how) }
    }

    /// Nobody.
    pub fn nothing() -> Self {
        Self::new("nothing attached", How::Nothing)
    }

    /// True if it has eBPF programs.
    pub fn has_programs(&self) -> bool {
        !matches!(self.how, How::Nothing | How::Ss)
    }

    /// twtrace in a format, with more arguments.
    pub fn twtrace(twtrace: &Path, format: &str, more: &[&str]) -> Self {
        let args = [&["run", "--format", format], more].concat().into_iter().map(str::to_owned);
        let name = format!("twtrace {format} {}", more.join(" "));
        let how = if format == "tui" {
            How::Screen(twtrace.to_owned(), args.collect())
        } else {
            How::Plain([twtrace.display().to_string()].into_iter().chain(args).collect())
        };
        Self::new(name.trim_end(), how)
    }

    /// twtrace with tables for so many lives, others as they are.
    pub fn with_room(mut self, lives: u32) -> Self {
        if let How::Plain(words) | How::Screen(_, words) = &mut self.how
            && self.name.starts_with("twtrace")
        {
            words.extend(["--max-lives".to_owned(), lives.to_string()]);
        }
        self
    }

    /// tcplife, if it is there or can be installed.
    pub fn tcplife() -> Result<Self> {
        Self::tool("tcplife", &["tcplife"])
    }

    fn tool(name: &str, words: &[&str]) -> Result<Self> {
        install(words[0])?;
        Ok(Self::new(name, How::Tool(words.iter().map(|&word| word.to_owned()).collect())))
    }

    /// Starts it, and waits until it is at work. `netns`: a file of the load's namespace.
    pub fn start(&self, netns: &str) -> Result<Option<Running>> {
        let mut command = match &self.how {
            How::Nothing => return Ok(None),
            How::Plain(words) => {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                command
            }
            How::Screen(twtrace, args) => {
                let run = format!("stty rows 50 cols 160; exec '{}' {}", twtrace.display(), args.join(" "));
                let mut command = Command::new("script");
                command.args(["-qec", &run, "/dev/null"]).env("TERM", "xterm-256color").stdin(Stdio::piped());
                command
            }
            How::Tool(words) => {
                // In a mount namespace of its own: this machine may have no tracefs, and keeps what it has.
                let script = "mount -t tracefs nodev /sys/kernel/tracing; mount -t debugfs nodev /sys/kernel/debug; \
                              exec \"$0\" \"$@\"";
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", script]).args(words);
                command
            }
            How::Ss => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={netns}")).args(["sh", "-c"]);
                command.arg("while :; do ss -tan state time-wait > /dev/null; sleep 1; done");
                command
            }
        };
        command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let child = command.spawn().with_context(|| format!("starting {}", self.name))?;
        let mut running = Running { process: Process(child.id()), child };
        if self.has_programs() {
            let on_terminal = matches!(self.how, How::Screen(..));
            running.settle(on_terminal, self.settled).with_context(|| self.name.clone())?;
        } else {
            thread::sleep(SETTLED);
        }
        Ok(Some(running))
    }
}

/// A tool at work. It is ended when this is dropped.
pub struct Running {
    child: Child,
    /// The tool itself, not what started it.
    pub process: Process,
}

impl Running {
    /// Waits until it has programs, and no more come.
    fn settle(&mut self, on_terminal: bool, settled: Duration) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let (mut before, mut since) = (0, Instant::now());
        while Instant::now() < deadline {
            thread::sleep(GLANCE);
            if let Some(status) = self.child.try_wait().context("waiting for it")? {
                bail!("it ended at once ({status})");
            }
            if on_terminal {
                let shell = Process(self.child.id());
                self.process = shell.child().unwrap_or(shell);
            }
            let now = self.process.programs().len();
            if now != before {
                (before, since) = (now, Instant::now());
            } else if now > 0 && since.elapsed() > settled {
                return Ok(());
            }
        }
        bail!("it loaded no eBPF program within {PATIENCE:?}")
    }

    fn end(&mut self) -> Result<()> {
        let pid = |id: u32| Pid::from_raw(id.cast_signed());
        let deadline = Instant::now() + PATIENCE;
        if let Some(pid) = pid(self.process.0) {
            // Whatever has ended by itself needs no signal.
            let _gone = kill_process(pid, Signal::INT);
        }
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        if let Some(pid) = pid(self.child.id()) {
            // Its group: what a shell has started is ended with it.
            let _gone = kill_process_group(pid, Signal::KILL);
        }
        self.child.wait().map(drop).context("waiting for it")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("xtask: warning: ending a tool: {error:#}");
        }
    }
}

impl Peers {
    /// Everybody.
    pub fn find(twtrace: &Path) -> Self {
        let mut peers = Self { all: vec![Peer::nothing()], missing: Vec::new() };
        peers.all.extend(["tui", "json", "text"].map(|format| Peer::twtrace(twtrace, format, &[])));
        let mut offered = Vec::new();
        for backend in BACKENDS {
            match refusal(twtrace, backend) {
                None => offered.push(backend),
                Some(reason) => peers.missing.push((on_backend(backend), reason)),
            }
        }
        // The first that works is measured above.
        for backend in offered.into_iter().skip(1) {
            peers.all.push(Peer::twtrace(twtrace, "json", &["--backend", backend]));
        }
        let tools = [("tcplife", vec!["tcplife"]), ("tcpstates", vec!["tcpstates"])];
        let counting = ("bpftrace, counting", vec!["bpftrace", "-e", COUNTING]);
        for (name, words) in tools.into_iter().chain([counting]) {
            match Peer::tool(name, &words) {
                Ok(peer) => peers.all.push(peer),
                Err(error) => peers.missing.push((name.to_owned(), format!("{error:#}"))),
            }
        }
        match install("ss") {
            Ok(()) => peers.all.push(Peer::new("ss, each second", How::Ss)),
            Err(error) => peers.missing.push(("ss".to_owned(), format!("{error:#}"))),
        }
        peers
    }
}

/// What a backend is called, measured or missing.
pub fn on_backend(backend: &str) -> String {
    format!("twtrace --backend {backend}")
}

/// Installs the package of a program if there is none.
fn install(program: &str) -> Result<()> {
    let package = PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package);
    apt::install_program(program, package)
}

/// Why this kernel does not offer a backend; `None`: it does.
pub fn refusal(twtrace: &Path, backend: &str) -> Option<String> {
    let output = Command::new(twtrace).args(["probe", "--backend", backend]).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Some(said.lines().last().unwrap_or("it does not say why").to_owned())
        }
        Err(error) => Some(error.to_string()),
    }
}

/// The versions of the others, one line each.
pub fn versions() -> Vec<String> {
    let mut packages: Vec<&str> = PACKAGES.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    let version = |package: &&str| Some(format!("{package} {}", apt::installed(package)?));
    packages.iter().filter_map(version).collect()
}

/// A program's answer to `--version` and the like, in one line.
pub fn said(program: &str, args: &[&str]) -> Option<String> {
    exec::probe(Command::new(program).args(args)).map(|text| text.lines().next().unwrap_or_default().to_owned())
}
