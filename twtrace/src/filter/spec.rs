//! Which events the run wants: typed, and turned into what the eBPF programs compare. Pure.

use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use twtrace_common::{
    COMM_LEN,
    knob::{Cidr, Filter, PortSet, Words},
};

use super::{few::Few, ports::Ports};
use crate::model::event::{Cause, Comm, Kind, Role};

/// A thread's name as the kernel keeps it: at most 15 bytes, padded with NULs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommName([u8; COMM_LEN]);

impl CommName {
    /// The name; `None` if it is empty, too long, or holds a NUL.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; COMM_LEN];
        let fits = !name.is_empty() && name.len() < COMM_LEN && !name.contains('\0');
        fits.then(|| {
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            Self(bytes)
        })
    }

    /// True if a thread has this name.
    #[must_use]
    pub fn is(&self, comm: &Comm) -> bool {
        // Behind the first NUL the kernel leaves what was there before.
        let name = |bytes: &[u8; COMM_LEN]| bytes.iter().position(|&byte| byte == 0).unwrap_or(COMM_LEN);
        self.0[..name(&self.0)] == comm.0[..name(&comm.0)]
    }

    /// The name, as [`Comm::name`].
    #[must_use]
    pub fn name(&self) -> String {
        Comm(self.0).name().into_owned()
    }
}

/// A network namespace, not yet looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsSpec {
    /// twtrace's own.
    Own,
    /// The one of this inode number.
    Inum(u32),
    /// The one behind this file.
    Path(PathBuf),
    /// The one of this process.
    Pid(u32),
    /// The one of this container.
    Container(String),
    /// The one of this systemd unit.
    Unit(String),
}

impl NetnsSpec {
    /// The one of a name that is no inode number: `self`, or a file.
    #[must_use]
    pub fn named(name: &str) -> Self {
        if name == "self" { Self::Own } else { Self::Path(name.into()) }
    }
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4, v4-mapped included.
    V4,
    /// IPv6.
    V6,
}

/// The filters of a run. Values of one kind are alternatives, kinds add up; an empty kind lets everything through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterSpec {
    /// Local ports.
    pub lport: Option<Ports>,
    /// Remote ports.
    pub rport: Option<Ports>,
    /// Ports either of which is wanted.
    pub port: Option<Ports>,
    /// Local address blocks.
    pub laddr: Few<IpNet>,
    /// Remote address blocks.
    pub raddr: Few<IpNet>,
    /// Closers.
    pub pid: Few<u32>,
    /// Closers' names.
    pub comm: Few<CommName>,
    /// Closers' cgroups, not yet looked up.
    pub cgroup: Few<PathBuf>,
    /// Closers' cgroups, with all that is below them, not yet looked up.
    pub cgroup_tree: Few<PathBuf>,
    /// Containers, not yet looked up.
    pub container: Few<String>,
    /// systemd units, not yet looked up.
    pub unit: Few<String>,
    /// Network namespaces, not yet looked up.
    pub netns: Few<NetnsSpec>,
    /// Ends; empty for all.
    pub causes: Vec<Cause>,
    /// Who opened the connection.
    pub role: Option<Role>,
    /// IPv4 or IPv6 only.
    pub family: Option<Family>,
    /// Kinds of events to be sent; the counters count all of them. May be empty.
    pub kinds: Vec<Kind>,
}

impl Default for FilterSpec {
    /// Everything.
    fn default() -> Self {
        Self {
            lport: None,
            rport: None,
            port: None,
            laddr: Few::default(),
            raddr: Few::default(),
            pid: Few::default(),
            comm: Few::default(),
            cgroup: Few::default(),
            cgroup_tree: Few::default(),
            container: Few::default(),
            unit: Few::default(),
            netns: Few::default(),
            causes: Vec::new(),
            role: None,
            family: None,
            kinds: Kind::ALL.to_vec(),
        }
    }
}

