//! What the filters of a run say of sockets that no event tells of: the filters that the eBPF programs are told, evaluated
//! here once more, with what of them is left to user space. Pure.

use std::net::IpAddr;

use twtrace_common::{
    knob::{Cidr, Filter, PORTS_EITHER, PORTS_LOCAL, PORTS_REMOTE, PortSet},
    record::role,
};

use super::{
    event::{Role, Tuple},
    expression::{Expression, Fact, Primitive, Side, Subject},
    occupancy::Destination,
};

/// The filters of a run.
///
/// A socket that sock_diag lists has addresses, ports and a network namespace. Who will close it is not known, so filters
/// by process, name or cgroup cannot be decided for it: it is left out, and what it holds is unknown.
#[derive(Clone, Debug)]
pub struct Wanted {
    filter: Filter,
    ports: Box<[PortSet; 3]>,
    /// What has to hold beside the filter. It asks nothing that only one event has.
    beside: Expression,
    /// What has to hold of a destination: it has many local ports, so nothing is asked of them.
    of_destination: Expression,
    /// A look at a socket answers all of this.
    is_decided: bool,
}

impl Default for Wanted {
    /// Everything.
    fn default() -> Self {
        Self::new(Filter::ALL, Box::new([[0; _]; 3]))
    }
}

impl Wanted {
    /// What the programs are told: their filter, and the rows of map `PORTS`.
    #[must_use]
    pub fn new(filter: Filter, ports: Box<[PortSet; 3]>) -> Self {
        let Filter { netns, netns_len, laddr, laddr_len, raddr, raddr_len, family, role, lport, rport, port, .. } =
            filter;
        // Whatever else is filtered, now or one day, a look at a socket does not answer.
        let answered = Filter {
            netns,
            netns_len,
            laddr,
            laddr_len,
            raddr,
            raddr_len,
            family,
            role,
            lport,
            rport,
            port,
            ..Filter::ALL
        };
        let all = |filter: Filter| Filter { kinds: Filter::ALL.kinds, causes: Filter::ALL.causes, any: 0, ..filter };
        Self {
            filter,
            ports,
            beside: Expression::everything(),
            of_destination: Expression::everything(),
            is_decided: all(answered) == all(filter),
        }
    }

    /// What has to hold beside the filter of the programs: which events are shown. Which sockets are counted follows.
    #[must_use]
    pub fn and(self, shown: &Expression) -> Self {
        let beside = shown.without(&Primitive::is_of_event);
        let asks_who =
            |asked: &Primitive| matches!(asked, Primitive::Pid(_) | Primitive::Comm(_) | Primitive::Cgroup(_));
        let is_decided = self.is_decided && !beside.primitives().into_iter().any(asks_who);
        Self { of_destination: beside.without(&asks_local_port), beside, is_decided, ..self }
    }

    fn asks(&self, is: impl Fn(&Primitive) -> bool) -> bool {
        self.beside.primitives().into_iter().any(is)
    }

    /// True if anything is left out, beyond kinds of events and causes.
    #[must_use]
    pub fn is_filtered(&self) -> bool {
        self.filter.settled().any != 0 || !self.beside.is_everything()
    }

    /// The network namespace that alone is wanted, if there is one and nothing else is filtered.
    #[must_use]
    pub fn one_namespace(&self) -> Option<u32> {
        let rest = Filter { netns: Filter::ALL.netns, netns_len: 0, ..self.filter };
        let is_one = self.filter.netns_len == 1 && rest.settled().any == 0 && self.beside.is_everything();
        is_one.then_some(self.filter.netns[0])
    }

    /// True if this network namespace is wanted.
    #[must_use]
    pub fn netns(&self, inum: u32) -> bool {
        let wanted = &self.filter.netns[..usize::from(self.filter.netns_len).min(self.filter.netns.len())];
        (wanted.is_empty() || wanted.contains(&inum))
            && may(&self.beside, &Subject { netns: Fact::Known(inum), ..Subject::default() })
    }

