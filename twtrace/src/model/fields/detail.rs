//! The fields that one type of event has alone.

use serde_json::Value as Json;

use super::{
    CAUSES, DENIALS, Field, NOT_READ,
    Shape::{Bool, Integer, Text},
    Value,
    access::{flag, name, number, put, set, taker, task, unsigned, word},
    always, maybe,
};
use crate::model::event::{Cause, Comm, Denial, Detail, Refusal};

const NO_TAKER: &str = "not a takeover, or the process was not seen";

/// A field that stands in one kind of [`Detail`]: how its value is shown, and how one is entered.
macro_rules! detail {
    ($field:expr, $kind:ident, $name:ident, $show:expr, $enter:ident, $read:expr) => {
        $field.of(
            |event| match event.detail {
                Detail::$kind { $name, .. } => $show($name),
                _ => Value::Null,
            },
            |event, value| match &mut event.detail {
                Detail::$kind { $name, .. } => $enter($name, $read(value)?),
                _ => None,
            },
        )
    };
}

/// How long a FIN_WAIT2 waited.
pub(super) const TURN: &[Field] = &[detail!(
    maybe("after_ns", Integer, "ns", "time in FIN_WAIT2", "its birth was not seen"),
    Turned,
    after_ns,
    number,
    set,
    unsigned
)];

/// The end.
pub(super) const END: &[Field] = &[
    detail!(
        maybe("cause", Text, CAUSES, "what ended it", "not known"),
        Died,
        cause,
        |cause: Cause| word(Some(cause.word())),
        put,
        |value: &Json| Cause::from_word(value.as_str()?)
    ),
    detail!(
        maybe(
            "life_ns",
            Integer,
            "ns",
            "from birth to now, without the time that the machine slept, as the kernel's timer counts it",
            "its birth was not seen",
        ),
        Died,
        life_ns,
        number,
        set,
        unsigned
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
    detail!(
        maybe("reason", Text, "buckets memory", "tcp_max_tw_buckets was reached, or no memory", "not known"),
        Refused,
        reason,
        |reason: Refusal| word(Some(reason.word())),
        put,
        |value: &Json| Refusal::from_word(value.as_str()?)
    ),
    detail!(
        maybe("used", Integer, "", "minisocks of the namespace at that moment", NOT_READ),
        Refused,
        used,
        number,
        set,
        unsigned
    ),
    detail!(
        maybe("limit", Integer, "", "tcp_max_tw_buckets of the namespace", NOT_READ),
        Refused,
        limit,
        number,
        set,
        unsigned
    ),
];

/// Why a connect() could not take a minisock over.
pub(super) const DENIAL: &[Field] = &[
    detail!(
        maybe(
            "reason",
            Text,
            DENIALS,
            "no TCP timestamps; younger than tcp_tw_reuse accepts; tcp_tw_reuse is 0, or 2 on a connection that is \
             not loopback; the peer has not closed",
            "not known",
        ),
        ReuseDenied,
        reason,
        |reason: Denial| word(Some(reason.word())),
        put,
        |value: &Json| Denial::from_word(value.as_str()?)
    ),
    detail!(
        always("count", Integer, "", "how many minisocks, for this reason, in this connect()"),
        ReuseDenied,
        count,
        |count: u32| number(Some(count)),
        put,
        unsigned
    ),
];
