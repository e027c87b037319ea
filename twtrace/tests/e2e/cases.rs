//! The cases that run once a backend: real sockets, the real tracer's JSON, the lab's judge, the kernel's own counters.

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use twtrace::{
    host::netns::Netns,
    lab::{scenarios::Scenario, stage::First},
    model::event::Kind,
    selftest,
    traffic::{
        lives, oracle,
        segment::{self, Segment},
    },
};

use crate::{
    parse,
    scene::{Scene, fresh, judge, knows},
    summary,
    tracer::{PATIENCE, Tracer, programs_of, traffic},
};

/// How much traffic this machine can be asked for.
#[derive(Clone, Copy)]
pub struct Scale {
    /// Connections of the storm.
    pub storm: usize,
    /// Runs that are ended in the middle of one.
    pub stops: usize,
    /// Addresses that one goes to meanwhile: 200 minisocks each are what every start and every end looks through.
    pub addresses: u32,
    /// Minisocks that a table has room for which is filled: a power of four.
    pub lives: usize,
    /// Connections of the conformance run.
    pub connections: usize,
}

type Outcome = Result<(), String>;

/// The scenarios whose lines are judged, in the order in which they are played: one filter holds eight namespaces.
const LIVES: [&[&str]; 3] = [
    &["client-close", "server-close", "ipv6", "v4-mapped", "orphan-turn", "reuse", "reuse-bound", "recycle"],
    &["rst", "fin-wait2-data", "kill", "orphan-expire", "overflow", "no-port", "reuse-denied", "fd-kept"],
    &["no-port-bound", "no-bind"],
];

/// The lab's ways to live and die, as JSON lines.
pub fn every_life(backend: &str) -> Outcome {
    LIVES.iter().try_for_each(|names| played(backend, names, 0, &[]))
}

/// Thousands of connections as fast as they go: no difference, nothing lost.
pub fn storm(backend: &str, scale: Scale) -> Outcome {
    played(backend, &["storm"], scale.storm, &["--ring-size", "16M"])
}

/// One tracer, and a namespace for each of these scenarios: all lines judged, and all counters.
fn played(backend: &str, names: &[&str], connections: usize, more: &[&str]) -> Outcome {
    let spaces = names.iter().map(|_| fresh()).collect::<Result<Vec<Netns>, _>>()?;
    let (first, others) = spaces.split_first().ok_or("no scenario")?;
    let inums: Vec<String> = others.iter().map(|netns| netns.inum().to_string()).collect();
    let args = inums.iter().flat_map(|inum| ["--netns", inum]).chain(more.iter().copied());
    let tracer = Tracer::start(first, backend, &args.collect::<Vec<_>>())?;
    if tracer.start["self_test"] != "passed" {
        return Err(format!("self-test: {}", tracer.start));
    }
    let mut played = Vec::new();
    for (name, netns) in names.iter().zip(&spaces) {
        let scenario = Scenario::find(name).ok_or_else(|| format!("no scenario {name}"))?;
        let offered = |name: &str| !tracer.start["capabilities"][name]["backend"].is_null();
        let mut scene = Scene::new(netns)?;
        scene.stage.connections = connections;
        if scenario.needs.iter().all(|need| offered(need.name())) && scene.play(scenario)? {
            played.push((name, scene.end()?));
        }
    }
    let knows = knows(&tracer.start);
    let said = tracer.stop(Signal::INT)?;
    let events = parse::events(&said.lines)?;
    for (name, made) in &played {
        judge(made, &events, knows).map_err(|what| format!("{name}: {what}"))?;
    }
    summary::exact(&said, &events)
}

/// A ring of one page and a reader that is stopped meanwhile: the counters stay exact, what was lost is counted.
pub fn small_ring(backend: &str) -> Outcome {
    let netns = fresh()?;
    let mut scene = Scene::new(&netns)?;
    let tracer = Tracer::start(&netns, backend, &["--ring-size", "4096"])?;
    let count = 500;
    tracer.signal(Signal::STOP)?;
    let listener = scene.listen();
    let made = listener.and_then(|listener| scene.live(&listener, First::Client, count));
    tracer.signal(Signal::CONT)?;
    made?;
    let said = tracer.stop(Signal::INT)?;
    summary::reconciled(&said.summary)?;
    let lost = summary::conserved(&said.summary)?;
    let born = said.summary["born_time_wait"].as_u64().zip(said.summary["born_fin_wait2"].as_u64());
    if born.map(|(a, b)| a + b) != Some(count as u64) {
        return Err(format!("{count} births were made: {}", said.summary));
    }
    let events = parse::events(&said.lines)?;
    let told = events.iter().filter(|event| event.kind() == Kind::Born).count() as u64;
    let births_lost = count as u64 - told;
    if lost == 0 || births_lost > lost || said.summary["exact"] != false {
        return Err(format!("{births_lost} births are missing, {lost} records counted as lost: {}", said.summary));
    }
    Ok(())
}

