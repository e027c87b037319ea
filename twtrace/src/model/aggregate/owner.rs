//! Who closes: by process, and by cgroup.

use std::net::IpAddr;

use serde::Serialize;

use super::{
    Place,
    bounded::{Bounded, Fold},
    port::PortKey,
    rate::Rate,
};
use crate::model::event::Comm;

/// Destinations and ports that are kept of one owner.
const TARGETS: usize = 32;

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// The name of the thread that closed.
    pub comm: Comm,
}

/// Where an owner's connections lead: the service port, and the peer's address where this host opened them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The service port.
    pub port: PortKey,
    /// The peer's address; `None` at a port that this host serves.
    pub raddr: Option<IpAddr>,
}

/// What an owner did.
#[derive(Debug)]
pub struct Owner {
    /// Minisocks alive.
    pub live: i64,
    /// Births.
    pub born: Rate,
    /// Births refused.
    pub refused: u64,
    /// connect() calls that found no port.
    pub no_port: u64,
    /// Births and refusals by target.
    pub targets: Bounded<Target, u64>,
    /// A row that was evicted may have been this one.
    pub partial: bool,
}

impl Owner {
    pub(super) fn new(partial: bool) -> Self {
        Self { live: 0, born: Rate::default(), refused: 0, no_port: 0, targets: Bounded::new(TARGETS), partial }
    }

    /// One more connection of this owner's was closed; `None`: where it led was not read.
    pub(super) fn went(&mut self, to: Option<Place>) {
        let target =
            to.map(|place| Target { port: place.port, raddr: place.destination.map(|destination| destination.raddr) });
        target.into_iter().for_each(|target| *self.targets.touch(target, |_| 0) += 1);
    }

    pub(super) fn row<W>(&self, who: W) -> OwnerRow<W> {
        OwnerRow {
            who,
            live: u64::try_from(self.live).unwrap_or(0),
            born: self.born.count,
            born_per_s: self.born.per_s(),
            refused: self.refused,
            no_port: self.no_port,
            partial: self.partial,
        }
    }
}

impl Default for Owner {
    fn default() -> Self {
        Self::new(false)
    }
}

impl Fold for Owner {
    fn fold(&mut self, gone: Self) {
        let Self { live, born, refused, no_port, targets: _, partial: _ } = gone;
        self.live += live;
        self.born.fold(born);
        self.refused += refused;
        self.no_port += no_port;
    }
}

/// What a table shows of an owner: the JSON fields of `tick.by.processes` and `tick.by.cgroups`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OwnerRow<W> {
    /// Who.
    #[serde(flatten)]
    pub who: W,
    /// Minisocks alive now.
    pub live: u64,
    /// Births.
    pub born: u64,
    /// Births per second; `None` before there were two ticks.
    pub born_per_s: Option<f64>,
    /// Births refused.
    pub refused: u64,
    /// connect() calls that found no port.
    pub no_port: u64,
    /// Counts may lack what an evicted row held.
    pub partial: bool,
}

/// A process in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessName {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// The name of the thread that closed.
    pub comm: String,
}

/// A cgroup in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CgroupName {
    /// Inode number.
    pub cgroup_id: u64,
    /// Where it is below the root of the tree; `None` if it is gone, or was not looked up yet.
    pub path: Option<String>,
    /// The container or unit that its path names.
    pub unit: Option<String>,
    /// What its container is called, as its runtime has it on disk.
    pub name: Option<String>,
}
