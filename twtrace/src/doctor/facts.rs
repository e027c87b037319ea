//! What was read, before anybody judges it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    net::IpAddr,
    ops::RangeInclusive,
    time::Duration,
};

use super::{
    finding::{Evidence, Missed},
    places::Place,
};
use crate::{
    host::{
        conntrack::{Conntrack, Stats},
        counters::{Snmp, Sockstat},
        openers::Remote,
        processes::Census,
        slab::Slab,
        sockets::{Listener, Sockets},
        sysctl_files::SysctlFiles,
    },
    model::occupancy::choosable,
};

/// The sysctls of a namespace that somebody judges, below /proc/sys.
pub const SYSCTLS: [&str; 14] = [
    "net/core/somaxconn",
    "net/ipv4/ip_local_port_step_width",
    "net/ipv4/tcp_abort_on_overflow",
    "net/ipv4/tcp_fin_timeout",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_max_tw_buckets",
    "net/ipv4/tcp_rfc1337",
    "net/ipv4/tcp_synack_retries",
    "net/ipv4/tcp_syncookies",
    "net/ipv4/tcp_timestamps",
    "net/ipv4/tcp_tw_recycle",
    "net/ipv4/tcp_tw_reuse",
    "net/ipv4/tcp_tw_reuse_delay",
    "net/ipv4/tcp_tw_timeout",
];

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `uname -r`.
    pub kernel: String,
    /// The namespaces that were looked into: the one that was asked for first.
    pub namespaces: Vec<Namespace>,
    /// One namespace was asked for (`--netns`): what processes of others do is no finding.
    pub alone: bool,
    /// What is the same in all of them.
    pub machine: Machine,
    /// What a trace told.
    pub trace: Option<Trace>,
    /// What could not be looked at.
    pub missed: Vec<Missed>,
}

/// What is the same in every namespace.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Memory, bytes.
    pub memory: Option<u64>,
    /// The kernel's caches by name, if this process may read them.
    pub slabs: Option<BTreeMap<String, Slab>>,
    /// Descriptors and owners of sockets.
    pub census: Census,
    /// What sets sysctls at boot.
    pub files: SysctlFiles,
}

impl Machine {
    /// The process that has the socket of this inode. Of several, the first.
    #[must_use]
    pub fn owner(&self, inode: u32) -> Option<Owner<'_>> {
        self.named(*self.census.owners.get(&inode)?)
    }

    /// A process with its name.
    #[must_use]
    pub fn named(&self, pid: u32) -> Option<Owner<'_>> {
        let process = self.census.processes.iter().find(|process| process.pid == pid)?;
        Some(Owner { comm: &process.comm, pid })
    }
}

/// A process that has a socket: `nginx (4711)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    /// Its name.
    pub comm: &'a str,
    /// Its id.
    pub pid: u32,
}

impl Owner<'_> {
    /// It as evidence; `what` says of what it is the owner.
    #[must_use]
    pub fn shown(self, what: &str) -> Evidence {
        Evidence::new(what, self.to_string(), "", "/proc/PID/fd")
    }
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.comm, self.pid)
    }
}

/// One network namespace, looked at twice.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its inode number.
    pub inum: u32,
    /// How a command gets there.
    pub place: Place,
    /// Processes in it, by their ids.
    pub inhabitants: HashSet<u32>,
    /// Between the two looks at the counters.
    pub window: Duration,
    /// [`SYSCTLS`]; `None`: this kernel has it not, or it could not be read.
    pub sysctls: BTreeMap<&'static str, Option<u64>>,
    /// `net.ipv4.ip_local_port_range`.
    pub range: RangeInclusive<u16>,
    /// `net.ipv4.ip_local_reserved_ports`.
    pub reserved: Vec<RangeInclusive<u16>>,
    /// The counters at the first look.
    pub before: Snmp,
    /// The counters at the second look.
    pub after: Snmp,
    /// `/proc/net/sockstat`.
    pub sockstat: Option<Sockstat>,
    /// Its sockets, between the looks.
    pub sockets: Sockets,
    /// Processes that open connections to busy services, whose sockets were gone before they could be found otherwise.
    pub openers: HashMap<Remote, u32>,
    /// Slots of the hash of connections (`net.ipv4.tcp_ehash_entries`), since Linux 6.1.
    pub hash_slots: Option<u64>,
    /// Connection tracking, if it is there, at the second look.
    pub conntrack: Option<Conntrack>,
    /// Its counts at the first look.
    pub tracked_before: Option<Stats>,
}

impl Namespace {
    /// One of which nothing else was read.
    #[must_use]
    pub fn new(inum: u32, sysctls: BTreeMap<&'static str, Option<u64>>, range: RangeInclusive<u16>) -> Self {
        Self {
            inum,
            place: Place::default(),
            inhabitants: HashSet::new(),
            window: Duration::ZERO,
            sysctls,
            range,
            reserved: Vec::new(),
            before: Snmp::default(),
            after: Snmp::default(),
            sockstat: None,
            sockets: Sockets::default(),
            openers: HashMap::new(),
            hash_slots: None,
            conntrack: None,
            tracked_before: None,
        }
    }

