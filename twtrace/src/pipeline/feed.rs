//! What feeds the tables beside the events: older minisocks, full sockets, connections that the peer closed first.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use crate::{
    bpf::BpfError,
    host::{
        Host,
        occupancy::{Poller, Request},
    },
    model::{aggregate::Aggregates, event::Life, occupancy::Occupancy, wanted::Wanted},
    tracer::Tracer,
};

/// How long the first look at the sockets is waited for; without it, older connections have no side.
const PATIENCE: Duration = Duration::from_secs(2);

/// The feed of one run.
pub struct Feed {
    poller: Poller,
}

impl Feed {
    /// Begins to look at this machine's sockets, those of them that the run's filters let through.
    ///
    /// # Errors
    /// If there is no room for one more thread.
    pub fn new(host: &Host, wanted: Wanted) -> io::Result<Self> {
        Ok(Self { poller: Poller::spawn_for(host.clone(), wanted)? })
    }

    /// The first look, and the minisocks that are older than the programs, which have been live since `began_ns`.
    pub(super) fn begin(&mut self, all: &mut Aggregates, seeds: Vec<Life>, began_ns: u64) {
        self.poller.ask(Request::default());
        let deadline = Instant::now() + PATIENCE;
        let answer = loop {
            match self.poller.take() {
                Some(answer) => break Some(answer),
                None if Instant::now() > deadline => break None,
                None => thread::sleep(Duration::from_millis(2)),
            }
        };
        all.begin(&answer.map_or_else(Occupancy::default, |answer| answer.occupancy));
        seeds.iter().for_each(|life| all.seeded(life));
        all.started(began_ns);
    }

    /// An interval is over: what was found goes in, and the next look begins.
    pub(super) fn tick(&mut self, all: &mut Aggregates, tracer: &Tracer, now_ns: u64) -> Result<(), BpfError> {
        if let Some(answer) = self.poller.take() {
            all.occupied(&answer.occupancy);
            all.cgroup_paths(answer.cgroups);
        }
        all.passive(&tracer.passive()?);
        all.tick(now_ns);
        self.poller.ask(Request { namespaces: all.namespaces_to_find(), cgroups: all.cgroups_to_find() });
        Ok(())
    }
}
