//! What was read, before anybody judges it.

mod trace;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    ops::RangeInclusive,
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, tz::TimeZone};

use super::{
    finding::{Evidence, Missed},
    places::Place,
};
use crate::{
    host::{
        conntrack::{Conntrack, Stats, nat::Ports},
        counters::{Snmp, Sockstat, TcpLimits},
        nginx::Nginx,
        openers::{Came, Remote, fresh::Fresh},
        processes::Census,
        slab::Slab,
        sockets::{Ends, Listener, Sample, Sockets},
        sysctl_files::SysctlFiles,
    },
    model::occupancy::choosable,
};
pub use trace::{Trace, Traced};

/// The sysctls of a namespace that somebody judges, below /proc/sys.
pub const SYSCTLS: [&str; 16] = [
    "net/core/somaxconn",
    "net/ipv4/ip_local_port_step_width",
    "net/ipv4/tcp_abort_on_overflow",
    "net/ipv4/tcp_fin_timeout",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_max_tw_buckets",
    "net/ipv4/tcp_orphan_retries",
    "net/ipv4/tcp_rfc1337",
    "net/ipv4/tcp_syn_retries",
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
    /// Command lines of processes that listen, words parted by blanks.
    pub commands: HashMap<u32, String>,
    /// What bounds TCP in all namespaces together.
    pub tcp: TcpLimits,
    /// What the nginxes are configured with; read only if somebody opens short connections.
    pub nginxes: Vec<Nginx>,
}

impl Machine {
    /// The process that has the socket of this inode. Of several, the first.
    #[must_use]
    pub fn owner(&self, inode: u32) -> Option<Owner<'_>> {
        self.named(*self.census.owners.get(&inode)?)
    }

    /// The processes that have these sockets with how many of them each has, the most first; `None` for those of which no
    /// process is known.
    #[must_use]
    pub fn owners<'a>(&self, samples: impl IntoIterator<Item = &'a Sample>) -> Vec<(Option<Owner<'_>>, u64)> {
        let mut counts: BTreeMap<Option<u32>, u64> = BTreeMap::new();
        for sample in samples {
            *counts.entry(self.census.owners.get(&sample.inode).copied()).or_default() += 1;
        }
        let mut owners: BTreeMap<Option<u32>, (Option<Owner<'_>>, u64)> = BTreeMap::new();
        for (pid, count) in counts {
            let owner = pid.and_then(|pid| self.named(pid));
            owners.entry(owner.map(|owner| owner.pid)).or_insert((owner, 0)).1 += count;
        }
        let mut owners: Vec<_> = owners.into_values().collect();
        owners.sort_by_key(|(owner, count)| (Reverse(*count), owner.map(|owner| owner.pid)));
        owners
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
    /// Name of the process.
    pub comm: &'a str,
    /// Process id.
    pub pid: u32,
}

impl Owner<'_> {
    /// The owner as evidence; `what` says of what it is the owner.
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
    /// Inode number.
    pub inum: u32,
    /// How a command gets there.
    pub place: Place,
    /// What files set at boot is set here, as far as is known: it is the initial namespace, or the reader's own.
    pub boots: bool,
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
    /// The namespace's sockets, between the looks.
    pub sockets: Sockets,
    /// Processes that were seen to open short connections, by the service that these go to.
    pub openers: HashMap<Remote, u32>,
    /// Connections that came while sockets were listed again and again, by the service that they go to.
    pub came: HashMap<Remote, Came>,
    /// How often they were listed; 0 if there was no reason to.
    pub looks: u32,
    /// Processes of this namespace whose sockets came and went meanwhile.
    pub changing: Vec<u32>,
    /// When its sockets were listed, by the wall.
    pub at: Option<SystemTime>,
    /// Processes that get new sockets, as seen in a sample: only where connections are reset by their own end.
    pub fresh: HashMap<u32, Fresh>,
    /// Slots of the hash of connections (`net.ipv4.tcp_ehash_entries`), since Linux 6.1.
    pub hash_slots: Option<u64>,
    /// Connection tracking, if it is there, at the second look.
    pub conntrack: Option<Conntrack>,
    /// Conntrack's counts at the first look.
    pub tracked_before: Option<Stats>,
    /// The ports that source NAT has given out, if any was ever refused here and the table can be read.
    pub nat: Option<Ports>,
}