    /// A sysctl by its path below /proc/sys/net.
    #[must_use]
    pub fn sysctl(&self, name: &str) -> Option<u64> {
        self.sysctls.iter().find(|(path, _)| path.strip_prefix("net/") == Some(name)).and_then(|(_, value)| *value)
    }

    /// The same as evidence.
    #[must_use]
    pub fn set(&self, name: &str) -> Evidence {
        let short = name.rsplit('/').next().unwrap_or(name);
        Evidence::new(short, self.sysctl(name), "", format!("/proc/sys/net/{name}"))
    }

    /// The command that sets a sysctl, to be typed where the report is read: in this namespace if each has its own
    /// ([`scope`](crate::host::sysctl_scope::scope)), else where the machine's is set.
    #[must_use]
    pub fn setting(&self, key: &str, value: impl fmt::Display) -> String {
        self.place.setting(self.inum, key, &value.to_string())
    }

    /// A command that is to act in this namespace, as it is typed where the report is read.
    #[must_use]
    pub fn command(&self, command: &str) -> String {
        self.place.command(self.inum, command)
    }

    /// What it is called where more than one may be meant: `4026532600, blue`.
    #[must_use]
    pub fn called(&self) -> String {
        let words = self.place.words();
        if words.is_empty() { self.inum.to_string() } else { format!("{}, {words}", self.inum) }
    }

    /// A counter since the namespace was made.
    #[must_use]
    pub fn total(&self, group: &str, name: &str) -> Option<u64> {
        self.after.get(group, name)
    }

    /// How far a counter moved between the looks.
    #[must_use]
    pub fn moved(&self, group: &str, name: &str) -> Option<u64> {
        Some(self.after.get(group, name)?.saturating_sub(self.before.get(group, name)?))
    }

    /// The same per second.
    #[must_use]
    pub fn per_s(&self, group: &str, name: &str) -> Option<f64> {
        let seconds = self.window.as_secs_f64();
        (seconds > 0.0).then_some(self.moved(group, name)? as f64 / seconds)
    }

    /// Connections opened and accepted here per second: no more TIME_WAITs can begin.
    #[must_use]
    pub fn opens_per_s(&self) -> Option<f64> {
        Some(self.per_s("Tcp", "ActiveOpens")? + self.per_s("Tcp", "PassiveOpens")?)
    }

    /// A counter as evidence: since the namespace was made, and now.
    #[must_use]
    pub fn counted(&self, group: &str, name: &str) -> [Evidence; 2] {
        let file = if group.ends_with("Ext") { "netstat" } else { "snmp" };
        let source = format!("/proc/net/{file} {group}");
        let since = Evidence::new(name, self.total(group, name), "since the namespace began", source.clone());
        [since, Evidence::new(format!("{name} now"), self.per_s(group, name), "1/s", self.twice(&source))]
    }

    /// Where something was read that moved between the looks.
    #[must_use]
    pub fn twice(&self, source: &str) -> String {
        format!("{source}, two looks {:.1} s apart", self.window.as_secs_f64())
    }

    /// The process that opens connections to a service, by one of its sockets there or by those that came and went.
    #[must_use]
    pub fn opener<'a>(&self, machine: &'a Machine, remote: Remote, inode: Option<u32>) -> Option<Owner<'a>> {
        let by_socket = inode.and_then(|inode| machine.owner(inode));
        by_socket.or_else(|| machine.named(*self.openers.get(&remote)?))
    }

    /// Ports that connect() may choose towards one destination.
    #[must_use]
    pub fn available(&self) -> u64 {
        let listens = self.sockets.listeners.iter().map(|listener: &Listener| listener.port).collect();
        choosable(&self.range, &self.reserved, &listens).into()
    }

    /// How long a TIME_WAIT lasts here, milliseconds.
    #[must_use]
    pub fn time_wait_ms(&self) -> u32 {
        time_wait_ms(self.sysctl("ipv4/tcp_tw_timeout"))
    }
}

/// TCP_TIMEWAIT_LEN, 60 s (include/net/tcp.h), unless a vendor's kernel has `tcp_tw_timeout`, in seconds.
#[must_use]
pub fn time_wait_ms(tcp_tw_timeout: Option<u64>) -> u32 {
    let seconds = tcp_tw_timeout.filter(|seconds| (1..=600).contains(seconds)).unwrap_or(60);
    u32::try_from(seconds).unwrap_or(60) * 1000
}

/// What the lines of a `twtrace run --format json` told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The file.
    pub file: String,
    /// Minisocks that began at the end that opened the connection, by the peer's address: all, and those without
    /// timestamps.
    pub peers: HashMap<IpAddr, (u64, u64)>,
    /// Births of all kinds.
    pub births: u64,
    /// Births of connections that were accepted here.
    pub accepted: u64,
    /// Births of which it is not known who opened them, or whether there were timestamps.
    pub unknown: u64,
    /// Peers beyond those that there is room for.
    pub left_out: u64,
    /// Lines that are none of twtrace's.
    pub strange: u64,
}
