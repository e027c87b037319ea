//! The end of a run in the middle of a storm: whatever the moment, nothing is made up and nothing is missed.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use twtrace::{host::netns::Netns, traffic::lives};

use crate::{
    attempts,
    cases::Scale,
    doctor::set,
    scene::fresh,
    summary,
    tracer::{Said, Tracer},
};

/// Threads that connect and close as fast as they can.
const THREADS: u16 = 2;
/// Every so many connections go to a port whose events are told; all are counted.
const TOLD: u32 = 32;
/// The ports whose events are told, one for each thread.
const PORTS: &str = "7001-7002";
/// From there to the other port of the thread.
const REST: u16 = 100;

/// Ends run after run while connections are made: by each signal that ends a run, and by the duration.
pub fn stops(backend: &str, scale: Scale) -> Result<(), String> {
    let netns = fresh()?;
    // So few that connections soon take the ports of minisocks that are a second old: their number is bounded, and ends are
    // told beside births.
    set(&netns, "ip_local_port_range", "20000 20199")?;
    set(&netns, "tcp_tw_reuse", "1")?;
    // Room for all of them, in the kernel's table and in that of each run.
    set(&netns, "tcp_max_tw_buckets", "131072")?;
    let (over, made) = (AtomicBool::new(false), AtomicU32::new(0));
    let missed = thread::scope(|scope| {
        let storms: Vec<_> = (1..=THREADS)
            .map(|thread| {
                let (netns, over, made) = (&netns, &over, &made);
                scope.spawn(move || netns.run(|| storm(7000 + thread, scale.addresses, over, made)))
            })
            .collect();
        let ended = (0..scale.stops).try_fold(0, |missed, n| {
            let said = run(&netns, backend, n)?;
            check(&said, n).map(|exact| missed + usize::from(!exact))
        });
        over.store(true, Relaxed);
        for storm in storms {
            storm
                .join()
                .map_err(|_| "a thread of the storm panicked")?
                .map_err(|error| format!("the storm: {error}"))?;
        }
        ended
    })?;
    // Where tasks preempt programs, and kprobes have one guard for all, many say so.
    if missed == scale.stops {
        return Err(format!("each of {missed} runs says that the kernel skipped events"));
    }
    match made.load(Relaxed) as usize {
        made if made < scale.stops * 20 => Err(format!("no storm: {made} connections in {} runs", scale.stops)),
        _ => Ok(()),
    }
}

/// One run, ended in one of four ways.
fn run(netns: &Netns, backend: &str, n: usize) -> Result<Said, String> {
    if n.is_multiple_of(4) {
        return Tracer::start(netns, backend, &["--rport", PORTS, "--duration", "300ms"])?.end();
    }
    let tracer = Tracer::start(netns, backend, &["--rport", PORTS])?;
    // Each a little later than the one before, so that the ends are spread over whatever goes round.
    thread::sleep(Duration::from_millis(100 + 7 * n as u64));
    tracer.stop([Signal::TERM, Signal::INT, Signal::HUP][n % 3])
}

/// Whether a run is as exact as a stop leaves it. `false`: it says that the kernel skipped events, which a busy machine makes
/// at any time, and is not exact because of that.
fn check(said: &Said, n: usize) -> Result<bool, String> {
    let summary = &said.summary;
    let wrong = |what: &str| Err(format!("stop {n}: {what}: {summary}"));
    if !summary["trouble"].is_object() {
        return wrong("no word of trouble");
    }
    let trouble = attempts::trouble_of(summary);
    if attempts::is_of_the_kernel(trouble.keys().map(String::as_str)) {
        return if summary["exact"] == false { Ok(false) } else { wrong("trouble, and exact") };
    }
    if !trouble.is_empty() {
        return wrong("trouble");
    }
    if summary::conserved(summary)? != 0 {
        return wrong("lost");
    }
    let born = said.lines.iter().filter(|line| line["type"] == "born").count();
    if summary["born_time_wait"].as_u64().unwrap_or(0) + summary["born_fin_wait2"].as_u64().unwrap_or(0) != born as u64
    {
        return wrong(&format!("{born} births are told"));
    }
    summary::reconciled(summary).map_err(|error| format!("stop {n}: {error}: {summary}"))?;
    let slack = summary["reconcile"].as_array().into_iter().flatten().filter_map(|row| row["slack"].as_i64()).max();
    match (&summary["exact"], slack) {
        (Value::Bool(true), Some(0)) | (Value::Null, Some(1..)) => Ok(true),
        _ => wrong("exact and slack do not fit"),
    }
}

/// Connects and closes until it is over, each time to another address of this machine.
fn storm(told: u16, addresses: u32, over: &AtomicBool, made: &AtomicU32) -> io::Result<()> {
    let anywhere = |port| lives::listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    let (told, rest) = (anywhere(told)?, anywhere(told + REST)?);
    while !over.load(Relaxed) {
        let n = made.fetch_add(1, Relaxed);
        let [_, _, _, low] = (n % addresses).to_be_bytes();
        let listener = if n.is_multiple_of(TOLD) { &told } else { &rest };
        let to = SocketAddr::from(([127, 1, 0, low], listener.local_addr()?.port()));
        let client = lives::dial(to, None)?;
        let (server, _) = listener.accept()?;
        drop(client);
        drop(server);
    }
    Ok(())
}
