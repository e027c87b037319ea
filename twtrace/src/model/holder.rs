//! Who has the port that a bind(), listen() or connect() did not get.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{
    event::{Task, Tuple},
    name::is_hidden,
    words::vocabulary,
};

vocabulary! {
    /// What has a port.
    HeldBy {
        /// A socket that listens.
        Listener = 1, "listener";
        /// Any other socket: a connection, or one that is bound and no more.
        Socket = 2, "socket";
        /// A minisock, in TIME_WAIT or FIN_WAIT2.
        TimeWait = 3, "time_wait";
    }
}

/// Who has a port, as it was a moment after the call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// What it is.
    pub by: HeldBy,
    /// The process whose socket it is, with the name of its main thread; `None` for a minisock, and where it was not found.
    pub task: Option<Task>,
    /// How long the minisock has had it, milliseconds, from the last time that its timer was armed; `None` for a socket.
    pub held_ms: Option<u64>,
    /// When the minisock ends, unless its timer is armed anew, milliseconds; `None` for a socket.
    pub expires_in_ms: Option<u64>,
}

/// A socket that may be the holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The socket's ends; of what is no connection, the remote one is zero.
    pub tuple: Tuple,
    /// What it is.
    pub by: HeldBy,
    /// Until its timer is due, milliseconds; of a minisock.
    pub left_ms: u32,
}

impl Candidate {
    /// True if it has what somebody wants to bind: the port, at the same address or at any.
    #[must_use]
    pub fn conflicts(&self, laddr: IpAddr, lport: u16) -> bool {
        let own = self.tuple.laddr;
        let is_any = own.is_unspecified() || laddr.is_unspecified();
        self.tuple.lport == lport && (own == laddr || is_any)
    }

    /// Greater: rather the reason. A listener before a connection before a minisock, and of minisocks the one that stays
    /// longest.
    #[must_use]
    pub fn weight(&self) -> (u8, u32) {
        match self.by {
            HeldBy::Listener => (3, 0),
            HeldBy::Socket => (2, 0),
            HeldBy::TimeWait => (1, self.left_ms),
            HeldBy::Unknown(_) => (0, 0),
        }
    }
}

impl fmt::Display for Holder {
    /// As it follows the port: `held by listener 4711/nginx`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.by, self.task) {
            (HeldBy::TimeWait, _) => write!(f, "held by TIME_WAIT{}", Left(self.expires_in_ms)),
            (HeldBy::Listener, Some(task)) => write!(f, "held by listener {}", Whose(task)),
            (HeldBy::Listener, None) => f.write_str("held by a listener"),
            (_, Some(task)) => write!(f, "held by a socket of {}", Whose(task)),
            (_, None) => f.write_str("held by a socket"),
        }
    }
}

/// `PID/COMM`, which stays on its line.
struct Whose(Task);

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.0.pid)?;
        for c in self.0.comm.name().chars() {
            if is_hidden(c) { write!(f, "{}", c.escape_default())? } else { fmt::Write::write_char(f, c)? }
        }
        Ok(())
    }
}

/// How long a minisock has left, milliseconds: `, 47.7 s left`; nothing if that is not known.
pub struct Left(pub Option<u64>);

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ms) => write!(f, ", {}.{} s left", ms / 1000, ms % 1000 / 100),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Comm;

    fn at(laddr: &str, lport: u16, by: HeldBy, left_ms: u32) -> Candidate {
        let laddr: IpAddr = laddr.parse().unwrap();
        let tuple = Tuple { laddr, lport, raddr: laddr, rport: 0 };
        Candidate { tuple, by, left_ms }
    }

    #[test]
    fn the_same_address_or_any_is_in_the_way() {
        let localhost: IpAddr = "127.0.0.1".parse().unwrap();
        let any: IpAddr = "0.0.0.0".parse().unwrap();
        let listener = at("127.0.0.1", 80, HeldBy::Listener, 0);
        assert!(listener.conflicts(localhost, 80) && listener.conflicts(any, 80));
        assert!(!listener.conflicts(localhost, 81) && !listener.conflicts("127.0.0.2".parse().unwrap(), 80));
        // A socket of IPv6 without an address has IPv4's port too, as a rule.
        assert!(at("::", 80, HeldBy::Listener, 0).conflicts(localhost, 80));
    }

    #[test]
    fn listeners_come_before_connections_and_those_before_minisocks() {
        let all = [
            at("127.0.0.1", 80, HeldBy::TimeWait, 59_000),
            at("127.0.0.1", 80, HeldBy::Listener, 0),
            at("127.0.0.1", 80, HeldBy::Socket, 0),
            at("127.0.0.1", 80, HeldBy::TimeWait, 9_000),
        ];
        let first = |all: &[Candidate]| all.iter().max_by_key(|candidate| candidate.weight()).map(|found| found.by);
        assert_eq!(first(&all), Some(HeldBy::Listener));
        assert_eq!(first(&[all[0], all[2]]), Some(HeldBy::Socket));
        assert_eq!(all[0].weight().max(all[3].weight()), all[0].weight());
    }

    #[test]
    fn a_holder_is_told_in_a_few_words() {
        let mut comm = [0; 16];
        comm[..5].copy_from_slice(b"nginx");
        let task = Some(Task { pid: 4711, comm: Comm(comm) });
        let holder = Holder { by: HeldBy::Listener, task, held_ms: None, expires_in_ms: None };
        assert_eq!(holder.to_string(), "held by listener 4711/nginx");
        assert_eq!(Holder { by: HeldBy::Socket, ..holder }.to_string(), "held by a socket of 4711/nginx");
        assert_eq!(Holder { by: HeldBy::Socket, task: None, ..holder }.to_string(), "held by a socket");
        let minisock = Holder { by: HeldBy::TimeWait, task: None, held_ms: Some(1_000), expires_in_ms: Some(59_049) };
        assert_eq!(minisock.to_string(), "held by TIME_WAIT, 59.0 s left");
        assert_eq!(Holder { expires_in_ms: None, ..minisock }.to_string(), "held by TIME_WAIT");
    }
}
