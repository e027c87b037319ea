//! The fields that several types of events have.

use serde_json::Value as Json;

use super::{
    Field, NOT_READ,
    Shape::{Bool, Integer, Text},
    Value,
    access::{
        address, before, before_mut, closer, flag, holder, holder_mut, name, nowhere, number, put, remote, set, task,
        unsigned, word,
    },
    maybe,
};
use crate::model::{
    event::{Call, Comm, Detail, Role, Substate},
    holder::{HeldBy, Holder},
};

const NO_CLOSER: &str = "the close was not seen";
const NO_OPENER: &str = "accepted here, or the connect() was not seen";
const NO_HOLDER: &str = "no port was wanted in particular, or the holder was not found";
const NO_PROCESS: &str = "no socket holds the port, or its process was not found";
const NO_MINISOCK: &str = "no minisock holds the port";

/// What every line about a minisock or a connect() goes on with.
pub const SOCKET: &[Field] = &[
    maybe(
        "id",
        Integer,
        "",
        "stable for this minisock within the run",
        "the minisock's birth was not seen, and it was not listed at the start; `no_port` and `no_bind`: no minisock",
    )
    .of(|event| number(event.life.id), |event, value| set(&mut event.life.id, unsigned(value)?)),
    maybe("netns", Integer, "inode number", "its network namespace", NOT_READ)
        .of(|event| number(event.life.netns), |event, value| set(&mut event.life.netns, unsigned(value)?)),
    maybe("family", Integer, "4 6", "address family; v4-mapped is 4", NOT_READ).of(
        |event| number(event.life.tuple.map(|tuple| tuple.family())),
        |event, value| set(&mut event.life.tuple, nowhere(unsigned::<u8>(value)?)?),
    ),
    maybe("laddr", Text, "address", "local address", NOT_READ).of(
        |event| address(event.life.tuple.map(|tuple| tuple.laddr)),
        |event, value| put(&mut event.life.tuple.as_mut()?.laddr, value.as_str()?.parse().ok()?),
    ),
    maybe(
        "lport",
        Integer,
        "port",
        "local port",
        "not read; `no_port`: no port was left; `no_bind`: bind() asked for any port, and none was left",
    )
    .of(
        |event| number(event.life.tuple.and_then(|tuple| tuple.port())),
        |event, value| put(&mut event.life.tuple.as_mut()?.lport, unsigned(value)?),
    ),
    maybe("raddr", Text, "address", "remote address", "not read; `no_bind`: no remote end").of(
        |event| address(remote(event).map(|tuple| tuple.raddr)),
        |event, value| put(&mut event.life.tuple.as_mut()?.raddr, value.as_str()?.parse().ok()?),
    ),
    maybe("rport", Integer, "port", "remote port", "not read; `no_bind`: no remote end").of(
        |event| number(remote(event).map(|tuple| tuple.rport)),
        |event, value| put(&mut event.life.tuple.as_mut()?.rport, unsigned(value)?),
    ),
];

/// The fields of the task that acted, in the words of each line: see [`OWNER`].
const fn role(field: Field) -> Field {
    field.of(
        |event| word(event.life.role.map(Role::word)),
        |event, value| set(&mut event.life.role, Role::from_word(value.as_str()?)?),
    )
}

const fn pid(field: Field) -> Field {
    field.of(
        |event| number(event.life.closer.map(|closer| closer.task.pid)),
        |event, value| put(&mut closer(event).task.pid, unsigned(value)?),
    )
}

const fn comm(field: Field) -> Field {
    field.of(
        |event| name(event.life.closer.as_ref().map(|closer| &closer.task.comm)),
        |event, value| put(&mut closer(event).task.comm, Comm::named(value.as_str()?)?),
    )
}

const fn cgroup(field: Field) -> Field {
    field.of(
        |event| number(event.life.closer.map(|closer| closer.cgroup_id)),
        |event, value| put(&mut closer(event).cgroup_id, unsigned(value)?),
    )
}

