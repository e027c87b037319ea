//! Events inside events, made on purpose: one thread's programs linger while its CPU handles the packets of another's
//! connections, so that softirqs interrupt them. The kernel runs no program on a CPU that is running it, and counts that.

use std::{
    ffi::CStr,
    fs, io,
    net::{Ipv4Addr, Shutdown},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{CpuSet, UnshareFlags, gettid, sched_setaffinity, unshare_unsafe},
};
use twtrace::{
    bpf::Settings,
    decode::decode,
    host::{Host, netns::Netns},
    model::{
        event::{Detail, Kind},
        reconcile::{Rest, reconcile},
        report::Reconciled,
    },
    reconcile::Scope,
    source::Source as _,
    tracer::Tracer,
    traffic::lives::{self, Pair},
};
use twtrace_common::knob::Linger;

use crate::{
    inside::{settings, traced},
    scene::{Scene, fresh},
    tracer::nobody_forks,
};

type Outcome = Result<(), String>;

/// Of include/net/tcp_states.h: transitions that run in a task with softirqs on, in connect() and in close().
const SYN_SENT: u32 = 2;
const FIN_WAIT1: u32 = 4;
/// As the others; without the duty `passive` no program has anything to do there.
const LAST_ACK: u32 = 9;
/// How long a program lingers, nanoseconds: some ten events of the other thread's.
const LONG: u32 = 400_000;
/// Connections whose programs linger.
const SLOW: usize = 600;
/// Only one test may nest at a time: it wants both CPUs.
static ALONE: Mutex<()> = Mutex::new(());

/// Why nothing can be nested here; `None` if it can.
pub fn missing() -> Option<String> {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        return Some("events are nested by a second CPU, and there is one".to_owned());
    }
    let rps = fresh().and_then(|netns| netns.run(steer).map_err(|error| error.to_string()));
    rps.err().map(|error| format!("packets cannot be steered to another CPU (CONFIG_RPS): {error}"))
}

/// Has CPU 0 handle all packets of the loopback device of the calling thread's namespace.
fn steer() -> io::Result<()> {
    // SAFETY: this short-lived thread gets a tree of mounts of its own; no file descriptor table is unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // What is mounted shows the devices of the namespace that mounted it.
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None::<&CStr>)?;
    fs::write("/sys/class/net/lo/queues/rx-0/rps_cpus", "1")
}

