//! What the filters of a run say of sockets that no event tells of. Pure.

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
    /// What all sockets have to be: nothing that only one event has.
    all: Expression,
    /// What a destination has to be: it has many local ports, so nothing is asked of them.
    destination: Expression,
    /// What a listener has to be, whatever its namespace: that is asked by itself.
    listener: Expression,
    /// A look at a socket answers all of it.
    is_decided: bool,
}

impl Default for Wanted {
    /// Everything.
    fn default() -> Self {
        Self::new(&Expression::everything())
    }
}

impl Wanted {
    /// What all filters of the run come to, whoever compares them.
    #[must_use]
    pub fn new(filters: &Expression) -> Self {
        let all = filters.without(&Primitive::is_of_event);
        let asks_who =
            |asked: &Primitive| matches!(asked, Primitive::Pid(_) | Primitive::Comm(_) | Primitive::Cgroup(_));
        Self {
            destination: all.without(&|asked| matches!(asked, Primitive::Port(Side::Src | Side::Either, _))),
            listener: all.without(&|asked| matches!(asked, Primitive::Netns(_))),
            is_decided: !all.primitives().into_iter().any(asks_who),
            all,
        }
    }

    /// True if anything is left out, beyond kinds of events and causes.
    #[must_use]
    pub fn is_filtered(&self) -> bool {
        !self.all.is_everything()
    }

    /// The network namespace that alone is wanted, if there is one and nothing else is filtered.
    #[must_use]
    pub fn one_namespace(&self) -> Option<u32> {
        match self.all {
            Expression::Is(Primitive::Netns(inum)) => Some(inum),
            _ => None,
        }
    }

    /// True if this network namespace is wanted.
    #[must_use]
    pub fn netns(&self, inum: u32) -> bool {
        self.all.verdict(&Subject { netns: Fact::Known(inum), ..Subject::default() }) != Some(false)
    }

    /// True if nothing has to be known that no look at the sockets shows: who closes.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        self.is_decided
    }

    /// True if a socket of this host's own making, with this local and remote end and in this network namespace, is wanted.
    #[must_use]
    pub fn opened(&self, tuple: &Tuple, netns: u32) -> bool {
        self.is_decided
            && self.all.verdict(&Subject {
                laddr: Fact::Known(tuple.laddr),
                lport: Fact::Known(tuple.lport),
                raddr: Fact::Known(tuple.raddr),
                rport: Fact::Known(tuple.rport),
                role: Fact::Known(Role::Client),
                netns: Fact::Known(netns),
                ..Subject::default()
            }) == Some(true)
    }

    /// True if all the sockets towards a destination are wanted, or none: only then is it known how many of its ports are
    /// left. A filter by local port, or by who closes, lets some of them through.
    #[must_use]
    pub fn is_whole(&self, rport: u16) -> bool {
        self.is_decided && !depends_on_local_port(&self.all, rport)
    }

    /// True if sockets may be missing whose side is not known: those of connections older than twtrace.
    #[must_use]
    pub fn needs_role(&self) -> bool {
        self.all.primitives().into_iter().any(|asked| matches!(asked, Primitive::Role(_)))
    }

    /// True if somebody who listens on this port is wanted. A listener has no remote end and is no client, and which address
    /// it listens on is not known: filters that need one of these leave it out.
    #[must_use]
    pub fn listener(&self, lport: u16) -> bool {
        self.is_decided
            && self.listener.verdict(&Subject {
                lport: Fact::Known(lport),
                raddr: Fact::None,
                rport: Fact::None,
                role: Fact::Known(Role::Server),
                ..Subject::default()
            }) == Some(true)
    }

    /// True if ports that are held towards a destination may be shown: whatever can be told without the local port.
    #[must_use]
    pub fn destination(&self, to: &Destination) -> bool {
        self.is_decided
            && self.destination.verdict(&Subject {
                laddr: Fact::Known(to.laddr),
                raddr: Fact::Known(to.raddr),
                rport: Fact::Known(to.rport),
                role: Fact::Known(Role::Client),
                ..Subject::default()
            }) != Some(false)
    }
}

/// True if the verdict on sockets towards this port may differ by their local ports.
fn depends_on_local_port(expression: &Expression, rport: u16) -> bool {
    let always_holds = |part: &Expression| matches!(part, Expression::Is(Primitive::Port(Side::Either, ports)) if ports.contains(&rport));
    match expression {
        Expression::Is(Primitive::Port(Side::Src, _)) => true,
        Expression::Is(Primitive::Port(Side::Either, ports)) => !ports.contains(&rport),
        Expression::Is(_) => false,
        Expression::Not(inner) => depends_on_local_port(inner, rport),
        Expression::Any(parts) if parts.iter().any(always_holds) => false,
        Expression::All(parts) | Expression::Any(parts) => parts.iter().any(|part| depends_on_local_port(part, rport)),
    }
}

#[cfg(test)]
mod tests;