/// What [`super::resolve`] found behind the names of a [`FilterSpec`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Cgroup v2 ids.
    pub cgroups: Few<u64>,
    /// Cgroups with all that is below them: alternatives to `cgroups`.
    pub trees: Few<Tree>,
    /// Inode numbers of network namespaces.
    pub netns: Few<u32>,
    /// What the names of containers and units led to, a sentence for each.
    pub notes: Vec<String>,
}

impl Resolved {
    /// True if cgroups are named.
    #[must_use]
    pub fn wants_cgroups(&self) -> bool {
        !self.cgroups.is_empty() || !self.trees.is_empty()
    }

    /// True if this is one of the cgroups that are named, or was below one of them when it was looked up.
    #[must_use]
    pub fn has_cgroup(&self, id: u64) -> bool {
        self.cgroups.contains(&id) || self.trees.iter().any(|tree| tree.ids.contains(&id))
    }
}

/// A cgroup with all that is below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Directory of the cgroup.
    pub path: PathBuf,
    /// The ids of all cgroups that were in it when it was looked up, its own among them.
    pub ids: Vec<u64>,
}

impl FilterSpec {
    /// What the eBPF programs are told, before they are loaded.
    #[must_use]
    pub fn knob(&self, resolved: &Resolved) -> Filter {
        let mut filter = Filter {
            kinds: self.kinds.iter().fold(0, |bits, kind| bits | bit(kind.raw())),
            causes: self.causes.iter().fold(0, |bits, cause| bits | bit(cause.raw())),
            family: match self.family {
                None => 0,
                Some(Family::V4) => 4,
                Some(Family::V6) => 6,
            },
            role: self.role.map_or(0, Role::raw),
            lport: self.lport.is_some().into(),
            rport: self.rport.is_some().into(),
            port: self.port.is_some().into(),
            ..Filter::ALL
        };
        filter.netns_len = resolved.netns.fill(&mut filter.netns, |inum| *inum);
        filter.cgroup_len = resolved.cgroups.fill(&mut filter.cgroup, |id| *id);
        filter.cgroup_trees = u8::try_from(resolved.trees.len()).unwrap_or(u8::MAX);
        filter.pid_len = self.pid.fill(&mut filter.pid, |pid| *pid);
        filter.comm_len = self.comm.fill(&mut filter.comm, |comm| words(comm.0));
        filter.laddr_len = self.laddr.fill(&mut filter.laddr, block);
        filter.raddr_len = self.raddr.fill(&mut filter.raddr, block);
        filter
    }

    /// The rows of map `PORTS`, by their index; [`FilterSpec::knob`] says which of them are looked at.
    #[must_use]
    pub fn port_sets(&self) -> Box<[PortSet; 3]> {
        // The order is that of PORTS_LOCAL, PORTS_REMOTE, PORTS_EITHER; a test holds it against them.
        let mut rows = Box::new([[0; 1024]; 3]);
        for (row, ports) in rows.iter_mut().zip([&self.lport, &self.rport, &self.port]) {
            ports.iter().for_each(|ports| ports.set(row));
        }
        rows
    }
}

fn bit(number: u8) -> u32 {
    1_u32.checked_shl(number.into()).unwrap_or(0)
}

/// 16 bytes as the programs read them: two words, each with its bytes as they stand in memory.
fn words(bytes: [u8; 16]) -> Words {
    let [low, high] = [0, 8].map(|at| std::array::from_fn(|i| bytes[at + i]));
    [u64::from_ne_bytes(low), u64::from_ne_bytes(high)]
}

fn block(net: &IpNet) -> Cidr {
    Cidr {
        addr: words(wide(net.addr())),
        mask: words(wide(net.netmask())),
        family: if net.addr().is_ipv4() { 4 } else { 6 },
    }
}

/// Network order; IPv4 in the first 4 bytes, as in the records.
fn wide(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests;
