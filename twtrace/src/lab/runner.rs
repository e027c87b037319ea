//! The lab's own clockwork: a namespace and a thread for each scenario, one tracer for all of them, a verdict for each.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use twtrace_common::knob::Filter;

use super::{
    alone::Alone,
    judge::{Knows, Made, Verdict, judge},
    scenarios::{Play, Scenario},
    stage::{Older, Stage, Stop},
    told::Told,
};
use crate::{
    bpf::{Settings, Tables},
    host::{Host, clock::monotonic_ns, netns::Netns},
    model::{event::Event, kernel::TwCounts, totals},
    plan::{Backend, Capability, Failure, Plan},
    source::Source as _,
    tracer::{Attempt, Tracer, TracerError},
    traffic::{
        hand::Hand,
        lives,
        oracle::{Look, Looks},
    },
};

/// Room for what a storm makes between two looks at the ring, and for a busy machine beside it.
const TABLES: Tables = Tables { ring: 16 << 20, lives: 1 << 17, conns: 1 << 16 };
/// Between two looks at the ring.
const DRAIN: Duration = Duration::from_millis(5);
/// How long a verdict may take to become good once the scenario is over: softirqs, and cleanup_net in its worker.
const SETTLE: Duration = Duration::from_secs(30);
/// Between two judgements of one scenario.
const AGAIN: Duration = Duration::from_millis(30);
/// What every scenario's namespace begins with. RFC 1337's protection, for on a slow machine a FIN is sent again, finds its
/// socket closed and is answered by a RST; and room, for the kernel's own limit follows the machine's memory.
const SYSCTLS: [(&str, &str); 2] = [("tcp_rfc1337", "1"), ("tcp_max_tw_buckets", "65536")];

/// What is asked of the lab.
pub struct Asked<'a> {
    /// The machine.
    pub host: &'a Host,
    /// Another BTF for the fields' offsets.
    pub btf: Option<&'a Path>,
    /// One backend alone.
    pub forced: Option<Backend>,
    /// Which scenarios.
    pub scenarios: Vec<&'static Scenario>,
    /// How many at a time.
    pub jobs: usize,
    /// Connections of a storm.
    pub connections: usize,
    /// The program that helper processes execute: twtrace itself.
    pub program: PathBuf,
}

/// What came of a scenario.
#[derive(Clone, Debug)]
pub enum Ruling {
    /// The scenario was made and judged.
    Judged(Verdict),
    /// The tracer's backend cannot know what it shows; why.
    NotOffered(String),
    /// This kernel cannot do it; its own words.
    NotHere(String),
    /// The scenario could not be made.
    Failed(String),
}

/// One scenario's run.
#[derive(Debug)]
pub struct Ran {
    /// Which.
    pub scenario: &'static Scenario,
    /// What came of it.
    pub ruling: Ruling,
    /// What was made.
    pub made: Made,
    /// What was told of its namespaces.
    pub events: Vec<Event>,
    /// How long it took.
    pub took: Duration,
}

