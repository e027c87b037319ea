//! The words of the kernel boundary: one enumeration for each of its small integers.

use twtrace_common::record as raw;

use crate::model::words::vocabulary;

vocabulary! {
    /// What ended a minisock.
    Cause {
        /// The timer ran out.
        Expired = raw::cause::EXPIRED, "expired";
        /// A connect() with an automatically chosen port took it.
        Reused = raw::cause::REUSED, "reused";
        /// A connect() from an explicitly bound port took it.
        ReusedBound = raw::cause::REUSED_BOUND, "reused_bound";
        /// A new SYN took it.
        Recycled = raw::cause::RECYCLED, "recycled";
        /// A RST killed it.
        Reset = raw::cause::RESET, "reset";
        /// Data or a SYN reached a FIN_WAIT2 minisock.
        DataReset = raw::cause::DATA_RESET, "data_reset";
        /// SOCK_DESTROY (`ss -K`) or bpf_sock_destroy.
        Killed = raw::cause::KILLED, "killed";
        /// The minisock's network namespace went away.
        Netns = raw::cause::NETNS, "netns";
        /// A TPROXY redirect of a SYN.
        Tproxy = raw::cause::TPROXY, "tproxy";
    }
}

impl Cause {
    /// True if these causes are wanted and this is one of them; none named means all. Integers without a word are one
    /// cause, as they are for `--cause`.
    #[must_use]
    pub fn is_wanted(self, wanted: &[Self]) -> bool {
        wanted.is_empty() || wanted.iter().any(|cause| cause.word() == self.word())
    }
}

vocabulary! {
    /// `tw_substate`: both kinds of minisock have the state TIME_WAIT, and both count against the buckets.
    Substate {
        /// The peer's FIN has not come.
        FinWait2 = raw::substate::FIN_WAIT2, "fin_wait2";
        /// Both FINs are through.
        TimeWait = raw::substate::TIME_WAIT, "time_wait";
    }
}

vocabulary! {
    /// Who opened the connection.
    Role {
        /// This host called connect().
        Client = raw::role::CLIENT, "client";
        /// This host accepted it.
        Server = raw::role::SERVER, "server";
    }
}

vocabulary! {
    /// Why the kernel made no minisock.
    Refusal {
        /// `tcp_max_tw_buckets` was reached.
        Buckets = raw::refusal::BUCKETS, "buckets";
        /// The allocation failed.
        Memory = raw::refusal::MEMORY, "memory";
    }
}

vocabulary! {
    /// Why a connect() could not take over a minisock.
    Denial {
        /// The minisock's connection had no TCP timestamps.
        NoTimestamps = raw::denial::NO_TIMESTAMPS, "no_timestamps";
        /// tcp_tw_reuse would have it, a little later.
        TooYoung = raw::denial::TOO_YOUNG, "too_young";
        /// tcp_tw_reuse is 0, or is 2 and it is not a loopback connection.
        Disabled = raw::denial::DISABLED, "disabled";
        /// The peer has not closed.
        FinWait2 = raw::denial::FIN_WAIT2, "fin_wait2";
    }
}

vocabulary! {
    /// What an event tells: the words of `--events` and of the JSON field `type`.
    Kind {
        /// A minisock was born.
        Born = raw::kind::BORN, "born";
        /// FIN_WAIT2 became TIME_WAIT in place.
        Turned = raw::kind::TURNED, "turned";
        /// The timer was armed anew.
        Rearmed = raw::kind::REARMED, "rearmed";
        /// A minisock ended.
        Died = raw::kind::DIED, "died";
        /// The kernel made no minisock.
        Refused = raw::kind::REFUSED, "refused";
        /// A connect() failed with EADDRNOTAVAIL.
        NoPort = raw::kind::NO_PORT, "no_port";
        /// A connect() that failed was denied a minisock in its way.
        ReuseDenied = raw::kind::REUSE_DENIED, "reuse_denied";
        /// A bind() or listen() failed with EADDRINUSE.
        NoBind = raw::kind::NO_BIND, "no_bind";
    }
}

vocabulary! {
    /// Which system call failed with EADDRINUSE.
    Call {
        /// bind(2).
        Bind = raw::call::BIND, "bind";
        /// listen(2).
        Listen = raw::call::LISTEN, "listen";
    }
}
