//! Lives that last as long as the timer says.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use super::super::{
    stage::{Family, First, Outcome, Stage, TICKS},
    want::{End, Is, Turn},
};
use crate::{
    model::event::Cause,
    traffic::{
        oracle,
        segment::{self, Kind, Segment, Sequence},
    },
};

/// TCP_TIMEWAIT_LEN.
const LENGTH: Duration = Duration::from_secs(60);
/// Past the length: the wheel's slack (up to 5.1 s at HZ 100), and the lateness of emulated machines.
const SLACK: Duration = Duration::from_secs(20);
/// Long enough for another bucket of the wheel (4.1 s at HZ 1000): a re-arm inside one leaves no trace in the tracepoints.
const PAUSE: Duration = Duration::from_secs(5);
/// The longest there is, at HZ 100, twice.
const A_JIFFY: Duration = Duration::from_millis(20);

/// Real TIME_WAITs, of either end, both families and by way of FIN_WAIT2: 60 s and the wheel's slack, never less.
pub fn expire(stage: &mut Stage<'_>) -> Outcome {
    let began = Instant::now();
    for family in [Family::V4, Family::V6, Family::Mapped] {
        let listener = stage.listen(family)?;
        for _ in 0..3 {
            stage.live(&listener, family, First::Client)?;
            stage.live(&listener, family, First::Server)?;
        }
    }
    let listener = stage.listen(Family::V4)?;
    let from = stage.source(Family::V4);
    let server = stage.fin_wait2(&listener, Some(from))?;
    stage.last()?.turn = Turn::IfFinWait2;
    drop(server);
    let gone = await_none()?;
    for want in &mut stage.made.wants {
        want.end = expired(LENGTH, gone.duration_since(began));
    }
    Ok(())
}

/// A stray ACK, in the window and without data, gives another 60 s: to a TIME_WAIT, and to those that were a FIN_WAIT2 for
/// so short a while that the turn left them in their bucket of the wheel.
pub fn rearm(stage: &mut Stage<'_>) -> Outcome {
    let listener = stage.listen(Family::V4)?;
    let there = listener.local_addr()?;
    let from = stage.source(Family::V4);
    let link = stage.connect(&listener, Some(from))?;
    let at = segment::sequence(&link.pair.client)?;
    let began = Instant::now();
    let mut lives = vec![(from, Sequence { next_out: at.next_out.wrapping_add(1), next_in: at.next_in })];
    stage.close(link, First::Client)?;
    // An ACK before the peer's FIN would arm nothing.
    stage.turns()?;

    // A turn in the jiffy of the birth, as the first may be, leaves the timer as it was; one in the next does not.
    for after in [Duration::ZERO, A_JIFFY] {
        let from = stage.source(Family::V4);
        let server = stage.fin_wait2(&listener, Some(from))?;
        let Sequence { next_out: next_in, next_in: next_out } = segment::sequence(&server)?;
        lives.push((from, Sequence { next_out, next_in }));
        thread::sleep(after);
        stage.last()?.turn = Turn::IfFinWait2;
        drop(server);
        stage.turns()?;
    }

    let born = Instant::now();
    thread::sleep(PAUSE);
    let sent = Instant::now();
    for (from, at) in &lives {
        // Behind the peer's FIN too.
        Segment::new(there, *from, Kind::Ack, at.next_in.wrapping_add(1), at.next_out)?.send()?;
    }
    let gone = await_none()?;
    for want in &mut stage.made.wants {
        // A FIN that a slow machine sends again arms it as well.
        want.rearmed = Is::Within(1..=4);
        want.end = expired(sent.duration_since(born) + LENGTH, gone.duration_since(began));
    }
    Ok(())
}

fn expired(least: Duration, most: Duration) -> End {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    End::Died { cause: Cause::Expired, life_ns: Is::Within(ns(least - TICKS)..=ns(most)), taker: Is::Unknown }
}

/// Waits until the kernel counts no minisock any more, and says when it saw that.
fn await_none() -> io::Result<Instant> {
    let deadline = Instant::now() + LENGTH + SLACK;
    loop {
        let count = oracle::minisocks()?;
        let now = Instant::now();
        if count == 0 {
            return Ok(now);
        }
        if now > deadline {
            return Err(io::Error::other(format!("{count} minisocks live after {} s", (LENGTH + SLACK).as_secs())));
        }
        thread::sleep(Duration::from_millis(20));
    }
}
