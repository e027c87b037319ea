//! Which ports of the range are taken on this host, whatever they are connected to.

use std::{collections::BTreeSet, net::IpAddr};

use super::Frame;
use crate::host::diag::{Entry, TCP_CLOSE};

/// Ports.
const PORTS: usize = 1 << 16;

/// Ports of the range that connect() and bind() may choose, without those that are reserved or listened on; in two halves: those
/// of the parity of the range's first port, from which connect() takes (`__inet_hash_connect`), and the others, from which
/// bind() to port 0 takes (`inet_csk_find_open_port`). Each begins with the other half when its own is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalPorts {
    /// Ports to choose from.
    pub choosable: [u64; 2],
    /// Ports that a connection opened here holds, or a socket that was bound.
    pub held: [u64; 2],
    /// Of those: more than one connection has the port, from the same local address. bind() gives a port out once for each
    /// local address, connect() once for each destination.
    pub shared: [u64; 2],
    /// Of those held: a socket is bound to the port and neither listens nor is connected. Since Linux 6.8; older kernels
    /// do not list them.
    pub bound: [u64; 2],
    /// The lowest and the highest port held of the second half.
    pub second_span: Option<(u16, u16)>,
}

impl LocalPorts {
    /// Of both halves.
    #[must_use]
    pub fn all(halves: [u64; 2]) -> u64 {
        halves[0] + halves[1]
    }
}

/// What is noted of a port.
#[derive(Clone, Copy, Default)]
struct Taken {
    /// Whose, the first of them.
    laddr: Option<IpAddr>,
    held: bool,
    shared: bool,
    bound: bool,
}

/// Notes each port.
pub(super) struct Noted(Vec<Taken>);

impl Noted {
    pub(super) fn new() -> Self {
        Self(vec![Taken::default(); PORTS])
    }

    /// An opened connection, or a socket that is bound and no more.
    pub(super) fn note(&mut self, entry: &Entry) {
        let Some(port) = self.0.get_mut(usize::from(entry.tuple.lport)) else { return };
        if entry.state == TCP_CLOSE {
            port.bound = true;
        } else {
            port.shared |= port.laddr == Some(entry.tuple.laddr);
            port.laddr.get_or_insert(entry.tuple.laddr);
        }
        port.held = true;
    }

    /// Forgets a port that is a service's.
    pub(super) fn forget(&mut self, port: u16) {
        if let Some(taken) = self.0.get_mut(usize::from(port)) {
            *taken = Taken::default();
        }
    }

    pub(super) fn counted(&self, frame: &Frame, listens: &BTreeSet<u16>) -> LocalPorts {
        let mut local = LocalPorts::default();
        let is_reserved = |port: &u16| frame.reserved.iter().any(|ports| ports.contains(port));
        let ports: Vec<(u16, usize, Taken)> = frame
            .range
            .clone()
            .filter(|port| !listens.contains(port) && !is_reserved(port))
            .map(|port| {
                (
                    port,
                    usize::from((port ^ frame.range.start()) & 1),
                    self.0.get(usize::from(port)).copied().unwrap_or_default(),
                )
            })
            .collect();
        for (_, half, taken) in &ports {
            local.choosable[*half] += 1;
            local.held[*half] += u64::from(taken.held);
            local.shared[*half] += u64::from(taken.shared);
            local.bound[*half] += u64::from(taken.bound);
        }
        let second = || ports.iter().filter(|(_, half, taken)| *half == 1 && taken.held).map(|(port, ..)| *port);
        local.second_span = second().next().zip(second().next_back());
        local
    }
}
