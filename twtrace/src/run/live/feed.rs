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

/// How often passive closes are read at least, while outputs have room. The table has room for the peers of this time: see
/// [`PEERS`](crate::bpf::PEERS).
const PASSIVE_EVERY: Duration = Duration::from_secs(1);

/// The feed of one run.
pub struct Feed {
    poller: Poller,
    namer: Namer,
    /// When passive closes were last read.
    passive_read: Instant,
}

impl Feed {
    /// Begins to look at this machine's sockets, those of them that the run's filters let through.
    ///
    /// # Errors
    /// If there is no room for two more threads.
    pub fn new(host: &Host, wanted: Wanted) -> io::Result<Self> {
        let (poller, namer) = (Poller::spawn_for(host.clone(), wanted)?, Namer::spawn(host.clone())?);
        Ok(Self { poller, namer, passive_read: Instant::now() })
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
    pub(super) fn interval(&mut self, hub: &mut Hub, tracer: &mut Tracer, mono_ns: u64) -> Result<(), BpfError> {
        if let Some(answer) = self.poller.take() {
            hub.happened(&Happening::Look(Box::new(answer.occupancy)));
        }
        if let Some(tables) = hub.tables() {
            self.namer.ask(tables.cgroups_to_find());
        }
        self.name(hub);
        self.passive(hub, tracer)?;
        hub.happened(&Happening::Interval { mono_ns });
        if let Some(tables) = hub.tables() {
            self.poller.ask(Request { namespaces: tables.namespaces_to_find() });
        }
        Ok(())
    }

    /// Tells which connections the peer closed first since the last time.
    pub(super) fn passive(&mut self, hub: &mut Hub, tracer: &mut Tracer) -> Result<(), BpfError> {
        self.passive_read = Instant::now();
        hub.happened(&Happening::Passive(tracer.passive()?));
        Ok(())
    }

    /// Tells passive closes, if the last time is a while ago: intervals may be long, and entries are evicted meanwhile.
    pub(super) fn passive_if_due(&mut self, hub: &mut Hub, tracer: &mut Tracer) -> Result<(), BpfError> {
        if self.passive_read.elapsed() < PASSIVE_EVERY { Ok(()) } else { self.passive(hub, tracer) }
    }
}
