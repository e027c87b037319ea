//! The kernel's own counters of one network namespace, which twtrace is held against. Pure; `host::counters` reads them.

/// TcpExt and sockstat, as they stand. Namespace of the reading thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// TcpExt TW.
    pub tw: u64,
    /// TcpExt TWKilled.
    pub tw_killed: u64,
    /// TcpExt TWRecycled.
    pub tw_recycled: u64,
    /// TcpExt TCPTimeWaitOverflow.
    pub overflow: u64,
    /// sockstat `TCP: .. tw N`: minisocks now.
    pub sockstat_tw: u64,
}

/// When the kernel counts a minisock in TcpExt TW and TWKilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwCounts {
    /// When it is born (5.18 and later).
    Births,
    /// When its timer runs out (5.17 and earlier).
    Expiries,
}
