//! Sockets that are older than the tracer, and those that come to be while it starts: each is told once, as a seed or by
//! its birth.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use twtrace::{
    bpf::Settings,
    decode::decode,
    host::netns::Netns,
    lab::stage::{Family, First},
    model::event::{Detail, Event, Life, Substate, Tuple},
    source::Source as _,
    tracer::Tracer,
    traffic::{diag, lives},
};

use crate::{
    inside::{Resident, settings, traced},
    scene::{Scene, fresh},
    tracer::{missed, traffic},
};

type Outcome = Result<(), String>;

/// More than the iterator's reader takes at once, so that the walk is made in parts.
const OLDER: usize = 500;
/// FIN_WAIT2 minisocks among them.
const ORPHANS: usize = 3;
/// Threads that make connections while the tracer starts.
const THREADS: u8 = 2;
/// Most that one of them makes.
const MOST: u16 = 20_000;
/// How often the time that a connection takes they rest after it.
const REST: u32 = 4;
/// How long they go on when it has started.
const ON: Duration = Duration::from_millis(300);

/// All that a tracer told of one namespace.
#[derive(Default)]
struct Told {
    seeds: Vec<Life>,
    births: Vec<Life>,
    found: Vec<Life>,
}

pub fn seeds(backend: &str) -> Outcome {
    let netns = fresh()?;
    let _resident = Resident::of(&netns)?;
    let _orphans = older(&netns)?;
    let wanted = Settings { keep_seeds: true, ..settings(&netns) };
    let (stop, begun) = (AtomicBool::new(false), Barrier::new(usize::from(THREADS) + 1));
    let (told, alive) = thread::scope(|scope| {
        let (netns, stop, begun) = (&netns, &stop, &begun);
        let storms: Vec<_> =
            (0..THREADS).map(|number| scope.spawn(move || traffic(netns, || storm(number, stop, begun)))).collect();
        begun.wait();
        let result = traced(backend, &wanted, |tracer| {
            let mut told = Told { seeds: std::mem::take(&mut tracer.seeds), ..Told::default() };
            let births = |told: &mut Told, event: &Event| {
                let is_birth = matches!(event.detail, Detail::Born { .. }) && !event.self_test;
                told.births.extend(is_birth.then_some(event.life));
            };
            std::mem::take(&mut tracer.early).iter().for_each(|event| births(&mut told, event));
            let until = Instant::now() + ON;
            let mut over = false;
            loop {
                let count = tracer.ring.drain(usize::MAX, &mut |bytes| {
                    if let Ok(event) = decode(bytes) {
                        births(&mut told, &event);
                    }
                });
                if over && count == 0 {
                    break;
                }
                over = over || Instant::now() > until;
                if over && !stop.swap(true, Relaxed) {
                    while storms.iter().any(|storm| !storm.is_finished()) {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                thread::sleep(Duration::from_millis(20));
            }
            audit(tracer, netns, &mut told)?;
            let alive = netns.run(diag::minisocks).map_err(|error| error.to_string())?;
            Ok((told, alive))
        });
        // They wait for nobody, whatever has become of the tracer.
        stop.store(true, Relaxed);
        let made: Result<Vec<()>, String> = storms
            .into_iter()
            .map(|storm| storm.join().unwrap_or_else(|_| Err("a thread of the storm panicked".to_owned())))
            .collect();
        made.and(result)
    })?;
    compare(&netns, &told, &alive)
}

/// What was there before: TIME_WAITs, and FIN_WAIT2 minisocks, whose peers' ends are handed back open.
fn older(netns: &Netns) -> Result<Vec<TcpStream>, String> {
    let mut scene = Scene::new(netns)?;
    let listener = scene.listen()?;
    scene.live(&listener, First::Client, OLDER)?;
    scene.act(|stage| (0..ORPHANS).map(|_| stage.fin_wait2(&listener, Some(stage.source(Family::V4)))).collect())
}

/// Connections that their client closes, each from a port of its own, until it is over.
fn storm(number: u8, stop: &AtomicBool, begun: &Barrier) -> io::Result<()> {
    /// Above those of the stage, which are on another address.
    const FIRST: u16 = 2_000;
    let listener = lives::listen((Ipv4Addr::LOCALHOST, 0).into());
    begun.wait();
    let listener = listener?;
    let mut ports = FIRST..FIRST + MOST;
    while !stop.load(Relaxed) {
        let began = Instant::now();
        if let Some(port) = ports.next() {
            let from = SocketAddr::from((Ipv4Addr::new(127, 0, 1, number), port));
            let pair = lives::connect(&listener, Some(from))?;
            lives::close_in_order(pair.client, pair.server)?;
        }
        // An emulated machine has the programs to verify meanwhile.
        thread::sleep(REST * began.elapsed());
    }
    Ok(())
}

/// Looks once more: there is nothing to be found, or the tracer says that it missed something.
fn audit(tracer: &mut Tracer, netns: &Netns, told: &mut Told) -> Outcome {
    let audit = tracer.audit(&[netns]).map_err(|error| error.to_string())?;
    let counters = tracer.counters().map_err(|error| error.to_string())?;
    // Other tests' namespaces come and go; theirs is not to be had apart.
    missed("found", audit.found.len() as u64);
    missed("stale", counters.trouble.stale);
    told.found = audit.found;
    // The servers of the storm close second.
    let passive = tracer.passive().map_err(|error| error.to_string())?;
    if !passive.is_empty() {
        return Err(format!("passive closes are counted that nobody asked for: {passive:?}"));
    }
    let lost: u64 = counters.lost.iter().sum::<u64>() + counters.trouble.seeds_full + counters.trouble.lives_full;
    if lost > 0 { Err(format!("{lost} lost: {counters:?}")) } else { Ok(()) }
}

/// Every minisock is told once and in one way; what is alive is told.
fn compare(netns: &Netns, told: &Told, alive: &[(Tuple, Substate)]) -> Outcome {
    let Told { seeds, births, found } = told;
    crate::line(&format!(
        "seeds: {} seeds, {} births, {} found later, {} alive",
        seeds.len(),
        births.len(),
        found.len(),
        alive.len()
    ));
    let mut times: HashMap<Tuple, [usize; 3]> = HashMap::new();
    let mut ids = HashSet::new();
    for (way, lives) in [seeds, births, found].into_iter().enumerate() {
        for life in lives {
            let tuple = life.tuple.ok_or_else(|| format!("no tuple: {life:?}"))?;
            times.entry(tuple).or_default()[way] += 1;
            let id = life.id.ok_or_else(|| format!("no id: {life:?}"))?;
            if life.netns != Some(netns.inum())
                || life.preexisting != [Some(true), Some(false), None][way]
                || !ids.insert(id)
            {
                return Err(format!("a life of another namespace, of a wrong mark, or of another's id: {life:?}"));
            }
        }
    }
    if let Some((tuple, times)) = times.iter().find(|(_, times)| times.iter().sum::<usize>() != 1) {
        return Err(format!("{tuple:?} is told {times:?} times as a seed, by its birth, and later"));
    }
    if let Some((tuple, _)) = alive.iter().find(|(tuple, _)| !times.contains_key(tuple)) {
        return Err(format!("{tuple:?} is alive and told neither as a seed nor by its birth"));
    }
    let orphans: HashSet<Tuple> =
        alive.iter().filter(|(_, state)| *state == Substate::FinWait2).map(|(tuple, _)| *tuple).collect();
    let is_orphan = |life: &&Life| life.tuple.is_some_and(|tuple| orphans.contains(&tuple));
    if let Some(odd) = seeds.iter().filter(is_orphan).find(|life| life.substate != Some(Substate::FinWait2)) {
        return Err(format!("still in FIN_WAIT2, and told as {odd:?}"));
    }
    // On a slow machine the first may be over when the tracer comes.
    if seeds.len() < OLDER / 2 || births.is_empty() || !found.is_empty() {
        return Err(format!("{} seeds, {} births, {} found later", seeds.len(), births.len(), found.len()));
    }
    Ok(())
}
