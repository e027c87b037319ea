//! A CPU that goes away. The kernel moves the timers of its minisocks to another CPU (`timers_dead_cpu` of
//! kernel/time/timer.c: timer_cancel and timer_start of each, nothing armed anew): each stays one life.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::Signal,
    thread::{CpuSet, sched_setaffinity},
};
use twtrace::{
    host::clock::monotonic_ns,
    lab::{
        stage::{Family, First, Stage, await_minisocks},
        want::{End, Is, Turn},
    },
    model::event::{Cause, Event, Kind},
    traffic::{
        lives,
        segment::{self, Kind as Sent, Segment, Sequence},
    },
};

use crate::{
    parse,
    scene::{Scene, fresh, judge, knows},
    summary,
    tracer::{PATIENCE, Tracer},
};

type Outcome = Result<(), String>;

const CPUS: &str = "/sys/devices/system/cpu";
/// Where cpusets of the first version are by custom.
const CPUSETS: &str = "/sys/fs/cgroup/cpuset";
/// Lives that nothing happens to.
const PLAIN: usize = 20;
/// Lives that a stray ACK gives another 60 s before: where timer tracepoints are all there is, nobody sees that.
const STRAY: usize = 5;
/// FIN_WAIT2 minisocks that turn before: as above.
const TURNED: usize = 3;
/// FIN_WAIT2 minisocks that run out after.
const ORPHANS: usize = 3;
/// How long those have, seconds.
const FIN_TIMEOUT: u64 = 6;
/// Two ticks at HZ 100: a timer that is armed anew then gets another end.
const TICKS: Duration = Duration::from_millis(20);
/// Segments that are under way arrive, and the tracer reads what there is.
const REST: Duration = Duration::from_millis(500);

/// The CPU to take away: the last that can be. Else why there is none.
pub fn removable() -> Result<u32, String> {
    let read = |file: &Path| fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()));
    let online = read(&Path::new(CPUS).join("online"))?;
    let last = online.trim().rsplit([',', '-']).next().unwrap_or_default();
    let number = last.parse().map_err(|_| format!("{CPUS}/online says {online}"))?;
    if number == 0 {
        return Err("only one CPU is online".to_owned());
    }
    // A cpuset of the first version loses the CPU for good (`hotplug_update_tasks_legacy` of kernel/cgroup/cpuset.c).
    let sets = fs::read_dir(CPUSETS).into_iter().flatten().filter_map(Result::ok);
    if let Some(set) = sets.map(|entry| entry.path()).find(|path| path.is_dir()) {
        return Err(format!("{} would not get its CPU back", set.display()));
    }
    // A file that is not there or not writable: no CPU of this machine can be taken away.
    let file = switch(number);
    fs::OpenOptions::new().write(true).open(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(number)
}

fn switch(cpu: u32) -> PathBuf {
    Path::new(CPUS).join(format!("cpu{cpu}/online"))
}

/// A CPU that is away as long as this lives.
struct Away(PathBuf);

impl Away {
    fn take(cpu: u32) -> Result<Self, String> {
        let away = Self(switch(cpu));
        fs::write(&away.0, "0").map_err(|error| format!("taking CPU {cpu} away: {error}"))?;
        Ok(away)
    }

    fn put_back(&self) -> io::Result<()> {
        // EBUSY while another change of the CPUs is under way.
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = fs::write(&self.0, "1") {
            if Instant::now() > deadline {
                return Err(error);
            }
            thread::sleep(TICKS);
        }
        Ok(())
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        if fs::read_to_string(&self.0).is_ok_and(|online| online.trim() == "1") {
            return;
        }
        if let Err(error) = self.put_back() {
            crate::line(&format!("{}: a CPU could not be put back: {error}", self.0.display()));
        }
    }
}

