//! The kernel's own counters of one network namespace: what twtrace reconciles itself against, and what a look at the
//! machine is made of.

use std::collections::HashMap;

use super::{Host, HostError};
use crate::model::kernel::KernelCounters;

// /proc/net is the namespace of the main thread; a worker may have entered another.
const NETSTAT: &str = "proc/thread-self/net/netstat";
const SNMP: &str = "proc/thread-self/net/snmp";
const SOCKSTAT: &str = "proc/thread-self/net/sockstat";
const SOCKSTAT6: &str = "proc/thread-self/net/sockstat6";

impl KernelCounters {
    /// Reads them for the calling thread's namespace.
    ///
    /// # Errors
    /// If a file cannot be read or lacks a counter.
    pub fn read(host: &Host) -> Result<Self, HostError> {
        let text = host.read(NETSTAT)?;
        let ext = |name: &str| {
            value(&text, "TcpExt", name).ok_or_else(|| HostError::Strange {
                path: host.path(NETSTAT),
                what: format!("no counter TcpExt {name}"),
            })
        };
        let stat = host.read(SOCKSTAT)?;
        Ok(Self {
            tw: ext("TW")?,
            tw_killed: ext("TWKilled")?,
            tw_recycled: ext("TWRecycled")?,
            overflow: ext("TCPTimeWaitOverflow")?,
            sockstat_tw: word(&stat, "TCP", "tw").ok_or_else(|| no_word(host, "tw"))?,
        })
    }
}

/// Every counter of netstat and snmp, as they stand: those of TCP are in the groups `TcpExt` and `Tcp`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snmp(HashMap<String, HashMap<String, u64>>);

impl Snmp {
    /// Reads them for the calling thread's namespace.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn read(host: &Host) -> Result<Self, HostError> {
        let mut counters = Self::default();
        for file in [NETSTAT, SNMP] {
            counters.add(&host.read(file)?);
        }
        Ok(counters)
    }

    /// Adds the counters of a file; what is none is passed over.
    pub fn add(&mut self, text: &str) {
        for (group, names, values) in groups(text) {
            let group = self.0.entry(group.to_owned()).or_default();
            let values =
                columns(names, values).filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
            group.extend(values);
        }
    }

    /// A counter; `None` if this kernel has none, or it is no count (`Tcp MaxConn` is -1).
    #[must_use]
    pub fn get(&self, group: &str, name: &str) -> Option<u64> {
        self.0.get(group)?.get(name).copied()
    }
}

/// The TCP sockets, as sockstat counts them (net/ipv4/proc.c, sockstat_seq_show).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sockstat {
    /// IPv4 sockets of the namespace that listen or have a peer; no minisocks.
    pub inuse: u64,
    /// TCP sockets in use of IPv6; `None` without IPv6.
    pub inuse6: Option<u64>,
    /// Sockets that no process holds any more and that are not closed yet. Of the whole machine.
    pub orphan: u64,
    /// Minisocks of the namespace, of both families.
    pub tw: u64,
    /// Sockets that are allocated, of both families. Of the whole machine.
    pub alloc: u64,
    /// Pages of memory that buffers hold: what net.ipv4.tcp_mem limits. Of the whole machine.
    pub mem_pages: u64,
}

impl Sockstat {
    /// Reads them for the calling thread's namespace.
    ///
    /// # Errors
    /// If sockstat cannot be read or lacks a number.
    pub fn read(host: &Host) -> Result<Self, HostError> {
        let text = host.read(SOCKSTAT)?;
        let tcp = |name: &'static str| word(&text, "TCP", name).ok_or_else(|| no_word(host, name));
        Ok(Self {
            inuse: tcp("inuse")?,
            inuse6: host.read(SOCKSTAT6).ok().and_then(|text| word(&text, "TCP6", "inuse")),
            orphan: tcp("orphan")?,
            tw: tcp("tw")?,
            alloc: tcp("alloc")?,
            mem_pages: tcp("mem")?,
        })
    }
}

/// What bounds TCP on the whole machine. The files are those of the initial network namespace alone: `ipv4_table` of
/// net/ipv4/sysctl_net_ipv4.c.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpLimits {
    /// `net.ipv4.tcp_max_orphans`: the most sockets that no process holds any more and that are not closed yet.
    pub max_orphans: Option<u64>,
    /// `net.ipv4.tcp_mem`, pages: below the first nothing is limited, from the second on there is pressure, and the third is
    /// the most.
    pub mem_pages: Option<[u64; 3]>,
}

impl TcpLimits {
    /// Reads them; what cannot be read is not known.
    #[must_use]
    pub fn read(host: &Host) -> Self {
        let pages = |text: String| {
            let mut words = text.split_ascii_whitespace().map(|word| word.parse().ok());
            Some([words.next()??, words.next()??, words.next()??])
        };
        Self {
            max_orphans: host.sysctl("net/ipv4/tcp_max_orphans"),
            mem_pages: host.read("proc/sys/net/ipv4/tcp_mem").ok().and_then(pages),
        }
    }
}

/// A value of a file of header and value lines.
pub(crate) fn value(text: &str, group: &str, name: &str) -> Option<u64> {
    let (_, names, values) = groups(text).find(|&(found, ..)| found == group)?;
    let (_, value) = columns(names, values).find(|&(column, _)| column == name)?;
    value.parse().ok()
}

/// The groups of a file of header and value lines (`TcpExt: a b` / `TcpExt: 1 2`): name, names, values.
fn groups(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let mut lines = text.lines();
    std::iter::from_fn(move || Some((lines.next()?, lines.next()?))).filter_map(|(names, values)| {
        let (group, names) = names.split_once(':')?;
        Some((group, names, values.strip_prefix(group)?.strip_prefix(':')?))
    })
}

fn columns<'a>(names: &'a str, values: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    names.split_ascii_whitespace().zip(values.split_ascii_whitespace())
}

/// A number of a file of names and numbers (`TCP: inuse 1 orphan 0`).
fn word(text: &str, group: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(group)?.strip_prefix(':'))?;
    let mut words = line.split_ascii_whitespace();
    words.find(|&word| word == name)?;
    words.next()?.parse().ok()
}

fn no_word(host: &Host, name: &str) -> HostError {
    HostError::Strange { path: host.path(SOCKSTAT), what: format!("no `TCP: .. {name} N`") }
}

#[cfg(test)]
mod tests;
