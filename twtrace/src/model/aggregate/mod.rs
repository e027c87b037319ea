//! Events added up: by service port, by destination, by owner. Every table has a ceiling and counts what it evicts.
//!
//! No table of single minisocks is needed: an end says whose it was, so live = seeded + born - died for each row.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

mod bounded;
pub mod destination;
mod looks;
pub mod other;
pub mod owner;
mod passive;
pub mod port;
pub(crate) mod rate;
mod recent;
mod rows;
mod side;
mod take;
pub mod times;
pub mod trend;

pub use bounded::{Bounded, Fold};
pub use destination::{Destination, DestinationKey, DestinationRow};
use looks::Looks;
pub use owner::{CgroupName, Owner, OwnerRow, Process, ProcessName, Target};
pub use port::{Port, PortKey, PortRow};
pub use side::Side;
use trend::Ticks;

use super::{
    cgroup::Named,
    event::{Closer, Detail, Event, Life, Substate, Tuple},
    occupancy::Occupancy,
    wanted::Wanted,
};

/// Lengths of a TIME_WAIT if no birth has told: TCP_TIMEWAIT_LEN of include/net/tcp.h, seconds.
const TIME_WAIT_S: f64 = 60.0;

/// The most cgroups that wait to be asked for.
const NEW_CGROUPS: usize = 1024;

/// How many rows each table may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Service ports: each has up to a dozen histograms of some 10 KB.
    pub ports: usize,
    /// Destinations.
    pub destinations: usize,
    /// Processes, and as many cgroups.
    pub owners: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { ports: 1024, destinations: 100_000, owners: 4096 }
    }
}

/// Minisocks alive, by substate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Both FINs are through.
    pub time_wait: i64,
    /// The peer's has not come.
    pub fin_wait2: i64,
}

/// Rows that had to go, by table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Evicted {
    /// Service ports.
    pub ports: u64,
    /// Destinations.
    pub destinations: u64,
    /// Processes.
    pub processes: u64,
    /// Cgroups.
    pub cgroups: u64,
}

/// The tables.
#[derive(Debug)]
pub struct Aggregates {
    ports: Bounded<PortKey, Port>,
    destinations: Bounded<DestinationKey, Destination>,
    processes: Bounded<Process, Owner>,
    cgroups: Bounded<u64, Owner>,
    names: HashMap<u64, Option<Named>>,
    /// Cgroups that have come since [`Aggregates::new_cgroups`].
    new_cgroups: Vec<u64>,
    looks: Looks,
    /// Connections that the peer closed first are counted.
    counts_passive: bool,
    wanted: Wanted,
    live: Live,
    time_wait_s: f64,
    ticks: Ticks,
    /// When this window of connect() latencies began.
    window_ns: u64,
    /// When the last interval was over.
    now_ns: u64,
}