/// All of it.
#[derive(Debug)]
pub struct Lab {
    /// What the tracer offered.
    pub plan: Plan,
    /// What its self-test saw.
    pub self_test: String,
    /// What the judge took for granted.
    pub knows: Knows,
    /// Each scenario, in the order in which they ended.
    pub ran: Vec<Ran>,
    /// What the tracer says itself that it missed: zero counts are left out.
    pub trouble: Vec<(&'static str, u64)>,
}

/// Why there was no lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// There is no tracer.
    #[error(transparent)]
    Tracer(#[from] TracerError),
    /// A namespace or a helper process could not be made.
    #[error("{0}")]
    Stage(#[from] io::Error),
}

/// A scenario with all that it needs before the tracer comes.
struct Prepared {
    scenario: &'static Scenario,
    netns: Arc<Netns>,
    twin: Option<Netns>,
    hands: Vec<Hand>,
    made: Option<(Made, Option<Older>)>,
    failed: Option<Stop>,
}

/// Runs the scenarios; `tell` hears of each as it ends. Must be called inside a tokio runtime.
///
/// # Errors
/// If there can be no tracer, or no namespace. `failures`: what was tried in any case.
pub fn run(asked: &Asked<'_>, failures: &mut Vec<Failure>, tell: &mut dyn FnMut(&Ran)) -> Result<Lab, LabError> {
    // Helpers first, then sockets: a process that is being started holds every descriptor of this one.
    let mut prepared =
        asked.scenarios.iter().map(|&scenario| prepare(scenario, &asked.program)).collect::<io::Result<Vec<_>>>()?;
    for scene in &mut prepared {
        make_before(scene)?;
    }
    let mut tracer = start(asked, TABLES, 0, failures)?;
    let knows = knows(&tracer.plan);
    let told = Told::default();
    tracer.early.drain(..).for_each(|event| told.keep(event));
    // They stay to the end: what is alive in them is held against the table of lives once more.
    let spaces: Vec<Arc<Netns>> = prepared.iter().map(|scene| Arc::clone(&scene.netns)).collect();
    let (alone, beside): (Vec<Prepared>, Vec<Prepared>) =
        prepared.into_iter().partition(|scene| matches!(scene.scenario.play, Play::Alone(_)));
    let mut ran = Vec::new();
    let context = Context {
        told: &told,
        plan: &tracer.plan,
        knows,
        tw_counts: tracer.tw_counts,
        asked,
        runtime: Handle::current(),
    };
    let total = beside.len();
    let queue = Mutex::new(beside.into_iter());
    thread::scope(|scope| {
        let (send, receive) = channel();
        let (queue, context) = (&queue, &context);
        for _ in 0..asked.jobs.min(total) {
            let send = send.clone();
            scope.spawn(move || work(queue, context, &send));
        }
        drop(send);
        collect(&mut tracer.ring, &told, &receive, |done| {
            tell(&done);
            ran.push(done);
        });
    });
    let trouble = finish(&mut tracer, &told, &spaces)?;
    let (plan, self_test, tw_counts) = (tracer.plan.clone(), tracer.self_test.clone(), tracer.tw_counts);
    drop(tracer);
    let context = Context { told: &told, plan: &plan, knows, tw_counts, asked, runtime: Handle::current() };
    for scene in alone {
        let done = perform(scene, &context);
        tell(&done);
        ran.push(done);
    }
    Ok(Lab { plan, self_test, knows, ran, trouble })
}

fn start(
    asked: &Asked<'_>,
    tables: Tables,
    own_netns: u32,
    failures: &mut Vec<Failure>,
) -> Result<Tracer, TracerError> {
    let mut filter = Filter::ALL;
    if own_netns != 0 {
        (filter.netns[0], filter.netns_len) = (own_netns, 1);
    }
    let settings = Settings { filter, ..Settings::all(tables, own_netns) };
    let attempt = Attempt { host: asked.host, btf: asked.btf, forced: asked.forced, settings: &settings };
    Tracer::start(&attempt, failures)
}

fn knows(plan: &Plan) -> Knows {
    Knows {
        turns_late: plan.is(Capability::Turn, Backend::Tracepoint),
        no_port: plan.backend(Capability::NoPort).is_some(),
        reuse_denied: plan.backend(Capability::ReuseDenied).is_some(),
        no_bind: plan.backend(Capability::NoBind).is_some(),
    }
}

/// Gives the calling thread's namespace what every scenario's begins with.
///
/// # Errors
/// If a sysctl cannot be written.
pub fn set_up() -> io::Result<()> {
    SYSCTLS.iter().try_for_each(|(name, value)| lives::sysctl(name, value))
}

/// A namespace, and helpers that live in it.
fn prepare(scenario: &'static Scenario, program: &Path) -> io::Result<Prepared> {
    let netns = Arc::new(Netns::new()?);
    let twin = scenario.twin.then(Netns::new).transpose()?;
    let hands = netns.run(|| {
        set_up()?;
        (0..scenario.hands).map(|_| Hand::start(program)).collect()
    })?;
    Ok(Prepared { scenario, netns, twin, hands, made: None, failed: None })
}

fn make_before(scene: &mut Prepared) -> io::Result<()> {
    let Some(before) = scene.scenario.before else { return Ok(()) };
    let netns = &scene.netns;
    let (result, made) = netns.run(|| {
        let mut stage = Stage::new(netns, Vec::new())?;
        let result = before(&mut stage);
        Ok((result, (stage.made, stage.older)))
    })?;
    scene.failed = result.err();
    scene.made = Some(made);
    Ok(())
}

/// What all scenarios share.
struct Context<'a> {
    told: &'a Told,
    plan: &'a Plan,
    knows: Knows,
    tw_counts: Option<TwCounts>,
    asked: &'a Asked<'a>,
    /// Where a tracer's ring is registered; scenarios run in threads of their own.
    runtime: Handle,
}

/// Takes scenarios until there are none left.
fn work(queue: &Mutex<std::vec::IntoIter<Prepared>>, context: &Context<'_>, send: &Sender<Ran>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(scene) = next else { return };
        if send.send(perform(scene, context)).is_err() {
            return;
        }
    }
}

