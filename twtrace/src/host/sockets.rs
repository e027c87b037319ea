//! Every TCP socket of a network namespace, counted in one walk: by state, by destination, by service, by listener.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    io,
    net::IpAddr,
    ops::RangeInclusive,
};

use super::diag::{self, Detail, Entry, StateFlags};
use crate::model::occupancy::Destination;

/// States of include/net/tcp_states.h.
pub mod state {
    /// TCP_ESTABLISHED.
    pub const ESTABLISHED: u8 = 1;
    /// TCP_SYN_RECV: of sock_diag's answers, a request.
    pub const SYN_RECV: u8 = 3;
    /// TCP_FIN_WAIT2.
    pub const FIN_WAIT2: u8 = 5;
    /// TCP_TIME_WAIT.
    pub const TIME_WAIT: u8 = 6;
}

/// The most destinations, services and peers that are told apart; what goes beyond is counted in `left_out`.
const MOST: usize = 1 << 16;
/// A TIME_WAIT is recent if it began within so many milliseconds.
pub const RECENT_MS: u32 = 10_000;
/// A TIME_WAIT is young if it began within so many milliseconds: connect() does not take it over yet
/// (`tcp_tw_reuse_delay`; before 6.14 up to a second, by whole seconds).
const YOUNG_MS: u32 = 1_000;
/// A TIME_WAIT is fresh if it began within so many milliseconds.
const FRESH_MS: u32 = 100;
/// From so many on a count makes a rate.
const ENOUGH: u64 = 30;

/// What lies on the way to judge a socket by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// `net.ipv4.ip_local_port_range`.
    pub range: RangeInclusive<u16>,
    /// How long a TIME_WAIT lasts, milliseconds: TCP_TIMEWAIT_LEN, 60,000, but for vendors' kernels.
    pub time_wait_ms: u32,
}

/// A place where connections are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    /// Local address, of the connection.
    pub laddr: IpAddr,
    /// Local port.
    pub lport: u16,
}

/// The sockets of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Full sockets and requests by state; minisocks are not among them.
    pub states: [u64; 16],
    /// Minisocks in TIME_WAIT.
    pub time_wait: u64,
    /// Minisocks in FIN_WAIT2: they take a bucket each too.
    pub fin_wait2: u64,
    /// Full sockets in FIN_WAIT2 that no process has any more.
    pub orphans: u64,
    /// Every listening socket.
    pub listeners: Vec<Listener>,
    /// Connections that were opened here.
    pub opened: HashMap<Destination, Ends>,
    /// Connections that were accepted here.
    pub accepted: HashMap<Service, Ends>,
    /// Minisocks in TIME_WAIT of accepted connections, by who the peer is.
    pub peers: HashMap<(Service, IpAddr), u64>,
    /// Sockets that are in none of the three tables above, which are full.
    pub left_out: u64,
}

/// The sockets of one kind of connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Minisocks in TIME_WAIT.
    pub time_wait: u64,
    /// Minisocks in FIN_WAIT2.
    pub fin_wait2: u64,
    /// Full sockets in ESTABLISHED.
    pub established: u64,
    /// Full sockets in any other state.
    pub other: u64,
    /// Minisocks in TIME_WAIT that began in the last [`RECENT_MS`].
    pub recent: u64,
    /// Minisocks in TIME_WAIT that began within the last second.
    pub young: u64,
    /// Minisocks in TIME_WAIT that began within the last 100 ms.
    pub fresh: u64,
    /// Those on ports of the range.
    pub in_range: u64,
    /// Those on ports of the range that have not the parity of its first one: see [`Ends::bound_first`].
    pub second_half: u64,
    /// Bytes of the streams so far, both directions, of the full sockets that could be asked.
    pub bytes: u64,
    /// How many could be asked.
    pub asked: u64,
    /// Inode of one of the full sockets: leads to the process.
    pub inode: Option<u32>,
}

