//! What we will do about it: which backend serves which capability. Pure; every "no" keeps its reason and its remedy.

mod choose;
mod facts;
mod misses;
mod reason;

pub use choose::{Plan, PlanError, UNASKED, choose};
pub use facts::Facts;
pub(crate) use facts::{FUNCTIONS, TRACEPOINTS};
pub use misses::{Counting, Misses};
pub use reason::{Failure, Reason};

use std::fmt;

use twtrace_common::record::kind;

/// Something that can be watched. Each picks its own backend, so a missing hook costs one capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// A minisock comes into being. Required.
    Birth,
    /// A minisock ends. Required.
    Death,
    /// FIN_WAIT2 becomes TIME_WAIT in place.
    Turn,
    /// A minisock's timer is armed anew.
    Rearm,
    /// What ended a minisock, beyond the timer and connect().
    Cause,
    /// The kernel makes no minisock, for lack of room.
    Refusal,
    /// Start, opener and role of a connection.
    Conn,
    /// The task that closed a connection.
    Closer,
    /// A connect() fails: no port is left, or the bound one is taken.
    NoPort,
    /// A connect() that fails was denied minisocks in its way.
    ReuseDenied,
    /// A bind() or listen() finds its port taken.
    NoBind,
}

impl Capability {
    /// All of them, in the order in which backends are chosen: later ones may depend on earlier choices.
    pub const ALL: [Self; 11] = [
        Self::Birth,
        Self::Death,
        Self::Turn,
        Self::Rearm,
        Self::Cause,
        Self::Refusal,
        Self::Conn,
        Self::Closer,
        Self::NoPort,
        Self::ReuseDenied,
        Self::NoBind,
    ];

    /// The name in every output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Birth => "birth",
            Self::Death => "death",
            Self::Turn => "turn",
            Self::Rearm => "rearm",
            Self::Cause => "cause",
            Self::Refusal => "refusal",
            Self::Conn => "conn",
            Self::Closer => "closer",
            Self::NoPort => "no_port",
            Self::ReuseDenied => "reuse_denied",
            Self::NoBind => "no_bind",
        }
    }

    /// What it tells, in a few words.
    #[must_use]
    pub fn tells(self) -> &'static str {
        match self {
            Self::Birth => "sockets that enter TIME_WAIT or FIN_WAIT2",
            Self::Death => "when each ends, and how long it lived",
            Self::Turn => "FIN_WAIT2 that becomes TIME_WAIT in place",
            Self::Rearm => "stray segments that restart the 60 s timer",
            Self::Cause => "what ended it: timer, reuse, SYN, RST, kill, namespace",
            Self::Refusal => "sockets closed without TIME_WAIT: tcp_max_tw_buckets is full",
            Self::Conn => "role, opener and age of the connection",
            Self::Closer => "the process that closed it",
            Self::NoPort => "connect() that fails with EADDRNOTAVAIL: no port left, or the bound port is taken",
            Self::ReuseDenied => "why a failed connect() could not reuse a TIME_WAIT",
            Self::NoBind => "bind() or listen() that fails with EADDRINUSE, and who holds the port",
        }
    }

    /// The kinds of events for which alone it is watched; none: every event needs it.
    #[must_use]
    fn kinds(self) -> &'static [u8] {
        match self {
            Self::Turn | Self::Rearm => &[kind::TURNED, kind::REARMED],
            Self::Refusal => &[kind::REFUSED],
            // A denial is told by the connect() that failed.
            Self::NoPort => &[kind::NO_PORT, kind::REUSE_DENIED],
            Self::ReuseDenied => &[kind::REUSE_DENIED],
            Self::NoBind => &[kind::NO_BIND],
            Self::Birth | Self::Death | Self::Cause | Self::Conn | Self::Closer => &[],
        }
    }

    /// No run without it.
    #[must_use]
    pub fn required(self) -> bool {
        matches!(self, Self::Birth | Self::Death)
    }
}

/// What a run asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// One backend alone, except for what has no twin there (`conn`, `closer`, `no_port`: tracepoints).
    pub forced: Option<Backend>,
    /// The kinds of events, one bit each as in [`twtrace_common::knob::Filter::kinds`]; 0: all that can be counted.
    pub kinds: u32,
}

impl Asked {
    /// Everything, by one backend.
    #[must_use]
    pub fn of(backend: Backend) -> Self {
        Self { forced: Some(backend), ..Self::default() }
    }

    fn wants(&self, capability: Capability) -> bool {
        let kinds = capability.kinds();
        self.kinds == 0 || kinds.is_empty() || kinds.iter().any(|kind| self.kinds & 1 << kind != 0)
    }
}

/// A way to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// BPF trampolines: fentry and fexit.
    Fentry,
    /// kprobes.
    Kprobe,
    /// BTF tracepoints alone.
    Tracepoint,
}

impl Backend {
    /// All of them, best first.
    pub const ALL: [Self; 3] = [Self::Fentry, Self::Kprobe, Self::Tracepoint];

