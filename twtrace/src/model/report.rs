//! What twtrace says about a run besides its events: the start, the counters while it runs, the summary at its end.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use super::{
    event::{Cause, Denial, Refusal},
    reconcile::agrees,
    trouble::Trouble,
    watch::Backend,
    words::words,
};

/// What one capability got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityReport {
    /// What serves it; `None` if it is not offered.
    pub backend: Option<Backend>,
    /// Why not, or what was tried before.
    pub reason: Option<String>,
}

/// The first thing said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// `uname -r`, for the reader; nothing is decided by it.
    pub kernel: String,
    /// The kernel is PREEMPT_RT.
    pub realtime: bool,
    /// Version of twtrace.
    pub version: String,
    /// What is watched, and how, by the names of [`Capability`](super::watch::Capability).
    pub capabilities: BTreeMap<String, CapabilityReport>,
    /// Minisocks that were there before, in all network namespaces; `None` if they could not be listed.
    pub seeded: Option<u64>,
    /// Network namespaces whose older minisocks could not be listed, at most: counted by process or name.
    pub namespaces_missed: u64,
    /// Why they could not, or why there may be more; `None`: for no reason that is known, or none is missed.
    pub namespaces_missed_why: Option<String>,
    /// What the self-test saw: `passed`, or what was wrong.
    pub self_test: String,
}

/// Events that the kernel ran no program for, because it was running on that CPU, and that no second program made up for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// How many; `None`: this kernel does not count them for all programs.
    pub runs: Option<u64>,
    /// By program, zeroes left out.
    pub by: Vec<(Cow<'static, str>, u64)>,
}

/// The counters of the eBPF programs, added up over all CPUs, after the filters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// TIME_WAIT minisocks born.
    pub born_time_wait: u64,
    /// FIN_WAIT2 minisocks born.
    pub born_fin_wait2: u64,
    /// FIN_WAIT2 minisocks that became TIME_WAIT; `None` if not watched.
    pub turned: Option<u64>,
    /// Timers armed anew; `None` if not watched.
    pub rearmed: Option<u64>,
    /// Ends by cause, every cause present.
    pub died: Vec<(Cause, u64)>,
    /// Births refused by reason; `None` if not watched.
    pub refused: Option<Vec<(Refusal, u64)>>,
    /// connect() calls that failed with EADDRNOTAVAIL; `None` if not watched.
    pub no_port: Option<u64>,
    /// Failed connect() calls whose port was bound before; `None` if not watched.
    pub no_port_bound: Option<u64>,
    /// Denials by reason, one a connect() and reason; `None` if not watched.
    pub reuse_denied: Option<Vec<(Denial, u64)>>,
    /// bind() and listen() calls that failed with EADDRINUSE; `None` if not watched.
    pub no_bind: Option<u64>,
    /// Ports that somebody has of whom it could not be found out who.
    pub holders_unknown: u64,
    /// Minisocks alive: seeded + born - died, less lives whose end was missed, whole machine, unfiltered.
    pub live: Option<u64>,
    /// How long ago the last whole look through the kernel's minisocks ended, milliseconds; `None`: there was none.
    pub looked_ms_ago: Option<u64>,
    /// Events found in the kernel.
    pub seen: u64,
    /// Records put into the ring.
    pub emitted: u64,
    /// Events that the filters left out.
    pub filtered: u64,
    /// Events that found the ring full.
    pub lost: u64,
    /// Ticks that came due and were not told, because the output was not read.
    pub ticks_skipped: u64,
    /// Events that the kernel ran no program for.
    pub missed: Missed,
    /// Everything else that was lost or could not be known, by name, zeroes left out.
    pub trouble: Vec<(Trouble, u64)>,
}

impl Totals {
    /// Minisocks born, of both kinds.
    #[must_use]
    pub fn all_born(&self) -> u64 {
        self.born_time_wait.saturating_add(self.born_fin_wait2)
    }

