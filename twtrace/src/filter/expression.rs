//! An expression in tcpdump's words and ours, `dst port 443 and not cause expired`, and its verdict. Pure.

mod parse;
mod subject;
#[cfg(test)]
pub(crate) mod tests;

use std::{fmt, net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;

pub use self::{
    parse::Misread,
    subject::{Fact, Subject},
};
use crate::model::event::{Cause, Event, Kind, Role, Substate};

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

    fn sign(self) -> &'static str {
        Self::ALL.into_iter().find(|(comparison, _)| *comparison == self).map_or("=", |(_, sign)| sign)
    }

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
    /// All of these: two at least.
    All(Vec<Self>),
    /// One of these: two at least.
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
    pub fn unanswered(&self, subject: &Subject) -> Vec<&'static str> {
        match self {
            Self::Is(primitive) if primitive.verdict(subject).is_none() => vec![primitive.word()],
            Self::Is(_) => Vec::new(),
            Self::Not(inner) => inner.unanswered(subject),
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(|part| part.unanswered(subject)).collect(),
        }
    }
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
            Self::Life(comparison, ns) => subject.life_ns.is(|life| comparison.holds(*life, *ns)),
        }
    }

    /// The word that it is written with.
    fn word(&self) -> &'static str {
        match self {
            Self::Host(..) => "host",
            Self::Net(..) => "net",
            Self::Port(_, ports) if ports.start() == ports.end() => "port",
            Self::Port(..) => "portrange",
            Self::Family(4) => "ip",
            Self::Family(_) => "ip6",
            Self::Event(_) => "event",
            Self::State(_) => "state",
            Self::Cause(_) => "cause",
            Self::Role(_) => "role",
            Self::Pid(_) => "pid",
            Self::Comm(_) => "comm",
            Self::Netns(_) => "netns",
            Self::Life(..) => "life",
        }
    }
}

impl fmt::Display for Primitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(side, _) | Self::Net(side, _) | Self::Port(side, _) => f.write_str(match side {
                Side::Src => "src ",
                Side::Dst => "dst ",
                Side::Either => "",
            })?,
            _ => {}
        }
        f.write_str(self.word())?;
        match self {
            Self::Host(_, address) => write!(f, " {address}"),
            Self::Net(_, net) => write!(f, " {net}"),
            Self::Port(_, ports) if ports.start() == ports.end() => write!(f, " {}", ports.start()),
            Self::Port(_, ports) => write!(f, " {}-{}", ports.start(), ports.end()),
            Self::Family(_) => Ok(()),
            Self::Event(kind) => write!(f, " {kind}"),
            Self::State(substate) => write!(f, " {substate}"),
            Self::Cause(cause) => write!(f, " {cause}"),
            Self::Role(role) => write!(f, " {role}"),
            Self::Pid(pid) => write!(f, " {pid}"),
            Self::Comm(comm) => write!(f, " \"{comm}\""),
            Self::Netns(inum) => write!(f, " {inum}"),
            Self::Life(comparison, ns) => write!(f, " {} {ns}ns", comparison.sign()),
        }
    }
}

impl fmt::Display for Expression {
    /// As it can be read again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, parts: &[Self], word: &str| {
            for (number, part) in parts.iter().enumerate() {
                if number > 0 {
                    write!(f, " {word} ")?;
                }
                match part {
                    Self::All(_) | Self::Any(_) => write!(f, "({part})")?,
                    Self::Is(_) | Self::Not(_) => write!(f, "{part}")?,
                }
            }
            Ok(())
        };
        match self {
            Self::Is(primitive) => primitive.fmt(f),
            Self::Not(inner) => match **inner {
                Self::All(_) | Self::Any(_) => write!(f, "not ({inner})"),
                Self::Is(_) | Self::Not(_) => write!(f, "not {inner}"),
            },
            Self::All(parts) => list(f, parts, "and"),
            Self::Any(parts) => list(f, parts, "or"),
        }
    }
}
