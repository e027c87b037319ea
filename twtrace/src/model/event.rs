//! What happened, in the words of the field: one [`Event`] a record.
//!
//! `None` means that the kernel did not say or could not be asked; it is never shown as zero.

mod vocabulary;

use std::{borrow::Cow, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{holder::Holder, name};
pub use vocabulary::{Call, Cause, Denial, Kind, Refusal, Role, Substate};

/// A task's command name: bytes up to the first NUL, as the kernel keeps them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Comm(pub [u8; twtrace_common::COMM_LEN]);

impl Comm {
    /// The name of a task as a text has it, at most 15 bytes; `None`: it is too long.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        let mut bytes = [0; twtrace_common::COMM_LEN];
        // The last byte of a name is always NUL.
        bytes[..twtrace_common::COMM_LEN - 1].get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self(bytes))
    }

    /// The name as [`name::text`], which may hold what steers a terminal: not for the eye.
    #[must_use]
    pub fn name(&self) -> Cow<'_, str> {
        name::text(self.0.split(|&byte| byte == 0).next().unwrap_or_default())
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name())
    }
}

/// A task, as it was when it acted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Thread group id, in the initial pid namespace.
    pub pid: u32,
    /// Command name of the thread.
    pub comm: Comm,
}

/// The task that ran the transition into FIN_WAIT1, the author of a TIME_WAIT; or the caller of a connect(), bind() or
/// listen() that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closer {
    /// The task.
    pub task: Task,
    /// The task's cgroup v2 id: the inode number of the cgroup's directory.
    pub cgroup_id: u64,
}

/// Which minisock, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Stable for that minisock within a run; `None` if its birth was not seen and it was not seeded.
    pub id: Option<u64>,
    /// Inode number of the network namespace.
    pub netns: Option<u32>,
    /// The connection; v4-mapped addresses are IPv4 here. Of a bind() or listen() the remote end is zero.
    pub tuple: Option<Tuple>,
    /// State of the minisock at the event.
    pub substate: Option<Substate>,
    /// Who opened the connection.
    pub role: Option<Role>,
    /// Who closed it; of a failed connect(), bind() or listen(), who called it.
    pub closer: Option<Closer>,
    /// The minisock was there before twtrace; `None` if that cannot be told.
    pub preexisting: Option<bool>,
}

/// A connection's two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tuple {
    /// Local address.
    pub laddr: IpAddr,
    /// Local port; 0 if a connect() or bind() found none.
    pub lport: u16,
    /// Remote address.
    pub raddr: IpAddr,
    /// Remote port.
    pub rport: u16,
}

impl Tuple {
    /// 4 or 6.
    #[must_use]
    pub fn family(&self) -> u8 {
        if self.laddr.is_ipv4() { 4 } else { 6 }
    }

    /// The local port, if there is one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        (self.lport != 0).then_some(self.lport)
    }
}

/// What a birth or a refusal tells of the connection before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Who called connect(); `None` for accepted connections and those opened before twtrace.
    pub opener: Option<Task>,
    /// From SYN_SENT or SYN_RECV to now, nanoseconds.
    pub conn_ns: Option<u64>,
    /// What connect() took, from SYN_SENT to ESTABLISHED, nanoseconds; `None` for accepted connections, for those opened
    /// at both ends at once, and for those opened before twtrace.
    pub connect_ns: Option<u64>,
    /// Both ends sent TCP timestamps.
    pub timestamps: Option<bool>,
    /// Payload received, bytes.
    pub bytes_in: Option<u64>,
    /// Payload sent, without retransmissions, bytes.
    pub bytes_out: Option<u64>,
    /// Smoothed round-trip time, microseconds.
    pub srtt_us: Option<u32>,
    /// `SO_MARK`.
    pub mark: Option<u32>,
}

/// What the event adds to the life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Detail {
    /// A minisock was born.
    Born {
        /// What the timer was armed with, milliseconds; true to one tick of the kernel's clock.
        timeout_ms: Option<u32>,
        /// The connection before it.
        connection: Connection,
    },
    /// FIN_WAIT2 became TIME_WAIT in place.
    Turned {
        /// Time in FIN_WAIT2, nanoseconds.
        after_ns: Option<u64>,
    },
    /// The timer was armed anew.
    Rearmed {
        /// With what, milliseconds.
        timeout_ms: Option<u32>,
    },
    /// A minisock ended.
    Died {
        /// Why.
        cause: Cause,
        /// From birth to now, nanoseconds.
        life_ns: Option<u64>,
        /// The task whose connect() took the tuple.
        taker: Option<Task>,
    },
    /// The kernel made no minisock.
    Refused {
        /// Why.
        reason: Refusal,
        /// Minisocks of the namespace then.
        used: Option<u32>,
        /// `tcp_max_tw_buckets` of the namespace.
        limit: Option<u32>,
        /// The connection that ended without one.
        connection: Connection,
    },
    /// A connect() failed with EADDRNOTAVAIL. If the tuple has a local port, that was bound before, and the connection is
    /// taken; if it has none, no port was left.
    NoPort {
        /// How long it took, from SYN_SENT to now, nanoseconds.
        took_ns: Option<u64>,
        /// Who has the connection, if the port was bound; found afterwards.
        holder: Option<Holder>,
    },
    /// A connect() that failed was denied minisocks in its way; the life is that of the first, the closer the caller.
    ReuseDenied {
        /// Why.
        reason: Denial,
        /// How many, for this reason.
        count: u32,
        /// How long the connect() took, from SYN_SENT to now, nanoseconds.
        took_ns: Option<u64>,
    },
    /// A bind() or listen() failed with EADDRINUSE; the tuple's local end is what it wanted.
    NoBind {
        /// Which of the two.
        call: Call,
        /// Who has the port; found afterwards.
        holder: Option<Holder>,
    },
}

/// One thing that happened to one minisock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub mono_ns: u64,
    /// To which minisock.
    pub life: Life,
    /// What.
    pub detail: Detail,
    /// The event belongs to the start-up self-test: for nobody's eyes.
    pub self_test: bool,
}

impl Event {
    /// The event's kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.detail {
            Detail::Born { .. } => Kind::Born,
            Detail::Turned { .. } => Kind::Turned,
            Detail::Rearmed { .. } => Kind::Rearmed,
            Detail::Died { .. } => Kind::Died,
            Detail::Refused { .. } => Kind::Refused,
            Detail::NoPort { .. } => Kind::NoPort,
            Detail::ReuseDenied { .. } => Kind::ReuseDenied,
            Detail::NoBind { .. } => Kind::NoBind,
        }
    }

    /// True if somebody has the port that was asked for, and it is to be found out who.
    #[must_use]
    pub fn has_holder(&self) -> bool {
        let named = self.life.netns.is_some() && self.life.tuple.is_some_and(|tuple| tuple.lport != 0);
        named && matches!(self.detail, Detail::NoPort { .. } | Detail::NoBind { .. })
    }

    /// Enters who has the port that was asked for.
    #[must_use]
    pub fn held(mut self, by: Option<Holder>) -> Self {
        if let Detail::NoPort { holder, .. } | Detail::NoBind { holder, .. } = &mut self.detail {
            *holder = by;
        }
        self
    }
}