impl Ends {
    /// All sockets.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.time_wait + self.fin_wait2 + self.established + self.other
    }

    /// TIME_WAITs begun per second: over [`RECENT_MS`], or in the last second if that has enough of them to tell, or in the
    /// last 100 ms as far as so many connections begin (`opens_per_s`). A longer time misses those that are gone again: a
    /// SYN from the same port takes a TIME_WAIT over, on a busy server within a second.
    #[must_use]
    pub fn per_s(&self, opens_per_s: Option<f64>) -> f64 {
        let second = self.young as f64;
        let mean = self.recent as f64 / (f64::from(RECENT_MS) / 1000.0);
        if self.fresh >= ENOUGH {
            let now = self.fresh as f64 / (f64::from(FRESH_MS) / 1000.0);
            now.min(opens_per_s.unwrap_or(second)).max(second)
        } else if self.young >= ENOUGH || second * 10.0 < mean {
            // The latter: it has all but ended.
            second
        } else {
            mean
        }
    }

    /// Ports that connect() did not choose, but a bind() before it: connect() takes those of the parity of the range's
    /// first port while there are any (`__inet_hash_connect`), and bind() to port 0 begins with the others
    /// (`inet_csk_find_open_port`). 0 if the first half is so full that connect() may have gone on to the second.
    #[must_use]
    pub fn bound_first(&self, range: &RangeInclusive<u16>) -> u64 {
        let half = range.len() as u64 / 2;
        let first_half = self.in_range.saturating_sub(self.second_half);
        if first_half >= half * 9 / 10 { 0 } else { self.second_half }
    }

    fn add(&mut self, entry: &Entry, frame: &Frame) {
        match (entry.minisock, entry.state) {
            (true, state::TIME_WAIT) => {
                self.time_wait += 1;
                let age = frame.time_wait_ms.saturating_sub(entry.left_ms);
                self.recent += u64::from(age < RECENT_MS);
                self.young += u64::from(age < YOUNG_MS);
                self.fresh += u64::from(age < FRESH_MS);
            }
            (true, _) => self.fin_wait2 += 1,
            (false, state::ESTABLISHED) => self.established += 1,
            (false, _) => self.other += 1,
        }
        if frame.range.contains(&entry.tuple.lport) {
            self.in_range += 1;
            self.second_half += u64::from((entry.tuple.lport ^ frame.range.start()) & 1);
        }
        if let Some(bytes) = entry.bytes {
            self.bytes = self.bytes.saturating_add(bytes);
            self.asked += 1;
        }
        if entry.inode != 0 {
            self.inode = Some(entry.inode);
        }
    }
}

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The local address, unspecified for all.
    pub address: IpAddr,
    /// The local port.
    pub port: u16,
    /// Connections that wait for accept().
    pub queue: u32,
    /// How many may wait: the smaller of listen()'s backlog and `net.core.somaxconn`. The queue takes one more.
    pub limit: u32,
    /// What it has dropped so far: SYNs, and connections for which there was no room.
    pub drops: Option<u32>,
    /// Connections that are being made (SYN_RECV), for all the sockets that listen here.
    pub requests: u64,
    /// Sockets that listen at this address and port (SO_REUSEPORT), this one included.
    pub sharing: u32,
    /// Inode: leads to the process.
    pub inode: u32,
}

impl Listener {
    /// The next connection finds no room (`sk_acceptq_is_full`, include/net/sock.h).
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queue > self.limit
    }
}

/// Looks at the calling thread's namespace.
///
/// # Errors
/// Those of sock_diag.
pub fn look(frame: &Frame) -> io::Result<Sockets> {
    let listeners = diag::dump(&StateFlags::LISTEN, Detail::Everything, Vec::new, |listeners, entry| {
        listeners.push(*entry);
    })?;
    let counter = Counter::new(frame, &listeners);
    let others = StateFlags::all().difference(StateFlags::LISTEN);
    let new = || (Sockets::default(), HashMap::new());
    let (mut sockets, requests) = diag::dump(&others, Detail::Everything, new, |(sockets, requests), entry| {
        counter.count(sockets, requests, entry);
    })?;
    sockets.listeners = listening(&listeners, &requests);
    Ok(sockets)
}

