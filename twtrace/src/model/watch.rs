//! What can be watched, and by what: the words of `--backend`, of the start and of `twtrace probe`.

use super::words::words;

words! {
    /// Something that can be watched. Each picks its own backend, so a missing hook costs one capability.
    Capability by name {
        /// A minisock comes into being. Required.
        Birth = "birth";
        /// A minisock ends. Required.
        Death = "death";
        /// FIN_WAIT2 becomes TIME_WAIT in place.
        Turn = "turn";
        /// A minisock's timer is armed anew.
        Rearm = "rearm";
        /// What ended a minisock, beyond the timer and connect().
        Cause = "cause";
        /// The kernel makes no minisock, for lack of room.
        Refusal = "refusal";
        /// Start, opener and role of a connection.
        Conn = "conn";
        /// The task that closed a connection.
        Closer = "closer";
        /// A connect() fails: no port is left, or the bound one is taken.
        NoPort = "no_port";
        /// A connect() that fails was denied minisocks in its way.
        ReuseDenied = "reuse_denied";
        /// A bind() or listen() finds its port taken.
        NoBind = "no_bind";
    }
}

impl Capability {
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

    /// No run without it.
    #[must_use]
    pub fn required(self) -> bool {
        matches!(self, Self::Birth | Self::Death)
    }
}

words! {
    /// A way to watch.
    Backend by name {
        /// BPF trampolines: fentry and fexit.
        Fentry = "fentry";
        /// kprobes.
        Kprobe = "kprobe";
        /// BTF tracepoints alone.
        Tracepoint = "tracepoint";
    }
}
