//! Containers by their cgroups: what is closed in one, or below it, is told of, and nothing else.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;
use twtrace::{
    host::{Host, cgroup, netns::Netns},
    traffic::lives,
};

use crate::{
    line,
    scene::fresh,
    tracer::{Tracer, forking, spawn},
};

type Outcome = Result<(), String>;

/// The hidden argument that makes a closer of this program.
const CLOSER: &str = "__closer";

/// If this process was started to close connections, it does so until its standard input ends: as many as each line says.
pub fn close() -> Option<ExitCode> {
    (env::args().nth(1).as_deref() == Some(CLOSER)).then(|| match closer() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("closing: {error}");
            ExitCode::FAILURE
        }
    })
}

fn closer() -> io::Result<()> {
    let listener = lives::listen(([127, 0, 0, 1], 0).into())?;
    for line in io::stdin().lock().lines() {
        let count: usize = line?.trim().parse().map_err(io::Error::other)?;
        for _ in 0..count {
            let pair = lives::connect(&listener, None)?;
            lives::close_in_order(pair.client, pair.server)?;
        }
        println!("{count}");
    }
    Ok(())
}

/// A process that closes connections in a cgroup.
struct Closer {
    child: Child,
    tells: ChildStdin,
    hears: BufReader<ChildStdout>,
}

impl Closer {
    fn start(netns: &Netns, cgroup: &Path) -> Result<Self, String> {
        let started = {
            let _no_traffic = forking();
            netns.run(|| {
                let mut command = Command::new("/proc/self/exe");
                command.arg(CLOSER).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
            })
        };
        let mut child = started.map_err(|error| format!("starting a closer: {error}"))?;
        let tells = child.stdin.take().ok_or("no standard input")?;
        let hears = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        let closer = Self { child, tells, hears };
        let entered = fs::write(cgroup.join("cgroup.procs"), closer.child.id().to_string());
        entered.map_err(|error| format!("entering {}: {error}", cgroup.display()))?;
        Ok(closer)
    }