/// Lives whose CPU goes away and comes back.
pub fn cpu_removed(backend: &str) -> Outcome {
    let cpu = removable()?;
    let netns = fresh()?;
    let mut scene = Scene::new(&netns)?;
    let tracer = Tracer::start(&netns, backend, &[])?;
    let listener = scene.listen()?;
    let orphans = scene.act(|stage| {
        // Loopback handles a segment where it is sent, and a minisock's timer is armed where it is born.
        stay_on(cpu)?;
        make(stage, &listener)
    })?;
    thread::sleep(REST);

    let moves = Moves::watch();
    let before_ns = monotonic_ns();
    let away = Away::take(cpu)?;
    let after_ns = monotonic_ns();
    let moved = moves.and_then(|moves| moves.count());
    match &moved {
        Ok(count) if *count < PLAIN => return Err(format!("only {count} timers moved: there is nothing to see here")),
        Ok(count) => crate::line(&format!("cpu_removed: {backend}: {count} timers moved")),
        Err(reason) => crate::line(&format!("cpu_removed: {backend}: how many timers moved is not known: {reason}")),
    }

    scene.act(|stage| {
        // The last that was made on the CPU that is gone.
        stage.take_over(&listener)?;
        for _ in 0..5 {
            stage.live(&listener, Family::V4, First::Client)?;
        }
        Ok(())
    })?;
    // Soon: others may want it.
    away.put_back().map_err(|error| format!("putting CPU {cpu} back: {error}"))?;
    drop(away);
    scene.act(|stage| {
        stay_on(cpu)?;
        for _ in 0..5 {
            stage.live(&listener, Family::V4, First::Client)?;
        }
        stage.take_over(&listener)?;
        // Those of FIN_WAIT2 run out where they were moved to.
        await_minisocks((PLAIN - 1 + STRAY + TURNED + 5 + 4) as u64)
    })?;
    orphans.into_iter().try_for_each(lives::abort).map_err(|error| error.to_string())?;

    let (made, knows) = (scene.end()?, knows(&tracer.start));
    let said = tracer.stop(Signal::INT)?;
    let events = parse::events(&said.lines)?;
    // Nothing but the move happened then.
    let during = |event: &&Event| (before_ns..after_ns).contains(&event.mono_ns);
    let told: Vec<&Event> = events.iter().filter(during).filter(|event| event.kind() != Kind::Died).collect();
    if let Some(first) = told.first() {
        let rearmed = told.iter().filter(|event| event.kind() == Kind::Rearmed).count();
        return Err(format!("{} events of timers that only moved, {rearmed} of them re-arms: {first:?}", told.len()));
    }
    judge(&made, &events, knows)?;
    summary::exact(&said, &events)
}

fn stay_on(cpu: u32) -> io::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu as usize);
    Ok(sched_setaffinity(None, &cpus)?)
}

/// Lives of each kind, the plain ones last. Hands back the other ends of those in FIN_WAIT2.
fn make(stage: &mut Stage<'_>, listener: &TcpListener) -> io::Result<Vec<TcpStream>> {
    for _ in 0..STRAY {
        stray(stage, listener)?;
    }
    for _ in 0..TURNED {
        let from = stage.source(Family::V4);
        let server = stage.fin_wait2(listener, Some(from))?;
        stage.last()?.turn = Turn::IfFinWait2;
        thread::sleep(TICKS);
        drop(server);
        stage.turns()?;
    }
    lives::sysctl("tcp_fin_timeout", &FIN_TIMEOUT.to_string())?;
    let mut orphans = Vec::new();
    for _ in 0..ORPHANS {
        let from = stage.source(Family::V4);
        orphans.push(stage.fin_wait2(listener, Some(from))?);
        let last = stage.last()?;
        last.timeout_ms = Is::Anything;
        last.end = End::of(Cause::Expired);
    }
    lives::sysctl("tcp_fin_timeout", "60")?;
    for _ in 0..PLAIN {
        stage.live(listener, Family::V4, First::Client)?;
    }
    Ok(orphans)
}

/// A TIME_WAIT, and an ACK behind the peer's FIN.
fn stray(stage: &mut Stage<'_>, listener: &TcpListener) -> io::Result<()> {
    let (there, from): (SocketAddr, SocketAddr) = (listener.local_addr()?, stage.source(Family::V4));
    let link = stage.connect(listener, Some(from))?;
    let Sequence { next_out, next_in } = segment::sequence(&link.pair.client)?;
    stage.close(link, First::Client)?;
    stage.turns()?;
    thread::sleep(TICKS);
    Segment::new(there, from, Sent::Ack, next_in.wrapping_add(1), next_out.wrapping_add(1))?.send()
}

/// The kernel's own word on timers of minisocks that are started: an instance of tracefs.
struct Moves(PathBuf);

impl Moves {
    fn watch() -> Result<Self, String> {
        let roots = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"].map(Path::new);
        let root = roots.into_iter().find(|root| root.join("instances").is_dir()).ok_or("no tracefs is mounted")?;
        let moves = Self(root.join(format!("instances/twtrace-e2e-{}", std::process::id())));
        let said = |error: io::Error| format!("{}: {error}", moves.0.display());
        fs::create_dir(&moves.0).map_err(said)?;
        fs::write(moves.0.join("events/timer/timer_start/enable"), "1").map_err(said)?;
        Ok(moves)
    }

    fn count(self) -> Result<usize, String> {
        let read = fs::read_to_string(self.0.join("trace")).map_err(|error| error.to_string())?;
        Ok(read.lines().filter(|line| line.contains("tw_timer_handler")).count())
    }
}

impl Drop for Moves {
    fn drop(&mut self) {
        let _off = fs::write(self.0.join("events/timer/timer_start/enable"), "0");
        let _gone = fs::remove_dir(&self.0);
    }
}
