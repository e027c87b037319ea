//! The kernel's own counters of one network namespace: what twtrace reconciles itself against.

use super::{Host, HostError};

/// TcpExt and sockstat, as they stand. Namespace of the reading thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// TcpExt TW.
    pub tw: u64,
    /// TcpExt TWKilled.
    pub tw_killed: u64,
    /// TcpExt TWRecycled.
    pub tw_recycled: u64,
    /// TcpExt TCPTimeWaitOverflow.
    pub overflow: u64,
    /// sockstat `TCP: .. tw N`: minisocks now.
    pub sockstat_tw: u64,
}

impl KernelCounters {
    /// Reads them for the calling thread's namespace.
    ///
    /// # Errors
    /// If a file cannot be read or lacks a counter.
    pub fn read(host: &Host) -> Result<Self, HostError> {
        // /proc/net is the namespace of the main thread; a worker may have entered another.
        let (netstat, sockstat) = ("proc/thread-self/net/netstat", "proc/thread-self/net/sockstat");
        let text = host.read(netstat)?;
        let ext = |name: &str| {
            value(&text, "TcpExt", name).ok_or_else(|| HostError::Strange {
                path: host.path(netstat),
                what: format!("no counter TcpExt {name}"),
            })
        };
        let stat = host.read(sockstat)?;
        Ok(Self {
            tw: ext("TW")?,
            tw_killed: ext("TWKilled")?,
            tw_recycled: ext("TWRecycled")?,
            overflow: ext("TCPTimeWaitOverflow")?,
            sockstat_tw: sockstat_tw(&stat).ok_or_else(|| HostError::Strange {
                path: host.path(sockstat),
                what: "no `TCP: .. tw N`".to_owned(),
            })?,
        })
    }
}

/// A value of a file of header and value lines (`TcpExt: a b` / `TcpExt: 1 2`).
pub(crate) fn value(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let Some(names) = names.strip_prefix(group).and_then(|rest| rest.strip_prefix(':')) else { continue };
        let column = names.split_ascii_whitespace().position(|column| column == name)?;
        let values = values.strip_prefix(group)?.strip_prefix(':')?;
        return values.split_ascii_whitespace().nth(column)?.parse().ok();
    }
    None
}

fn sockstat_tw(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_ascii_whitespace();
    words.find(|&word| word == "tw")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETSTAT: &str =
        "TcpExt: SyncookiesSent TW TWRecycled TWKilled\nTcpExt: 1 22 3 4\nIpExt: InNoRoutes\nIpExt: 0\n";

    #[test]
    fn counters_are_found_by_name() {
        assert_eq!(value(NETSTAT, "TcpExt", "TW"), Some(22));
        assert_eq!(value(NETSTAT, "TcpExt", "TWKilled"), Some(4));
        assert_eq!(value(NETSTAT, "IpExt", "InNoRoutes"), Some(0));
        assert_eq!(value(NETSTAT, "TcpExt", "Nope"), None);
        assert_eq!(value("TcpExt: TW", "TcpExt", "TW"), None);
        assert_eq!(value("", "TcpExt", "TW"), None);
    }

    #[test]
    fn sockstat_is_read_by_name() {
        let text = "sockets: used 5\nTCP: inuse 1 orphan 0 tw 17 alloc 2 mem 1\n";
        assert_eq!(sockstat_tw(text), Some(17));
        assert_eq!(sockstat_tw("TCP: inuse 1 tw"), None);
    }

    #[test]
    fn this_machine_has_them() {
        KernelCounters::read(&Host::default()).unwrap();
    }
}
