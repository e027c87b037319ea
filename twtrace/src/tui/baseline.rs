//! What the counts were when somebody had them reset. The tables of a run go on counting, for others read them too; the view
//! shows what has come since.

use std::{borrow::Cow, collections::HashMap};

use super::listing::{Id, Identity};
use crate::model::aggregate::{
    Aggregates, CgroupName, DestinationRow, OwnerRow, Port, PortKey, PortRow, Process, ProcessName, Target,
};

/// The counts at one moment; those of the default are zero. A row whose counts are lower than they were began anew, so
/// nothing is taken off it.
#[derive(Debug, Default)]
pub struct Baseline {
    ports: HashMap<PortKey, Port>,
    destinations: HashMap<Id, Counts<7>>,
    processes: HashMap<Id, Counts<3>>,
    cgroups: HashMap<Id, Counts<3>>,
    of_processes: HashMap<Process, HashMap<Target, u64>>,
    of_cgroups: HashMap<u64, HashMap<Target, u64>>,
}

/// Counts of one row.
type Counts<const N: usize> = [u64; N];

/// Takes earlier counts off, if they are not higher.
fn since<const N: usize>(now: [&mut u64; N], then: Option<&Counts<N>>) {
    let Some(then) = then.filter(|then| now.iter().zip(then.iter()).all(|(now, then)| **now >= *then)) else { return };
    for (now, then) in now.into_iter().zip(then) {
        *now -= then;
    }
}

fn of_destination(row: &DestinationRow) -> Counts<7> {
    let &DestinationRow { born, refused, passive, no_port, no_port_bound, with_timestamps, without_timestamps, .. } =
        row;
    [born, refused, passive.unwrap_or(0), no_port, no_port_bound, with_timestamps, without_timestamps]
}

fn of_owner<W>(row: &OwnerRow<W>) -> Counts<3> {
    [row.born, row.refused, row.no_port]
}

fn by_id<R: Identity, const N: usize>(rows: &[R], counts: fn(&R) -> Counts<N>) -> HashMap<Id, Counts<N>> {
    rows.iter().map(|row| (row.id(), counts(row))).filter(|(_, counts)| *counts != [0; N]).collect()
}

impl Baseline {
    /// The counts of now.
    #[must_use]
    pub fn of(tables: &Aggregates) -> Self {
        let cgroups = tables.cgroup_rows();
        Self {
            ports: tables.ports().map(|(key, port)| (*key, port.clone())).collect(),
            destinations: by_id(&tables.destination_rows(), of_destination),
            processes: by_id(&tables.process_rows(), of_owner),
            of_processes: tables
                .processes()
                .map(|process| (process, tables.targets_of_process(&process).into_iter().collect()))
                .collect(),
            of_cgroups: cgroups
                .iter()
                .map(|row| row.who.cgroup_id)
                .map(|id| (id, tables.targets_of_cgroup(id).into_iter().collect()))
                .collect(),
            cgroups: by_id(&cgroups, of_owner),
        }
    }

    /// A service port, with what has happened there since.
    #[must_use]
    pub fn port<'a>(&self, tables: &'a Aggregates, key: &PortKey) -> Option<Cow<'a, Port>> {
        let port = tables.port_of(key)?;
        Some(match self.ports.get(key).and_then(|then| port.since(then)) {
            Some(since) => Cow::Owned(since),
            None => Cow::Borrowed(port),
        })
    }

    /// The service ports, in no order.
    #[must_use]
    pub fn ports(&self, tables: &Aggregates) -> Vec<PortRow> {
        let keys = tables.ports().map(|(key, _)| *key);
        keys.filter_map(|key| Some(PortRow::of(key, &*self.port(tables, &key)?))).collect()
    }

    /// The destinations, in no order.
    #[must_use]
    pub fn destinations(&self, tables: &Aggregates) -> Vec<DestinationRow> {
        let mut rows = tables.destination_rows();
        if self.destinations.is_empty() {
            return rows;
        }
        for row in &mut rows {
            let then = self.destinations.get(&row.id());
            let mut none = 0;
            let DestinationRow {
                born,
                refused,
                passive,
                no_port,
                no_port_bound,
                with_timestamps,
                without_timestamps,
                ..
            } = row;
            let passive = passive.as_mut().unwrap_or(&mut none);
            since([born, refused, passive, no_port, no_port_bound, with_timestamps, without_timestamps], then);
        }
        // Those that nothing has happened to are no longer of interest.
        rows.retain(|row| row.in_use.is_none_or(|ports| ports > 0) || of_destination(row) != [0; 7]);
        rows
    }

    /// The processes, in no order.
    #[must_use]
    pub fn processes(&self, tables: &Aggregates) -> Vec<OwnerRow<ProcessName>> {
        owners(tables.process_rows(), &self.processes)
    }

    /// The cgroups, in no order.
    #[must_use]
    pub fn cgroups(&self, tables: &Aggregates) -> Vec<OwnerRow<CgroupName>> {
        owners(tables.cgroup_rows(), &self.cgroups)
    }

    /// Where the connections led that a process closed, in no order.
    #[must_use]
    pub fn targets_of_process(&self, tables: &Aggregates, process: &Process) -> Vec<(Target, u64)> {
        targets(tables.targets_of_process(process), self.of_processes.get(process))
    }

    /// Where the connections led that were closed in a cgroup, in no order.
    #[must_use]
    pub fn targets_of_cgroup(&self, tables: &Aggregates, cgroup_id: u64) -> Vec<(Target, u64)> {
        targets(tables.targets_of_cgroup(cgroup_id), self.of_cgroups.get(&cgroup_id))
    }
}