/// Connections that are being made, by the local end.
type Requests = HashMap<(IpAddr, u16), u64>;

/// Knows which ports are listened on, to tell who opened a connection.
struct Counter<'a> {
    frame: &'a Frame,
    listens: BTreeSet<u16>,
}

impl<'a> Counter<'a> {
    fn new(frame: &'a Frame, listeners: &[Entry]) -> Self {
        Self { frame, listens: listeners.iter().map(|entry| entry.tuple.lport).collect() }
    }

    /// Sockets do not tell who opened them: whose port is listened on was accepted. If nobody listens at either end, the
    /// one on a port of the range has opened it.
    fn is_accepted(&self, entry: &Entry) -> bool {
        let ours = |port| self.frame.range.contains(&port);
        self.listens.contains(&entry.tuple.lport) || !ours(entry.tuple.lport) && ours(entry.tuple.rport)
    }

    fn count(&self, sockets: &mut Sockets, requests: &mut Requests, entry: &Entry) {
        match (entry.minisock, entry.state) {
            (true, state::TIME_WAIT) => sockets.time_wait += 1,
            (true, _) => sockets.fin_wait2 += 1,
            (false, number) => {
                if let Some(count) = sockets.states.get_mut(usize::from(number)) {
                    *count += 1;
                }
                sockets.orphans += u64::from(number == state::FIN_WAIT2 && entry.inode == 0);
            }
        }
        let tuple = entry.tuple;
        if entry.state == state::SYN_RECV {
            bounded(requests, (tuple.laddr, tuple.lport), &mut sockets.left_out, |count| *count += 1);
        } else if self.is_accepted(entry) {
            let service = Service { laddr: tuple.laddr, lport: tuple.lport };
            bounded(&mut sockets.accepted, service, &mut sockets.left_out, |ends| ends.add(entry, self.frame));
            if entry.minisock && entry.state == state::TIME_WAIT {
                bounded(&mut sockets.peers, (service, tuple.raddr), &mut sockets.left_out, |count| *count += 1);
            }
        } else {
            let destination = Destination { laddr: tuple.laddr, raddr: tuple.raddr, rport: tuple.rport };
            bounded(&mut sockets.opened, destination, &mut sockets.left_out, |ends| ends.add(entry, self.frame));
        }
    }
}

/// Changes what stands at a key, if there is room for it.
fn bounded<K: Eq + Hash, V: Default>(
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
fn listening(entries: &[Entry], requests: &Requests) -> Vec<Listener> {
    let place = |entry: &Entry| (entry.tuple.laddr, entry.tuple.lport);
    let mut sharing: HashMap<_, u32> = HashMap::new();
    for entry in entries {
        *sharing.entry(place(entry)).or_default() += 1;
    }
    let mut waiting: HashMap<_, u64> = HashMap::new();
    for (&(address, port), &count) in requests {
        let any4 = IpAddr::from([0; 4]);
        let any6 = IpAddr::from([0_u16; 8]);
        let places = [(address, port), (if address.is_ipv4() { any4 } else { any6 }, port), (any6, port)];
        if let Some(place) = places.into_iter().find(|place| sharing.contains_key(place)) {
            *waiting.entry(place).or_default() += count;
        }
    }
    let listener = |entry: &Entry| Listener {
        address: entry.tuple.laddr,
        port: entry.tuple.lport,
        queue: entry.receive_queue,
        limit: entry.send_queue,
        drops: entry.drops,
        requests: waiting.get(&place(entry)).copied().unwrap_or_default(),
        sharing: sharing.get(&place(entry)).copied().unwrap_or(1),
        inode: entry.inode,
    };
    entries.iter().map(listener).collect()
}

#[cfg(test)]
mod tests;
