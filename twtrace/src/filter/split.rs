//! Which part of an expression the programs compare themselves. Pure.

use ipnet::IpNet;

use super::{
    few::Few,
    ports::Ports,
    spec::{CommName, Family, FilterSpec, NetnsSpec},
};
use crate::model::{
    event::Kind,
    expression::{Expression, Noun, Primitive, Side},
};

impl FilterSpec {
    /// Takes over what the programs can compare of an expression that has to hold beside these filters. Gives back the
    /// rest, which is left to user space.
    #[must_use]
    pub fn take(mut self, expression: Expression) -> (Self, Expression) {
        let parts = match expression {
            Expression::All(parts) => parts,
            other => vec![other],
        };
        let rest = parts.into_iter().filter(|part| self.hold(part).is_none());
        let rest = rest.fold(Expression::everything(), Expression::and);
        (self, rest)
    }

    /// Holds one condition, or several alternatives of one kind; `None`: there is no place for it, or it is taken.
    fn hold(&mut self, part: &Expression) -> Option<()> {
        let alternatives: Vec<&Primitive> = match part {
            Expression::Is(primitive) => vec![primitive],
            Expression::Any(parts) if parts.is_empty() => {
                self.kinds.clear();
                return Some(());
            }
            Expression::Any(parts) => parts.iter().map(alone).collect::<Option<_>>()?,
            Expression::Not(_) | Expression::All(_) => return None,
        };
        match alternatives.first()? {
            Primitive::Host(side, _) | Primitive::Net(side, _) => {
                let nets = each(&alternatives, |asked| match asked {
                    Primitive::Host(of, address) if of == side => Some(IpNet::from(*address)),
                    Primitive::Net(of, net) if of == side => Some(*net),
                    _ => None,
                })?;
                match side {
                    Side::Src => put(&mut self.laddr, nets),
                    Side::Dst => put(&mut self.raddr, nets),
                    Side::Either => None,
                }
            }
            Primitive::Port(side, _) => {
                let ranges = each(&alternatives, |asked| match asked {
                    Primitive::Port(of, ports) if of == side => Some(ports.clone()),
                    _ => None,
                })?;
                let place = match side {
                    Side::Src => &mut self.lport,
                    Side::Dst => &mut self.rport,
                    Side::Either => &mut self.port,
                };
                place.is_none().then(|| *place = Some(Ports::new(ranges)))
            }
            Primitive::Family(number) if alternatives.len() == 1 && self.family.is_none() => {
                self.family = Some(if *number == 4 { Family::V4 } else { Family::V6 });
                Some(())
            }
            Primitive::Role(role) if alternatives.len() == 1 && self.role.is_none() => {
                self.role = Some(*role);
                Some(())
            }
            Primitive::Event(_) => {
                let kinds = each(&alternatives, |asked| match asked {
                    Primitive::Event(kind) => Some(*kind),
                    _ => None,
                })?;
                self.kinds.retain(|kind| kinds.contains(kind));
                Some(())
            }
            Primitive::Cause(_) if self.causes.is_empty() => {
                self.causes = each(&alternatives, |asked| match asked {
                    Primitive::Cause(cause) => Some(*cause),
                    _ => None,
                })?;
                self.kinds.retain(|kind| *kind == Kind::Died);
                Some(())
            }
            Primitive::Pid(_) => {
                let pids = each(&alternatives, |asked| match asked {
                    Primitive::Pid(pid) => Some(*pid),
                    _ => None,
                })?;
                put(&mut self.pid, pids)
            }
            Primitive::Comm(_) => {
                let names = each(&alternatives, |asked| match asked {
                    Primitive::Comm(name) => CommName::new(name),
                    _ => None,
                })?;
                put(&mut self.comm, names)
            }
            Primitive::Netns(_) | Primitive::Named(Noun::Netns, _) => {
                let namespaces = each(&alternatives, |asked| match asked {
                    Primitive::Netns(inum) => Some(NetnsSpec::Inum(*inum)),
                    Primitive::Named(Noun::Netns, name) => Some(NetnsSpec::named(name)),
                    _ => None,
                })?;
                // A container's own namespace would be an alternative to these.
                if self.names_groups() { None } else { put(&mut self.netns, namespaces) }
            }
            Primitive::Named(noun, _) => {
                let names = each(&alternatives, |asked| match asked {
                    Primitive::Named(of, name) if of == noun => Some(name.clone()),
                    _ => None,
                })?;
                if self.names_groups() || !self.netns.is_empty() {
                    return None;
                }
                match noun {
                    Noun::Cgroup => put(&mut self.cgroup, names.into_iter().map(Into::into).collect()),
                    Noun::CgroupTree => put(&mut self.cgroup_tree, names.into_iter().map(Into::into).collect()),
                    Noun::Container => put(&mut self.container, names),
                    Noun::Unit => put(&mut self.unit, names),
                    Noun::Netns => None,
                }
            }
            Primitive::Family(_)
            | Primitive::Role(_)
            | Primitive::Cause(_)
            | Primitive::State(_)
            | Primitive::Cgroup(_)
            | Primitive::Life(..) => None,
        }
    }

    /// True if cgroups, containers or units are named, which are alternatives to each other.
    fn names_groups(&self) -> bool {
        !(self.cgroup.is_empty() && self.cgroup_tree.is_empty() && self.container.is_empty() && self.unit.is_empty())
    }
}

fn alone(part: &Expression) -> Option<&Primitive> {
    match part {
        Expression::Is(primitive) => Some(primitive),
        _ => None,
    }
}

fn each<T>(alternatives: &[&Primitive], of: impl FnMut(&&Primitive) -> Option<T>) -> Option<Vec<T>> {
    alternatives.iter().map(of).collect()
}

/// Fills a place that is empty.
fn put<T: PartialEq>(place: &mut Few<T>, values: Vec<T>) -> Option<()> {
    let values = Few::new(values).ok()?;
    place.is_empty().then(|| *place = values)
}

#[cfg(test)]
mod tests;
