//! What must be said: a scenario's word on the lives that it made, from what its own sockets told it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    os::unix::fs::MetadataExt as _,
};

use crate::{
    model::event::{Call, Cause, Closer, Denial, Detail, Event, Refusal, Role, Substate, Tuple},
    traffic::who::Who,
};

/// What one value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Is<T> {
    /// Whatever it is, the scenario cannot know better.
    Anything,
    /// Told as not known.
    Unknown,
    /// This.
    Exactly(T),
    /// Between these, both included.
    Within(RangeInclusive<T>),
}

impl<T: PartialOrd> Is<T> {
    /// True if a told value will do; `None`: it was told as not known.
    #[must_use]
    pub fn holds(&self, told: Option<&T>) -> bool {
        match (self, told) {
            (Self::Anything, _) | (Self::Unknown, None) => true,
            (Self::Exactly(wanted), Some(told)) => wanted == told,
            (Self::Within(range), Some(told)) => range.contains(told),
            (Self::Unknown, Some(_)) | (Self::Exactly(_) | Self::Within(_), None) => false,
        }
    }

    /// True if nothing is asked.
    #[must_use]
    pub fn is_anything(&self) -> bool {
        matches!(self, Self::Anything)
    }
}

impl<T: fmt::Debug> fmt::Display for Is<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anything => f.write_str("anything"),
            Self::Unknown => f.write_str("not known"),
            Self::Exactly(value) => write!(f, "{value:?}"),
            Self::Within(range) => write!(f, "{:?} to {:?}", range.start(), range.end()),
        }
    }
}

/// The calling task's cgroup v2 id: the inode number of its directory.
#[must_use]
pub fn own_cgroup() -> Is<u64> {
    // Where both versions are mounted, the second is below `unified`.
    const MOUNTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::")) else { return Is::Anything };
    let inode = |mount: &str| std::fs::metadata(format!("{mount}{path}")).ok().map(|found| found.ino());
    MOUNTS.into_iter().find_map(inode).map_or(Is::Anything, Is::Exactly)
}

/// What comes of a FIN_WAIT2 minisock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The minisock stays what it is.
    Never,
    /// The peer's FIN comes: if it was born as FIN_WAIT2, it turns, once.
    IfFinWait2,
}

/// How a life ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The life does not, while the scenario looks.
    Alive,
    /// The life ends.
    Died {
        /// Why.
        cause: Cause,
        /// How long it lived, nanoseconds.
        life_ns: Is<u64>,
        /// Whose connect() took it.
        taker: Is<Who>,
    },
}

impl End {
    /// An end that is no takeover.
    #[must_use]
    pub fn of(cause: Cause) -> Self {
        Self::Died { cause, life_ns: Is::Anything, taker: Is::Unknown }
    }

    /// A takeover by this task's connect().
    #[must_use]
    pub fn taken(cause: Cause, taker: Who) -> Self {
        Self::Died { cause, life_ns: Is::Anything, taker: Is::Exactly(taker) }
    }
}

/// What must be said of one minisock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// The minisock's connection, from its own side.
    pub tuple: Tuple,
    /// The minisock was there before the tracer: no birth is told, and its death is marked.
    pub preexisting: bool,
    /// Who opened the connection.
    pub role: Is<Role>,
    /// What it is born as. Often open: it depends on whether the peer's FIN and ACK come in one segment.
    pub born: Is<Substate>,
    /// Whether it turns.
    pub turn: Turn,
    /// How often its timer is armed anew.
    pub rearmed: Is<usize>,
    /// Who closed the connection.
    pub closer: Is<Who>,
    /// In which cgroup.
    pub cgroup: Is<u64>,
    /// Who called connect().
    pub opener: Is<Who>,
    /// Age of the connection at its birth, nanoseconds.
    pub conn_ns: Is<u64>,
    /// Payload received, bytes.
    pub bytes_in: Is<u64>,
    /// Payload sent, bytes.
    pub bytes_out: Is<u64>,
    /// Smoothed round-trip time, microseconds.
    pub srtt_us: Is<u32>,
    /// The two ends sent TCP timestamps.
    pub timestamps: Is<bool>,
    /// What its timer was armed with at birth, milliseconds.
    pub timeout_ms: Is<u32>,
    /// How it ends.
    pub end: End,
}

/// A minisock that must not be made, and be told so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantRefused {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// The connection.
    pub tuple: Tuple,
    /// Why.
    pub reason: Refusal,
    /// Minisocks of the namespace then.
    pub used: u32,
    /// The buckets' limit.
    pub limit: u32,
    /// Who closed the connection.
    pub closer: Is<Who>,
}

impl WantRefused {
    /// What an event tells of a refusal.
    #[must_use]
    pub fn told(event: &Event) -> Option<Self> {
        let Detail::Refused { reason, used, limit, .. } = event.detail else { return None };
        Some(Self {
            netns: event.life.netns?,
            tuple: event.life.tuple?,
            reason,
            used: used?,
            limit: limit?,
            closer: caller(event.life.closer),
        })
    }

    /// True if what was told is what was wanted.
    #[must_use]
    pub fn holds(&self, told: &Self) -> bool {
        let same = |it: &Self| (it.netns, it.tuple, it.reason, it.used, it.limit);
        same(self) == same(told) && is(&self.closer, &told.closer)
    }
}

