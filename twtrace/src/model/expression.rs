//! An expression in tcpdump's words and ours, `dst port 443 and not cause expired`, and its verdict. Pure.

mod parse;
mod subject;
#[cfg(test)]
pub(crate) mod tests;
mod written;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use ipnet::IpNet;

pub use self::{
    parse::Misread,
    subject::{Fact, Subject},
};
use super::{
    event::{Cause, Event, Kind, Role, Substate},
    words::words,
};

/// Which end of a connection. The local end is the source, whoever opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The local end.
    Src,
    /// The remote end.
    Dst,
    /// One of the two.
    Either,
}

/// How a length of life is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Shorter.
    Less,
    /// Not longer.
    AtMost,
    /// As long.
    Equal,
    /// Not shorter.
    AtLeast,
    /// Longer.
    More,
}

impl Comparison {
    /// Every one, the longest signs first, so that none is taken for the beginning of another.
    pub const ALL: [(Self, &'static str); 5] =
        [(Self::AtMost, "<="), (Self::AtLeast, ">="), (Self::Less, "<"), (Self::More, ">"), (Self::Equal, "=")];

    fn holds(self, value: u64, than: u64) -> bool {
        match self {
            Self::Less => value < than,
            Self::AtMost => value <= than,
            Self::Equal => value == than,
            Self::AtLeast => value >= than,
            Self::More => value > than,
        }
    }
}

words! {
    /// What a name is the name of.
    Noun by word {
        /// A network namespace: `self`, or a file.
        Netns = "netns";
        /// A directory of the cgroup v2 tree.
        Cgroup = "cgroup";
        /// A directory of the cgroup v2 tree, with all that is below it.
        CgroupTree = "cgroup-tree";
        /// A container.
        Container = "container";
        /// A systemd unit.
        Unit = "unit";
    }
}

/// Cgroups that have a name together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What was asked for.
    pub noun: Noun,
    /// By which name.
    pub name: String,
    /// The directory below which all cgroups belong to it, also those that are made later.
    pub top: Option<PathBuf>,
    /// The ids of those that are known.
    pub ids: BTreeSet<u64>,
}

/// One thing that may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Primitive {
    /// An address.
    Host(Side, IpAddr),
    /// An address of this block.
    Net(Side, IpNet),
    /// A port of this range.
    Port(Side, RangeInclusive<u16>),
    /// IPv4 or IPv6: 4 or 6.
    Family(u8),
    /// The kind of event.
    Event(Kind),
    /// The minisock's state.
    State(Substate),
    /// What ended it.
    Cause(Cause),
    /// Who opened the connection.
    Role(Role),
    /// Who closed it.
    Pid(u32),
    /// The name of the thread that closed it.
    Comm(String),
    /// The network namespace, by inode number.
    Netns(u32),
    /// A name that was not looked up yet: nothing is known of it.
    Named(Noun, String),
    /// The cgroup of the task that closed it.
    Cgroup(Group),
    /// How long it lived, nanoseconds.
    Life(Comparison, u64),
}

/// A filter as a person writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// One thing.
    Is(Primitive),
    /// The opposite.
    Not(Box<Self>),
    /// All of these; of none: everything.
    All(Vec<Self>),
    /// One of these; of none: nothing.
    Any(Vec<Self>),
}

impl Expression {
    /// Reads an expression. `not` binds before `and`, and `and` before `or`.
    ///
    /// # Errors
    /// The first word that is wrong, and what would be right.
    pub fn read(text: &str) -> Result<Self, Misread> {
        parse::read(text)
    }

