//! What a trace says of the services, beside what a look can see.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use super::Owner;
use crate::host::openers::Remote;

/// What the lines of a `twtrace run --format json` told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The file.
    pub file: String,
    /// Minisocks that began at the end that opened the connection, by the peer's address: all, and those without
    /// timestamps.
    pub peers: HashMap<IpAddr, (u64, u64)>,
    /// Births of all kinds.
    pub births: u64,
    /// Births of connections that were accepted here.
    pub accepted: u64,
    /// Births of which it is not known who opened them, or whether there were timestamps.
    pub unknown: u64,
    /// Peers beyond those that there is room for.
    pub left_out: u64,
    /// Lines that are none of twtrace's.
    pub strange: u64,
    /// What the births of connections that were opened there tell, by service.
    pub services: HashMap<Remote, Traced>,
}

/// Births of TIME_WAIT at the end that opened, towards one service, as a trace told them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traced {
    /// How many.
    pub births: u64,
    /// From the connection's beginning to the birth, nanoseconds, and of how many births that is known.
    pub life_ns: (u128, u64),
    /// Bytes of the streams, both directions, and of how many births they are known.
    pub bytes: (u128, u64),
    /// How many were opened by whom, by name and process id.
    pub openers: BTreeMap<(String, u32), u64>,
}

impl Traced {
    /// Mean life of a connection.
    #[must_use]
    pub fn mean_life(&self) -> Option<Duration> {
        let (sum, count) = self.life_ns;
        let mean = sum.checked_div(count.into())?;
        Some(Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX)))
    }

    /// Bytes of a connection, on average.
    #[must_use]
    pub fn mean_bytes(&self) -> Option<f64> {
        let (sum, count) = self.bytes;
        (count > 0).then(|| sum as f64 / count as f64)
    }

    /// Who opened most of them: name and process id.
    #[must_use]
    pub fn opener(&self) -> Option<Owner<'_>> {
        let ((comm, pid), _) = self.openers.iter().max_by_key(|(_, count)| **count)?;
        Some(Owner { comm, pid: *pid })
    }
}
