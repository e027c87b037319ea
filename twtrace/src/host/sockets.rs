//! Every TCP socket of a network namespace, counted in one walk: by state, by destination, by service, by listener.

mod local;
mod peers;
mod tally;

use std::{collections::HashMap, io, net::IpAddr, ops::RangeInclusive};

pub use local::LocalPorts;
pub use peers::Peers;
use tally::Tally;

use super::{
    diag::{self, Detail, Entry, StateFlags, TCP_ESTABLISHED, TCP_LISTEN, TCP_TIME_WAIT},
    states::States,
};
use crate::model::{event::Tuple, occupancy::Destination};

/// The most destinations and services that are told apart; what goes beyond is counted in `left_out`.
const MOST: usize = 1 << 16;
/// The most sockets of one state that are kept one by one.
pub const SAMPLES: usize = 1 << 13;
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
    /// `net.ipv4.ip_local_reserved_ports`.
    pub reserved: Vec<RangeInclusive<u16>>,
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
    /// Minisocks in TIME_WAIT.
    pub time_wait: u64,
    /// Minisocks in FIN_WAIT2: they take a bucket each too.
    pub fin_wait2: u64,
    /// Full sockets in FIN_WAIT2 that no process has any more.
    pub orphans: u64,
    /// All full sockets, and requests (SYN_RECV), by state.
    pub states: States,
    /// Full sockets one by one: the first [`SAMPLES`] of each state, without those that listen.
    pub samples: Vec<Sample>,
    /// Ports of the range, by who took them.
    pub local: LocalPorts,
    /// Every listening socket.
    pub listeners: Vec<Listener>,
    /// Connections that were opened here.
    pub opened: HashMap<Destination, Ends>,
    /// Connections that were accepted here.
    pub accepted: HashMap<Service, Ends>,
    /// Sockets that are in neither of the two tables above, which are full.
    pub left_out: u64,
}

/// A full socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The connection, from its side.
    pub tuple: Tuple,
    /// The socket's state, a number of include/net/tcp_states.h.
    pub state: u8,
    /// The socket was accepted here, as far as that can be known: see [`Sockets::accepted`].
    pub accepted: bool,
    /// Of its file; 0 if no process has it.
    pub inode: u32,
    /// Since its peer was last heard of, milliseconds: the least that it has been in a state that a segment of the peer's
    /// led to. `None` if the kernel does not tell.
    pub idle_ms: Option<u32>,
    /// Bytes that were written and that the peer has not acknowledged.
    pub unsent: u32,
    /// Something was sent again and has no answer yet.
    pub retried: bool,
    /// The peer's window is zero.
    pub probing: bool,
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
    /// Full sockets in any other state: `full` tells which.
    pub other: u64,
    /// Full sockets by state, those in ESTABLISHED among them.
    pub full: States,
    /// Full sockets that have sent something again, and have no answer yet.
    pub retried: u64,
    /// Full sockets whose peer's window is zero.
    pub probing: u64,
    /// Until the youngest TIME_WAIT of them is gone, milliseconds.
    pub last_left_ms: u32,
    /// Minisocks in TIME_WAIT that began in the last [`RECENT_MS`].
    pub recent: u64,
    /// Minisocks in TIME_WAIT that began within the last second.
    pub young: u64,
    /// Minisocks in TIME_WAIT that began within the last 100 ms.
    pub fresh: u64,
    /// Sockets on ports of the range.
    pub in_range: u64,
    /// Sockets on ports of the range that have not the parity of its first one. A socket with IP_BIND_ADDRESS_NO_PORT is not
    /// counted: its port was chosen by connect().
    pub second_half: u64,
    /// Of those: the full ones, and TIME_WAITs that began within the last second. Older ones may be left of a burst.
    pub second_half_now: u64,
    /// Remote addresses of connections that were accepted here.
    pub peers: Peers,
    /// Local port of one of them.
    pub lport: u16,
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

    fn add(&mut self, entry: &Entry, frame: &Frame) {
        match (entry.minisock, entry.state) {
            (true, TCP_TIME_WAIT) => {
                self.time_wait += 1;
                let age = frame.time_wait_ms.saturating_sub(entry.left_ms);
                self.recent += u64::from(age < RECENT_MS);
                self.young += u64::from(age < YOUNG_MS);
                self.fresh += u64::from(age < FRESH_MS);
                self.last_left_ms = self.last_left_ms.max(entry.left_ms);
            }
            (true, _) => self.fin_wait2 += 1,
            (false, state) => {
                self.established += u64::from(state == TCP_ESTABLISHED);
                self.other += u64::from(state != TCP_ESTABLISHED);
                self.full.add(state, entry.inode != 0);
                self.retried += u64::from(entry.retransmits > 0);
                self.probing += u64::from(entry.probing);
            }
        }
        if frame.range.contains(&entry.tuple.lport) {
            self.in_range += 1;
            if (entry.tuple.lport ^ frame.range.start()) & 1 == 1 && entry.no_port != Some(true) {
                let age = frame.time_wait_ms.saturating_sub(entry.left_ms);
                self.second_half += 1;
                self.second_half_now += u64::from(!entry.minisock || age < YOUNG_MS);
            }
        }
        self.lport = entry.tuple.lport;
        if let Some(bytes) = entry.bytes {
            self.bytes = self.bytes.saturating_add(bytes);
            self.asked += 1;
        }
        if entry.inode != 0 {
            self.inode = Some(entry.inode);
        }
    }

    /// Counts others too; their peers are not known to be others.
    fn merge(&mut self, other: &Self) {
        for (count, more) in [
            (&mut self.time_wait, other.time_wait),
            (&mut self.fin_wait2, other.fin_wait2),
            (&mut self.established, other.established),
            (&mut self.other, other.other),
            (&mut self.retried, other.retried),
            (&mut self.probing, other.probing),
            (&mut self.recent, other.recent),
            (&mut self.young, other.young),
            (&mut self.fresh, other.fresh),
            (&mut self.in_range, other.in_range),
            (&mut self.second_half, other.second_half),
            (&mut self.second_half_now, other.second_half_now),
            (&mut self.bytes, other.bytes),
            (&mut self.asked, other.asked),
        ] {
            *count = count.saturating_add(more);
        }
        self.full.merge(&other.full);
        self.last_left_ms = self.last_left_ms.max(other.last_left_ms);
        self.inode = self.inode.or(other.inode);
        self.lport = other.lport;
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
    /// Of those: they had to send their SYN-ACK again.
    pub resent: u64,
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

    /// The listener as one of the full sockets.
    #[must_use]
    pub fn sample(&self) -> Sample {
        let tuple = Tuple { laddr: self.address, lport: self.port, raddr: self.address, rport: 0 };
        Sample {
            tuple,
            state: TCP_LISTEN,
            accepted: true,
            inode: self.inode,
            idle_ms: None,
            unsent: 0,
            retried: false,
            probing: false,
        }
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
    let others = diag::every_state().difference(StateFlags::LISTEN);
    let new = || Tally::new(frame, &listeners);
    let tally = diag::dump(&others, Detail::Everything, new, |tally, entry| tally.count(entry))?;
    Ok(tally.finish(&listeners))
}

#[cfg(test)]
mod tests;
