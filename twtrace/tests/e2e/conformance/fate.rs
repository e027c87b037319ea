//! What became of a connection, from two looks of sock_diag and what was done between them: nothing here knows the tracer.
//! And what was told, held against that.

use std::{fmt, ops::RangeInclusive};

use twtrace::{
    host::diag::TCP_FIN_WAIT1,
    model::event::{Cause, Detail, Event, Kind, Refusal, Role, Substate},
};

/// What sock_diag says of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing, or a listener where a connection could come in.
    Nothing,
    /// A full socket or a request, in this state of include/net/tcp_states.h.
    Full(u8),
    /// A minisock, and until its timer is due, milliseconds.
    Mini(Substate, u32),
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Full(state) => write!(f, "state {state}"),
            Self::Mini(substate, left) => write!(f, "minisock {substate}, {left} ms"),
        }
    }
}

/// One look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub seen: Seen,
    /// Before it was asked for and after the answer, nanoseconds of `CLOCK_MONOTONIC`.
    pub asked_ns: u64,
    pub known_ns: u64,
}

/// What was done between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stimulus {
    /// Nothing to this connection; time passed.
    Nothing,
    /// A call that may end no minisock.
    Call,
    /// A segment with these flags; `stamped`: with a timestamp; `answered`: the kernel sent a RST.
    Segment { rst: bool, syn: bool, stamped: bool, answered: bool },
    /// SOCK_DESTROY, which said that it did it.
    Destroyed,
    /// A connect() that has begun to connect.
    Connected { bound: bool },
}

/// One thing that became of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub what: What,
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub within_ns: RangeInclusive<u64>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A minisock was born.
    Born { substate: Substate, known: Known, timeout_ms: RangeInclusive<u32> },
    /// The minisock became a TIME_WAIT; `stamped`: by a FIN with a timestamp.
    Turned { stamped: bool },
    /// The timer was armed anew; not `sure`: it was armed so shortly before that sock_diag shows no difference.
    Rearmed { sure: bool },
    /// The minisock ended.
    Died {
        cause: Cause,
        /// When its timer was due, nanoseconds of `CLOCK_MONOTONIC`: from then on nobody outside can know which came first.
        due_ns: u64,
    },
    /// The minisock was not made: the kernel counted an overflow.
    Refused,
    /// The minisock was not made, for the connection was aborted when its FIN was acknowledged: data after close().
    Aborted,
}

/// What a birth tells of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub role: Role,
    /// TCP_INFO's word, if it could be asked.
    pub timestamps: Option<bool>,
    /// TCP_LINGER2 < 0: it never becomes a FIN_WAIT2 without a process.
    pub aborts: bool,
}

/// The clock of sock_diag's times is the kernel's tick, of 10 ms at most; there are two to each difference.
const TICKS_MS: u32 = 24;
/// An emulated machine gets its ticks late and catches up in a leap. And between the arming of a timer and the hook that tells
/// of it another task may have run: before 6.10 the timer is armed first.
const STALL_MS: u32 = 500;
/// TCP_TIMEWAIT_LEN, to which every timer is armed anew.
const TIME_WAIT_MS: u32 = 60_000;

