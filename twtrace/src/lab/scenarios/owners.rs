//! Who closed it, in which namespace it is, and whether it was there before.

use std::{collections::BTreeMap, io, thread, time::Duration};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::super::{
    stage::{Family, First, Older, Outcome, Stage, Stop, await_minisocks},
    want::{End, Is, Want},
};
use crate::{
    host::netns::Netns,
    model::event::{Cause, Tuple},
    traffic::{
        hand::Hand,
        lives::{self, Pair},
        oracle,
        who::Who,
    },
};

/// A connection whose client's end goes to another process; `close` makes that process close it, and says who did.
fn closed_elsewhere(stage: &mut Stage<'_>, close: impl FnOnce(&mut Hand) -> io::Result<Who>) -> Outcome {
    let listener = stage.listen(Family::V4)?;
    let from = stage.source(Family::V4);
    let link = stage.connect(&listener, Some(from))?;
    let mut want = stage.want(&link, First::Client)?;
    let Pair { client, mut server } = link.pair;
    let mut hand = stage.hands.pop().ok_or_else(|| io::Error::other("no helper process"))?;
    hand.hold(client)?;
    want.closer = Is::Exactly(close(&mut hand)?);
    lives::expect_end(&mut server)?;
    drop(server);
    await_minisocks(1)?;
    stage.write(want);
    Ok(())
}

/// A forked child has the socket too: its parent's close() does nothing, the child's exit closes it.
pub fn fork(stage: &mut Stage<'_>) -> Outcome {
    let mut after_parent = None;
    closed_elsewhere(stage, |hand| {
        let child = hand.fork()?;
        hand.close()?;
        thread::sleep(Duration::from_millis(100));
        after_parent = Some(oracle::counter("Tcp", "CurrEstab")?);
        hand.reap()?;
        Ok(child)
    })?;
    stage.check("ends established after the parent's close()", 2, after_parent.unwrap_or_default());
    Ok(())
}

/// A process that was given the descriptor closes it.
pub fn passed_fd(stage: &mut Stage<'_>) -> Outcome {
    closed_elsewhere(stage, |hand| {
        hand.close()?;
        Ok(hand.who())
    })
}

/// A process dies with the descriptor open.
pub fn exit_close(stage: &mut Stage<'_>) -> Outcome {
    closed_elsewhere(stage, |hand| {
        hand.kill()?;
        Ok(hand.who())
    })
}

/// A namespace goes away, and takes its minisocks of both kinds along.
pub fn netns_exit(stage: &mut Stage<'_>) -> Outcome {
    let doomed = twin(stage)?;
    let wants = elsewhere(&doomed, |inner| {
        let listener = inner.listen(Family::V4)?;
        for first in [First::Client, First::Server] {
            for _ in 0..5 {
                inner.live(&listener, Family::V4, first)?;
            }
        }
        let from = inner.source(Family::V4);
        let server = inner.fin_wait2(&listener, Some(from))?;
        // The other end goes without a segment that would end the minisock: the namespace's end, not the peer's.
        lives::hush(server)
    })?;
    stage.made.netns.push(doomed.inum());
    stage.made.wants.extend(wants.into_iter().map(|want| Want { end: End::of(Cause::Netns), ..want }));
    drop(doomed);
    Ok(())
}

fn twin(stage: &mut Stage<'_>) -> io::Result<Netns> {
    stage.twin.take().ok_or_else(|| io::Error::other("no second namespace"))
}

/// Makes lives in another namespace.
fn elsewhere(netns: &Netns, work: impl FnOnce(&mut Stage<'_>) -> io::Result<()> + Send) -> io::Result<Vec<Want>> {
    netns.run(|| {
        let mut inner = Stage::new(netns, Vec::new())?;
        work(&mut inner)?;
        Ok(inner.made.wants)
    })
}

/// One connection in two namespaces: two lives, and the end of one is not the other's.
pub fn two_namespaces(stage: &mut Stage<'_>) -> Outcome {
    let make = |stage: &mut Stage<'_>, ends: bool| -> io::Result<()> {
        let listener = lives::listen(([127, 0, 0, 1], 7000).into())?;
        let link = stage.connect(&listener, Some(([127, 0, 0, 1], 7001).into()))?;
        stage.close(link, First::Client)?;
        if ends { stage.take_over(&listener) } else { Ok(()) }
    };
    make(stage, false)?;
    let twin = twin(stage)?;
    let wants = elsewhere(&twin, |inner| make(inner, true))?;
    stage.made.netns.push(twin.inum());
    // It stays until the verdict: with it would go its minisocks.
    stage.twin = Some(twin);
    stage.made.wants.extend(wants);
    Ok(())
}