    /// The name in every output and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attach {
    /// At a function's entry, by trampoline.
    Fentry,
    /// At a function's exit, by trampoline.
    Fexit,
    /// At a function's entry, by kprobe.
    Kprobe,
    /// At a tracepoint, with BTF arguments.
    TpBtf,
}

/// One program of the eBPF object and the place it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hook {
    /// Name of the program in the object.
    pub program: &'static str,
    /// How.
    pub attach: Attach,
    /// Where: a kernel function or a tracepoint.
    pub target: &'static str,
}

impl Hook {
    /// When it is attached, relative to the others.
    ///
    /// A program that stands in for a busy one is called after it, so that no event is told twice if the busy one ends in
    /// between: trampolines call the last that was attached first, tracepoints the first. Else the order is all the same:
    /// no program acts before all are attached (`twtrace_common::knob::stage`).
    #[must_use]
    pub fn rank(&self) -> u8 {
        match self.program {
            "death_again_fentry" | "refusal_again_fexit" => 0,
            "conn_again_tp" => 2,
            _ => 1,
        }
    }
}

/// The hash dance that also arms the timer (6.11 and earlier backports).
pub const HASHDANCE_SCHEDULE: &str = "inet_twsk_hashdance_schedule";
/// The hash dance before that.
pub const HASHDANCE: &str = "inet_twsk_hashdance";

/// The programs behind a capability on a backend; `dance`: which of the two functions this kernel has.
#[must_use]
pub fn hooks(capability: Capability, backend: Backend, dance: &'static str) -> Vec<Hook> {
    use {Attach as A, Backend as B, Capability as C};
    let hook = |program, attach, target| Hook { program, attach, target };
    let conn = hook("conn_tp", A::TpBtf, "inet_sock_set_state");
    let again = hook("conn_again_tp", A::TpBtf, "inet_sock_set_state");
    let start = hook("birth_tp", A::TpBtf, "timer_start");
    let cancel = hook("death_tp", A::TpBtf, "timer_cancel");
    let expire = hook("expiry_tp", A::TpBtf, "timer_expire_entry");
    match (capability, backend) {
        (C::Conn | C::Closer, _) => vec![conn, again],
        (C::Birth, B::Fentry) => vec![hook("birth_fentry", A::Fentry, dance)],
        (C::Birth, B::Kprobe) => vec![hook("birth_kprobe", A::Kprobe, dance)],
        // timer_cancel tells a re-arm from a birth; the transitions lead from the minisock to its socket.
        (C::Birth, B::Tracepoint) => vec![start, cancel, conn, again],
        (C::Death | C::Cause, B::Fentry) => vec![
            hook("death_fentry", A::Fentry, "inet_twsk_kill"),
            hook("death_again_fentry", A::Fentry, "inet_twsk_kill"),
            hook("expiry_fentry", A::Fentry, "tw_timer_handler"),
        ],
        (C::Death | C::Cause, B::Kprobe) => vec![
            hook("death_kprobe", A::Kprobe, "inet_twsk_kill"),
            hook("expiry_kprobe", A::Kprobe, "tw_timer_handler"),
        ],
        (C::Death | C::Cause, B::Tracepoint) => vec![cancel, expire],
        (C::Turn | C::Rearm, B::Fentry) => vec![hook("rearm_fentry", A::Fentry, "__inet_twsk_schedule")],
        (C::Turn | C::Rearm, B::Kprobe) => vec![hook("rearm_kprobe", A::Kprobe, "__inet_twsk_schedule")],
        (C::Turn | C::Rearm, B::Tracepoint) => vec![start, cancel, expire],
        (C::Refusal, B::Fentry) => vec![
            hook("refusal_fexit", A::Fexit, "inet_twsk_alloc"),
            hook("refusal_again_fexit", A::Fexit, "inet_twsk_alloc"),
        ],
        (C::Refusal, B::Kprobe) => vec![hook("refusal_kprobe", A::Kprobe, "tcp_time_wait"), conn, again],
        (C::Refusal, B::Tracepoint) => vec![conn, again],
        (C::NoPort, B::Fentry) => vec![
            hook("no_port_fexit", A::Fexit, "inet_hash_connect"),
            hook("no_port6_fexit", A::Fexit, "inet6_hash_connect"),
        ],
        (C::NoPort, B::Kprobe | B::Tracepoint) => vec![conn, again],
        (C::ReuseDenied, B::Fentry) => vec![hook("denied_fexit", A::Fexit, "tcp_twsk_unique")],
        (C::ReuseDenied, B::Kprobe) => vec![hook("denied_kprobe", A::Kprobe, "tcp_twsk_unique")],
        (C::NoBind, B::Fentry) => vec![hook("no_bind_fexit", A::Fexit, "inet_csk_get_port")],
        (C::ReuseDenied, B::Tracepoint) | (C::NoBind, B::Kprobe | B::Tracepoint) => Vec::new(),
    }
}
