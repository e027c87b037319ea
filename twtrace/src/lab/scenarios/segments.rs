//! Ends by a segment, by netlink, and births that the table has no room for.

use std::{
    io::{self, Write as _},
    thread,
    time::Duration,
};

use super::super::{
    stage::{Family, First, Outcome, PATIENCE, Stage, Stop},
    want::{Is, WantRefused},
};
use crate::{
    model::event::{Cause, Refusal},
    traffic::{
        diag, lives, oracle,
        segment::{self, Kind, Segment},
    },
};

/// Long enough for a segment on the loopback device to do what it does.
const A_WHILE: Duration = Duration::from_millis(200);

/// A TIME_WAIT, and a RST that is exactly where its peer would go on.
fn time_wait_and_rst(stage: &mut Stage<'_>) -> io::Result<Segment> {
    let listener = stage.listen(Family::V4)?;
    let from = stage.source(Family::V4);
    let link = stage.connect(&listener, Some(from))?;
    let at = segment::sequence(&link.pair.client)?;
    stage.close(link, First::Client)?;
    // Behind the peer's FIN: tw_rcv_nxt.
    Segment::new(listener.local_addr()?, from, Kind::Rst, at.next_in.wrapping_add(1), 0)
}

/// A RST at rcv_nxt ends a TIME_WAIT.
pub fn rst(stage: &mut Stage<'_>) -> Outcome {
    lives::sysctl("tcp_rfc1337", "0")?;
    let rst = time_wait_and_rst(stage)?;
    stage.ends(Cause::Reset, || rst.send())?;
    Ok(())
}

/// With tcp_rfc1337 = 1 it survives that; the same segment ends it when the sysctl is 0 again.
pub fn rst_1337(stage: &mut Stage<'_>) -> Outcome {
    lives::sysctl("tcp_rfc1337", "1")?;
    let rst = time_wait_and_rst(stage)?;
    rst.send()?;
    thread::sleep(A_WHILE);
    stage.check("minisocks after a RST, tcp_rfc1337 = 1", 1, oracle::minisocks()?);
    lives::sysctl("tcp_rfc1337", "0")?;
    stage.ends(Cause::Reset, || rst.send())?;
    Ok(())
}

/// Data reach a FIN_WAIT2 minisock: it answers with a RST, and ends.
pub fn fin_wait2_data(stage: &mut Stage<'_>) -> Outcome {
    let listener = stage.listen(Family::V4)?;
    let from = stage.source(Family::V4);
    let mut server = stage.fin_wait2(&listener, Some(from))?;
    let before = oracle::counter("Tcp", "OutRsts")?;
    stage.ends(Cause::DataReset, || server.write_all(b"too late"))?;
    stage.check("Tcp OutRsts", 1, oracle::counter("Tcp", "OutRsts")? - before);
    Ok(())
}

/// SOCK_DESTROY of a TIME_WAIT and of a FIN_WAIT2 minisock.
pub fn kill(stage: &mut Stage<'_>) -> Outcome {
    let listener = stage.listen(Family::V4)?;
    stage.live(&listener, Family::V4, First::Client)?;
    destroy(stage)?;
    let from = stage.source(Family::V4);
    let server = stage.fin_wait2(&listener, Some(from))?;
    destroy(stage)?;
    lives::abort(server)?;
    Ok(())
}

fn destroy(stage: &mut Stage<'_>) -> Outcome {
    let tuple = stage.last()?.tuple;
    let mut refused = None;
    let result = stage.ends(Cause::Killed, || {
        diag::kill(&tuple).inspect_err(|error| {
            if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
                refused = Some(error.to_string());
            }
        })
    });
    match refused {
        Some(error) => Err(Stop::NotHere(format!("SOCK_DESTROY of a TIME_WAIT: {error}"))),
        None => Ok(result?),
    }
}

/// A table of five: 30 closes make 5 minisocks, and 25 are refused, each with who closed it.
pub fn overflow(stage: &mut Stage<'_>) -> Outcome {
    const ROOM: u32 = 5;
    const CLOSES: u32 = 30;
    lives::sysctl("tcp_max_tw_buckets", &ROOM.to_string())?;
    let listener = stage.listen(Family::V4)?;
    for index in 0..CLOSES {
        if index < ROOM {
            stage.live(&listener, Family::V4, First::Client)?;
            continue;
        }
        let from = stage.source(Family::V4);
        let link = stage.connect(&listener, Some(from))?;
        let tuple = stage.want(&link, First::Client)?.tuple;
        let before = oracle::counters()?.overflow;
        lives::close_in_order(link.pair.client, link.pair.server)?;
        if !oracle::reach(PATIENCE, |counters| counters.overflow == before + 1)? {
            return Err(io::Error::other(format!("TCPTimeWaitOverflow does not reach {}", before + 1)).into());
        }
        stage.made.refused.push(WantRefused {
            netns: stage.netns.inum(),
            tuple,
            reason: Refusal::Buckets,
            used: ROOM,
            limit: ROOM,
            closer: Is::Exactly(stage.me.clone()),
        });
    }
    let overflow = oracle::counters()?.overflow;
    stage.check("TcpExt TCPTimeWaitOverflow", CLOSES - ROOM, overflow);
    stage.check("minisocks", true, oracle::minisocks_reach(ROOM.into(), A_WHILE)?);
    Ok(())
}