/// Before the tracer: two TIME_WAITs, a FIN_WAIT2 minisock, and a connection that stays open.
pub fn make_older(stage: &mut Stage<'_>) -> Outcome {
    let listener = stage.listen(Family::V4)?;
    for _ in 0..2 {
        stage.live(&listener, Family::V4, First::Client)?;
    }
    let from = stage.source(Family::V4);
    let server = stage.fin_wait2(&listener, Some(from))?;
    for want in &mut stage.made.wants {
        want.preexisting = true;
    }
    let from = stage.source(Family::V4);
    let open = stage.connect(&listener, Some(from))?.pair;
    stage.older = Some(Older { listener, open, orphan: server });
    Ok(())
}

/// Sockets that are older than the tracer: ends that are marked, and a connection whose beginning nobody saw.
pub fn pre_existing(stage: &mut Stage<'_>) -> Outcome {
    let older = stage.older.take().ok_or_else(|| io::Error::other("nothing was made before"))?;
    let Older { listener, open, mut orphan } = older;
    stage.ends(Cause::DataReset, || io::Write::write_all(&mut orphan, b"too late"))?;
    // The first one comes last: that is the one to be taken over. The second lives on.
    stage.made.wants.rotate_left(1);
    stage.take_over(&listener)?;
    let link = stage.adopt(open);
    let mut want = stage.want(&link, First::Client)?;
    (want.role, want.opener, want.conn_ns) = (Is::Unknown, Is::Unknown, Is::Unknown);
    let before = oracle::minisocks()?;
    lives::close_in_order(link.pair.client, link.pair.server)?;
    await_minisocks(before + 1)?;
    stage.write(want);
    Ok(())
}

/// Lives one after the other at the same kernel address, as /proc/net/tcp shows it: never joined into one.
pub fn slab_reuse(stage: &mut Stage<'_>) -> Outcome {
    const ENOUGH: usize = 10;
    const MOST: usize = 200;
    // The slab hands the same object out again to the CPU that freed it last.
    let mut first = CpuSet::new();
    first.set(0);
    sched_setaffinity(None, &first).map_err(io::Error::from)?;
    let listener = stage.listen(Family::V4)?;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut again = 0;
    for _ in 0..MOST {
        stage.live(&listener, Family::V4, First::Client)?;
        let tuple = stage.last()?.tuple;
        let address = address_of(&tuple)?;
        if address.bytes().all(|byte| byte == b'0') {
            return Err(Stop::NotHere("/proc/net/tcp shows no addresses (kernel.kptr_restrict = 2)".to_owned()));
        }
        let lives = seen.entry(address).or_default();
        again += usize::from(*lives > 0);
        *lives += 1;
        stage.take_over(&listener)?;
        if again >= ENOUGH {
            break;
        }
    }
    stage.made.note = Some(format!("{again} at an address that another had before"));
    stage.check("lives at an address that another had before", ENOUGH, again);
    Ok(())
}

/// The last column of a TIME_WAIT's row: its address, hashed, the same for the same address.
fn address_of(tuple: &Tuple) -> io::Result<String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
    let ports = (format!(":{:04X}", tuple.lport), format!(":{:04X}", tuple.rport));
    let row = text
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .find(|row| row.len() > 4 && row[1].ends_with(&ports.0) && row[2].ends_with(&ports.1) && row[3] == "06");
    let address = row.and_then(|row| row.last().map(|last| (*last).to_owned()));
    address.ok_or_else(|| io::Error::other(format!("/proc/net/tcp has no row of {tuple:?}")))
}
