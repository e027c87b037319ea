//! An outside oracle: connections are driven by crafted segments over a TUN device, at random from a seed, and the kernel
//! itself says what became of each: sock_diag, its counters, its RSTs. `twtrace run` has to say the same.
//!
//! Decided and compared: births with their substate, role and timestamps, turns, ends with their causes, refusals, and
//! re-arms, connect() calls that failed with EADDRNOTAVAIL, and that each is told of the moment in which it happened. Not decided
//! from outside: a re-arm within a tick or two of the last one, which of two ends came first where a timer was due within the
//! step, and who closed.

mod fate;
mod peer;
mod script;
mod wire;
mod world;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::atomic::{AtomicU8, Ordering::Relaxed},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use rustix::process::Signal;
use twtrace::{
    host::netns::Netns,
    model::event::{Event, Kind, Tuple},
};

use self::{
    fate::{Fact, What, compare, is_decided, is_due},
    script::{Climate, Script, script},
    wire::Net,
    world::Report,
};
use crate::{lab::mutants_of, parse, summary, tracer::Tracer};

pub use wire::missing;

/// Scripts that once failed, or that show what must not be missing: one JSON line each.
const CASES: &str = include_str!("cases.jsonl");
/// Another seed than the clock's, and another number of connections.
const SEED: &str = "TWTRACE_CONFORMANCE_SEED";
const COUNT: &str = "TWTRACE_CONFORMANCE_COUNT";
/// Longest that a namespace may take to go.
const GOING: Duration = Duration::from_secs(60);
/// Failing scripts that are made smaller, and in how many rounds.
const SHRUNK: usize = 2;
const ROUNDS: usize = 6;
/// Events whose mutants are judged.
const MUTATED: usize = 400;

/// One connection's verdict.
struct Judged {
    script: Script,
    facts: Vec<Fact>,
    told: Vec<Event>,
    log: Vec<String>,
    difference: Option<String>,
}

/// What came of a run.
struct Ran {
    judged: Vec<Judged>,
    trouble: Vec<String>,
    /// The tracer says itself that it missed something.
    missed: bool,
    /// Turns are told late, and not every re-arm.
    late: bool,
}

/// `count` connections, and the cases, against this backend.
pub fn conformance(backend: &str, count: usize) -> Result<(), String> {
    let seed = variable(SEED)?.unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| u64::from(now.subsec_nanos()) ^ now.as_secs())
    });
    let count = variable(COUNT)?.map_or(Ok(count), usize::try_from).map_err(|error| error.to_string())?;
    crate::line(&format!("conformance: {backend}: {SEED}={seed} {COUNT}={count}"));
    let mut scripts = cases()?;
    scripts.extend(drawn(seed, count)?);
    let ran = run(backend, &scripts)?;
    crate::line(&format!("conformance: {backend}: {}", tally(&ran)));
    let failed: Vec<&Judged> = ran.judged.iter().filter(|judged| judged.difference.is_some()).collect();
    if failed.is_empty() && ran.trouble.is_empty() {
        return sabotage(&ran).and_then(|()| all_kinds(&ran));
    }
    let mut said = vec![format!(
        "{SEED}={seed} {COUNT}={count}: {} of {} connections differ, {} contradictions",
        failed.len(),
        ran.judged.len(),
        ran.trouble.len()
    )];
    said.extend(ran.trouble.iter().take(5).cloned());
    for judged in failed.iter().take(12) {
        said.push(shown(judged));
    }
    // A tracer that missed something is tried again, see main.rs.
    let shrinkable = failed.iter().filter(|_| !ran.missed);
    for judged in shrinkable.take(SHRUNK) {
        said.push(format!("smallest: {}", shown(&smallest(backend, judged)?)));
    }
    Err(said.join("\n"))
}

fn variable(name: &str) -> Result<Option<u64>, String> {
    match std::env::var(name) {
        Ok(text) => text.parse().map(Some).map_err(|error| format!("{name}={text}: {error}")),
        Err(_) => Ok(None),
    }
}

fn cases() -> Result<Vec<Script>, String> {
    let lines = CASES.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))).collect()
}

/// Scripts of every climate, at random.
fn drawn(seed: u64, count: usize) -> Result<Vec<Script>, String> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let climates = Climate::ALL.into_iter().cycle().take(count);
    climates
        .map(|climate| script(climate).new_tree(&mut runner).map(|tree| tree.current()).map_err(|why| why.to_string()))
        .collect()
}

