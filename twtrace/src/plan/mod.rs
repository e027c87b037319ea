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

use twtrace_common::record::kind;

pub use crate::model::watch::{Backend, Capability};

/// The kinds of events for which alone a capability is watched; none: every event needs it.
fn kinds(capability: Capability) -> &'static [u8] {
    use Capability as C;
    match capability {
        C::Turn | C::Rearm => &[kind::TURNED, kind::REARMED],
        C::Refusal => &[kind::REFUSED],
        // A denial is told by the connect() that failed.
        C::NoPort => &[kind::NO_PORT, kind::REUSE_DENIED],
        C::ReuseDenied => &[kind::REUSE_DENIED],
        C::NoBind => &[kind::NO_BIND],
        C::Birth | C::Death | C::Cause | C::Conn | C::Closer => &[],
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
        let kinds = kinds(capability);
        self.kinds == 0 || kinds.is_empty() || kinds.iter().any(|kind| self.kinds & 1 << kind != 0)
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