/// Nothing that is missed goes unsaid, wherever the events come in: while the first program of a hook runs, and between it
/// and the second.
pub fn nested(backend: &str) -> Outcome {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut wrong = Vec::new();
    for (first_ns, second_ns) in [(LONG, 0), (0, LONG)] {
        let linger = Linger { first_ns, second_ns, changes: 1 << SYN_SENT | 1 << FIN_WAIT1 | 1 << LAST_ACK, tid: 0 };
        wrong.extend(lingering(backend, linger).err().map(|error| format!("{linger:?}: {error}")));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn lingering(backend: &str, linger: Linger) -> Outcome {
    let netns = Arc::new(fresh()?);
    netns.run(steer).map_err(text)?;
    let over = AtomicBool::new(false);
    let (tell, tid) = channel();
    let ((go, start), (go_too, start_too)) = (channel(), channel());
    thread::scope(|scope| {
        let (netns, over) = (&netns, &over);
        let slow = scope.spawn(move || {
            let tid = gettid().as_raw_nonzero().get().cast_unsigned();
            tell.send(tid).map_err(text)?;
            let made = connections(netns, 0, &start, |made| made < SLOW);
            over.store(true, Relaxed);
            made
        });
        let noise = scope.spawn(move || connections(netns, 1, &start_too, |_| !over.load(Relaxed)));
        let tid = tid.recv().map_err(text)?;
        let wanted = Settings { linger: Linger { tid, ..linger }, own_netns: netns.inum(), ..settings(netns) };
        let result = traced(backend, &wanted, |tracer| {
            let whose = Scope::other(&Host::default(), Arc::clone(netns));
            let (before, _) = whose.look(tracer).map_err(text)?;
            let nobody = nobody_forks();
            go.send(()).and(go_too.send(())).map_err(text)?;
            let mut told = Told::default();
            while !(slow.is_finished() && noise.is_finished()) {
                drain(tracer, &mut told);
                thread::sleep(Duration::from_millis(5));
            }
            drop(nobody);
            let (after, rest) = whose.look(tracer).map_err(text)?;
            drain(tracer, &mut told);
            let audit = tracer.audit(&[netns]).map_err(text)?;
            if rest == Rest::Moving {
                return Err("the counters did not stand still".to_owned());
            }
            told.unseen += audit.found.len() as u64;
            judge(tracer, &told, &reconcile(&before, &after, tracer.tw_counts, true))
        });
        // Whoever was not let go goes home.
        drop((go, go_too));
        [slow, noise].into_iter().try_for_each(|it| it.join().unwrap_or_else(|_| Err("it panicked".to_owned())))?;
        result
    })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Makes connections on a CPU as fast as it goes, as long as `more` says of their number so far.
fn connections(netns: &Netns, cpu: usize, start: &Receiver<()>, more: impl Fn(usize) -> bool) -> Outcome {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(text)?;
    netns.enter().map_err(text)?;
    let listener = lives::listen((Ipv4Addr::LOCALHOST, 0).into()).map_err(text)?;
    if start.recv().is_err() {
        return Ok(());
    }
    let mut made = 0;
    while more(made) {
        let pair = lives::connect(&listener, None).map_err(text)?;
        lives::close_in_order(pair.client, pair.server).map_err(text)?;
        made += 1;
    }
    Ok(())
}

/// What was told of the namespace.
#[derive(Default)]
struct Told {
    births: u64,
    /// Births of whose connection no program saw the beginning or the end.
    strangers: u64,
    /// Minisocks of whose birth no program told.
    unseen: u64,
}

fn drain(tracer: &mut Tracer, told: &mut Told) {
    tracer.ring.drain(usize::MAX, &mut |bytes| {
        let Ok(event) = decode(bytes) else { return };
        match event.detail {
            _ if event.self_test => {}
            Detail::Born { .. } => {
                told.births += 1;
                told.strangers += u64::from(event.life.closer.is_none() || event.life.role.is_none());
            }
            Detail::Died { .. } => told.unseen += u64::from(event.life.id.is_none()),
            _ => {}
        }
    });
}

/// What the kernel's counters say against what was told, and what was said to be missed or unseen.
fn judge(tracer: &Tracer, told: &Told, rows: &[Reconciled]) -> Outcome {
    let missed = tracer.missed().map_err(text)?.runs;
    let skips = tracer.skips().map_err(text)?;
    let Told { births, strangers, unseen } = *told;
    let at_close = tracer.counters().map_err(text)?.trouble.unseen_births;
    let told = format!(
        "{births} births, {strangers} without closer or role; {missed:?} missed runs; {unseen} births unseen, on the whole machine \
         {at_close} at the close; {skips:?}"
    );
    crate::line(&told);
    if skips.iter().any(|of| of.skipped.is_some_and(|skipped| of.met > skipped)) {
        return Err(format!("more was made up for than the kernel skipped, which hides as many misses: {told}"));
    }
    let said = missed.unwrap_or(u64::MAX).saturating_add(unseen);
    if strangers > said {
        return Err(format!("more was missed than is said: {told}"));
    }
    match rows.iter().find(|row| row.diff.unsigned_abs() > said) {
        Some(row) => Err(format!("the kernel differs by more than is said: {row:?}; {told}")),
        None => Ok(()),
    }
}

/// A missed birth is no refusal: with the program of births taken off its hook, each close is counted as what it is.
pub fn unseen_births(backend: &str) -> Outcome {
    const LIVES: usize = 20;
    let program = match backend {
        "tracepoint" => "birth_tp",
        "kprobe" => "birth_kprobe",
        // It sees the allocation itself.
        _ => return Ok(()),
    };
    let netns = fresh()?;
    let mut scene = Scene::new(&netns)?;
    traced(backend, &settings(&netns), |tracer| {
        tracer.blind(program).map_err(text)?;
        let listener = scene.listen()?;
        // Not by close(): an orphan whose FIN is acknowledged before the peer's comes may as well have been aborted.
        scene.act(|_| {
            (0..LIVES).try_for_each(|_| {
                let Pair { mut client, mut server } = lives::connect(&listener, None)?;
                client.shutdown(Shutdown::Write)?;
                lives::expect_end(&mut server)?;
                drop(server);
                lives::expect_end(&mut client)
            })
        })?;
        let mut told = Vec::new();
        thread::sleep(Duration::from_millis(100));
        tracer.ring.drain(usize::MAX, &mut |bytes| told.extend(decode(bytes).ok()));
        let unseen = tracer.counters().map_err(text)?.trouble.unseen_births;
        let refused = told.iter().filter(|event| event.kind() == Kind::Refused).count();
        // Others make connections too, and the counter is of the whole machine.
        if refused == 0 && unseen >= LIVES as u64 {
            return Ok(());
        }
        Err(format!("{LIVES} births were missed: {unseen} counted, {refused} told as refusals: {told:?}"))
    })
}
