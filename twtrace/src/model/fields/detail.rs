//! The fields that one type of event has alone.

use super::{
    CAUSES, DENIALS, Field, NOT_READ,
    Shape::{Bool, Integer, Text},
    Value,
    access::{flag, known, name, number, put, set, taker, task, unsigned, word},
    always, maybe,
};
use crate::model::event::{Cause, Comm, Denial, Detail, Refusal};

const NO_TAKER: &str = "not a takeover, or the process was not seen";

/// How long a FIN_WAIT2 waited.
pub(super) const TURN: &[Field] = &[maybe("after_ns", Integer, "ns", "time in FIN_WAIT2", "its birth was not seen")
    .of(
        |event| match event.detail {
            Detail::Turned { after_ns } => number(after_ns),
            _ => Value::Null,
        },
        |event, value| match &mut event.detail {
            Detail::Turned { after_ns } => set(after_ns, unsigned(value)?),
            _ => None,
        },
    )];

/// The end.
pub(super) const END: &[Field] = &[
    maybe("cause", Text, CAUSES, "what ended it", "not known").of(
        |event| match event.detail {
            Detail::Died { cause, .. } => word(known(cause.word())),
            _ => Value::Null,
        },
        |event, value| match &mut event.detail {
            Detail::Died { cause, .. } => put(cause, Cause::from_word(value.as_str()?)?),
            _ => None,
        },
    ),
    maybe(
        "life_ns",
        Integer,
        "ns",
        "from birth to now, without the time that the machine slept, as the kernel's timer counts it",
        "its birth was not seen",
    )
    .of(
        |event| match event.detail {
            Detail::Died { life_ns, .. } => number(life_ns),
            _ => Value::Null,
        },
        |event, value| match &mut event.detail {
            Detail::Died { life_ns, .. } => set(life_ns, unsigned(value)?),
            _ => None,
        },
    ),
    maybe(
        "preexisting",
        Bool,
        "",
        "the minisock is older than the run",
        "not known: no program saw its birth, and it was found later, or never",
    )
    .of(|event| flag(event.life.preexisting), |event, value| set(&mut event.life.preexisting, value.as_bool()?)),
    maybe("taker_pid", Integer, "", "process whose connect() took the tuple", NO_TAKER).of(
        |event| number(taker(event).map(|taker| taker.pid)),
        |event, value| match &mut event.detail {
            Detail::Died { taker, .. } => put(&mut task(taker).pid, unsigned(value)?),
            _ => None,
        },
    ),
    maybe("taker_comm", Text, "", "name of the thread whose connect() took the tuple", NO_TAKER).of(
        |event| name(taker(event).map(|taker| &taker.comm)),
        |event, value| match &mut event.detail {
            Detail::Died { taker, .. } => put(&mut task(taker).comm, Comm::named(value.as_str()?)?),
            _ => None,
        },
    ),
];

/// Why the kernel made no minisock.
pub(super) const REFUSAL: &[Field] = &[
    maybe("reason", Text, "buckets memory", "tcp_max_tw_buckets was reached, or no memory", "not known").of(
        |event| match event.detail {
            Detail::Refused { reason, .. } => word(known(reason.word())),
            _ => Value::Null,
        },
        |event, value| match &mut event.detail {
            Detail::Refused { reason, .. } => put(reason, Refusal::from_word(value.as_str()?)?),
            _ => None,
        },
    ),
    maybe("used", Integer, "", "minisocks of the namespace at that moment", NOT_READ).of(
        |event| match event.detail {
            Detail::Refused { used, .. } => number(used),
            _ => Value::Null,
        },
        |event, value| match &mut event.detail {
            Detail::Refused { used, .. } => set(used, unsigned(value)?),
            _ => None,
        },
    ),
    maybe("limit", Integer, "", "tcp_max_tw_buckets of the namespace", NOT_READ).of(
        |event| match event.detail {
            Detail::Refused { limit, .. } => number(limit),
            _ => Value::Null,
        },
        |event, value| match &mut event.detail {
            Detail::Refused { limit, .. } => set(limit, unsigned(value)?),
            _ => None,
        },
    ),
];

/// Why a connect() could not take a minisock over.
pub(super) const DENIAL: &[Field] = &[
    maybe(
        "reason",
        Text,
        DENIALS,
        "no TCP timestamps; younger than tcp_tw_reuse accepts; tcp_tw_reuse is 0, or 2 on a connection that is \
         not loopback; the peer has not closed",
        "not known",
    )
    .of(
        |event| match event.detail {
            Detail::ReuseDenied { reason, .. } => word(known(reason.word())),
            _ => Value::Null,
        },
        |event, value| match &mut event.detail {
            Detail::ReuseDenied { reason, .. } => put(reason, Denial::from_word(value.as_str()?)?),
            _ => None,
        },
    ),
    always("count", Integer, "", "how many minisocks, for this reason, in this connect()").of(
        |event| match event.detail {
            Detail::ReuseDenied { count, .. } => Value::Integer(count.into()),
            _ => Value::Null,
        },
        |event, value| match &mut event.detail {
            Detail::ReuseDenied { count, .. } => put(count, unsigned(value)?),
            _ => None,
        },
    ),
];
