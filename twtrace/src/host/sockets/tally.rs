//! Counts one socket after the other.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    net::IpAddr,
};

use super::{Frame, Listener, MOST, SAMPLES, Sample, Service, Sockets, local::Noted, peers::Distinct};
use crate::{
    host::diag::{Entry, TCP_CLOSE, TCP_FIN_WAIT2, TCP_LISTEN, TCP_SYN_RECV, TCP_TIME_WAIT},
    model::occupancy::Destination,
};

/// So many sockets make a port a service's, if nobody listens there...
const MANY: u32 = 16;
/// ...and so many for each one that has the same port at the other end.
const TIMES: u32 = 4;
/// Ports.
const PORTS: usize = 1 << 16;

/// Connections that are being made, by the local end: all, and those whose SYN-ACK had to be sent again.
pub(super) type Requests = HashMap<(IpAddr, u16), (u64, u64)>;

/// What was counted so far.
pub(super) struct Tally<'a> {
    frame: &'a Frame,
    /// Ports that are listened on, to tell who opened a connection.
    listens: BTreeSet<u16>,
    sockets: Sockets,
    requests: Requests,
    peers: HashMap<Service, Distinct>,
    noted: Noted,
    /// Of sockets at whose port nobody listens: how many have each local port, and each remote port.
    local: Vec<u32>,
    remote: Vec<u32>,
    /// How many samples there are of each state.
    sampled: [usize; 16],
}

impl<'a> Tally<'a> {
    pub(super) fn new(frame: &'a Frame, listeners: &[Entry]) -> Self {
        Self {
            frame,
            listens: listeners.iter().map(|entry| entry.tuple.lport).collect(),
            sockets: Sockets::default(),
            requests: HashMap::new(),
            peers: HashMap::new(),
            noted: Noted::new(),
            local: vec![0; PORTS],
            remote: vec![0; PORTS],
            sampled: [0; 16],
        }
    }

    pub(super) fn count(&mut self, entry: &Entry) {
        let is_held = entry.inode != 0;
        match (entry.minisock, entry.state) {
            (true, TCP_TIME_WAIT) => self.sockets.time_wait += 1,
            (true, _) => self.sockets.fin_wait2 += 1,
            (false, state) => {
                self.sockets.orphans += u64::from(state == TCP_FIN_WAIT2 && !is_held);
                self.sockets.states.add(state, is_held);
            }
        }
        let tuple = entry.tuple;
        let left_out = &mut self.sockets.left_out;
        match entry.state {
            TCP_SYN_RECV => bounded(&mut self.requests, (tuple.laddr, tuple.lport), left_out, |(count, resent)| {
                *count += 1;
                *resent += u64::from(entry.retransmits > 0);
            }),
            TCP_CLOSE => {
                self.noted.note(entry);
                self.sample(entry, false);
            }
            _ => {
                let accepted = self.is_accepted(entry);
                self.connection(entry, accepted);
                self.sample(entry, accepted);
            }
        }
    }

    /// Sockets do not tell who opened them: whose port is listened on was accepted. If nobody listens at either end, the
    /// one on a port of the range has opened it, unless many connections share that port: then it is that of a service whose
    /// listener is closed.
    fn is_accepted(&mut self, entry: &Entry) -> bool {
        let (lport, rport) = (entry.tuple.lport, entry.tuple.rport);
        if self.listens.contains(&lport) {
            return true;
        }
        for (counts, port) in [(&mut self.local, lport), (&mut self.remote, rport)] {
            if let Some(count) = counts.get_mut(usize::from(port)) {
                *count = count.saturating_add(1);
            }
        }
        let ours = |port| self.frame.range.contains(&port);
        !ours(lport) && ours(rport) || self.is_service(lport, rport)
    }

    /// Whether many connections share the local port, far more than the remote one.
    fn is_service(&self, lport: u16, rport: u16) -> bool {
        let of = |counts: &[u32], port: u16| counts.get(usize::from(port)).copied().unwrap_or_default();
        let local = of(&self.local, lport);
        !self.listens.contains(&lport) && local >= MANY && local / TIMES >= of(&self.remote, rport)
    }

    fn connection(&mut self, entry: &Entry, accepted: bool) {
        let (tuple, frame) = (entry.tuple, self.frame);
        let left_out = &mut self.sockets.left_out;
        if accepted {
            let service = Service { laddr: tuple.laddr, lport: tuple.lport };
            bounded(&mut self.sockets.accepted, service, left_out, |ends| ends.add(entry, frame));
            bounded(&mut self.peers, service, &mut 0, |peers| peers.add(tuple.raddr));
        } else {
            let destination = Destination { laddr: tuple.laddr, raddr: tuple.raddr, rport: tuple.rport };
            bounded(&mut self.sockets.opened, destination, left_out, |ends| ends.add(entry, frame));
            self.noted.note(entry);
        }
    }

