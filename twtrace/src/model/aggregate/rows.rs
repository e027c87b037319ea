//! What the tables show: rows, in no order.

use std::collections::BTreeMap;

use super::{
    Aggregates, CgroupName, DestinationRow, Evicted, Owner, OwnerRow, Port, PortKey, PortRow, Process, ProcessName,
    Target, destination::Around,
};
use crate::model::{cgroup, occupancy::Namespace};

impl Aggregates {
    /// A service port.
    #[must_use]
    pub fn port_of(&self, key: &PortKey) -> Option<&Port> {
        self.ports.get(key)
    }

    /// The namespaces of the last look.
    #[must_use]
    pub fn namespaces(&self) -> &BTreeMap<u32, Namespace> {
        self.looks.namespaces()
    }

    /// How long ago the last look into a namespace ended, milliseconds; `None`: there was none.
    #[must_use]
    pub fn looked_ms_ago(&self, netns: u32, now_ns: u64) -> Option<u64> {
        self.looks.age_ms(netns, now_ns)
    }

    /// Open connections that the last looks left out, because their namespaces have too many destinations.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.looks.left_out()
    }

    /// Rows that had to go.
    #[must_use]
    pub fn evicted(&self) -> Evicted {
        Evicted {
            ports: self.ports.evicted(),
            destinations: self.destinations.evicted(),
            processes: self.processes.evicted(),
            cgroups: self.cgroups.evicted(),
        }
    }

    /// What happened at each service port, in no order.
    pub fn ports(&self) -> impl Iterator<Item = (&PortKey, &Port)> {
        self.ports.iter()
    }

    /// The service ports, in no order.
    #[must_use]
    pub fn port_rows(&self) -> Vec<PortRow> {
        self.ports.iter().map(|(key, row)| PortRow::of(*key, row)).collect()
    }

    /// The destinations, in no order.
    #[must_use]
    pub fn destination_rows(&self) -> Vec<DestinationRow> {
        let rows = self.destinations.iter().filter(|(_, row)| !row.is_idle());
        rows.map(|(key, row)| {
            let space = self.namespaces().get(&key.netns);
            DestinationRow::of(
                *key,
                row,
                &Around {
                    space,
                    looked_ms_ago: self.looks.age_ms(key.netns, self.now_ns),
                    ticks: &self.ticks,
                    time_wait_s: self.time_wait_s,
                    wanted: &self.wanted,
                    counts_passive: self.counts_passive,
                },
            )
        })
        .collect()
    }

    /// The processes, in no order.
    #[must_use]
    pub fn process_rows(&self) -> Vec<OwnerRow<ProcessName>> {
        let name = |process: &Process| ProcessName { pid: process.pid, comm: process.comm.name().into_owned() };
        self.processes.iter().map(|(process, row)| row.row(name(process))).collect()
    }

    /// The cgroups, in no order.
    #[must_use]
    pub fn cgroup_rows(&self) -> Vec<OwnerRow<CgroupName>> {
        let name = |&cgroup_id: &u64| {
            let named = self.names.get(&cgroup_id).cloned().flatten();
            let (path, name) = named.map_or((None, None), |named| (Some(named.path), named.name));
            let unit = path.as_deref().and_then(cgroup::unit);
            CgroupName { cgroup_id, path, unit, name }
        };
        self.cgroups.iter().map(|(id, row)| row.row(name(id))).collect()
    }

    /// The processes, in no order.
    pub fn processes(&self) -> impl Iterator<Item = Process> {
        self.processes.iter().map(|(process, _)| *process)
    }

    /// Where the connections led that a process closed, and how many, in no order.
    #[must_use]
    pub fn targets_of_process(&self, process: &Process) -> Vec<(Target, u64)> {
        self.processes.get(process).map_or_else(Vec::new, targets)
    }

    /// Where the connections led that were closed in a cgroup, and how many, in no order.
    #[must_use]
    pub fn targets_of_cgroup(&self, cgroup_id: u64) -> Vec<(Target, u64)> {
        self.cgroups.get(&cgroup_id).map_or_else(Vec::new, targets)
    }
}

fn targets(owner: &Owner) -> Vec<(Target, u64)> {
    owner.targets.iter().map(|(target, count)| (*target, *count)).collect()
}