/// Who closed.
pub(super) const OWNER: &[Field] = &[
    role(maybe(
        "role",
        Text,
        "client server",
        "whether this host opened the connection or accepted it",
        "the opening was not seen",
    )),
    pid(maybe(
        "pid",
        Integer,
        "",
        "process that closed the connection (of MPTCP: the MPTCP socket), in the initial pid namespace",
        NO_CLOSER,
    )),
    comm(maybe("comm", Text, "", "name of the thread that closed the connection", NO_CLOSER)),
    cgroup(maybe(
        "cgroup_id",
        Integer,
        "inode number",
        "cgroup v2 of the thread that closed the connection",
        NO_CLOSER,
    )),
];

/// Who called connect().
pub(super) const CALLER: &[Field] = &[
    role(maybe("role", Text, "client server", "always client: this host called connect()", NOT_READ)),
    pid(maybe("pid", Integer, "", "process that called connect(), in the initial pid namespace", NOT_READ)),
    comm(maybe("comm", Text, "", "name of the thread that called connect()", NOT_READ)),
    cgroup(maybe("cgroup_id", Integer, "inode number", "cgroup v2 of the thread that called connect()", NOT_READ)),
    maybe("took_ns", Integer, "ns", "time from SYN_SENT until connect() failed", "the start of connect() was not seen")
        .of(
            |event| match event.detail {
                Detail::NoPort { took_ns, .. } | Detail::ReuseDenied { took_ns, .. } => number(took_ns),
                _ => Value::Null,
            },
            |event, value| match &mut event.detail {
                Detail::NoPort { took_ns, .. } | Detail::ReuseDenied { took_ns, .. } => set(took_ns, unsigned(value)?),
                _ => None,
            },
        ),
];

/// Who called bind() or listen().
pub(super) const BINDER: &[Field] = &[
    role(maybe("role", Text, "client server", "always null: the port may be for either", "always")),
    pid(maybe("pid", Integer, "", "process that called bind() or listen(), in the initial pid namespace", NOT_READ)),
    comm(maybe("comm", Text, "", "name of the thread that called bind() or listen()", NOT_READ)),
    cgroup(maybe(
        "cgroup_id",
        Integer,
        "inode number",
        "cgroup v2 of the thread that called bind() or listen()",
        NOT_READ,
    )),
    maybe("call", Text, "bind listen", "system call that failed", "not known").of(
        |event| match event.detail {
            Detail::NoBind { call, .. } => word(Some(call.word())),
            _ => Value::Null,
        },
        |event, value| match &mut event.detail {
            Detail::NoBind { call, .. } => put(call, Call::from_word(value.as_str()?)?),
            _ => None,
        },
    ),
];

/// Who has the port.
pub(super) const HOLDER: &[Field] = &[
    maybe(
        "held_by",
        Text,
        "listener socket time_wait",
        "what holds the local port, looked up a moment after the call failed",
        NO_HOLDER,
    )
    .of(
        |event| word(holder(event).map(|holder| holder.by.word())),
        |event, value| {
            let by = HeldBy::from_word(value.as_str()?)?;
            let holder = Holder { by, task: None, held_ms: None, expires_in_ms: None };
            set(holder_mut(event)?, holder)
        },
    ),
    maybe("holder_pid", Integer, "", "process whose socket holds the port, in twtrace's pid namespace", NO_PROCESS).of(
        |event| number(holder(event).and_then(|holder| holder.task).map(|task| task.pid)),
        |event, value| put(&mut task(&mut holder_mut(event)?.as_mut()?.task).pid, unsigned(value)?),
    ),
    maybe("holder_comm", Text, "", "name of that process's main thread", NO_PROCESS).of(
        |event| name(holder(event).and_then(|holder| holder.task.as_ref()).map(|task| &task.comm)),
        |event, value| put(&mut task(&mut holder_mut(event)?.as_mut()?.task).comm, Comm::named(value.as_str()?)?),
    ),
    maybe(
        "held_ms",
        Integer,
        "ms",
        "how long the minisock has held the port, since its timer was last armed",
        NO_MINISOCK,
    )
    .of(
        |event| number(holder(event).and_then(|holder| holder.held_ms)),
        |event, value| set(&mut holder_mut(event)?.as_mut()?.held_ms, unsigned(value)?),
    ),
    maybe("expires_in_ms", Integer, "ms", "when the minisock's timer is due; 0: at once", NO_MINISOCK).of(
        |event| number(holder(event).and_then(|holder| holder.expires_in_ms)),
        |event, value| set(&mut holder_mut(event)?.as_mut()?.expires_in_ms, unsigned(value)?),
    ),
];