    /// True if nothing has to be known that no look at the sockets shows: who closes.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        self.is_decided
    }

    /// True if a socket of this host's own making, with this local and remote end and in this network namespace, is wanted.
    #[must_use]
    pub fn opened(&self, tuple: &Tuple, netns: u32) -> bool {
        let (local, remote) = (self.port(PORTS_LOCAL, tuple.lport), self.port(PORTS_REMOTE, tuple.rport));
        let either = self.port(PORTS_EITHER, tuple.lport) || self.port(PORTS_EITHER, tuple.rport);
        let Filter { lport, rport, port, .. } = self.filter;
        self.is_decided()
            && self.addresses(tuple.laddr, tuple.raddr)
            && (lport == 0 || local)
            && (rport == 0 || remote)
            && (port == 0 || either)
            && matches!(self.filter.role, 0 | role::CLIENT)
            && may(
                &self.beside,
                &Subject {
                    laddr: Fact::Known(tuple.laddr),
                    lport: Fact::Known(tuple.lport),
                    raddr: Fact::Known(tuple.raddr),
                    rport: Fact::Known(tuple.rport),
                    role: Fact::Known(Role::Client),
                    netns: Fact::Known(netns),
                    ..Subject::default()
                },
            )
    }

    /// True if all the sockets towards a destination are wanted, or none: only then is it known how many of its ports are
    /// left. A filter by local port, or by who closes, lets some of them through.
    #[must_use]
    pub fn is_whole(&self, rport: u16) -> bool {
        let by_port = self.filter.port != 0 && !self.port(PORTS_EITHER, rport);
        self.is_decided() && self.filter.lport == 0 && !by_port && !self.asks(asks_local_port)
    }

    /// True if sockets may be missing whose side is not known: those of connections older than twtrace.
    #[must_use]
    pub fn needs_role(&self) -> bool {
        self.filter.role != 0 || self.asks(|asked| matches!(asked, Primitive::Role(_)))
    }

    /// True if somebody who listens on this port is wanted. A listener has no remote end and is no client: filters that
    /// need one leave all listeners out.
    #[must_use]
    pub fn listener(&self, lport: u16) -> bool {
        let Filter { laddr_len, raddr_len, family, rport, lport: by_lport, port, .. } = self.filter;
        self.is_decided()
            // Which address it listens on is not known either.
            && laddr_len == 0
            && raddr_len == 0
            && family == 0
            && rport == 0
            && self.filter.role != role::CLIENT
            && (by_lport == 0 || self.port(PORTS_LOCAL, lport))
            && (port == 0 || self.port(PORTS_EITHER, lport))
            && Some(true) == self.beside.verdict(&Subject {
                lport: Fact::Known(lport),
                raddr: Fact::None,
                rport: Fact::None,
                role: Fact::Known(Role::Server),
                ..Subject::default()
            })
    }

    /// True if ports that are held towards a destination may be shown: whatever can be told without the local port.
    #[must_use]
    pub fn destination(&self, to: &Destination) -> bool {
        self.is_decided()
            && self.addresses(to.laddr, to.raddr)
            && (self.filter.rport == 0 || self.port(PORTS_REMOTE, to.rport))
            && matches!(self.filter.role, 0 | role::CLIENT)
            && may(
                &self.of_destination,
                &Subject {
                    laddr: Fact::Known(to.laddr),
                    raddr: Fact::Known(to.raddr),
                    rport: Fact::Known(to.rport),
                    role: Fact::Known(Role::Client),
                    ..Subject::default()
                },
            )
    }

    fn port(&self, row: u32, port: u16) -> bool {
        self.ports[row as usize][usize::from(port >> 6)] & 1 << (port & 63) != 0
    }

    fn addresses(&self, laddr: IpAddr, raddr: IpAddr) -> bool {
        let Filter { family, laddr: locals, laddr_len, raddr: remotes, raddr_len, .. } = &self.filter;
        let of = |blocks: &[Cidr], len: u8, address: IpAddr| {
            let blocks = &blocks[..usize::from(len).min(blocks.len())];
            blocks.is_empty() || blocks.iter().any(|block| is_in(block, address))
        };
        (*family == 0 || *family == number(raddr)) && of(locals, *laddr_len, laddr) && of(remotes, *raddr_len, raddr)
    }
}

fn asks_local_port(asked: &Primitive) -> bool {
    matches!(asked, Primitive::Port(Side::Src | Side::Either, _))
}

/// True if something may match of which this much is known.
fn may(expression: &Expression, known: &Subject) -> bool {
    expression.is_everything() || expression.verdict(known) != Some(false)
}

fn number(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

/// As `twtrace-ebpf/src/filter.rs` compares.
fn is_in(block: &Cidr, address: IpAddr) -> bool {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes = v6.octets(),
    }
    let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
    block.family == u64::from(number(address))
        && word(0) & block.mask[0] == block.addr[0]
        && word(8) & block.mask[1] == block.addr[1]
}

#[cfg(test)]
mod tests;