    fn sample(&mut self, entry: &Entry, accepted: bool) {
        if entry.minisock || entry.state == TCP_LISTEN {
            return;
        }
        let Some(count) = self.sampled.get_mut(usize::from(entry.state)) else { return };
        if *count < SAMPLES {
            *count += 1;
            self.sockets.samples.push(Sample {
                tuple: entry.tuple,
                state: entry.state,
                accepted,
                inode: entry.inode,
                idle_ms: entry.idle_ms,
                unsent: entry.send_queue,
                retried: entry.retransmits > 0,
                probing: entry.probing,
            });
        }
    }

    /// All that was counted, with what only the whole tells.
    pub(super) fn finish(mut self, listeners: &[Entry]) -> Sockets {
        self.resolve();
        for (service, peers) in &self.peers {
            if let Some(ends) = self.sockets.accepted.get_mut(service) {
                ends.peers = peers.peers();
            }
        }
        for entry in listeners {
            self.sockets.states.add(TCP_LISTEN, entry.inode != 0);
        }
        self.sockets.local = self.noted.counted(self.frame, &self.listens);
        self.sockets.listeners = listening(listeners, &self.requests);
        self.sockets
    }

    /// The first connections of a service that nobody listens at were taken for opened ones, each to a destination of its own.
    fn resolve(&mut self) {
        let ports = (0..=u16::MAX).zip(&self.local);
        let shared: BTreeSet<u16> = ports.filter(|(_, count)| **count >= MANY).map(|(port, _)| port).collect();
        if shared.is_empty() {
            return;
        }
        let mut samples = std::mem::take(&mut self.sockets.samples);
        let is_service = |lport: u16, rport: u16| shared.contains(&lport) && self.is_service(lport, rport);
        let misplaced: Vec<Destination> = self
            .sockets
            .opened
            .iter()
            .filter(|(to, ends)| ends.total() == 1 && is_service(ends.lport, to.rport))
            .map(|(to, _)| *to)
            .collect();
        for sample in samples.iter_mut().filter(|sample| !sample.accepted && sample.state != TCP_CLOSE) {
            sample.accepted = is_service(sample.tuple.lport, sample.tuple.rport);
        }
        self.sockets.samples = samples;
        for to in misplaced {
            let Some(ends) = self.sockets.opened.remove(&to) else { continue };
            let service = Service { laddr: to.laddr, lport: ends.lport };
            bounded(&mut self.sockets.accepted, service, &mut self.sockets.left_out, |all| all.merge(&ends));
            bounded(&mut self.peers, service, &mut 0, |peers| peers.add(to.raddr));
            self.noted.forget(ends.lport);
        }
    }
}

/// Changes what stands at a key, if there is room for it.
pub(super) fn bounded<K: Eq + Hash, V: Default>(
    table: &mut HashMap<K, V>,
    key: K,
    left_out: &mut u64,
    change: impl FnOnce(&mut V),
) {
    if let Some(value) = table.get_mut(&key) {
        change(value);
    } else if table.len() < MOST {
        change(table.entry(key).or_default());
    } else {
        *left_out += 1;
    }
}

/// Listeners, with the requests that are on their way to them: at the very address, or else at any.
pub(super) fn listening(entries: &[Entry], requests: &Requests) -> Vec<Listener> {
    let place = |entry: &Entry| (entry.tuple.laddr, entry.tuple.lport);
    let mut sharing: HashMap<_, u32> = HashMap::new();
    for entry in entries {
        *sharing.entry(place(entry)).or_default() += 1;
    }
    let mut waiting: HashMap<_, (u64, u64)> = HashMap::new();
    for (&(address, port), &(count, resent)) in requests {
        let any4 = IpAddr::from([0; 4]);
        let any6 = IpAddr::from([0_u16; 8]);
        let places = [(address, port), (if address.is_ipv4() { any4 } else { any6 }, port), (any6, port)];
        if let Some(place) = places.into_iter().find(|place| sharing.contains_key(place)) {
            let all = waiting.entry(place).or_default();
            *all = (all.0 + count, all.1 + resent);
        }
    }
    let listener = |entry: &Entry| {
        let (requests, resent) = waiting.get(&place(entry)).copied().unwrap_or_default();
        Listener {
            address: entry.tuple.laddr,
            port: entry.tuple.lport,
            queue: entry.receive_queue,
            limit: entry.send_queue,
            drops: entry.drops,
            requests,
            resent,
            sharing: sharing.get(&place(entry)).copied().unwrap_or(1),
            inode: entry.inode,
        }
    };
    entries.iter().map(listener).collect()
}
