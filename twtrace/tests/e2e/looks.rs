//! The tracer's own looks at the kernel's minisocks: what it missed is found, and nothing is found that is not there.

mod table;

use std::{
    collections::{BTreeSet, HashSet},
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use table::Lives;
use twtrace::{
    bpf::{Settings, Tables},
    decode::decode,
    host::{
        Host,
        clock::monotonic_ns,
        netns::Netns,
        occupancy::{Poller, Request},
    },
    lab::stage::First,
    model::{
        aggregate::Aggregates,
        audit::Audit,
        event::Detail,
        totals::{Beside, totals},
    },
    source::Source as _,
    tracer::Tracer,
    traffic::{
        diag,
        lives::{close_in_order, sysctl},
    },
};

use crate::{
    attempts,
    inside::{Resident, settings, traced},
    scene::{Scene, fresh},
    tracer::{PATIENCE, missed, traffic},
};

type Outcome = Result<(), String>;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn sized(netns: &Netns, lives: u32) -> Settings {
    Settings { tables: Tables { ring: 16 << 20, lives, conns: 1 << 16 }, ..settings(netns) }
}

/// `live` is what the table has, once nothing is under way: other tests' lives come and go. `hidden`: lives whose births were
/// told, and whose entries this test took away.
fn live_is_right(tracer: &Tracer, lives: &Lives, audit: &Audit, hidden: usize) -> Outcome {
    let mut beside = Beside { seeded: true, ..Beside::default() };
    beside.looked(audit, 0);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let counters = tracer.counters().map_err(text)?;
        missed("lives_full", counters.trouble.lives_full);
        let (live, entries) = (totals(&counters, &beside).live, lives.all()?.len() + hidden);
        if live == Some(entries as u64) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("live is {live:?}, and the table has {entries} lives: {audit:?}"));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn kill_all(netns: &Netns) -> Outcome {
    let all = || diag::minisocks()?.iter().try_for_each(|(tuple, _)| diag::kill(tuple));
    netns.run(all).map_err(text)
}

/// Ends that no program told are found, counted, and taken off; the living stay.
pub fn unseen_ends(backend: &str) -> Outcome {
    const LIVES: usize = 40;
    const SLOTS: u32 = 1 << 18;
    /// Made when they are over: some get an address of theirs.
    const MORE: usize = 10;
    let netns = fresh()?;
    let _resident = Resident::of(&netns)?;
    traced(backend, &sized(&netns, SLOTS), |tracer| {
        tracer.seeded.as_ref().map_err(|why| format!("there are no looks: {why}"))?;
        let mut lives = Lives::open(SLOTS)?;
        let mut scene = Scene::new(&netns)?;
        let listener = scene.listen()?;
        scene.live(&listener, First::Client, LIVES)?;
        let ours = lives.ours()?;
        if ours.len() != LIVES {
            return Err(format!("{} of {LIVES} lives are in the table", ours.len()));
        }
        live_is_right(tracer, &lives, &Audit::default(), 0)?;
        // As if the programs had not run for those ends: each is told of a minisock that the table does not have.
        ours.iter().try_for_each(|(key, _)| lives.hide(*key))?;
        if let Err(error) = kill_all(&netns) {
            crate::line(&format!("not here: SOCK_DESTROY of a TIME_WAIT: {error}"));
            return Ok(());
        }
        let mut planted = HashSet::new();
        for (key, value) in &ours {
            if lives.plant(*key, *value)? {
                planted.insert(value.id);
            }
        }
        let over = planted.len();
        scene.live(&listener, First::Client, MORE)?;
        // Once is not enough to be believed; the first is the last of a kind, and looks twice.
        let audit = tracer.audit(&[&netns]).map_err(text)?;
        let left: Vec<_> = lives.ours()?.into_iter().filter(|(_, life)| planted.contains(&life.id)).collect();
        let stale = tracer.counters().map_err(text)?.trouble.stale;
        crate::line(&format!("unseen_ends: {} by looks, {stale} by births at their addresses", audit.unseen_ends));
        if !left.is_empty() {
            let (many, met) = (left.len(), left.iter().map(|(_, life)| life.met).collect::<Vec<_>>());
            return Err(format!("{many} of {over} lives that are over are still in the table, met {met:?}: {audit:?}"));
        }
        if audit.unseen_ends + stale != over as u64 || !audit.found.is_empty() {
            return Err(format!("{stale} stale, and {audit:?}, of {over} ends"));
        }
        live_is_right(tracer, &lives, &audit, 0)?;
        let again = tracer.audit(&[&netns]).map_err(text)?;
        if again.unseen_ends != audit.unseen_ends {
            return Err(format!("{} ends are found again", again.unseen_ends - audit.unseen_ends));
        }
        // Addresses are born again, which is nothing special, and end as any other.
        scene.live(&listener, First::Client, LIVES)?;
        kill_all(&netns)?;
        let counters = tracer.counters().map_err(text)?;
        if counters.trouble.stale != stale {
            return Err(format!("{} of them are counted as stale, too", counters.trouble.stale - stale));
        }
        live_is_right(tracer, &lives, &again, 0)
    })
}

/// A look meets minisocks that are dying: whatever it enters is alive.
pub fn dying(backend: &str) -> Outcome {
    const LIVES: usize = 1_000;
    const SLOTS: u32 = 1 << 19;
    // Emulated machines take a while for each.
    let rounds = if std::process::id() == 1 { 3 } else { 10 };
    let netns = fresh()?;
    let _resident = Resident::of(&netns)?;
    traced(backend, &sized(&netns, SLOTS), |tracer| {
        let mut lives = Lives::open(SLOTS)?;
        let mut scene = Scene::new(&netns)?;
        let listener = scene.listen()?;
        let mut left = 0;
        for round in 0..rounds {
            scene.live(&listener, First::Client, LIVES)?;
            lives.ours()?.iter().try_for_each(|(key, _)| lives.hide(*key))?;
            let doomed = netns.run(diag::minisocks).map_err(text)?;
            // Both go through the kernel's table in its order.
            let (killed, audit) = thread::scope(|scope| {
                let killer = scope.spawn(|| {
                    netns.run(|| {
                        for (tuple, _) in doomed.iter().rev() {
                            diag::kill(tuple)?;
                        }
                        Ok(())
                    })
                });
                let mut found = 0;
                while !killer.is_finished() {
                    match tracer.audit(&[&netns]) {
                        Ok(audit) => found += audit.found.len(),
                        Err(error) => return (Err(io::Error::other(error)), 0),
                    }
                }
                (killer.join().unwrap_or_else(|_| Err(io::Error::other("the killer panicked"))), found)
            });
            if let Err(error) = killed {
                crate::line(&format!("not here: SOCK_DESTROY of a TIME_WAIT: {error}"));
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
            let dead = lives.ours()?.len();
            left += dead;
            crate::line(&format!("dying: round {round}: {audit} found, {dead} dead left"));
        }
        if left > 0 {
            return Err(format!("{left} dead minisocks were entered as alive"));
        }
        let audit = tracer.audit(&[&netns]).map_err(text)?;
        crate::line(&format!("dying: {} withdrawn, {} unseen ends", audit.withdrawn, audit.unseen_ends));
        if audit.unseen_ends > 0 {
            return Err(format!("{} ends are told as unseen", audit.unseen_ends));
        }
        live_is_right(tracer, &lives, &audit, rounds * LIVES)
    })
}

/// Looks at many namespaces and sockets beside traffic: nothing is lost by them, and each says how old it is. How many sockets
/// there are is up to TWTRACE_SOCKETS: half a million take minutes, and some 2 GB.
pub fn looks_beside_traffic(backend: &str) -> Outcome {
    const SLOTS: u32 = 1 << 20;
    /// Sockets to one destination: less than it has ports.
    const TO_ONE: usize = 20_000;
    const ENOUGH: Duration = Duration::from_secs(20);
    let sockets = std::env::var("TWTRACE_SOCKETS").ok().and_then(|count| count.parse().ok()).unwrap_or(3_000);
    let netns = fresh()?;
    // Emulated machines take a while for each.
    let namespaces = if std::process::id() == 1 { 40 } else { 300 };
    let others: Vec<Netns> = (0..namespaces).map(|_| Netns::new()).collect::<Result<_, _>>().map_err(text)?;
    netns.run(|| sysctl("tcp_max_tw_buckets", "2000000")).map_err(text)?;
    let mut numbers: BTreeSet<u32> = others.iter().map(Netns::inum).collect();
    numbers.insert(netns.inum());
    let settings = Settings { keep_seeds: false, ..sized(&netns, if sockets > 100_000 { SLOTS } else { 1 << 17 }) };
    traced(backend, &settings, |tracer| {
        let mut poller = Poller::spawn(Host::default()).map_err(text)?;
        let wanted = || Request { namespaces: numbers.iter().copied().collect() };
        poller.ask(wanted());
        let first_look = tracer.looked().map_err(text)?.at_ns;
        let mut all = Aggregates::default();
        let (mut births, mut ends, mut looks, mut turns) = (0u64, 0u64, 0u64, 0u64);
        // What looks have found in this namespace.
        let (mut found, mut ended) = (0u64, 0u64);
        let mut slowest = Duration::ZERO;
        let (mut known, mut oldest_ms, mut most_alive) = (0, 0, 0);
        thread::scope(|scope| {
            let storms: Vec<_> = (0..2u8)
                .map(|number| {
                    let netns = &netns;
                    scope.spawn(move || traffic(netns, || many(number, sockets / 2, TO_ONE)))
                })
                .collect();
            let (mut over, mut last_look) = (false, None);
            // With so many namespaces, and all the machine's sockets to be gone through for each, a round may take minutes.
            let enough = Instant::now() + ENOUGH;
            loop {
                let began = Instant::now();
                tracer.look();
                let audit = tracer.looked().map_err(text)?;
                (found, ended) = (found + audit.found.len() as u64, ended + audit.ended.len() as u64);
                if audit.at_ns != last_look {
                    (last_look, looks) = (audit.at_ns, looks + 1);
                }
                if let Some(answer) = poller.take() {
                    all.occupied(&answer.occupancy);
                    turns += 1;
                    poller.ask(Request::default());
                }
                let count = tracer.ring.drain(usize::MAX, &mut |bytes| {
                    if let Ok(event) = decode(bytes)
                        && !event.self_test
                    {
                        births += u64::from(matches!(event.detail, Detail::Born { .. }));
                        ends += u64::from(matches!(event.detail, Detail::Died { .. }));
                    }
                });
                most_alive = most_alive.max(births.saturating_sub(ends));
                slowest = slowest.max(began.elapsed());
                let now = monotonic_ns();
                let ages: Vec<u64> = numbers.iter().filter_map(|inum| all.looked_ms_ago(*inum, now)).collect();
                (known, oldest_ms) = (ages.len(), ages.into_iter().max().unwrap_or(0));
                let is_through = known == numbers.len() && looks >= 2;
                if over && count == 0 && turns >= 3 && (is_through || began > enough) {
                    break;
                }
                over = storms.iter().all(thread::ScopedJoinHandle::is_finished);
                thread::sleep(Duration::from_millis(10));
            }
            storms
                .into_iter()
                .try_for_each(|storm| storm.join().unwrap_or_else(|_| Err("a thread of the storm panicked".to_owned())))
        })?;
        let audit = tracer.audit(&[&netns]).map_err(text)?;
        (found, ended) = (found + audit.found.len() as u64, ended + audit.ended.len() as u64);
        let counters = tracer.counters().map_err(text)?;
        crate::line(&format!(
            "looks: {births} births, {most_alive} alive at most, {looks} whole looks, {turns} turns; {known} of {} namespaces \
             were looked into, the first of them {oldest_ms} ms ago; the run waited {} us at most",
            numbers.len(),
            slowest.as_micros(),
        ));
        missed("lives_full", counters.trouble.lives_full);
        let lost: u64 = counters.lost.iter().sum();
        let untold = (sockets as u64 / 2 * 2).checked_sub(births).ok_or("more births than sockets")?;
        if lost > 0 || untold != found {
            missed("unseen", found);
            return Err(format!(
                "{untold} births were not told, {found} were found, {lost} records were lost: {audit:?}"
            ));
        }
        // Looks may find only what the kernel says that it skipped.
        let skipped = tracer.missed().map_err(text)?;
        if found + ended > 0 && skipped.runs.is_none_or(|runs| runs < found + ended) {
            missed("unseen", audit.unseen);
            missed("unseen_ends", audit.unseen_ends);
            return Err(format!("{found} births and {ended} ends were missed: {skipped:?}"));
        }
        if found + ended > 0 {
            attempts::note_others(&format!("{skipped:?}; looks found {found} births and {ended} ends"));
        }
        if audit.at_ns <= first_look || known < 3 {
            return Err(format!("looks: {audit:?} after {first_look:?}; {known} namespaces were looked into"));
        }
        Ok(())
    })
}

/// Connections that their client closes, `to_one` to each destination.
fn many(number: u8, count: usize, to_one: usize) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 700 + u16::from(number)))?;
    let port = listener.local_addr()?.port();
    for n in 0..count {
        let to = Ipv4Addr::new(127, 1, number, 1 + (n / to_one) as u8);
        let client = TcpStream::connect((to, port))?;
        let (server, _) = listener.accept()?;
        close_in_order(client, server)?;
    }
    Ok(())
}
