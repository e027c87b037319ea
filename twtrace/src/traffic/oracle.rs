//! What the kernel itself says of a scenario's namespace: nothing here knows the tracer.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use super::diag;
use crate::{
    host::Host,
    model::{
        event::{Substate, Tuple},
        kernel::{KernelCounters, TwCounts},
    },
};

/// One look at a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// TcpExt and sockstat.
    pub counters: KernelCounters,
    /// Every minisock, by sock_diag.
    pub minisocks: Vec<(Tuple, Substate)>,
}

impl Look {
    /// Looks at the calling thread's namespace.
    ///
    /// # Errors
    /// If /proc or netlink cannot be read.
    pub fn take() -> io::Result<Self> {
        Ok(Self { counters: counters()?, minisocks: diag::minisocks()? })
    }
}

/// Two looks, and what the counter of births means on this kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looks {
    /// Before the scenario, the tracer attached.
    pub before: Look,
    /// After it.
    pub after: Look,
    /// When TcpExt TW moves; `None` if that is not known.
    pub tw_counts: Option<TwCounts>,
}

/// The counters of the calling thread's namespace.
///
/// # Errors
/// If /proc cannot be read.
pub fn counters() -> io::Result<KernelCounters> {
    KernelCounters::read(&Host::default()).map_err(io::Error::other)
}

/// Minisocks of the calling thread's namespace now: sockstat's `tw`.
///
/// # Errors
/// If /proc cannot be read.
pub fn minisocks() -> io::Result<u64> {
    counters().map(|counters| counters.sockstat_tw)
}

/// True as soon as the counters are as wanted, false if that takes longer than `limit`: the last segments may be on their way
/// through a softirq still.
///
/// # Errors
/// If /proc cannot be read.
pub fn reach(limit: Duration, wanted: impl Fn(&KernelCounters) -> bool) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    while !wanted(&counters()?) {
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(true)
}

/// True as soon as there are so many minisocks, false if that takes longer than `limit`.
///
/// # Errors
/// If /proc cannot be read.
pub fn minisocks_reach(count: u64, limit: Duration) -> io::Result<bool> {
    reach(limit, |counters| counters.sockstat_tw == count)
}

/// One counter of the calling thread's namespace, from /proc/net/netstat or /proc/net/snmp: `("TcpExt", "TCPAbortOnData")`.
///
/// # Errors
/// If there is no such counter.
pub fn counter(group: &str, name: &str) -> io::Result<u64> {
    let file = if group.ends_with("Ext") { "netstat" } else { "snmp" };
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"))?;
    crate::host::counters::value(&text, group, name)
        .ok_or_else(|| io::Error::other(format!("/proc/net/{file} has no {group} {name}")))
}
