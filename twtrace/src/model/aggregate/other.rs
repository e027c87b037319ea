//! What evicted rows held: the row `other` of each table, so that its sums stay true.

use serde::Serialize;

use super::{Aggregates, Destination, Owner, Port, port::Died};

/// What evicted rows of service ports held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OtherPorts {
    /// Minisocks alive now.
    pub live: u64,
    /// Births.
    pub born: u64,
    /// Ends by cause.
    pub died: Died,
    /// Births refused.
    pub refused: u64,
}

/// What evicted rows of destinations held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OtherDestinations {
    /// Minisocks alive now.
    pub time_wait: u64,
    /// Births.
    pub born: u64,
    /// Births refused.
    pub refused: u64,
    /// connect() calls that found no port.
    pub no_port: u64,
    /// connect() calls from a bound port that failed, for the same connection was there.
    pub no_port_bound: u64,
    /// Connections that the peer closed first.
    pub passive: u64,
}

/// What evicted rows of processes or cgroups held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OtherOwners {
    /// Minisocks alive now.
    pub live: u64,
    /// Births.
    pub born: u64,
    /// Births refused.
    pub refused: u64,
    /// connect() calls that found no port.
    pub no_port: u64,
}

/// What evicted rows held, of each table; `None`: no row had to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// Service ports.
    pub ports: Option<OtherPorts>,
    /// Destinations.
    pub destinations: Option<OtherDestinations>,
    /// Processes.
    pub processes: Option<OtherOwners>,
    /// Cgroups.
    pub cgroups: Option<OtherOwners>,
}

/// A gauge for the eye: ends of births that nobody saw may have taken it below zero.
fn alive(live: i64) -> u64 {
    u64::try_from(live).unwrap_or(0)
}

fn port(row: &Port) -> OtherPorts {
    OtherPorts { live: alive(row.live), born: row.born.count, died: Died(row.died), refused: row.refused }
}

fn destination(row: &Destination) -> OtherDestinations {
    OtherDestinations {
        time_wait: alive(row.minisocks),
        born: row.born.count,
        refused: row.refused,
        no_port: row.no_port,
        no_port_bound: row.no_port_bound.into(),
        passive: row.passive,
    }
}

fn owner(row: &Owner) -> OtherOwners {
    OtherOwners { live: alive(row.live), born: row.born.count, refused: row.refused, no_port: row.no_port }
}

impl Aggregates {
    /// What the rows held that had to go, by table.
    #[must_use]
    pub fn others(&self) -> Others {
        Others {
            ports: self.ports.other().map(port),
            destinations: self.destinations.other().map(destination),
            processes: self.processes.other().map(owner),
            cgroups: self.cgroups.other().map(owner),
        }
    }
}