/// A connect() that must fail with EADDRNOTAVAIL, and be told so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantNoPort {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Where from, if the port was bound; else no port was left.
    pub from: Option<SocketAddr>,
    /// Where to.
    pub to: SocketAddr,
    /// Who called it.
    pub caller: Is<Who>,
    /// How long it took, nanoseconds.
    pub took_ns: Is<u64>,
}

/// What takes time at all, nanoseconds: it is known, and not 0.
pub const SOME_TIME: Is<u64> = Is::Within(1..=u64::MAX);

impl WantNoPort {
    /// What an event tells of such a call.
    #[must_use]
    pub fn told(event: &Event) -> Option<Self> {
        let Detail::NoPort { took_ns, .. } = event.detail else { return None };
        let tuple = event.life.tuple?;
        let to = SocketAddr::new(tuple.raddr, tuple.rport);
        let from = tuple.port().map(|port| SocketAddr::new(tuple.laddr, port));
        let caller = caller(event.life.closer);
        Some(Self { netns: event.life.netns?, from, to, caller, took_ns: known(took_ns) })
    }

    /// True if what was told is what was wanted.
    #[must_use]
    pub fn holds(&self, told: &Self) -> bool {
        (self.netns, self.from, self.to) == (told.netns, told.from, told.to)
            && is(&self.caller, &told.caller)
            && is(&self.took_ns, &told.took_ns)
    }
}

/// A bind() or listen() that must fail with EADDRINUSE, and be told so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantNoBind {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// What it wanted; port 0: any.
    pub at: SocketAddr,
    /// Which call.
    pub call: Call,
    /// Who called it.
    pub caller: Is<Who>,
}

impl WantNoBind {
    /// What an event tells of such a call.
    #[must_use]
    pub fn told(event: &Event) -> Option<Self> {
        let Detail::NoBind { call, .. } = event.detail else { return None };
        let tuple = event.life.tuple?;
        let (at, caller) = (SocketAddr::new(tuple.laddr, tuple.lport), caller(event.life.closer));
        Some(Self { netns: event.life.netns?, at, call, caller })
    }

    /// True if what was told is what was wanted.
    #[must_use]
    pub fn holds(&self, told: &Self) -> bool {
        (self.netns, self.at, self.call) == (told.netns, told.at, told.call) && is(&self.caller, &told.caller)
    }
}

/// Minisocks that a connect() may not take over, and that are told so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantDenied {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// The first of them.
    pub tuple: Tuple,
    /// Why.
    pub reason: Denial,
    /// How many.
    pub count: u32,
    /// Who called connect().
    pub caller: Is<Who>,
    /// How long that took, nanoseconds.
    pub took_ns: Is<u64>,
}

impl WantDenied {
    /// What an event tells of a denial.
    #[must_use]
    pub fn told(event: &Event) -> Option<Self> {
        let Detail::ReuseDenied { reason, count, took_ns } = event.detail else { return None };
        let (caller, took_ns) = (caller(event.life.closer), known(took_ns));
        Some(Self { netns: event.life.netns?, tuple: event.life.tuple?, reason, count, caller, took_ns })
    }

    /// True if what was told is what was wanted.
    #[must_use]
    pub fn holds(&self, told: &Self) -> bool {
        let same = |it: &Self| (it.netns, it.tuple, it.reason, it.count);
        same(self) == same(told) && is(&self.caller, &told.caller) && is(&self.took_ns, &told.took_ns)
    }
}

/// The task that acted, as it was told.
fn caller(closer: Option<Closer>) -> Is<Who> {
    known(closer.map(|closer| Who::told(closer.task)))
}

/// A value as it was told.
fn known<T>(told: Option<T>) -> Is<T> {
    told.map_or(Is::Unknown, Is::Exactly)
}

fn is<T: PartialOrd>(wanted: &Is<T>, told: &Is<T>) -> bool {
    match told {
        Is::Exactly(told) => wanted.holds(Some(told)),
        _ => wanted.holds(None),
    }
}

/// The two ends of a connection, from the first one's side; v4-mapped addresses become IPv4, as twtrace tells them.
#[must_use]
pub fn between(local: SocketAddr, remote: SocketAddr) -> Tuple {
    let plain = |ip: IpAddr| ip.to_canonical();
    Tuple { laddr: plain(local.ip()), lport: local.port(), raddr: plain(remote.ip()), rport: remote.port() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_holds_or_not() {
        assert!(Is::<u8>::Anything.holds(None) && Is::Anything.holds(Some(&1)));
        assert!(Is::<u8>::Unknown.holds(None) && !Is::Unknown.holds(Some(&1)));
        assert!(Is::Exactly(1).holds(Some(&1)) && !Is::Exactly(1).holds(Some(&2)) && !Is::Exactly(1).holds(None));
        assert!(Is::Within(1..=2).holds(Some(&2)) && !Is::Within(1..=2).holds(Some(&3)));
        assert!(!Is::Within(1..=2).holds(None));
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let mapped = SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1], 80));
        let tuple = between(mapped, mapped);
        assert!(tuple.laddr.is_ipv4() && tuple.raddr.is_ipv4());
        assert_eq!(tuple.lport, 80);
    }
}
