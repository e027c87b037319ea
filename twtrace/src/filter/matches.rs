//! Which events match: the verdict of user space, the same as that of the programs (`twtrace-ebpf/src/filter.rs`), which
//! an end-to-end test runs on random records. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    few::Few,
    ports::Ports,
    spec::{Family, FilterSpec, Resolved},
};
use crate::model::event::{Closer, Detail, Event, Tuple};

/// A filter with what its names led to. Values of one kind are alternatives, kinds add up; what is not known does not match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// What was asked for.
    pub spec: FilterSpec,
    /// What the names in it led to.
    pub resolved: Resolved,
}

impl Filters {
    /// True if an event is wanted.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        let spec = &self.spec;
        let life = &event.life;
        let cause = match event.detail {
            Detail::Died { cause, .. } => Some(cause),
            _ => None,
        };
        spec.kinds.contains(&event.kind())
            && (spec.causes.is_empty() || cause.is_some_and(|cause| cause.is_wanted(&spec.causes)))
            && spec.role.is_none_or(|role| life.role == Some(role))
            && self.netns(life.netns)
            && self.tuple(life.tuple)
            && self.closer(life.closer)
    }

    fn tuple(&self, tuple: Option<Tuple>) -> bool {
        let spec = &self.spec;
        let either = |ports: &Ports, tuple: Tuple| ports.contains(tuple.lport) || ports.contains(tuple.rport);
        spec.family.is_none_or(|family| tuple.is_some_and(|tuple| tuple.family() == number(family)))
            && holds(spec.lport.as_ref(), tuple, |ports, tuple| ports.contains(tuple.lport))
            && holds(spec.rport.as_ref(), tuple, |ports, tuple| ports.contains(tuple.rport))
            && holds(spec.port.as_ref(), tuple, either)
            && within(&spec.laddr, tuple.map(|tuple| tuple.laddr))
            && within(&spec.raddr, tuple.map(|tuple| tuple.raddr))
    }

    /// True if this network namespace is wanted.
    #[must_use]
    pub fn netns(&self, netns: Option<u32>) -> bool {
        self.resolved.netns.is_empty() || netns.is_some_and(|netns| self.resolved.netns.contains(&netns))
    }

    fn closer(&self, closer: Option<Closer>) -> bool {
        let task = closer.map(|closer| closer.task);
        one_of(&self.spec.pid, |pid| task.is_some_and(|task| task.pid == *pid))
            && one_of(&self.spec.comm, |comm| task.is_some_and(|task| comm.is(&task.comm)))
            && (!self.resolved.wants_cgroups()
                || closer.is_some_and(|closer| self.resolved.has_cgroup(closer.cgroup_id)))
    }
}

/// 4 or 6.
pub(crate) fn number(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

fn holds<T>(wanted: Option<&T>, tuple: Option<Tuple>, is: impl Fn(&T, Tuple) -> bool) -> bool {
    wanted.is_none_or(|wanted| tuple.is_some_and(|tuple| is(wanted, tuple)))
}

/// True if an address is in one of the blocks, or there is none.
pub(crate) fn within(nets: &Few<IpNet>, address: Option<IpAddr>) -> bool {
    one_of(nets, |net| address.is_some_and(|address| net.contains(&address)))
}

/// True if a value is wanted, or none is named.
pub(crate) fn one_of<T>(wanted: &Few<T>, is: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(is)
}
