//! What a filter is held against: an event, or a row of a table, which knows less.

use std::net::IpAddr;

use crate::model::event::{Cause, Detail, Event, Kind, Life, Role, Substate};

/// One fact about a subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fact<T> {
    /// The fact is known.
    Known(T),
    /// Nobody said.
    #[default]
    Unknown,
    /// The subject has none: no filter that asks for one matches.
    None,
}

impl<T> Fact<T> {
    /// The verdict; `None`: not known.
    pub fn is(&self, is: impl Fn(&T) -> bool) -> Option<bool> {
        match self {
            Self::Known(value) => Some(is(value)),
            Self::Unknown => None,
            Self::None => Some(false),
        }
    }
}

impl<T> From<Option<T>> for Fact<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Unknown, Self::Known)
    }
}

/// All that a filter may ask for. What is not given is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Local address.
    pub laddr: Fact<IpAddr>,
    /// Local port.
    pub lport: Fact<u16>,
    /// Remote address.
    pub raddr: Fact<IpAddr>,
    /// Remote port.
    pub rport: Fact<u16>,
    /// Kind of event.
    pub kind: Fact<Kind>,
    /// State of the minisock.
    pub substate: Fact<Substate>,
    /// What ended it.
    pub cause: Fact<Cause>,
    /// Who opened the connection.
    pub role: Fact<Role>,
    /// Process that closed it.
    pub pid: Fact<u32>,
    /// Name of the thread that closed it.
    pub comm: Fact<String>,
    /// Id of the cgroup that it was closed in.
    pub cgroup: Fact<u64>,
    /// Inode number of the network namespace.
    pub netns: Fact<u32>,
    /// How long the minisock lived, nanoseconds.
    pub life_ns: Fact<u64>,
}

impl Subject {
    /// An event. Ends and ports that it has not are zero, as the programs' own filters have them.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        let has_minisock = !matches!(event.detail, Detail::NoPort { .. } | Detail::NoBind { .. });
        let (cause, life_ns) = match event.detail {
            Detail::Died { cause, life_ns, .. } => (Fact::Known(cause), life_ns.into()),
            _ => (Fact::None, Fact::None),
        };
        let life = Self::of_life(&event.life);
        let substate = if has_minisock { life.substate } else { Fact::None };
        Self { kind: Fact::Known(event.kind()), substate, cause, life_ns, ..life }
    }

    /// A minisock, whatever happens to it.
    #[must_use]
    pub fn of_life(life: &Life) -> Self {
        let (tuple, task) = (life.tuple, life.closer.map(|closer| closer.task));
        Self {
            laddr: tuple.map(|tuple| tuple.laddr).into(),
            lport: tuple.map(|tuple| tuple.lport).into(),
            raddr: tuple.map(|tuple| tuple.raddr).into(),
            rport: tuple.map(|tuple| tuple.rport).into(),
            substate: life.substate.into(),
            role: life.role.into(),
            pid: task.map(|task| task.pid).into(),
            comm: task.map(|task| task.comm.name().into_owned()).into(),
            cgroup: life.closer.map(|closer| closer.cgroup_id).into(),
            netns: life.netns.into(),
            ..Self::default()
        }
    }
}