/// `tw_entry_stamp` counts milliseconds, and so does what it is compared with.
const NOTED_NS: u64 = 2_000_000;

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
    let ms = |ns: u64| u32::try_from(ns / 1_000_000).unwrap_or(u32::MAX);
    let elapsed_ms = ms(after.known_ns.saturating_sub(before.asked_ns));
    let strange = |what: &str| Err(format!("{what}: {} became {} by {stimulus:?}", before.seen, after.seen));
    let fact = |what| Ok(Some(Fact { what, within_ns: before.asked_ns..=after.known_ns }));
    match (before.seen, after.seen) {
        (Seen::Mini(was, left), Seen::Mini(is, then)) if was == is => {
            let armed_anew = then > left + TICKS_MS;
            let may_be = then + elapsed_ms + STALL_MS >= TIME_WAIT_MS;
            let touched = matches!(stimulus, Stimulus::Segment { .. }) && is == Substate::TimeWait;
            match (touched, armed_anew) {
                (false, true) => strange("a timer that went back by itself"),
                (true, true) => fact(What::Rearmed { sure: true }),
                (true, false) if may_be => fact(What::Rearmed { sure: false }),
                _ => Ok(None),
            }
        }
        (Seen::Mini(Substate::FinWait2, _), Seen::Mini(Substate::TimeWait, _)) => match stimulus {
            Stimulus::Segment { stamped, .. } => fact(What::Turned { stamped }),
            _ => strange("a turn without a segment"),
        },
        (Seen::Mini(..), Seen::Mini(..)) => strange("no way for a minisock"),
        (Seen::Mini(substate, left), end) => {
            // Timers of the kernel's wheel are never early.
            let due_ns = due_ns(before.asked_ns, left);
            match cause(substate, end == Seen::Nothing, stimulus, is_due(due_ns, after.known_ns)) {
                Some(cause) => fact(What::Died { cause, due_ns }),
                None => strange("no way to end"),
            }
        }
        (Seen::Full(_), Seen::Mini(substate, left)) => {
            let timeout_ms = left.saturating_sub(TICKS_MS)..=left + elapsed_ms + TICKS_MS + STALL_MS;
            fact(What::Born { substate, known, timeout_ms })
        }
        (Seen::Nothing, Seen::Mini(..)) => strange("a minisock without a socket before it"),
        (Seen::Full(_), Seen::Nothing) if overflow => fact(What::Refused),
        (Seen::Full(TCP_FIN_WAIT1), Seen::Nothing) if !known.aborts => fact(What::Aborted),
        _ if overflow => strange("an overflow without an end"),
        _ => Ok(None),
    }
}

/// When a timer is due that had so much left.
pub fn due_ns(asked_ns: u64, left_ms: u32) -> u64 {
    asked_ns + u64::from(left_ms) * 1_000_000
}

/// True if a timer may have run out by then.
pub fn is_due(due_ns: u64, by_ns: u64) -> bool {
    by_ns.saturating_add(u64::from(STALL_MS) * 1_000_000) >= due_ns
}

/// Why a minisock ended. `gone`: nothing has its tuple now; else a full socket has. `due`: its timer may have run out.
fn cause(substate: Substate, gone: bool, stimulus: Stimulus, due: bool) -> Option<Cause> {
    let is_time_wait = substate == Substate::TimeWait;
    match stimulus {
        Stimulus::Destroyed if gone => Some(Cause::Killed),
        Stimulus::Connected { bound: true } if !gone => Some(Cause::ReusedBound),
        Stimulus::Connected { bound: false } if !gone => Some(Cause::Reused),
        Stimulus::Segment { rst: true, answered: false, .. } if gone => Some(Cause::Reset),
        // The listener may have dropped it, after the minisock had made way.
        Stimulus::Segment { syn: true, rst: false, .. } if is_time_wait => Some(Cause::Recycled),
        Stimulus::Segment { rst: false, answered: true, .. } if gone && !is_time_wait => Some(Cause::DataReset),
        Stimulus::Nothing | Stimulus::Call | Stimulus::Segment { .. } if due && gone => Some(Cause::Expired),
        _ => None,
    }
}

impl What {
    /// True if an event tells this.
    fn is(&self, event: &Event) -> bool {
        match (self, &event.detail) {
            (Self::Born { substate, known, timeout_ms }, Detail::Born { connection, timeout_ms: told }) => {
                event.life.substate == Some(*substate)
                    && event.life.role == Some(known.role)
                    && (known.timestamps.is_none() || connection.timestamps == known.timestamps)
                    && told.is_some_and(|told| timeout_ms.contains(&told))
            }
            (Self::Turned { .. }, Detail::Turned { .. }) | (Self::Rearmed { .. }, Detail::Rearmed { .. }) => true,
            (Self::Died { cause, due_ns }, Detail::Died { cause: told, .. }) => {
                told == cause || *told == Cause::Expired && is_due(*due_ns, event.mono_ns)
            }
            (Self::Refused | Self::Aborted, Detail::Refused { reason, .. }) => *reason == Refusal::Buckets,
            _ => false,
        }
    }

