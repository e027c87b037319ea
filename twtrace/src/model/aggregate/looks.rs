//! What looks at the sockets have shown, beside the ports that are held: those are in the destinations' rows.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Side;
use crate::model::{
    event::{Connection, Event, Life, Role},
    occupancy::{Namespace, Occupancy},
};

/// The first look, and the last.
#[derive(Debug, Default)]
pub(super) struct Looks {
    has_begun: bool,
    /// Who listened, by namespace and port, when the run began: see [`Looks::side`].
    listened: HashSet<(u32, u16)>,
    namespaces: BTreeMap<u32, Namespace>,
    /// When the last look at each of them began and ended, nanoseconds of `CLOCK_MONOTONIC`.
    times: BTreeMap<u32, (u64, u64)>,
    /// Connections that those looks left out.
    left_out: BTreeMap<u32, u64>,
}

impl Looks {
    /// The first one, before any event.
    pub fn begin(&mut self, occupancy: &Occupancy) {
        self.has_begun = true;
        for (&netns, space) in &occupancy.namespaces {
            self.listened.extend(space.listeners.iter().map(|&port| (netns, port)));
        }
    }

    /// True once there was a first one.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Each of them, of the namespaces that are `wanted`; what is held is not kept.
    pub fn enter(&mut self, occupancy: &Occupancy, wanted: impl Fn(u32) -> bool) {
        let limits = |space: &Namespace| Namespace {
            range: space.range.clone(),
            listeners: space.listeners.clone(),
            held: HashMap::new(),
            ..*space
        };
        let times = (occupancy.at_ns, occupancy.at_ns.saturating_add(occupancy.took_ns));
        let stays = |netns: &u32| occupancy.others.contains(netns);
        self.namespaces.retain(|netns, _| stays(netns));
        self.times.retain(|netns, _| stays(netns));
        self.left_out.retain(|netns, _| stays(netns));
        for (&netns, space) in occupancy.namespaces.iter().filter(|(netns, _)| wanted(**netns)) {
            self.namespaces.insert(netns, limits(space));
            self.times.insert(netns, times);
            self.left_out.extend(occupancy.left_out.get(&netns).map(|count| (netns, *count)));
        }
    }

    /// How long ago the last look into a namespace ended, milliseconds; `None`: there was none.
    pub fn age_ms(&self, netns: u32, now_ns: u64) -> Option<u64> {
        let (_, ended) = self.times.get(&netns)?;
        Some(now_ns.saturating_sub(*ended) / 1_000_000)
    }

    /// Connections that the last looks left out.
    pub fn left_out(&self) -> u64 {
        self.left_out.values().sum()
    }

    /// The namespaces of the last one.
    pub fn namespaces(&self) -> &BTreeMap<u32, Namespace> {
        &self.namespaces
    }

    /// True if the last look into its namespace saw the port of a new minisock held by its connection: it is not to be counted twice.
    pub fn saw_held(&self, event: &Event, connection: &Connection) -> bool {
        let Life { netns, tuple, .. } = event.life;
        let Some(&(began, ended)) = self.times.get(&netns.unwrap_or(0)) else { return false };
        let is_older =
            connection.conn_ns.is_some_and(|age| event.mono_ns > ended && event.mono_ns.saturating_sub(age) < began);
        let in_range = || {
            let space = self.namespaces.get(&netns.unwrap_or(0));
            space.zip(tuple).is_some_and(|(space, tuple)| space.range.contains(&tuple.lport))
        };
        is_older && in_range()
    }

    /// Of connections that are older than twtrace nobody saw who opened them. They were accepted if somebody listened on
    /// their local port when twtrace began: the answer must be the same at the birth and at the end.
    pub fn side(&self, role: Option<Role>, netns: u32, lport: u16) -> Side {
        match role {
            Some(Role::Server) => Side::Server,
            Some(Role::Client) => Side::Client,
            _ if self.listened.contains(&(netns, lport)) => Side::Server,
            _ => Side::Client,
        }
    }
}
