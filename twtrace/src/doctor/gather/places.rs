//! Finds out how a namespace is reached from where the report is read.

use std::collections::{BTreeMap, HashSet};

use crate::{
    doctor::places::{Place, Reach, container},
    host::{
        Host,
        netns::{self, Holders},
        processes,
    },
};

/// The most ancestors that are looked at.
const GENERATIONS: usize = 64;

/// What is known of all namespaces.
#[derive(Debug)]
pub(super) struct Map {
    holders: BTreeMap<u32, Holders>,
    /// twtrace, and then the processes that it descends from.
    ancestors: Vec<u32>,
    /// The namespace of this process.
    own: u32,
    /// Somebody that this process descends from is in another namespace: `ip netns exec blue twtrace doctor` is typed, and
    /// read, outside of blue.
    is_visitor: bool,
}

impl Map {
    /// Looks; `own` is the namespace of this process.
    pub fn of(host: &Host, own: u32) -> Self {
        let first = std::process::id();
        let ancestors: Vec<u32> =
            std::iter::successors(Some(first), |pid| processes::parent(host, *pid)).take(GENERATIONS).collect();
        let is_visitor =
            ancestors.iter().skip(1).filter_map(|pid| netns::of_process(host, *pid)).any(|inum| inum != own);
        Self { holders: netns::holders(host), ancestors, own, is_visitor }
    }

    /// The place of a namespace.
    pub fn place(&self, host: &Host, inum: u32, initial: Option<bool>) -> Place {
        let none = Holders::default();
        let holders = self.holders.get(&inum).unwrap_or(&none);
        let is_other = |pid: &&u32| !self.ancestors.contains(pid);
        // This process is gone when the report is read; who started it may be, too.
        let resident = holders.pids.iter().find(is_other);
        let resident =
            resident.or_else(|| holders.pids.iter().find(|pid| self.ancestors.first() != Some(pid))).copied();
        let reach = match (holders.names.first(), resident) {
            _ if inum == self.own && !self.is_visitor => Reach::Here,
            (Some(name), _) => Reach::Named(name.clone()),
            (None, Some(pid)) => Reach::Process(pid),
            (None, None) => Reach::Unknown,
        };
        let cgroup = resident.and_then(|pid| host.read(&format!("proc/{pid}/cgroup")).ok());
        Place {
            reach,
            name: holders.names.first().cloned(),
            process: resident.map(|pid| (pid, processes::comm(host, pid).unwrap_or_else(|| "?".to_owned()))),
            // Those that share the machine's own namespace do not own it.
            container: cgroup.filter(|_| initial != Some(true)).and_then(|text| container(&text)),
            initial,
            host_is_elsewhere: false,
        }
    }

    /// The processes in a namespace.
    pub fn inhabitants(&self, inum: u32) -> HashSet<u32> {
        self.holders.get(&inum).into_iter().flat_map(|holders| holders.pids.iter().copied()).collect()
    }
}