    /// Minisocks that ended, whatever the cause.
    #[must_use]
    pub fn all_died(&self) -> u64 {
        self.died.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Denials, whatever the reason; `None` if not watched.
    #[must_use]
    pub fn all_denied(&self) -> Option<u64> {
        Some(self.reuse_denied.as_ref()?.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count)))
    }

    /// Births refused, whatever the reason; `None` if not watched.
    #[must_use]
    pub fn all_refused(&self) -> Option<u64> {
        Some(self.refused.as_ref()?.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count)))
    }
}

words! {
    /// A counter of the kernel's: the name that the kernel gives it.
    Counter by word {
        /// Births, or on kernels before 5.18 ends by the timer; and minisocks that were killed.
        Tw = "TcpExt.TW+TWKilled";
        /// Minisocks that a connect() took over.
        TwRecycled = "TcpExt.TWRecycled";
        /// Births refused because tcp_max_tw_buckets was reached.
        TimeWaitOverflow = "TcpExt.TCPTimeWaitOverflow";
        /// Minisocks alive.
        SockstatTw = "sockstat.tw";
    }
}

/// One of the kernel's own counters, compared with twtrace's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconciled {
    /// The kernel's name for it, e.g. `TcpExt.TW+TWKilled`.
    pub counter: Counter,
    /// How far the kernel's counter moved during the run (`sockstat.tw`: its value now).
    pub kernel: i64,
    /// What twtrace expects it to be.
    pub twtrace: i64,
    /// kernel - twtrace, as far as that is beyond `slack`.
    pub diff: i64,
    /// How far the kernel's counter and twtrace's moved while they were read; 0: they were read at rest.
    pub slack: i64,
}

/// The last thing said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The counters.
    pub totals: Totals,
    /// The kernel's own counters compared, for twtrace's own network namespace.
    pub reconcile: Vec<Reconciled>,
    /// The network namespace of the kernel's counters, by inode number.
    pub netns: u32,
    /// Nothing lost, as far as this kernel tells, and every difference zero; `None` if the kernel's counters could not be read
    /// at rest, and there is no difference beyond what moved meanwhile.
    pub exact: Option<bool>,
    /// The kernel is PREEMPT_RT.
    pub realtime: bool,
    /// How long the run was, nanoseconds.
    pub duration_ns: u64,
}

words! {
    /// What a run comes to.
    Exactness by word {
        /// Nothing was lost, and every counter agrees.
        Exact = "exact";
        /// Nothing was lost, and every counter agrees, but the kernel does not count all that it skips.
        AsKnown = "as_known";
        /// Something was lost, or a counter differs.
        NotExact = "not_exact";
        /// No difference is known, but the kernel's counters moved while they were read.
        NotCompared = "not_compared";
    }
}

impl Exactness {
    /// `None`: it cannot be said. A loss that the kernel does not count is not known.
    #[must_use]
    pub fn is_exact(self) -> Option<bool> {
        match self {
            Self::Exact | Self::AsKnown => Some(true),
            Self::NotExact => Some(false),
            Self::NotCompared => None,
        }
    }
}

impl Summary {
    /// The summary of a run, with the verdict that follows from its numbers.
    #[must_use]
    pub fn of(totals: Totals, reconcile: Vec<Reconciled>, netns: u32, realtime: bool, duration_ns: u64) -> Self {
        let loss = totals.lost > 0 || !totals.trouble.is_empty();
        let exact = if loss { Some(false) } else { agrees(&reconcile) };
        Self { totals, reconcile, netns, exact, realtime, duration_ns }
    }

    /// Whether nothing was missed, and how far that is known.
    #[must_use]
    pub fn exactness(&self) -> Exactness {
        match self.exact {
            Some(true) if self.totals.missed.runs.is_none() => Exactness::AsKnown,
            Some(true) => Exactness::Exact,
            Some(false) => Exactness::NotExact,
            None => Exactness::NotCompared,
        }
    }
}