/// Empties the ring until all workers are gone.
fn collect(ring: &mut crate::source::Ring, told: &Told, done: &Receiver<Ran>, mut each: impl FnMut(Ran)) {
    loop {
        ring.drain(usize::MAX, &mut |bytes| told.read(bytes));
        match done.recv_timeout(DRAIN) {
            Ok(ran) => each(ran),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Stops the tracer, and asks it what it missed.
fn finish(tracer: &mut Tracer, told: &Told, spaces: &[Arc<Netns>]) -> Result<Vec<(&'static str, u64)>, LabError> {
    let missed = tracer.missed().map_err(TracerError::from)?;
    // The lab's namespaces have no process of their own, so nobody finds them.
    let spaces: Vec<&Netns> = spaces.iter().map(AsRef::as_ref).collect();
    let audit = tracer.audit(&spaces).map_err(TracerError::from)?;
    let unborn = told.unborn(&spaces);
    let mut beside = totals::Beside { missed, unborn, early_lost: tracer.early_lost, ..Default::default() };
    beside.looked(&audit, monotonic_ns());
    tracer.stop().map_err(TracerError::from)?;
    tracer.settle();
    let counters = tracer.counters().map_err(TracerError::from)?;
    let totals = totals::totals(&counters, &beside);
    let mut trouble: Vec<_> = totals.trouble.iter().map(|&(name, count)| (name.word(), count)).collect();
    if totals.lost > 0 {
        trouble.insert(0, ("lost", totals.lost));
    }
    match told.unusable() {
        0 => {}
        count => trouble.push(("unusable", count)),
    }
    Ok(trouble)
}

/// One scenario, in a thread of its own inside its namespace.
fn perform(scene: Prepared, context: &Context<'_>) -> Ran {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let scenario = scene.scenario;
    let began = Instant::now();
    let mut made = Made::default();
    let ruling = match not_offered(scenario, context.plan) {
        Some(reason) => Ruling::NotOffered(reason),
        None => {
            // Fifteen bytes are all that a thread's name has; the number keeps it unique.
            let name = format!("lab{}-{}", NUMBER.fetch_add(1, Ordering::Relaxed), scenario.name);
            let name = name.get(..15).unwrap_or(&name).to_owned();
            let result = thread::scope(|scope| {
                let act = || act(scene, context);
                let thread = thread::Builder::new().name(name).spawn_scoped(scope, act)?;
                thread.join().unwrap_or_else(|_| Err(io::Error::other("the scenario panicked").into()))
            });
            match result {
                Ok((done, verdict)) => {
                    made = done;
                    Ruling::Judged(verdict)
                }
                Err(Stop::NotHere(reason)) => Ruling::NotHere(reason),
                Err(Stop::Failed(error)) => Ruling::Failed(error.to_string()),
            }
        }
    };
    let events = context.told.of(&made.netns);
    Ran { scenario, ruling, made, events, took: began.elapsed() }
}

/// The first capability that the scenario needs and the tracer does not have, and why not.
fn not_offered(scenario: &Scenario, plan: &Plan) -> Option<String> {
    let missing = scenario.needs.iter().copied().find(|&capability| plan.backend(capability).is_none())?;
    Some(format!("{}: {}", missing.name(), plan.reasons(missing).unwrap_or_default()))
}

fn act(scene: Prepared, context: &Context<'_>) -> Result<(Made, Verdict), Stop> {
    let Prepared { scenario, netns, twin, hands, made, failed } = scene;
    if let Some(failed) = failed {
        return Err(failed);
    }
    netns.enter()?;
    let mut stage = Stage::new(&netns, hands)?;
    (stage.twin, stage.connections) = (twin, context.asked.connections);
    if let Some((made, older)) = made {
        (stage.made, stage.older) = (made, older);
    }
    match scenario.play {
        Play::Beside(play) => {
            let before = Look::take()?;
            play(&mut stage)?;
            settle(&mut stage, before, context).map_err(Stop::Failed)
        }
        Play::Alone(play) => {
            let _guard = context.runtime.enter();
            let mut failures = Vec::new();
            let tracer = start(context.asked, Alone::TABLES, netns.inum(), &mut failures).map_err(io::Error::other)?;
            play(&mut stage, &mut Alone::new(tracer))?;
            let verdict = judge(&stage.made, &[], context.knows);
            Ok((stage.made, verdict))
        }
    }
}

/// Judges again and again until the verdict is good twice, or it is plain that it will not be.
fn settle(stage: &mut Stage<'_>, before: Look, context: &Context<'_>) -> io::Result<(Made, Verdict)> {
    let deadline = Instant::now() + SETTLE;
    let mut made = std::mem::take(&mut stage.made);
    let mut good = 0;
    loop {
        let after = Look::take()?;
        made.looks = Some(Looks { before: before.clone(), after, tw_counts: context.tw_counts });
        made.until_ns = monotonic_ns();
        thread::sleep(AGAIN);
        let verdict = judge(&made, &context.told.of(&made.netns), context.knows);
        good = if verdict.is_good() { good + 1 } else { 0 };
        if good == 2 || Instant::now() > deadline {
            return Ok((made, verdict));
        }
    }
}