fn owners<W>(mut rows: Vec<OwnerRow<W>>, then: &HashMap<Id, Counts<3>>) -> Vec<OwnerRow<W>>
where
    OwnerRow<W>: Identity,
{
    if !then.is_empty() {
        for row in &mut rows {
            let then = then.get(&row.id());
            since([&mut row.born, &mut row.refused, &mut row.no_port], then);
        }
    }
    rows
}

fn targets(mut now: Vec<(Target, u64)>, then: Option<&HashMap<Target, u64>>) -> Vec<(Target, u64)> {
    if let Some(then) = then {
        for (target, count) in &mut now {
            since([count], then.get(target).map(std::array::from_ref));
        }
        now.retain(|(_, count)| *count > 0);
    }
    now
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::event::{Cause, Closer, Comm, Connection, Detail, Event, Life, Role, Substate, Task, Tuple};

    fn event(place: u8, is_birth: bool, length: u64) -> Event {
        let life = Life {
            id: Some(1),
            netns: Some(7),
            tuple: Some(Tuple {
                laddr: [127, 0, 0, 1].into(),
                lport: 30_000,
                raddr: [10, 0, 0, place].into(),
                rport: 443 + u16::from(place % 2),
            }),
            substate: Some(Substate::TimeWait),
            role: Some(Role::Client),
            closer: Some(Closer { task: Task { pid: place.into(), comm: Comm([b'x'; 16]) }, cgroup_id: 5 }),
            preexisting: Some(false),
        };
        let connection = Connection { conn_ns: Some(length), timestamps: Some(true), ..Connection::default() };
        let detail = if is_birth {
            Detail::Born { timeout_ms: None, connection }
        } else {
            Detail::Died { cause: Cause::Expired, life_ns: Some(length), taker: None }
        };
        Event { mono_ns: 0, life, detail, self_test: false }
    }

    /// A row's counts, without what a reset leaves: gauges and rates.
    fn counts(since: &Baseline, tables: &Aggregates) -> (Vec<String>, Vec<Counts<7>>, Vec<Counts<3>>, Vec<u64>) {
        let mut ports: Vec<_> = since
            .ports(tables)
            .into_iter()
            .filter(|row| row.born + row.died.all() > 0)
            .map(|row| format!("{:?}", PortRow { live: 0, born_per_s: None, ..row }))
            .collect();
        let mut destinations: Vec<_> = since.destinations(tables).iter().map(of_destination).collect();
        let mut owners: Vec<_> = since.processes(tables).iter().map(of_owner).collect();
        owners.extend(since.cgroups(tables).iter().map(of_owner));
        let mut targets: Vec<_> = since.targets_of_cgroup(tables, 5).into_iter().map(|(_, count)| count).collect();
        destinations.retain(|row| *row != [0; 7]);
        owners.retain(|row| *row != [0; 3]);
        ports.sort();
        destinations.sort_unstable();
        owners.sort_unstable();
        targets.sort_unstable();
        (ports, destinations, owners, targets)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What has come since is what tables hold that were told of nothing before.
        #[test]
        fn since_a_moment_is_as_from_that_moment(
            steps in prop::collection::vec((0..6_u8, any::<bool>(), 1_000..90_000_000_000_u64), 0..80),
            at in 0..80_usize,
        ) {
            let at = at.min(steps.len());
            let (mut all, mut later) = (Aggregates::default(), Aggregates::default());
            let mut since = Baseline::of(&all);
            for (n, &(place, is_birth, length)) in steps.iter().enumerate() {
                if n == at {
                    since = Baseline::of(&all);
                }
                let event = event(place, is_birth, length);
                all.event(&event);
                if n >= at {
                    later.event(&event);
                }
            }
            if at == steps.len() {
                since = Baseline::of(&all);
            }
            prop_assert_eq!(counts(&since, &all), counts(&Baseline::default(), &later));
        }
    }
}
