//! From filters to the expression that says the same. Pure. The programs compare what [`FilterSpec::knob`] makes of the
//! filters; an end-to-end test runs them and the expression on the same records.

use super::{
    ports::Ports,
    spec::{CommName, Family, FilterSpec, Resolved, Tree},
};
use crate::model::{
    event::Kind,
    expression::{Expression, Group, Noun, Primitive, Side},
};

impl FilterSpec {
    /// What is asked for, as an expression. Values of one kind are alternatives, kinds add up.
    #[must_use]
    pub fn expression(&self, resolved: &Resolved) -> Expression {
        let ports = |side, ports: &Option<Ports>| match ports {
            Some(ports) => one_of(ports.ranges().iter().map(|range| Primitive::Port(side, range.clone()))),
            None => Expression::everything(),
        };
        let tree = |tree: &Tree| {
            Primitive::Cgroup(Group {
                noun: Noun::CgroupTree,
                name: tree.path.display().to_string(),
                top: Some(tree.path.clone()),
                ids: tree.ids.iter().copied().collect(),
            })
        };
        let cgroup = |id: &u64| {
            Primitive::Cgroup(Group { noun: Noun::Cgroup, name: id.to_string(), top: None, ids: [*id].into() })
        };
        let family = |family: Family| Primitive::Family(if family == Family::V4 { 4 } else { 6 });
        [
            of(self.family.into_iter().map(family)),
            of(resolved.netns.iter().copied().map(Primitive::Netns)),
            of(self.laddr.iter().map(|net| Primitive::Net(Side::Src, *net))),
            of(self.raddr.iter().map(|net| Primitive::Net(Side::Dst, *net))),
            ports(Side::Src, &self.lport),
            ports(Side::Dst, &self.rport),
            ports(Side::Either, &self.port),
            of(self.role.into_iter().map(Primitive::Role)),
            of(self.pid.iter().copied().map(Primitive::Pid)),
            of(self.comm.iter().map(|comm| Primitive::Comm(CommName::name(comm)))),
            of(resolved.cgroups.iter().map(cgroup).chain(resolved.trees.iter().map(tree))),
            self.shown(),
        ]
        .into_iter()
        .fold(Expression::everything(), Expression::and)
    }

    /// Which events of the connections that are wanted are shown.
    #[must_use]
    pub fn shown(&self) -> Expression {
        let kinds = if Kind::ALL.iter().all(|kind| self.kinds.contains(kind)) {
            Expression::everything()
        } else {
            one_of(self.kinds.iter().copied().map(Primitive::Event))
        };
        kinds.and(of(self.causes.iter().copied().map(Primitive::Cause)))
    }
}

/// One of these; if there are none, nobody asked.
fn of(primitives: impl Iterator<Item = Primitive>) -> Expression {
    let mut primitives = primitives.peekable();
    if primitives.peek().is_none() { Expression::everything() } else { one_of(primitives) }
}

/// One of these.
fn one_of(primitives: impl Iterator<Item = Primitive>) -> Expression {
    Expression::any(primitives.map(Expression::Is))
}