    /// Opens and closes so many.
    fn close(&mut self, count: u64) -> Outcome {
        let mut answer = String::new();
        let done = writeln!(self.tells, "{count}").and_then(|()| self.hears.read_line(&mut answer));
        done.map_err(|error| format!("a closer: {error}"))?;
        if answer.trim() == count.to_string() { Ok(()) } else { Err(format!("a closer says '{answer}'")) }
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Directories of the cgroup tree, removed at the end; those that still have processes stay.
struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    fn make(&mut self, path: PathBuf) -> Result<PathBuf, String> {
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        self.0.push(path.clone());
        Ok(path)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.0.iter().rev().for_each(|path| drop(fs::remove_dir(path)));
    }
}

fn inode(path: &Path) -> Result<u64, String> {
    fs::metadata(path).map(|found| found.ino()).map_err(|error| format!("{}: {error}", path.display()))
}

/// A container, a cgroup in it that is made when the tracer runs already, and a neighbour.
pub fn containers(backend: &str) -> Outcome {
    let Some(root) = cgroup::root(&Host::default()) else {
        line("not here: no cgroup v2 tree");
        return Ok(());
    };
    // The digits at the front are the ones that it is named by.
    let salt: u32 = backend.bytes().map(u32::from).sum();
    let id = format!("{:08x}{salt:08x}{}", std::process::id(), "5e".repeat(24));
    let mut cgroups = Cgroups(Vec::new());
    let base = cgroups.make(root.join(format!("twtrace-e2e-{}-{backend}", std::process::id())))?;
    let container = cgroups.make(base.join(format!("docker-{id}.scope")))?;
    let neighbour = cgroups.make(base.join("other.scope"))?;
    let netns = fresh()?;
    let mut first = Closer::start(&netns, &container)?;
    let mut stranger = Closer::start(&netns, &neighbour)?;

    let tree = container.to_string_lossy().into_owned();
    // Nothing of this can be compared by the programs: user space has to find the cgroup that is made later.
    let expression = format!("not (comm nobody or not container {}) or pid 1", &id[..16]);
    let wanted = [
        &["--container", &id[..16], "--by", "owner"][..],
        &["--cgroup-tree", &tree],
        &["--cgroup", &tree],
        &[&expression],
    ];
    let mut tracers = wanted.iter().map(|args| Tracer::start(&netns, backend, args)).collect::<Result<Vec<_>, _>>()?;
    let inner = cgroups.make(container.join("inner"))?;
    let (outer_id, inner_id) = (inode(&container)?, inode(&inner)?);
    let mut second = Closer::start(&netns, &inner)?;
    first.close(5)?;
    stranger.close(7)?;
    second.close(11)?;

    // It is named while it is there, and keeps its name when it is gone.
    let is_named = |line: &Value| {
        let rows = line["by"]["cgroups"]["rows"].as_array().into_iter().flatten();
        let mut named = rows.filter(|row| row["path"].as_str().is_some_and(|path| path.ends_with("/inner")));
        named.any(|row| row["cgroup_id"] == inner_id && row["unit"] == format!("docker {}", &id[..12]))
    };
    tracers[0].wait_for(is_named)?;
    drop(second);
    fs::remove_dir(&inner).map_err(|error| format!("{}: {error}", inner.display()))?;
    tracers[0].wait_for(is_named)?;

    for (tracer, (args, in_inner)) in tracers.into_iter().zip(wanted.iter().zip([11, 11, 0, 11])) {
        let said = tracer.stop(Signal::INT)?;
        let born = |cgroup: u64| {
            said.lines.iter().filter(|line| line["type"] == "born" && line["cgroup_id"] == cgroup).count() as u64
        };
        let all = said.lines.iter().filter(|line| line["type"] == "born").count() as u64;
        if (born(outer_id), born(inner_id), all) != (5, in_inner, 5 + in_inner) {
            let (outer, inner) = (born(outer_id), born(inner_id));
            return Err(format!("{args:?}: {outer} in it, {inner} below, {all} in all: {}", said.summary));
        }
        if said.summary["filtered"].as_u64().is_none_or(|filtered| filtered < 7) {
            return Err(format!("{args:?}: the neighbour's were not filtered: {}", said.summary));
        }
    }
    Ok(())
}

/// `--container` of a doctor and of a run, with a container whose network namespace is its own, and with one that there is
/// not; `--pid`.
pub fn container_netns() -> Outcome {
    let Some(root) = cgroup::root(&Host::default()) else {
        line("not here: no cgroup v2 tree");
        return Ok(());
    };
    let id = format!("{:08x}{}", std::process::id(), "7a".repeat(28));
    let mut cgroups = Cgroups(Vec::new());
    let container = cgroups.make(root.join(format!("libpod-{id}.scope")))?;
    let netns = fresh()?;
    let closer = Closer::start(&netns, &container)?;
    let here = Netns::current().map_err(|error| error.to_string())?;
    let (inum, pid) = (netns.inum().to_string(), closer.child.id().to_string());
    for args in [&["doctor", "--container", &id[..12]][..], &["doctor", "-p", &pid]] {
        let (code, err) = said(&here, args)?;
        if !(0..=2).contains(&code)
            || !err.contains(&format!("network namespace {inum}"))
            || !err.contains("--netns /proc/")
        {
            return Err(format!("{args:?}: exit {code}, not about {inum}: {err}"));
        }
    }
    let (code, err) = said(&here, &["run", "--container", &id, "--events", "none", "--duration", "100ms"])?;
    if code != 0 || !err.contains(&format!("network namespace, {inum}")) {
        return Err(format!("run: exit {code}, not by {inum}: {err}"));
    }
    // Three digits are too few, and others are another's.
    for word in [&id[..3], "ffff"] {
        let (code, err) = said(&here, &["doctor", "--container", word])?;
        if code != 64 || !err.contains(&format!("podman {}", &id[..12])) || !err.contains("--netns") {
            return Err(format!("--container {word}: exit {code}: {err}"));
        }
    }
    Ok(())
}

/// Exit code and standard error.
fn said(netns: &Netns, args: &[&str]) -> Result<(i32, String), String> {
    let mut child = spawn(netns, args, |command| {
        command.stdout(Stdio::null());
    })?;
    let mut err = String::new();
    let read = child.stderr.take().ok_or("no standard error")?.read_to_string(&mut err);
    read.map_err(|error| error.to_string())?;
    let status = child.wait().map_err(|error| error.to_string())?;
    Ok((status.code().ok_or_else(|| format!("it ended with {status}"))?, err))
}
