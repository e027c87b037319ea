//! What feeds the tables beside the events: older minisocks, full sockets, connections that the peer closed first.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use crate::{
    bpf::BpfError,
    host::{
        Host,
        cgroup::Namer,
        occupancy::{Poller, Request},
    },
    model::{happening::Happening, occupancy::Occupancy, wanted::Wanted},
    run::Hub,
    tracer::Tracer,
};

/// How long the first look at the sockets is waited for; without it, older connections have no side.
const PATIENCE: Duration = Duration::from_secs(2);

/// The feed of one run.
pub struct Feed {
    poller: Poller,
    namer: Namer,
}

impl Feed {
    /// Begins to look at this machine's sockets, those of them that the run's filters let through.
    ///
    /// # Errors
    /// If there is no room for two more threads.
    pub fn new(host: &Host, wanted: Wanted) -> io::Result<Self> {
        Ok(Self { poller: Poller::spawn_for(host.clone(), wanted)?, namer: Namer::spawn(host.clone())? })
    }

    /// The first look; empty if it takes too long.
    pub(super) fn first_look(&mut self) -> Occupancy {
        self.poller.ask(Request::default());
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.poller.take() {
                Some(answer) => return answer.occupancy,
                None if Instant::now() > deadline => return Occupancy::default(),
                None => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Events were read: asks for the names of cgroups that came with them, while those are there, and tells what was found.
    pub(super) fn name(&self, hub: &mut Hub) {
        if let Some(tables) = hub.tables() {
            self.namer.ask(tables.new_cgroups());
        }
        let named = self.namer.take();
        if !named.is_empty() {
            hub.happened(&Happening::Paths(named));
        }
    }

    /// An interval is over: tells what was found, and begins the next look.
    pub(super) fn interval(&mut self, hub: &mut Hub, tracer: &Tracer, mono_ns: u64) -> Result<(), BpfError> {
        if let Some(answer) = self.poller.take() {
            hub.happened(&Happening::Look(Box::new(answer.occupancy)));
        }
        if let Some(tables) = hub.tables() {
            self.namer.ask(tables.cgroups_to_find());
        }
        self.name(hub);
        hub.happened(&Happening::Passive(tracer.passive()?));
        hub.happened(&Happening::Interval { mono_ns });
        if let Some(tables) = hub.tables() {
            self.poller.ask(Request { namespaces: tables.namespaces_to_find() });
        }
        Ok(())
    }
}
