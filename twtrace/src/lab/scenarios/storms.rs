//! As many lives as the machine makes, as fast as it makes them.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    net::TcpListener,
    thread,
    time::Duration,
};

use twtrace_common::counter::Counters;

use super::super::{
    alone::Alone,
    judge::Made,
    stage::{Family, First, Outcome, Stage, Stop, await_minisocks},
    want::{End, Want},
};
use crate::{
    host::netns::Netns,
    model::event::Cause,
    traffic::{lives, oracle},
};

/// Past the second that tcp_tw_reuse asks for.
const OLD_ENOUGH: Duration = Duration::from_millis(1200);

/// Threads that connect, each to a listener of its own.
const THREADS: usize = 2;

/// Connections from ports that connect() chooses, from a range that is too small for them all: the last fifth comes when
/// the others are old enough to be taken over.
pub fn storm(stage: &mut Stage<'_>) -> Outcome {
    let each = stage.connections / THREADS;
    lives::sysctl("tcp_tw_reuse", "1")?;
    lives::sysctl("tcp_max_tw_buckets", "262144")?;
    let listeners: Vec<TcpListener> = (0..THREADS).map(|_| stage.listen(Family::V4)).collect::<io::Result<_>>()?;
    // Each thread has the range to itself, for a port is taken per destination. connect() looks through one half of it
    // first (every other port), and that is full when the last fifth comes.
    let ports = u16::try_from(each * 6 / 5).unwrap_or(u16::MAX).clamp(64, 20_000);
    lives::sysctl("ip_local_port_range", &format!("10000 {}", 10_000 + ports - 1))?;
    let netns = stage.netns;
    let parts: Vec<io::Result<Made>> = thread::scope(|scope| {
        let start = |(index, listener)| {
            let work = move || part(netns, listener, each);
            thread::Builder::new().name(format!("lab-storm-{index}")).spawn_scoped(scope, work)
        };
        let threads: Vec<_> = listeners.iter().enumerate().map(start).collect();
        let join = |thread: io::Result<thread::ScopedJoinHandle<'_, io::Result<Made>>>| {
            thread?.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the storm panicked")))
        };
        threads.into_iter().map(join).collect()
    });
    for part in parts {
        let part = part?;
        stage.made.wants.extend(part.wants);
        stage.made.no_port.extend(part.no_port);
    }
    // How many minisocks stand in the way of a connect() depends on where it begins to look.
    stage.made.denied_at_will = true;
    let alive = stage.made.wants.iter().filter(|want| want.end == End::Alive).count();
    await_minisocks(alive as u64)?;
    let is_taken = |want: &&Want| matches!(&want.end, End::Died { cause: Cause::Reused, .. });
    let some = if stage.made.wants.iter().any(|want| is_taken(&want)) { "some" } else { "none" };
    stage.check("lives that were taken over", "some", some);
    Ok(())
}

/// One thread's share. Every fourth connection is closed by its server first.
fn part(netns: &Netns, listener: &TcpListener, count: usize) -> io::Result<Made> {
    let mut stage = Stage::new(netns, Vec::new())?;
    // Which life holds a client's port, at either end.
    let mut holders: HashMap<(u16, First), usize> = HashMap::new();
    let mut paused = false;
    while stage.made.wants.len() < count {
        if !paused && stage.made.wants.len() >= count * 4 / 5 {
            paused = true;
            thread::sleep(OLD_ENOUGH);
        }
        let link = match stage.connect(listener, None) {
            Ok(link) => link,
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                stage.no_port(listener)?;
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            Err(error) => return Err(error),
        };
        let port = link.pair.client.local_addr()?.port();
        if let Some(older) = holders.remove(&(port, First::Client)) {
            stage.made.wants[older].end = End::taken(Cause::Reused, stage.me.clone());
        }
        if let Some(older) = holders.remove(&(port, First::Server)) {
            stage.made.wants[older].end = End::of(Cause::Recycled);
        }
        let index = stage.made.wants.len();
        let first = if index % 4 == 3 { First::Server } else { First::Client };
        let want = stage.want(&link, first)?;
        stage.write(want);
        first.closes(link.pair)?;
        holders.insert((port, first), index);
    }
    Ok(stage.made)
}

/// A ring of one page that nobody empties: the counters stay equal to the kernel's, and every record is emitted or lost.
pub fn small_ring(stage: &mut Stage<'_>, tracer: &mut Alone) -> Outcome {
    const COUNT: usize = 2000;
    let before = oracle::counters()?;
    let wants = closes(stage, COUNT)?;
    await_minisocks(COUNT as u64)?;
    let after = oracle::counters()?;
    let (counters, records) = tracer.finish().map_err(Stop::Failed)?;
    let Counters { seen, emitted, filtered, lost, own, .. } = counters;
    let sum = |values: &[u64]| values.iter().sum::<u64>();
    stage.check("births, by the programs' counters", wants, own.born);
    stage.check("minisocks, by the programs' counters", after.sockstat_tw, own.born - own.died);
    stage.check("takeovers, by the programs' counters", after.tw_recycled - before.tw_recycled, own.taken);
    stage.check("emitted + filtered + lost", sum(&seen), sum(&emitted) + sum(&filtered) + sum(&lost));
    stage.check("records in the ring", sum(&emitted), records);
    stage.made.note = Some(format!("{wants} born in the counters, {records} records read, {} lost", sum(&lost)));
    let some = if sum(&lost) > 0 { "some" } else { "none" };
    stage.check("records lost", "some", some);
    Ok(())
}

fn closes(stage: &mut Stage<'_>, count: usize) -> io::Result<usize> {
    let listener = stage.listen(Family::V4)?;
    for _ in 0..count {
        let link = stage.connect(&listener, Some(stage.source(Family::V4)))?;
        lives::close_in_order(link.pair.client, link.pair.server)?;
    }
    Ok(count)
}