/// Filters and an expression that leave only the server's side of one of two services: all else is counted as filtered.
pub fn filters(backend: &str) -> Outcome {
    let netns = fresh()?;
    let mut scene = Scene::new(&netns)?;
    let (wanted, other) = (scene.listen()?, scene.listen()?);
    let [port, not] = [&wanted, &other].map(|listener| listener.local_addr().map(|address| address.port().to_string()));
    let [port, not] = [port, not].map(|port| port.map_err(|error| error.to_string()));
    let (port, not) = (port?, not?);
    let asked: [&[&str]; 2] = [
        &["--lport", &port, "--role", "server", "--laddr", "127.0.0.0/8", "-4"],
        // The programs compare the role; the rest is left to user space.
        &["--by", "port", "role", "server", "and", "not", "src", "port", &not, "and", "(ip", "or", "life", ">", "1h)"],
    ];
    let tracers = asked.iter().map(|asked| Tracer::start(&netns, backend, asked)).collect::<Result<Vec<_>, _>>()?;
    scene.live(&wanted, First::Server, 30)?;
    scene.live(&wanted, First::Client, 20)?;
    scene.live(&other, First::Server, 10)?;
    let mut made = scene.end()?;
    // The kernel counts those that the filter leaves out too.
    made.looks = None;
    let left_out = made.wants.split_off(30).len();
    for (tracer, asked) in tracers.into_iter().zip(asked) {
        let knows = knows(&tracer.start);
        let said = tracer.stop(Signal::INT)?;
        let events = parse::events(&said.lines)?;
        judge(&made, &events, knows).map_err(|error| format!("{asked:?}: {error}"))?;
        summary::exact(&said, &events)?;
        let filtered = said.summary["filtered"].as_u64().unwrap_or(0);
        if filtered < left_out as u64 {
            return Err(format!("{asked:?}: {filtered} filtered, at least {left_out} should be: {}", said.summary));
        }
        let rows = said.lines.iter().rev().find_map(|line| line["by"]["ports"]["rows"].as_array());
        let rows = rows.into_iter().flatten().map(|row| (row["port"].to_string(), row["live"].as_u64()));
        let rows: Vec<_> = rows.collect();
        if asked[0] == "--by" && rows != [(port.clone(), Some(30))] {
            return Err(format!("{asked:?}: ports and lives {rows:?}, not 30 of {port}"));
        }
    }
    Ok(())
}

/// Two tracers at once both work; `kill -9` of one leaves nothing of it in the kernel, and the other goes on.
pub fn two_and_kill(backend: &str) -> Outcome {
    let netns = fresh()?;
    let mut scene = Scene::new(&netns)?;
    let first = Tracer::start(&netns, backend, &[])?;
    let second = Tracer::start(&netns, backend, &[])?;
    let programs = programs_of(first.pid())?;
    if programs.is_empty() {
        return Err("the tracer holds no BPF program".to_owned());
    }
    let listener = scene.listen()?;
    scene.live(&listener, First::Client, 25)?;
    first.kill()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<u32> = aya::programs::loaded_programs()
            .filter_map(Result::ok)
            .map(|program| program.id())
            .filter(|id| programs.contains(id))
            .collect();
        if left.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            return Err(format!("programs {left:?} outlived their tracer"));
        }
        thread::sleep(Duration::from_millis(50));
    }
    scene.live(&listener, First::Client, 25)?;
    let (made, knows) = (scene.end()?, knows(&second.start));
    let said = second.stop(Signal::INT)?;
    let events = parse::events(&said.lines)?;
    judge(&made, &events, knows)?;
    summary::exact(&said, &events)
}

/// A RST in the self-test's namespace ends no minisock: the one that answers a FIN which a stalled machine sends again must not
/// be taken for a backend that tells the wrong cause.
pub fn self_test_resets() -> Outcome {
    let netns = Netns::new().map_err(|error| format!("a network namespace: {error}"))?;
    let left = traffic(&netns, || {
        selftest::make(&netns)?;
        let listener = lives::listen((Ipv4Addr::LOCALHOST, 0).into())?;
        let pair = lives::connect(&listener, None)?;
        let client = pair.client.local_addr()?;
        let at = segment::sequence(&pair.client)?;
        lives::close_in_order(pair.client, pair.server)?;
        if !oracle::minisocks_reach(1, PATIENCE)? {
            return Ok(None);
        }
        // Behind the peer's FIN: tw_rcv_nxt.
        let rst = Segment::new(listener.local_addr()?, client, segment::Kind::Rst, at.next_in.wrapping_add(1), 0)?;
        rst.send()?;
        thread::sleep(Duration::from_millis(200));
        oracle::minisocks().map(Some)
    })?;
    match left {
        Some(1) => Ok(()),
        None => Err("the connection made no TIME_WAIT".to_owned()),
        Some(left) => Err(format!("{left} TIME_WAITs after a RST, not 1")),
    }
}