    /// True if nobody has to tell this. `late`: inside a bucket of the timer wheel the tracer sees no re-arm.
    fn is_optional(&self, late: bool) -> bool {
        matches!(self, Self::Rearmed { sure } if late || !sure) || *self == Self::Aborted
    }

    /// True if this may be told. `late`: while the table is full, such an abort looks like a refusal (see refusal.rs of
    /// twtrace-ebpf): the tracer's one known falsehood.
    fn may_be_told(&self, late: bool) -> bool {
        late || *self != Self::Aborted
    }
}

impl Fact {
    /// True if an event tells this, and when it happened. `late`: turns are told when the timer is next touched, with the
    /// millisecond that the kernel noted, or the moment of the telling.
    fn is(&self, event: &Event, late: bool) -> bool {
        let when = if late && matches!(self.what, What::Turned { .. }) {
            self.within_ns.start().saturating_sub(NOTED_NS)..=u64::MAX
        } else {
            self.within_ns.clone()
        };
        self.what.may_be_told(late) && self.what.is(event) && when.contains(&event.mono_ns)
    }
}

/// True if the oracle decides such events.
pub fn is_decided(event: &Event) -> bool {
    matches!(event.kind(), Kind::Born | Kind::Turned | Kind::Rearmed | Kind::Died | Kind::Refused)
}

/// What was told of one tuple, in order, against what became of it. `events` are those that are decided. `late`: the tracer
/// has only the timer's tracepoints for turns and re-arms.
///
/// # Errors
/// The first difference.
pub fn compare(facts: &[Fact], events: &[&Event], late: bool) -> Result<(), String> {
    let shown = |event: &Event| {
        let life = &event.life;
        format!("{:?} ({:?}, {:?}, id {:?}, at {})", event.detail, life.role, life.substate, life.id, event.mono_ns)
    };
    let mut facts = facts.iter().peekable();
    let (mut id, mut bare) = (None, None);
    for event in events {
        // Another falsehood: a FIN without a timestamp, on a connection that has them, is told as an earlier turn and a re-arm
        // if a second has begun since the last timestamp (`turned_before` in rearm.rs of twtrace-ebpf).
        if event.kind() == Kind::Rearmed
            && bare.take().is_some_and(|within: RangeInclusive<u64>| within.contains(&event.mono_ns))
        {
            continue;
        }
        while facts.next_if(|fact| fact.what.is_optional(late) && !fact.is(event, late)).is_some() {}
        match facts.next() {
            Some(fact) if fact.is(event, late) => {
                let is_bare = late && fact.what == What::Turned { stamped: false };
                bare = is_bare.then(|| fact.within_ns.clone());
            }
            fact => {
                let fact = fact.map_or_else(|| "nothing".to_owned(), |fact| format!("{fact:?}"));
                return Err(format!("it is {fact}, and told is {}", shown(event)));
            }
        }
        match event.kind() {
            Kind::Born if event.life.id.is_some() => id = event.life.id,
            Kind::Turned | Kind::Rearmed | Kind::Died if id.is_some() && event.life.id == id => {}
            Kind::Refused if event.life.id.is_none() => {}
            _ => return Err(format!("not the id of its birth, which is {id:?}: {}", shown(event))),
        }
    }
    match facts.find(|fact| !fact.what.is_optional(late)) {
        Some(fact) => Err(format!("it is {fact:?}, and nothing is told")),
        None => Ok(()),
    }
}
