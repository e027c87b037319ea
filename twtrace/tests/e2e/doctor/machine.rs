//! What `twtrace doctor` says of settings and of descriptors: made true, and then false again.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use twtrace::{host::netns::Netns, traffic::lives};

use super::{Outcome, QUESTION, SERVICE, Said, address, agrees, machine, new, nstat, set};
use crate::tracer::{PATIENCE, forking, spawn, traffic};

/// A sysctl, what is wrong with it, what is told of it then, and what it is by default.
const SETTINGS: [(&str, &str, &str, &str, &str); 6] = [
    ("tcp_fin_timeout", "15", "folklore.fin-timeout", "note", "60"),
    ("tcp_max_tw_buckets", "100", "folklore.max-tw-buckets", "warning", ""),
    ("tcp_rfc1337", "1", "folklore.rfc1337", "note", "0"),
    ("tcp_timestamps", "0", "folklore.timestamps", "warning", "1"),
    ("tcp_syncookies", "0", "folklore.syncookies", "warning", "1"),
    ("tcp_abort_on_overflow", "1", "listen.abort-on-overflow", "note", "0"),
];
/// Connections that are reset.
const RESETS: u64 = 40;

pub fn doctor_folklore() -> Outcome {
    let netns = new()?;
    let was = netns.run(|| fs::read_to_string("/proc/sys/net/ipv4/tcp_max_tw_buckets"));
    let was = was.map_err(|error| error.to_string())?;
    let before = Said::of(&netns, &[])?;
    for (name, _, id, ..) in SETTINGS {
        // A file of this machine may set it, but nothing in the new namespace is so.
        let of_namespace = before.finding(id).filter(|found| id.starts_with("listen") || !found.0["netns"].is_null());
        if let Some(finding) = of_namespace {
            return Err(format!("{name} is as ever: {}", finding.0));
        }
    }
    for (name, value, id, severity, default) in SETTINGS {
        let default = if default.is_empty() { was.trim() } else { default };
        set(&netns, name, value)?;
        let expected: u64 = value.parse().map_err(|error| format!("{name}: {error}"))?;
        Said::of(&netns, &[])?.finds(id, severity)?.shows(name, expected)?;
        set(&netns, name, default)?;
    }
    // What is there once they are as they were.
    let after = Said::of(&netns, &[])?;
    for (name, _, id, ..) in SETTINGS {
        if after.finding(id) != before.finding(id) {
            return Err(format!("{name}: before {before}\nafter {after}"));
        }
    }
    resets(&netns)
}

/// SO_LINGER 0: told while it happens, and no longer.
fn resets(netns: &Netns) -> Outcome {
    const ID: &str = "folklore.linger0";
    Said::of(netns, &[])?.lacks(ID)?;
    let (reset, orderly) = (traffic_beside(netns, true)?, traffic_beside(netns, false)?);
    let finding = reset.finds(ID, "warning")?;
    if finding.evidence("TCPAbortOnData now")?.as_f64().is_none_or(|rate| rate < 1.0) {
        return Err(format!("nothing moves: {}", finding.0));
    }
    orderly.lacks(ID)?;
    // At rest it is no finding; its total is shown with what is fine.
    let said = Said::of(netns, &[])?;
    said.lacks(ID)?;
    let Some(finding) = said.finding("folklore.none") else { return Ok(()) };
    let total = finding.evidence("TCPAbortOnData")?;
    agrees("TCPAbortOnData", total, nstat(netns, "TcpExtTCPAbortOnData")?)?;
    if total.as_u64() < Some(RESETS) { Err(format!("{total} resets, and {RESETS} were made")) } else { Ok(()) }
}

/// What the doctor says while connections are made and ended.
fn traffic_beside(netns: &Netns, resets: bool) -> Result<Said, String> {
    // As long as there is traffic nobody may fork, so the doctor is started first.
    let mut child = spawn(netns, &QUESTION, |_| {})?;
    traffic(netns, || {
        let listener = lives::listen(address(SERVICE)?)?;
        let (mut made, deadline) = (0, Instant::now() + PATIENCE);
        while made < RESETS || child.try_wait()?.is_none() && Instant::now() < deadline {
            let pair = lives::connect(&listener, None)?;
            if resets {
                lives::abort(pair.client)?;
            } else {
                lives::close_in_order(pair.client, pair.server)?;
            }
            made += 1;
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    })?;
    Said::hear(child)
}

/// The hidden argument that makes a holder of this program.
const HOLDER: &str = "__holder";
/// The most descriptors that a holder may have.
const LIMIT: u64 = 64;

/// If this process was started to hold descriptors, it does so until its standard input ends: as many as each line says,
/// and answers with a line.
pub fn hold() -> Option<ExitCode> {
    (env::args().nth(1).as_deref() == Some(HOLDER)).then(|| match holder() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holding descriptors: {error}");
            ExitCode::FAILURE
        }
    })
}