impl Namespace {
    /// One of which nothing else was read.
    #[must_use]
    pub fn new(inum: u32, sysctls: BTreeMap<&'static str, Option<u64>>, range: RangeInclusive<u16>) -> Self {
        Self {
            inum,
            place: Place::default(),
            boots: true,
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
            came: HashMap::new(),
            looks: 0,
            changing: Vec::new(),
            at: None,
            fresh: HashMap::new(),
            hash_slots: None,
            conntrack: None,
            tracked_before: None,
            nat: None,
        }
    }

    /// A sysctl by its path below /proc/sys/net.
    #[must_use]
    pub fn sysctl(&self, name: &str) -> Option<u64> {
        self.sysctls.iter().find(|(path, _)| path.strip_prefix("net/") == Some(name)).and_then(|(_, value)| *value)
    }

    /// A sysctl's value as evidence.
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

    /// A step that sets a sysctl: the command, and behind it, as a comment of the shell, why.
    #[must_use]
    pub fn step(&self, key: &str, value: impl fmt::Display, why: impl fmt::Display) -> String {
        format!("{}     # {why}", self.setting(key, value))
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

    /// How far a counter moved per second.
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

    /// The process that opens connections to a service: the one that was seen to open short ones, or else the owner of one
    /// of the sockets that are open.
    #[must_use]
    pub fn opener<'a>(&self, machine: &'a Machine, remote: Remote, inode: Option<u32>) -> Option<Owner<'a>> {
        let seen = self.openers.get(&remote).and_then(|pid| machine.named(*pid));
        seen.or_else(|| machine.owner(inode?))
    }

    /// TIME_WAITs begun, as evidence: their rate or, where none begins at the moment, how many are younger than ten seconds.
    /// A rate of 0 is not told beside those: it would deny what was just counted.
    #[must_use]
    pub fn begun(&self, ends: &Ends) -> Evidence {
        let rate = ends.per_s(self.opens_per_s());
        if rate > 0.0 || ends.recent == 0 {
            return Evidence::new("TIME_WAITs begun", rate, "1/s", "sock_diag: the age of each");
        }
        Evidence::new("TIME_WAITs begun in the last 10 s", ends.recent, "sockets", "sock_diag: the age of each")
    }

    /// Whether TIME_WAITs have stopped to begin, though some are left. `ports`: those that connect() may choose from, of
    /// connections that were opened here; while all of them are held, or all buckets are taken, none can begin, and nothing
    /// has ended.
    #[must_use]
    pub fn ended(&self, ends: &Ends, ports: Option<u64>) -> Option<Ended> {
        let is_stuck = ports.is_some_and(|ports| ends.in_range >= ports);
        if ends.time_wait == 0
            || ends.young > 0
            || is_stuck
            || self.moved("TcpExt", "TCPTimeWaitOverflow").is_some_and(|count| count > 0)
        {
            return None;
        }
        let age_ms = u64::from(self.time_wait_ms().saturating_sub(ends.last_left_ms));
        // Ten times as long as from one to the next, if they had come evenly.
        let usual_ms = u64::from(self.time_wait_ms()).saturating_mul(10) / ends.time_wait;
        (age_ms >= usual_ms.max(1000)).then(|| Ended {
            since: Duration::from_millis(age_ms),
            gone_in: Duration::from_millis(ends.last_left_ms.into()) + TIMER_SLACK,
        })
    }

    /// When the last of them is gone: `gone by 10:41:40 UTC`.
    #[must_use]
    pub fn gone_by(&self, ended: Ended) -> String {
        let at = self.at.and_then(|at| at.checked_add(ended.gone_in)).and_then(|at| Timestamp::try_from(at).ok());
        match at {
            Some(at) => format!("gone by {} UTC", at.to_zoned(TimeZone::UTC).strftime("%H:%M:%S")),
            None => format!("gone in {} s", ended.gone_in.as_secs()),
        }
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

/// How late the timer of a TIME_WAIT may be: it stands in a slot of the timer wheel, of which those a minute ahead are up to
/// 5.12 s wide (kernel/time/timer.c, level 3 at HZ=100).
const TIMER_SLACK: Duration = Duration::from_millis(5120);

/// No more TIME_WAITs begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How long ago the last one began.
    pub since: Duration,
    /// Until the last one is gone, with the slack of its timer.
    pub gone_in: Duration,
}

/// TCP_TIMEWAIT_LEN, 60 s (include/net/tcp.h), unless a vendor's kernel has `tcp_tw_timeout`, in seconds.
#[must_use]
pub fn time_wait_ms(tcp_tw_timeout: Option<u64>) -> u32 {
    let seconds = tcp_tw_timeout.filter(|seconds| (1..=600).contains(seconds)).unwrap_or(60);
    u32::try_from(seconds).unwrap_or(60) * 1000
}