/// Plays scripts, each climate in a namespace of its own, which is gone at the end, beside one tracer.
fn run(backend: &str, scripts: &[Script]) -> Result<Ran, String> {
    /// Second bytes of the addresses: no two runs of this process have the same.
    static NEXT: AtomicU8 = AtomicU8::new(64);
    let new = || Netns::new().map_err(|error| format!("a network namespace: {error}"));
    let mut by_climate: BTreeMap<Climate, Vec<&Script>> = BTreeMap::new();
    scripts.iter().for_each(|script| by_climate.entry(script.climate).or_default().push(script));
    let home = new()?;
    let spaces = by_climate
        .into_iter()
        .map(|(climate, scripts)| Ok((new()?, climate, Net(NEXT.fetch_add(1, Relaxed)), scripts)))
        .collect::<Result<Vec<_>, String>>()?;
    let inums: Vec<String> = spaces.iter().map(|(netns, ..)| netns.inum().to_string()).collect();
    let args = inums.iter().flat_map(|inum| ["--netns", inum]).chain(["--ring-size", "16M"]);
    let mut tracer = Tracer::start(&home, backend, &args.collect::<Vec<_>>())?;
    let reports = thread::scope(|scope| {
        let threads: Vec<_> = spaces
            .iter()
            .map(|(netns, climate, net, scripts)| {
                scope.spawn(move || netns.run(|| world::play(*climate, *net, scripts)).map_err(|why| why.to_string()))
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a panic".to_owned())));
        joined.collect::<Result<Vec<Report>, String>>()
    })?;
    let nets: Vec<(u32, Net)> = spaces.iter().map(|(netns, _, net, _)| (netns.inum(), *net)).collect();
    // Nothing holds them any longer: what is left in them ends.
    let scripts: Vec<Vec<&Script>> = spaces.into_iter().map(|(.., scripts)| scripts).collect();
    let ends = |report: &Report| report.lives.iter().flat_map(|life| &life.facts).filter(|fact| is_end(fact)).count();
    let (wanted, seen, deadline) = (reports.iter().map(ends).sum::<usize>(), Cell::new(0), Instant::now() + GOING);
    if wanted > 0 {
        tracer.wait_for(|line| {
            seen.set(seen.get() + usize::from(line["type"] == "died"));
            seen.get() >= wanted || Instant::now() > deadline
        })?;
    }
    let late = tracer.start["capabilities"]["turn"]["backend"] == "tracepoint";
    let knows_no_port = !tracer.start["capabilities"]["no_port"]["backend"].is_null();
    let said = tracer.stop(Signal::INT)?;
    let events = parse::events(&said.lines)?;
    let missed = said.summary["trouble"].as_object().is_none_or(|trouble| !trouble.is_empty());
    let mut ran = Ran { judged: Vec::new(), trouble: Vec::new(), missed, late };
    match summary::exact(&said, &events) {
        Ok(()) => {}
        // Each life is compared below: more than it said can be missing, or less.
        Err(_) if missed => {
            crate::line(&format!("conformance: the tracer says that it missed {}", said.summary["trouble"]))
        }
        Err(why) => ran.trouble.push(why),
    }
    for ((report, scripts), (inum, net)) in reports.into_iter().zip(scripts).zip(nets) {
        let ours = |event: &&Event| {
            event.life.netns == Some(inum)
                && event.life.tuple.is_some_and(|it| it.laddr == net.v4(1) || it.laddr == net.v6(1))
        };
        let events: Vec<&Event> = events.iter().filter(ours).collect();
        judge(report, &scripts, &events, knows_no_port, &mut ran);
    }
    Ok(ran)
}

fn is_end(fact: &Fact) -> bool {
    matches!(fact.what, What::Died { .. })
}

/// One namespace's connections, by tuple.
fn judge(report: Report, scripts: &[&Script], events: &[&Event], knows_no_port: bool, ran: &mut Ran) {
    let mut told: HashMap<Tuple, Vec<&Event>> = HashMap::new();
    for event in events.iter().filter(|event| is_decided(event)) {
        if let Some(tuple) = event.life.tuple {
            told.entry(tuple).or_default().push(event);
        }
    }
    ran.trouble.extend(report.trouble);
    for (life, script) in report.lives.into_iter().zip(scripts) {
        let events = told.remove(&life.tuple).unwrap_or_default();
        let difference = compare(&life.facts, &events, ran.late).err();
        let told = events.into_iter().copied().collect();
        ran.judged.push(Judged { script: (*script).clone(), facts: life.facts, told, log: life.log, difference });
    }
    if let Some((tuple, events)) = told.into_iter().next() {
        ran.trouble.push(format!("told of a connection that nobody made: {tuple:?}: {events:?}"));
    }
    let no_port = events.iter().filter(|event| event.kind() == Kind::NoPort);
    let mut no_port: Vec<_> = no_port.filter_map(|event| event.life.tuple).map(|it| (it.port(), it.rport)).collect();
    let mut wanted = report.no_port;
    no_port.sort_unstable();
    wanted.sort_unstable();
    if knows_no_port && no_port != wanted {
        ran.trouble.push(format!("connect() failed with EADDRNOTAVAIL: {wanted:?}, and told is {no_port:?}"));
    }
}

/// What happened, in numbers.
fn tally(ran: &Ran) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for fact in ran.judged.iter().flat_map(|judged| &judged.facts) {
        *counts.entry(word(fact)).or_default() += 1;
    }
    let words: Vec<String> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
    format!("{} connections: {}", ran.judged.len(), words.join(", "))
}

fn word(fact: &Fact) -> String {
    match &fact.what {
        What::Born { substate, .. } => format!("born {substate}"),
        What::Turned { .. } => "turned".to_owned(),
        What::Rearmed { sure: true } => "rearmed".to_owned(),
        What::Rearmed { sure: false } => "perhaps rearmed".to_owned(),
        What::Died { cause, .. } => format!("died {cause}"),
        What::Refused => "refused".to_owned(),
        What::Aborted => "aborted".to_owned(),
    }
}

/// A run of some size has every kind of fate, else the grammar has lost one.
fn all_kinds(ran: &Ran) -> Result<(), String> {
    const MANY: usize = 1_000;
    // Not `killed`: before 6.0 SOCK_DESTROY leaves a TIME_WAIT alone.
    const KINDS: [&str; 11] = [
        "born fin_wait2",
        "born time_wait",
        "turned",
        "rearmed",
        "refused",
        "died expired",
        "died reused",
        "died reused_bound",
        "died recycled",
        "died reset",
        "died data_reset",
    ];
    let words: BTreeSet<String> = ran.judged.iter().flat_map(|judged| &judged.facts).map(word).collect();
    match KINDS.iter().find(|kind| !words.contains(**kind)) {
        Some(kind) if ran.judged.len() >= MANY => Err(format!("no connection was {kind}: {}", tally(ran))),
        _ => Ok(()),
    }
}

fn shown(judged: &Judged) -> String {
    let script = serde_json::to_string(&judged.script).unwrap_or_default();
    let difference = judged.difference.as_deref().unwrap_or("no difference");
    let told: Vec<String> = judged
        .told
        .iter()
        .map(|event| format!("{} {} {:?}", event.mono_ns, event.kind(), event.life.substate))
        .collect();
    let facts: Vec<String> = judged.facts.iter().map(|fact| format!("{:?} {}", fact.within_ns, word(fact))).collect();
    format!(
        "{script}\n  {difference}\n  {}\n is {}\n told {}",
        judged.log.join("\n  "),
        facts.join(", "),
        told.join(", ")
    )
}

/// A script that fails, made smaller as long as it goes on failing: all that are smaller by one step at once.
fn smallest(backend: &str, failing: &Judged) -> Result<Judged, String> {
    let again = |it: &Judged| Judged {
        script: it.script.clone(),
        facts: it.facts.clone(),
        told: it.told.clone(),
        log: it.log.clone(),
        difference: it.difference.clone(),
    };
    let mut found = again(failing);
    // A crowded namespace is full before they come.
    let fillers = vec![Script::filler(Climate::Crowded); world::ROOM];
    for _ in 0..ROUNDS {
        let scripts = [fillers.clone(), found.script.smaller()].concat();
        let smaller = run(backend, &scripts)?;
        match smaller.judged.into_iter().find(|judged| judged.difference.is_some()) {
            Some(judged) if !smaller.missed => found = judged,
            _ => break,
        }
    }
    Ok(found)
}

/// The oracle can fail: of what was told, events are dropped, doubled and renamed one by one, and each time it must notice.
fn sabotage(ran: &Ran) -> Result<(), String> {
    let mut mutants = 0;
    let told = ran.judged.iter().flat_map(|judged| (0..judged.told.len()).map(move |index| (judged, index)));
    // Re-arms may be told or not.
    let certain = |(judged, index): &(&Judged, usize)| judged.told[*index].kind() != Kind::Rearmed;
    for (judged, index) in told.filter(certain).take(MUTATED) {
        let was_due =
            |due_ns| judged.told.iter().any(|event| event.kind() == Kind::Died && is_due(due_ns, event.mono_ns));
        let is_unsure = |fact: &Fact| match fact.what {
            What::Died { due_ns, .. } => was_due(due_ns),
            ref what => *what == What::Aborted,
        };
        let unsure = judged.facts.iter().any(is_unsure);
        for mutant in mutants_of(&judged.told, index).into_iter().filter(|_| !unsure) {
            let decided: Vec<&Event> = mutant.iter().filter(|event| is_decided(event)).collect();
            mutants += 1;
            if compare(&judged.facts, &decided, ran.late).is_ok() {
                return Err(format!("nobody noticed what was done to number {}: {}", index + 1, shown(judged)));
            }
        }
    }
    crate::line(&format!(
        "conformance: {mutants} streams with one event dropped, doubled or renamed, none of them good"
    ));
    if mutants < 100 { Err(format!("only {mutants} mutants")) } else { Ok(()) }
}