fn holder() -> io::Result<()> {
    rustix::thread::set_name(c"holder")?;
    // The limit bounds numbers, and what was inherited may have a higher one: it would be counted and take no room.
    // SAFETY: nothing in this process has opened a descriptor yet, so nothing uses one beyond the first three.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(LIMIT), ..getrlimit(Resource::Nofile) })?;
    let open = || -> io::Result<usize> {
        // Without the one that reads the directory.
        Ok(fs::read_dir("/proc/self/fd")?.count() - 1)
    };
    let mut held = Vec::new();
    let others = open()?;
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let wanted: usize = line?.trim().parse().map_err(io::Error::other)?;
        held.truncate(wanted.saturating_sub(others));
        while held.len() + others < wanted {
            held.push(Socket::new(Domain::IPV4, Type::STREAM, None)?);
        }
        // One more than there may be.
        let refused =
            Socket::new(Domain::IPV4, Type::STREAM, None).is_err_and(|it| it.raw_os_error() == Some(libc::EMFILE));
        writeln!(out, "{refused}")?;
        out.flush()?;
    }
    Ok(())
}

/// A process that holds as many descriptors as it is told.
pub struct Holder {
    child: Child,
    tells: ChildStdin,
    hears: BufReader<ChildStdout>,
}

impl Holder {
    /// Starts one in a namespace.
    pub fn start(netns: &Netns) -> Result<Self, String> {
        let _no_traffic = forking();
        // In a guest the first process is this program as well.
        let mut command = Command::new("/proc/self/exe");
        command.arg(HOLDER).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = netns.run(|| command.spawn()).map_err(|error| format!("starting a holder: {error}"))?;
        let tells = child.stdin.take().ok_or("no standard input")?;
        let hears = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Self { child, tells, hears })
    }

    /// Holds so many, and tells whether there can be no more.
    pub fn hold(&mut self, count: u64) -> Result<bool, String> {
        let mut answer = String::new();
        let done = writeln!(self.tells, "{count}").and_then(|()| self.hears.read_line(&mut answer));
        done.map_err(|error| format!("a holder: {error}"))?;
        answer.trim().parse().map_err(|_| format!("a holder says '{answer}'"))
    }
}

impl Holder {
    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub fn doctor_descriptors() -> Outcome {
    let netns = new()?;
    let _machine = machine();
    let mut holder = Holder::start(&netns)?;
    let name = format!("descriptors of holder ({})", holder.pid());
    // How bad it is, if it is about the holder; what others of this machine have is not this test's to say.
    let about = |said: &Said, count: u64| -> Option<String> {
        let finding = said.finding("descriptors.process")?;
        finding.shows(&name, count).ok()?;
        finding.0["severity"].as_str().map(str::to_owned)
    };
    for (count, severity) in
        [(10, None), (51, None), (52, Some("warning")), (60, Some("warning")), (64, Some("critical")), (10, None)]
    {
        let refused = holder.hold(count)?;
        if refused != (count >= LIMIT) {
            return Err(format!("with {count} of {LIMIT} descriptors EMFILE is {refused}"));
        }
        let said = Said::of(&netns, &[])?;
        let told = about(&said, count);
        if told.as_deref() != severity {
            return Err(format!("{count} of {LIMIT}: {told:?}, not {severity:?}: {said}"));
        }
    }
    // Unless others are at their limits, it is fine again.
    let said = Said::of(&netns, &[])?;
    if said.lacks("descriptors.process").and(said.lacks("descriptors.system")).is_err() {
        return Ok(());
    }
    let fine = said.finds("descriptors.room", "fine")?;
    match fine.0["sentence"].as_str() {
        Some(sentence) if sentence.contains("TIME_WAITs have none") => Ok(()),
        _ => Err(format!("it does not say that TIME_WAIT holds none: {}", fine.0)),
    }
}
