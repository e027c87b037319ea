//! The scenarios: every way that the kernel has into a TIME_WAIT and out of it.

mod closing;
mod owners;
mod refused;
mod segments;
mod storms;
mod takeover;
mod timer;

use super::{
    alone::Alone,
    stage::{Outcome, Stage},
};
use crate::plan::Capability;

/// How a scenario runs.
#[derive(Clone, Copy, Debug)]
pub enum Play {
    /// Beside the others, seen by the one tracer of the lab.
    Beside(fn(&mut Stage<'_>) -> Outcome),
    /// After them, with a tracer of its own.
    Alone(fn(&mut Stage<'_>, &mut Alone) -> Outcome),
}

/// One way to live and die.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The word for it.
    pub name: &'static str,
    /// What must be seen.
    pub shows: &'static str,
    /// Waits until a real TIME_WAIT has run out.
    pub slow: bool,
    /// What the tracer must offer, beyond births and deaths.
    pub needs: &'static [Capability],
    /// How many helper processes it needs.
    pub hands: usize,
    /// The scenario needs a second namespace. All are made before the first scenario begins: the number of one that is gone may be
    /// given to the next that is made.
    pub twin: bool,
    /// What it makes before the tracer is attached.
    pub before: Option<fn(&mut Stage<'_>) -> Outcome>,
    /// What it does.
    pub play: Play,
}

impl Scenario {
    /// A scenario by its name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|scenario| scenario.name == name)
    }
}

/// A quick scenario beside the others.
const fn quick(
    name: &'static str,
    shows: &'static str,
    needs: &'static [Capability],
    play: fn(&mut Stage<'_>) -> Outcome,
) -> Scenario {
    Scenario { name, shows, slow: false, needs, hands: 0, twin: false, before: None, play: Play::Beside(play) }
}

/// A scenario that needs another process.
const fn with_hand(name: &'static str, shows: &'static str, play: fn(&mut Stage<'_>) -> Outcome) -> Scenario {
    Scenario { hands: 1, ..quick(name, shows, OWNED, play) }
}

const OWNED: &[Capability] = &[Capability::Conn, Capability::Closer];
const CAUSED: &[Capability] = &[Capability::Conn, Capability::Closer, Capability::Cause];
const TURNED: &[Capability] = &[Capability::Conn, Capability::Closer, Capability::Cause, Capability::Turn];

/// All of them, those that take longest first.
pub const ALL: &[Scenario] = &[
    Scenario {
        slow: true,
        ..quick("expire", "a real TIME_WAIT lives 60 s and the timer wheel's slack, never less", TURNED, timer::expire)
    },
    Scenario {
        slow: true,
        needs: &[Capability::Conn, Capability::Closer, Capability::Rearm],
        ..quick("rearm", "a stray ACK gives another 60 s: rearmed, and the life is longer", OWNED, timer::rearm)
    },
    quick("storm", "connections as fast as they go, with reuse: every counter equal", CAUSED, storms::storm),
    quick(
        "orphan-expire",
        "tcp_fin_timeout = 2: born fin_wait2, expired after 2 s and slack",
        OWNED,
        closing::orphan_expire,
    ),
    quick(
        "client-close",
        "role, closer, age, bytes and srtt of what the connecting end closed",
        OWNED,
        closing::client_close,
    ),
    quick("server-close", "the same of what the accepting end closed", OWNED, closing::server_close),
    quick("simultaneous-close", "both FINs cross: two minisocks", OWNED, closing::simultaneous_close),
    quick("fd-kept", "shutdown(), the descriptor still open: TIME_WAIT all the same", OWNED, closing::fd_kept),
    quick("orphan-turn", "FIN_WAIT2, then the peer's FIN: turned, in place, same id", TURNED, closing::orphan_turn),
    quick("reuse", "tcp_tw_reuse = 1, port chosen by connect(): reused, and by whom", CAUSED, takeover::reuse),
    quick("reuse-bound", "bind() before connect(), tcp_tw_reuse = 0: reused_bound", CAUSED, takeover::reuse_bound),
    Scenario {
        needs: &[Capability::Conn, Capability::Closer, Capability::Cause, Capability::NoPort, Capability::ReuseDenied],
        ..quick(
            "reuse-denied",
            "no_timestamps, disabled, too_young, fin_wait2, and the connect() that failed",
            CAUSED,
            takeover::reuse_denied,
        )
    },
    quick(
        "recycle",
        "a new SYN to the accepting side's TIME_WAIT: recycled, no counter moves",
        CAUSED,
        takeover::recycle,
    ),
    quick(
        "recycle-no-listener",
        "the same with nobody listening: an ACK, the peer's RST, reset",
        CAUSED,
        takeover::recycle_no_listener,
    ),
    quick("rst", "a RST at rcv_nxt: reset", CAUSED, segments::rst),
    quick("rst-1337", "the same with tcp_rfc1337 = 1: it survives", CAUSED, segments::rst_1337),
    quick("fin-wait2-data", "data to a FIN_WAIT2 minisock: data_reset", CAUSED, segments::fin_wait2_data),
    quick("kill", "SOCK_DESTROY by netlink: killed", CAUSED, segments::kill),
    Scenario { twin: true, ..quick("netns-exit", "the namespace goes away: netns", CAUSED, owners::netns_exit) },
    Scenario {
        needs: &[Capability::Conn, Capability::Closer, Capability::Refusal],
        ..quick("overflow", "tcp_max_tw_buckets = 5, 30 closes: 5 born, 25 refused", OWNED, segments::overflow)
    },
    Scenario {
        needs: &[Capability::Conn, Capability::Closer, Capability::NoPort],
        ..quick(
            "no-port",
            "a range of 10 ports: the eleventh connect() fails, and says so",
            OWNED,
            takeover::exhaustion,
        )
    },
    Scenario {
        needs: &[Capability::Conn, Capability::Closer, Capability::NoPort],
        ..quick(
            "no-port-bound",
            "connect() from a bound port: its own TIME_WAIT is in the way, or its connection; a RST, close() or timeout is not",
            OWNED,
            refused::no_port_bound,
        )
    },
    Scenario {
        needs: &[Capability::Conn, Capability::Closer, Capability::NoBind],
        ..quick(
            "no-bind",
            "bind() and listen() that TIME_WAIT, a listener or a full range refuse; with SO_REUSEADDR it succeeds",
            OWNED,
            refused::no_bind,
        )
    },
    quick("ipv6", "the same lives, IPv6 addresses", CAUSED, closing::ipv6),
    quick("v4-mapped", "IPv6 sockets, IPv4 connections", CAUSED, closing::v4_mapped),
    with_hand("mptcp", "one life a minisock; the closer is who closed the MPTCP socket", closing::mptcp),
    with_hand("fork", "the closer is the child that had the socket too", owners::fork),
    with_hand("passed-fd", "the closer is the process that was given the descriptor", owners::passed_fd),
    with_hand("exit-close", "the closer is the process that died", owners::exit_close),
    quick("linger0", "SO_LINGER 0: an abort, no birth", OWNED, closing::linger0),
    quick("unread-data", "close() with data unread: an abort, no birth", OWNED, closing::unread_data),
    Scenario {
        // A process in the namespace, so that its older sockets can be found.
        hands: 1,
        before: Some(owners::make_older),
        ..quick("pre-existing", "sockets older than the tracer: their ends are marked", CAUSED, owners::pre_existing)
    },
    quick("slab-reuse", "lives at one kernel address, one after the other: never joined", CAUSED, owners::slab_reuse),
    Scenario {
        twin: true,
        ..quick("two-namespaces", "the same connection in two namespaces: two lives", CAUSED, owners::two_namespaces)
    },
    Scenario {
        play: Play::Alone(storms::small_ring),
        ..quick("storm-small-ring", "a ring of one page: counters equal, losses counted", OWNED, storms::storm)
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_words_and_slow_ones_come_first() {
        let names: BTreeSet<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(
            names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'))
        );
        assert!(ALL.is_sorted_by_key(|scenario| !scenario.slow));
        assert!(Scenario::find("expire").is_some_and(|scenario| scenario.slow));
        assert!(Scenario::find("expires").is_none());
    }
}
