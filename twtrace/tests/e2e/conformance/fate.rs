//! What became of a connection, from two looks of sock_diag and what was done between them: nothing here knows the tracer.
//! And what was told, held against that.

use std::{
    fmt,
    time::{Duration, Instant},
};

use twtrace::model::event::{Cause, Detail, Event, Kind, Refusal, Role, Substate};

/// What sock_diag says of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing, or a listener where a connection could come in.
    Nothing,
    /// A full socket or a request, in this state of include/net/tcp_states.h.
    Full(u8),
    /// A minisock, and until its timer is due.
    Mini(Substate, Duration),
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("-"),
            Self::Full(state) => write!(f, "{state}"),
            Self::Mini(substate, left) => write!(f, "{substate}({} ms)", left.as_millis()),
        }
    }
}

/// One look.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub seen: Seen,
    /// Before it was asked for.
    pub at: Instant,
    /// After the answer.
    pub until: Instant,
}

/// What was done between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stimulus {
    /// Nothing to this connection; time passed.
    Nothing,
    /// A call that may end no minisock.
    Call,
    /// A segment with these flags; `answered`: the kernel sent a RST.
    Segment { rst: bool, syn: bool, answered: bool },
    /// SOCK_DESTROY, which said that it did it.
    Destroyed,
    /// A connect() that has begun to connect.
    Connected { bound: bool },
}

/// One thing that became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A minisock was born.
    Born { substate: Substate, role: Role, timestamps: Option<bool> },
    /// It became a TIME_WAIT.
    Turned,
    /// It ended.
    Died {
        cause: Cause,
        /// Its timer was due as well: which came first cannot be known from outside.
        or_expired: bool,
    },
    /// It was not made: the kernel counted an overflow.
    Refused,
}

/// What a birth tells of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub role: Role,
    /// TCP_INFO's word, if it could be asked.
    pub timestamps: Option<bool>,
}

/// The clock of sock_diag's times is the kernel's tick.
const TICK: Duration = Duration::from_millis(12);

/// What became of a connection between two looks. `overflow`: TCPTimeWaitOverflow has moved between them.
///
/// # Errors
/// If no rule of TCP explains it: the oracle is wrong, or the kernel.
pub fn decide(
    before: &Look,
    after: &Look,
    stimulus: Stimulus,
    overflow: bool,
    known: Known,
) -> Result<Option<Fact>, String> {
    let strange = |what: &str| Err(format!("{what}: {} became {} by {stimulus:?}", before.seen, after.seen));
    let born = |substate| Fact::Born { substate, role: known.role, timestamps: known.timestamps };
    match (before.seen, after.seen) {
        (Seen::Mini(was, _), Seen::Mini(is, _)) if was == is => Ok(None),
        (Seen::Mini(Substate::FinWait2, _), Seen::Mini(Substate::TimeWait, _)) => match stimulus {
            Stimulus::Segment { .. } => Ok(Some(Fact::Turned)),
            _ => strange("a turn without a segment"),
        },
        (Seen::Mini(..), Seen::Mini(..)) => strange("no way for a minisock"),
        (Seen::Mini(substate, left), end) => {
            // Timers of the kernel's wheel are never early.
            let due = after.until.duration_since(before.at) + TICK >= left;
            let gone = end == Seen::Nothing;
            let cause = match stimulus {
                Stimulus::Nothing if due && gone => Cause::Expired,
                Stimulus::Destroyed if gone => Cause::Killed,
                Stimulus::Connected { bound } if !gone => {
                    if bound {
                        Cause::ReusedBound
                    } else {
                        Cause::Reused
                    }
                }
                Stimulus::Segment { rst: true, answered: false, .. } if gone => Cause::Reset,
                Stimulus::Segment { syn: true, rst: false, .. } if substate == Substate::TimeWait => Cause::Recycled,
                Stimulus::Segment { rst: false, answered: true, .. } if gone && substate == Substate::FinWait2 => {
                    Cause::DataReset
                }
                Stimulus::Call | Stimulus::Segment { .. } if due && gone => Cause::Expired,
                _ => return strange("no way to end"),
            };
            Ok(Some(Fact::Died { cause, or_expired: due }))
        }
        (Seen::Full(_), Seen::Mini(substate, _)) => Ok(Some(born(substate))),
        (Seen::Nothing, Seen::Mini(..)) => strange("a minisock without a socket before it"),
        (Seen::Full(_), Seen::Nothing) if overflow => Ok(Some(Fact::Refused)),
        _ if overflow => strange("an overflow without an end"),
        _ => Ok(None),
    }
}

impl Fact {
    /// True if an event tells this.
    fn is(&self, event: &Event) -> bool {
        match (*self, event.detail) {
            (Self::Born { substate, role, timestamps }, Detail::Born { connection, .. }) => {
                event.life.substate == Some(substate)
                    && event.life.role == Some(role)
                    && (timestamps.is_none() || connection.timestamps == timestamps)
            }
            (Self::Turned, Detail::Turned { .. }) => true,
            (Self::Died { cause, or_expired }, Detail::Died { cause: told, .. }) => {
                told == cause || or_expired && told == Cause::Expired
            }
            (Self::Refused, Detail::Refused { reason, .. }) => reason == Refusal::Buckets,
            _ => false,
        }
    }
}

/// True if the oracle decides such events. Not re-arms: inside a bucket of the timer wheel no tracepoint shows them.
pub fn is_decided(event: &Event) -> bool {
    matches!(event.kind(), Kind::Born | Kind::Turned | Kind::Died | Kind::Refused)
}

/// What was told of one tuple, in order, against what became of it. `events` are those that are decided.
///
/// # Errors
/// The first difference.
pub fn compare(facts: &[Fact], events: &[&Event]) -> Result<(), String> {
    let told = |event: &Event| {
        let life = &event.life;
        format!("{:?} (role {:?}, {:?}, id {:?})", event.detail, life.role, life.substate, life.id)
    };
    let mut id = None;
    for index in 0..facts.len().max(events.len()) {
        match (facts.get(index), events.get(index)) {
            (Some(fact), Some(event)) if fact.is(event) => {}
            (fact, event) => {
                let fact = fact.map_or_else(|| "nothing".to_owned(), |fact| format!("{fact:?}"));
                let event = event.map_or_else(|| "nothing".to_owned(), |event| told(event));
                return Err(format!("number {} is {fact}, and told is {event}", index + 1));
            }
        }
        let Some(event) = events.get(index) else { continue };
        match event.kind() {
            Kind::Born if event.life.id.is_some() => id = event.life.id,
            Kind::Turned | Kind::Died if id.is_some() && event.life.id == id => {}
            Kind::Refused if event.life.id.is_none() => {}
            _ => return Err(format!("number {}: not the id of its birth ({id:?}): {}", index + 1, told(event))),
        }
    }
    Ok(())
}
