//! The start-up self-test: one connection in a network namespace of its own must be seen to be born and to die, with the
//! right tuple, before anything else is believed.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{
    decode::decode,
    host::netns::Netns,
    model::{
        event::{Cause, Detail, Event, Kind, Role, Substate, Tuple},
        kernel::TwCounts,
    },
    source::Source,
    traffic::{lives, oracle},
};

/// A millisecond is usual; an emulated machine that is busy may take seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was done in the namespace, and what the kernel's own counters made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// The minisock's connection, from the server's side.
    pub tuple: Tuple,
    /// Learnt on the way.
    pub tw_counts: TwCounts,
}

/// Makes one minisock at the accepting end and ends it at once by a new SYN from the same port, so that birth, death and
/// the cause's stack are all tried. The second connection is aborted and leaves none.
///
/// # Errors
/// If the namespace or a socket does not work: the kernel's fault, not the programs'.
pub fn make(netns: &Netns) -> io::Result<Made> {
    netns.run(|| {
        // On a machine that stalls a FIN is sent again, finds its socket closed and is answered by a RST, which would end the
        // minisock (RFC 1337). Where /proc/sys cannot be written, in a container, that chance is taken.
        let _ = lives::sysctl("tcp_rfc1337", "1");
        let before = oracle::counters()?;
        let listener = lives::listen((Ipv4Addr::LOCALHOST, 0).into())?;
        let pair = lives::connect(&listener, None)?;
        let (local, peer) = (listener.local_addr()?, pair.client.local_addr()?);
        lives::close_in_order(pair.server, pair.client)?;
        if !oracle::minisocks_reach(before.sockstat_tw + 1, PATIENCE)? {
            return Err(io::Error::other("the connection made no TIME_WAIT socket"));
        }
        lives::abort_both(lives::connect_again(&listener, peer, |_| ())?)?;
        let after = oracle::counters()?;
        let tw_counts = if after.tw + after.tw_killed > before.tw + before.tw_killed {
            TwCounts::Births
        } else {
            TwCounts::Expiries
        };
        Ok(Made { tuple: tuple(local, peer), tw_counts })
    })
}

fn tuple(local: SocketAddr, remote: SocketAddr) -> Tuple {
    Tuple { laddr: local.ip(), lport: local.port(), raddr: remote.ip(), rport: remote.port() }
}

/// Waits for the events of the self-test. Others are handed to `pass_on`, in order.
///
/// # Errors
/// What was missing or wrong, in words.
pub fn check(
    source: &mut dyn Source,
    made: &Made,
    with_cause: bool,
    pass_on: &mut dyn FnMut(Event),
) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    let mut seen: Vec<Event> = Vec::new();
    loop {
        source.drain(usize::MAX, &mut |bytes| match decode(bytes) {
            Ok(event) if event.self_test => seen.push(event),
            Ok(event) => pass_on(event),
            // Undecodable records cannot be told apart; the pipeline counts those that come later.
            Err(_) => {}
        });
        match verdict(&seen, made, with_cause) {
            Err(_) if Instant::now() < deadline && !is_over(&seen) => std::thread::sleep(Duration::from_millis(1)),
            verdict => return verdict,
        }
    }
}

/// The death is the last that there is to see.
fn is_over(seen: &[Event]) -> bool {
    seen.iter().any(|event| matches!(event.detail, Detail::Died { .. }))
}

fn verdict(seen: &[Event], made: &Made, with_cause: bool) -> Result<(), String> {
    let births = seen.iter().filter(|event| matches!(event.detail, Detail::Born { .. })).count();
    let deaths = seen.iter().filter(|event| matches!(event.detail, Detail::Died { .. })).count();
    if births != 1 || deaths != 1 {
        return Err(format!("1 birth and 1 death were made, {births} and {deaths} were seen"));
    }
    // Where the client's end is slow to go, the second connection takes more than one attempt.
    let of_minisocks = |event: &&Event| !matches!(event.kind(), Kind::NoPort | Kind::ReuseDenied | Kind::NoBind);
    for event in seen.iter().filter(of_minisocks) {
        if event.life.tuple != Some(made.tuple) {
            return Err(format!("the {} has the tuple {:?}, not {:?}", event.kind(), event.life.tuple, made.tuple));
        }
        if event.life.role.is_some_and(|role| role != Role::Server) {
            return Err(format!("the {} has the role {:?}", event.kind(), event.life.role));
        }
        if let Detail::Died { cause, .. } = event.detail {
            // It may be born in FIN_WAIT2, if the peer's ACK comes before its FIN; only a TIME_WAIT can be recycled.
            if event.life.substate != Some(Substate::TimeWait) {
                return Err(format!("the death has the substate {:?}", event.life.substate));
            }
            if with_cause && cause != Cause::Recycled {
                return Err(format!("the cause of death is told as {cause}, not recycled"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::model::event::{Call, Connection, Life};

    const MADE: Made = Made {
        tuple: Tuple {
            laddr: IpAddr::V4(Ipv4Addr::LOCALHOST),
            lport: 80,
            raddr: IpAddr::V4(Ipv4Addr::LOCALHOST),
            rport: 4000,
        },
        tw_counts: TwCounts::Births,
    };

    fn event(detail: Detail) -> Event {
        let life = Life {
            id: Some(1),
            netns: Some(1),
            tuple: Some(MADE.tuple),
            substate: Some(Substate::TimeWait),
            role: Some(Role::Server),
            closer: None,
            preexisting: Some(false),
        };
        Event { mono_ns: 1, life, detail, self_test: true }
    }

    fn born() -> Event {
        event(Detail::Born { timeout_ms: None, connection: Connection::default() })
    }

    fn died(cause: Cause) -> Event {
        event(Detail::Died { cause, life_ns: None, taker: None })
    }

    #[test]
    fn one_birth_and_one_death_pass() {
        assert_eq!(verdict(&[born(), died(Cause::Recycled)], &MADE, true), Ok(()));
        assert_eq!(verdict(&[born(), died(Cause::Unknown(0))], &MADE, false), Ok(()));
    }

    #[test]
    fn a_birth_in_fin_wait2_that_turns_passes() {
        let mut birth = born();
        birth.life.substate = Some(Substate::FinWait2);
        let turned = event(Detail::Turned { after_ns: None });
        assert_eq!(verdict(&[birth, turned, died(Cause::Recycled)], &MADE, true), Ok(()));
    }

    #[test]
    fn an_attempt_that_was_refused_is_no_failure() {
        let mut refused = event(Detail::NoBind { call: Call::Bind, holder: None });
        refused.life.tuple = Some(Tuple { lport: 4000, rport: 0, ..MADE.tuple });
        let mut again = event(Detail::NoPort { took_ns: None, holder: None });
        again.life.tuple = Some(Tuple { lport: 4000, rport: 80, ..MADE.tuple });
        assert_eq!(verdict(&[born(), refused, again, died(Cause::Recycled)], &MADE, true), Ok(()));
        assert!(verdict(&[refused, again], &MADE, true).is_err());
    }

    #[test]
    fn anything_else_fails() {
        assert!(verdict(&[], &MADE, true).is_err());
        assert!(verdict(&[born()], &MADE, true).is_err());
        assert!(verdict(&[born(), born(), died(Cause::Recycled)], &MADE, true).is_err());
        assert!(verdict(&[born(), died(Cause::Expired)], &MADE, true).is_err());
        let mut wrong = born();
        wrong.life.tuple = None;
        assert!(verdict(&[wrong, died(Cause::Recycled)], &MADE, true).is_err());
    }
}