const fn timer(field: Field) -> Field {
    field.of(
        |event| match event.detail {
            Detail::Born { timeout_ms, .. } | Detail::Rearmed { timeout_ms } => number(timeout_ms),
            _ => Value::Null,
        },
        |event, value| match &mut event.detail {
            Detail::Born { timeout_ms, .. } | Detail::Rearmed { timeout_ms } => set(timeout_ms, unsigned(value)?),
            _ => None,
        },
    )
}

/// The timer that was armed.
pub(super) const TIMER: &[Field] = &[timer(maybe(
    "timeout_ms",
    Integer,
    "ms",
    "timeout that the timer was armed with, to one kernel tick; before 6.10, shorter by any interruption of the birth",
    NOT_READ,
))];

/// No timer.
pub(super) const NO_TIMER: &[Field] =
    &[timer(maybe("timeout_ms", Integer, "ms", "always null: no minisock, no timer", "always"))];

/// What the minisock stands for.
pub(super) const STATE: &[Field] = &[maybe("substate", Text, "time_wait fin_wait2", "state of the minisock", NOT_READ)
    .of(
        |event| word(event.life.substate.map(Substate::word)),
        |event, value| set(&mut event.life.substate, Substate::from_word(value.as_str()?)?),
    )];

/// A field of the connection before a minisock.
macro_rules! connection {
    ($field:expr, $name:ident, $show:expr, $read:expr) => {
        $field.of(
            |event| $show(before(event).and_then(|connection| connection.$name)),
            |event, value| set(&mut before_mut(event)?.$name, $read(value)?),
        )
    };
}

/// The connection before the minisock.
pub(super) const CONNECTION: &[Field] = &[
    maybe("opener_pid", Integer, "", "process that called connect()", NO_OPENER).of(
        |event| number(before(event).and_then(|connection| connection.opener).map(|opener| opener.pid)),
        |event, value| put(&mut task(&mut before_mut(event)?.opener).pid, unsigned(value)?),
    ),
    maybe("opener_comm", Text, "", "name of the thread that called connect()", NO_OPENER).of(
        |event| name(before(event).and_then(|connection| connection.opener.as_ref()).map(|opener| &opener.comm)),
        |event, value| put(&mut task(&mut before_mut(event)?.opener).comm, Comm::named(value.as_str()?)?),
    ),
    connection!(
        maybe("conn_ns", Integer, "ns", "age of the connection, from SYN_SENT or SYN_RECV", "the start was not seen"),
        conn_ns,
        number,
        unsigned
    ),
    connection!(
        maybe(
            "connect_ns",
            Integer,
            "ns",
            "time from SYN_SENT to ESTABLISHED: port search and handshake",
            "accepted here, opened at both ends at once, or the start was not seen",
        ),
        connect_ns,
        number,
        unsigned
    ),
    connection!(
        maybe("timestamps", Bool, "", "both ends sent TCP timestamps", NOT_READ),
        timestamps,
        flag,
        Json::as_bool
    ),
    connection!(maybe("bytes_in", Integer, "bytes", "payload received", NOT_READ), bytes_in, number, unsigned),
    connection!(
        maybe("bytes_out", Integer, "bytes", "payload sent, without retransmissions", NOT_READ),
        bytes_out,
        number,
        unsigned
    ),
    connection!(maybe("srtt_us", Integer, "us", "smoothed round-trip time", NOT_READ), srtt_us, number, unsigned),
    connection!(maybe("mark", Integer, "", "SO_MARK", NOT_READ), mark, number, unsigned),
];