impl Default for Aggregates {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Aggregates {
    /// Empty tables.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            ports: Bounded::new(limits.ports),
            destinations: Bounded::reserved(limits.destinations),
            processes: Bounded::new(limits.owners),
            cgroups: Bounded::new(limits.owners),
            names: HashMap::new(),
            new_cgroups: Vec::new(),
            looks: Looks::default(),
            counts_passive: false,
            wanted: Wanted::default(),
            live: Live::default(),
            time_wait_s: TIME_WAIT_S,
            ticks: Ticks::default(),
            window_ns: 0,
            now_ns: 0,
        }
    }

    /// Tables of a run that keeps none.
    #[must_use]
    pub fn none() -> Self {
        Self::new(Limits { ports: 0, destinations: 0, owners: 0 })
    }

    /// The tables of a run with filters. Events have passed them; what looks at sockets show has to as well.
    #[must_use]
    pub fn wanting(self, wanted: Wanted) -> Self {
        Self { wanted, ..self }
    }

    /// What the filters of the run let through.
    #[must_use]
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// A look at the sockets. The first one, before any event, tells on which side older connections are.
    pub fn looked(&mut self, occupancy: &Occupancy) {
        if self.looks.has_begun() {
            self.occupied(occupancy);
        } else {
            self.begin(occupancy);
        }
    }

    /// The first look at the sockets, before any event: it tells on which side older connections are.
    pub fn begin(&mut self, occupancy: &Occupancy) {
        self.looks.begin(occupancy);
        self.occupied(occupancy);
    }

    /// Everything that was there before is entered: rates count from now.
    pub fn started(&mut self, now_ns: u64) {
        self.tick(now_ns);
    }

    /// A minisock that was there before.
    pub fn seeded(&mut self, life: &Life) {
        self.count(life, 1);
        let Some(place) = self.place(life) else { return };
        self.port(place.port).live += 1;
        if let Some(destination) = self.destination(place.destination) {
            destination.minisocks += 1;
        }
    }

    /// A minisock that ended unseen. Where it was is not known, so the rows of its port and destination keep it.
    pub fn over(&mut self, life: &Life) {
        self.count(life, -1);
        self.owned_beside(life, |owner, other| {
            end(owner.partial, &mut owner.live, other.map(|other| &mut other.live));
        });
    }

    /// Something happened.
    pub fn event(&mut self, event: &Event) {
        let Event { life, detail, .. } = event;
        let place = self.place(life);
        match *detail {
            Detail::Born { ref connection, timeout_ms } => {
                self.count(life, 1);
                if life.substate == Some(Substate::TimeWait)
                    && let Some(ms) = timeout_ms
                {
                    // Some vendors' kernels have another length. The kernel counts in ticks: a second is near enough.
                    self.time_wait_s = (f64::from(ms) / 1000.0).round().max(1.0);
                }
                self.owned(life, |owner| {
                    owner.live += 1;
                    owner.born.add();
                    owner.went(place);
                });
                let Some(place) = place else { return };
                self.port(place.port).born(connection);
                let was_held = self.looks.saw_held(event, connection);
                if let Some(destination) = self.destination(place.destination) {
                    destination.born(connection);
                    if was_held {
                        destination.held.release();
                    }
                }
            }
            Detail::Turned { .. } => {
                self.live.fin_wait2 -= 1;
                self.live.time_wait += 1;
            }
            Detail::Rearmed { .. } => {}
            Detail::Died { cause, life_ns, .. } => {
                self.over(life);
                let Some(place) = place else { return };
                let (port, other) = self.ports.touch_beside(place.port, Port::new);
                port.died(cause, life_ns);
                end(port.partial, &mut port.live, other.map(|other| &mut other.live));
                if let Some(key) = place.destination {
                    let (row, other) = self.destinations.touch_beside(key, Destination::new);
                    end(row.partial, &mut row.minisocks, other.map(|other| &mut other.minisocks));
                }
            }
            Detail::Refused { ref connection, .. } => {
                self.owned(life, |owner| {
                    owner.refused += 1;
                    owner.went(place);
                });
                let Some(place) = place else { return };
                self.port(place.port).refused(connection);
                if let Some(destination) = self.destination(place.destination) {
                    destination.refused(connection);
                }
            }
            Detail::NoPort { .. } if life.tuple.is_some_and(|tuple| tuple.port().is_some()) => {
                self.owned(life, |owner| owner.no_port += 1);
                if let Some(destination) = self.destination(place.and_then(|place| place.destination)) {
                    destination.no_port_bound += 1;
                }
            }
            Detail::NoPort { .. } => {
                self.owned(life, |owner| owner.no_port += 1);
                if let Some(destination) = self.destination(place.and_then(|place| place.destination)) {
                    destination.no_port += 1;
                }
            }
            Detail::ReuseDenied { .. } | Detail::NoBind { .. } => {}
        }
    }

    fn count(&mut self, life: &Life, by: i64) {
        match life.substate {
            Some(Substate::FinWait2) => self.live.fin_wait2 += by,
            _ => self.live.time_wait += by,
        }
    }

    /// What full sockets hold now.
    pub fn occupied(&mut self, occupancy: &Occupancy) {
        for (key, row) in self.destinations.iter_mut() {
            if !occupancy.others.contains(&key.netns) {
                row.held = super::occupancy::Held::default();
            }
        }
        for (&netns, space) in occupancy.namespaces.iter().filter(|(netns, _)| self.wanted.netns(**netns)) {
            for (to, held) in space.held.iter().filter(|(to, _)| self.wanted.destination(to)) {
                let key = DestinationKey { netns, laddr: to.laddr, raddr: to.raddr, rport: to.rport };
                self.destinations.touch(key, Destination::new).held = *held;
            }
        }
        self.looks.enter(occupancy, |netns| self.wanted.netns(netns));
    }

    /// Where cgroups are, and what their containers are called; `None` for one that is gone.
    pub fn cgroup_names(&mut self, names: Vec<(u64, Option<Named>)>) {
        for (id, named) in names {
            // Whoever was known once keeps the name when it is gone.
            let known = self.names.entry(id).or_default();
            if named.is_some() {
                *known = named;
            }
        }
        let known = &self.cgroups;
        self.names.retain(|id, _| known.get(id).is_some());
    }

    /// Cgroups that have got a row since the last call.
    pub fn new_cgroups(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.new_cgroups)
    }

    /// Cgroups that were not asked for yet, or not answered.
    #[must_use]
    pub fn cgroups_to_find(&self) -> Vec<u64> {
        self.cgroups.iter().map(|(id, _)| *id).filter(|id| *id != 0 && !self.names.contains_key(id)).collect()
    }

    /// Namespaces that events came from and that no look has shown.
    #[must_use]
    pub fn namespaces_to_find(&self) -> Vec<u32> {
        let of = self.destinations.iter().map(|(key, _)| key.netns);
        let unknown: HashSet<u32> = of.filter(|netns| *netns != 0 && !self.namespaces().contains_key(netns)).collect();
        unknown.into_iter().collect()
    }

    /// An interval is over: rates and trends are taken.
    pub fn tick(&mut self, now_ns: u64) {
        let seconds = self.ticks.tick(now_ns);
        self.now_ns = now_ns;
        self.ports.iter_mut().for_each(|(_, row)| row.born.tick(seconds));
        let is_over = now_ns.saturating_sub(self.window_ns) >= recent::WINDOW_NS;
        if is_over {
            self.window_ns = now_ns;
        }
        self.destinations.iter_mut().for_each(|(_, row)| row.tick(seconds, is_over));
        self.processes.iter_mut().for_each(|(_, row)| row.born.tick(seconds));
        self.cgroups.iter_mut().for_each(|(_, row)| row.born.tick(seconds));
    }

    /// Minisocks alive. Those whose events the filters left out are not among them.
    #[must_use]
    pub fn live(&self) -> Live {
        self.live
    }

    fn port(&mut self, key: PortKey) -> &mut Port {
        self.ports.touch(key, Port::new)
    }

    fn destination(&mut self, key: Option<DestinationKey>) -> Option<&mut Destination> {
        key.map(|key| self.destinations.touch(key, Destination::new))
    }

    /// Tells the process and the cgroup that closed.
    fn owned(&mut self, life: &Life, mut tell: impl FnMut(&mut Owner)) {
        self.owned_beside(life, |owner, _| tell(owner));
    }

    /// As [`Aggregates::owned`], with what evicted rows held.
    fn owned_beside(&mut self, life: &Life, mut tell: impl FnMut(&mut Owner, Option<&mut Owner>)) {
        let Some(Closer { task, cgroup_id }) = life.closer else { return };
        let (process, other) = self.processes.touch_beside(Process { pid: task.pid, comm: task.comm }, Owner::new);
        tell(process, other);
        let new = &mut self.new_cgroups;
        let (cgroup, other) = self.cgroups.touch_beside(cgroup_id, |partial| {
            // Without tables nobody asks.
            if cgroup_id != 0 && new.len() < NEW_CGROUPS {
                new.push(cgroup_id);
            }
            Owner::new(partial)
        });
        tell(cgroup, other);
    }

    /// Which rows a life belongs to.
    fn place(&self, life: &Life) -> Option<Place> {
        let Tuple { laddr, lport, raddr, rport } = life.tuple?;
        let netns = life.netns.unwrap_or(0);
        Some(match self.looks.side(life.role, netns, lport) {
            Side::Server => Place { port: PortKey { side: Side::Server, port: lport }, destination: None },
            Side::Client => Place {
                port: PortKey { side: Side::Client, port: rport },
                destination: Some(DestinationKey { netns, laddr, raddr, rport }),
            },
        })
    }
}

/// Takes an ended minisock off what is alive in its row. Where it was born in a row that had to go, it is alive there.
fn end(partial: bool, live: &mut i64, other: Option<&mut i64>) {
    match other {
        Some(other) if partial && *live <= 0 => *other -= 1,
        _ => *live -= 1,
    }
}

/// The rows of a life.
#[derive(Clone, Copy)]
struct Place {
    port: PortKey,
    destination: Option<DestinationKey>,
}

#[cfg(test)]
mod tests;