    /// True if the event matches. An expression that depends on what is not known of an event does not match it, negated
    /// or not.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        self.verdict(&Subject::of(event)) == Some(true)
    }

    /// The verdict on what is known of a subject; `None`: it depends on what is not known.
    #[must_use]
    pub fn verdict(&self, subject: &Subject) -> Option<bool> {
        match self {
            Self::Is(primitive) => primitive.verdict(subject),
            Self::Not(inner) => inner.verdict(subject).map(|verdict| !verdict),
            Self::All(parts) => of_all(parts.iter().map(|part| part.verdict(subject))),
            Self::Any(parts) => of_any(parts.iter().map(|part| part.verdict(subject))),
        }
    }

    /// The words that ask for what is not known of a subject.
    #[must_use]
    pub fn unanswered(&self, subject: &Subject) -> Vec<String> {
        let asked = self.primitives();
        asked.into_iter().filter(|asked| asked.verdict(subject).is_none()).map(Primitive::words).collect()
    }

    /// All that is asked.
    #[must_use]
    pub fn primitives(&self) -> Vec<&Primitive> {
        match self {
            Self::Is(primitive) => vec![primitive],
            Self::Not(inner) => inner.primitives(),
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::primitives).collect(),
        }
    }

    /// Everything matches.
    #[must_use]
    pub fn everything() -> Self {
        Self::All(Vec::new())
    }

    /// True if it says nothing, so that everything matches.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::All(parts) if parts.is_empty())
    }

    /// One of these; of none: nothing.
    #[must_use]
    pub fn any(parts: impl IntoIterator<Item = Self>) -> Self {
        join(parts.into_iter().collect(), Self::Any)
    }

    /// Both of these.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        join(vec![self, other], Self::All)
    }

    /// What is left if nobody can tell of what is `gone`: whatever may match does.
    #[must_use]
    pub fn without(&self, gone: &impl Fn(&Primitive) -> bool) -> Self {
        self.weaker(true, gone)
    }

    /// This, or its opposite, without what is gone.
    fn weaker(&self, holds: bool, gone: &impl Fn(&Primitive) -> bool) -> Self {
        match self {
            Self::Is(primitive) if gone(primitive) => Self::everything(),
            Self::Is(_) if holds => self.clone(),
            Self::Is(_) => Self::Not(Box::new(self.clone())),
            Self::Not(inner) => inner.weaker(!holds, gone),
            Self::All(parts) | Self::Any(parts) => {
                let parts = parts.iter().map(|part| part.weaker(holds, gone)).collect();
                join(parts, if matches!(self, Self::All(_)) == holds { Self::All } else { Self::Any })
            }
        }
    }

    /// A cgroup is in this directory: it belongs to those that are named and have it below them.
    pub fn learn(&mut self, id: u64, directory: &Path) {
        match self {
            Self::Is(Primitive::Cgroup(Group { top: Some(top), ids, .. })) if directory.starts_with(&*top) => {
                ids.insert(id);
            }
            Self::Is(_) => {}
            Self::Not(inner) => inner.learn(id, directory),
            Self::All(parts) | Self::Any(parts) => parts.iter_mut().for_each(|part| part.learn(id, directory)),
        }
    }

    /// With something else for some of what is asked.
    ///
    /// # Errors
    /// The first error of `of`.
    pub fn try_map<E>(self, of: &mut impl FnMut(Primitive) -> Result<Self, E>) -> Result<Self, E> {
        Ok(match self {
            Self::Is(primitive) => of(primitive)?,
            Self::Not(inner) => Self::Not(Box::new(inner.try_map(of)?)),
            Self::All(parts) => Self::All(parts.into_iter().map(|part| part.try_map(of)).collect::<Result<_, _>>()?),
            Self::Any(parts) => Self::Any(parts.into_iter().map(|part| part.try_map(of)).collect::<Result<_, _>>()?),
        })
    }
}

/// Several as one: nothing stands twice in parentheses, and what says everything says it alone.
fn join(parts: Vec<Expression>, many: fn(Vec<Expression>) -> Expression) -> Expression {
    let is_all = matches!(many(Vec::new()), Expression::All(_));
    let mut flat = Vec::new();
    for part in parts {
        match part {
            part if part.is_everything() && !is_all => return part,
            Expression::All(parts) if is_all => flat.extend(parts),
            Expression::Any(parts) if !is_all => flat.extend(parts),
            part => flat.push(part),
        }
    }
    if flat.len() == 1 { flat.swap_remove(0) } else { many(flat) }
}

/// False as soon as one is; unknown if one is that might make it so.
fn of_all(parts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut all = Some(true);
    for part in parts {
        match part {
            Some(false) => return Some(false),
            Some(true) => {}
            None => all = None,
        }
    }
    all
}

/// True as soon as one is; unknown if one is that might make it so.
fn of_any(parts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    of_all(parts.map(|part| part.map(|verdict| !verdict))).map(|verdict| !verdict)
}

impl Side {
    /// The verdict on the ends that are meant. Rows of tables know one port of two: that one decides.
    fn ends<T>(self, local: &Fact<T>, remote: &Fact<T>, is: impl Fn(&T) -> bool) -> Option<bool> {
        match self {
            Self::Src => local.is(is),
            Self::Dst => remote.is(is),
            Self::Either => match (local.is(&is), remote.is(&is)) {
                (None, known) | (known, None) => known,
                (Some(local), Some(remote)) => Some(local || remote),
            },
        }
    }
}

impl Primitive {
    /// True of what one event of a connection has, and another one has not.
    #[must_use]
    pub fn is_of_event(&self) -> bool {
        matches!(self, Self::Event(_) | Self::State(_) | Self::Cause(_) | Self::Life(..))
    }

    /// True if cgroups that are made later may belong to what is named.
    #[must_use]
    pub fn grows(&self) -> bool {
        matches!(self, Self::Cgroup(Group { top: Some(_), .. }))
    }

    fn verdict(&self, subject: &Subject) -> Option<bool> {
        let Subject { laddr, lport, raddr, rport, .. } = subject;
        match self {
            Self::Host(side, wanted) => side.ends(laddr, raddr, |address| address == wanted),
            Self::Net(side, net) => side.ends(laddr, raddr, |address| net.contains(address)),
            Self::Port(side, ports) => side.ends(lport, rport, |port| ports.contains(port)),
            Self::Family(family) => {
                // Both ends are of one family, and a listener has no other end.
                let is = |address: &IpAddr| address.is_ipv4() == (*family == 4);
                laddr.is(is).or_else(|| raddr.is(is))
            }
            Self::Event(kind) => subject.kind.is(|is| is == kind),
            Self::State(substate) => subject.substate.is(|is| is == substate),
            Self::Cause(cause) => subject.cause.is(|is| is.word() == cause.word()),
            Self::Role(role) => subject.role.is(|is| is == role),
            Self::Pid(pid) => subject.pid.is(|is| is == pid),
            Self::Comm(comm) => subject.comm.is(|is| is == comm),
            Self::Netns(inum) => subject.netns.is(|is| is == inum),
            Self::Named(..) => None,
            Self::Cgroup(group) => subject.cgroup.is(|id| group.ids.contains(id)),
            Self::Life(comparison, ns) => subject.life_ns.is(|life| comparison.holds(*life, *ns)),
        }
    }
}
