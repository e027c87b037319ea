//! From an expression to its text.

use std::fmt;

use super::{Comparison, Expression, Primitive, Side};

impl Comparison {
    fn sign(self) -> &'static str {
        Self::ALL.into_iter().find(|(comparison, _)| *comparison == self).map_or("=", |(_, sign)| sign)
    }
}

impl Side {
    /// With the blank behind it.
    fn word(self) -> &'static str {
        match self {
            Self::Src => "src ",
            Self::Dst => "dst ",
            Self::Either => "",
        }
    }
}

impl Primitive {
    /// The words that it begins with, as in `src port`.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Host(side, _) | Self::Net(side, _) | Self::Port(side, _) => format!("{}{}", side.word(), self.word()),
            _ => self.word().to_owned(),
        }
    }

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
            Self::Named(noun, _) => noun.word(),
            Self::Cgroup(group) => group.noun.word(),
            Self::Life(..) => "life",
        }
    }
}

impl fmt::Display for Primitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words())?;
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
            Self::Comm(name) | Self::Named(_, name) => write!(f, " \"{name}\""),
            Self::Cgroup(group) => write!(f, " \"{}\"", group.name),
            Self::Netns(inum) => write!(f, " {inum}"),
            Self::Life(comparison, ns) => write!(f, " {} {ns}ns", comparison.sign()),
        }
    }
}

impl fmt::Display for Expression {
    /// As it can be read again; of nothing: nothing.
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
