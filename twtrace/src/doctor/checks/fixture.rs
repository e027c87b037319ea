//! A machine on which nothing is wrong, to be spoiled by tests.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::Path,
    time::Duration,
};

use proptest::{option::of, prelude::*, sample::select};

use crate::{
    doctor::{
        facts::{Facts, Machine, Namespace, SYSCTLS},
        finding::{Finding, Value},
    },
    host::{
        conntrack::{Conntrack, Stats, Timeouts},
        counters::{Snmp, Sockstat},
        processes::{Census, Limit, Process, SystemFiles},
        slab::Slab,
        sockets::{Ends, Listener, Service, Sockets},
        sysctl_files::{Setting, SysctlFiles},
    },
    model::occupancy::Destination,
};

/// What the sysctls are if nobody changes them; the others of [`SYSCTLS`] are those of other kernels.
const DEFAULTS: [(&str, u64); 12] = [
    ("net/core/somaxconn", 4096),
    ("net/ipv4/tcp_abort_on_overflow", 0),
    ("net/ipv4/tcp_fin_timeout", 60),
    ("net/ipv4/tcp_max_orphans", 131_072),
    ("net/ipv4/tcp_max_syn_backlog", 2048),
    ("net/ipv4/tcp_max_tw_buckets", 131_072),
    ("net/ipv4/tcp_rfc1337", 0),
    ("net/ipv4/tcp_syn_retries", 6),
    ("net/ipv4/tcp_synack_retries", 5),
    ("net/ipv4/tcp_syncookies", 1),
    ("net/ipv4/tcp_timestamps", 1),
    ("net/ipv4/tcp_tw_reuse", 2),
];

/// The inode number of its namespace.
pub const INUM: u32 = 4_026_531_840;

/// Facts that are put together.
#[derive(Clone, Debug)]
pub struct Fixture(Facts);

impl Fixture {
    /// A machine of 16 GiB with one namespace, in which nothing happens.
    pub fn quiet() -> Self {
        let sysctls: BTreeMap<_, _> = SYSCTLS
            .into_iter()
            .map(|name| (name, DEFAULTS.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)))
            .collect();
        let namespace = Namespace {
            inum: INUM,
            window: Duration::from_millis(500),
            sysctls,
            range: 32_768..=60_999,
            reserved: Vec::new(),
            before: Snmp::default(),
            after: Snmp::default(),
            sockstat: Some(Sockstat::default()),
            sockets: Sockets::default(),
            openers: HashMap::new(),
            hash_slots: Some(262_144),
            conntrack: None,
            tracked_before: None,
        };
        let machine = Machine { memory: Some(16 << 30), slabs: Some(BTreeMap::new()), ..Machine::default() };
        Self(Facts { kernel: "6.1.0".to_owned(), namespaces: vec![namespace], machine, ..Facts::default() })
    }

    /// Sets a sysctl, by its path below /proc/sys/net; `None`: this kernel has it not.
    pub fn sysctl(mut self, path: &str, value: impl Into<Option<u64>>) -> Self {
        let name = SYSCTLS.into_iter().find(|name| name.strip_prefix("net/") == Some(path)).unwrap();
        self.0.namespaces[0].sysctls.insert(name, value.into());
        self
    }

    /// Sets a counter, at the first look and at the second.
    pub fn counter(mut self, group: &str, name: &str, before: u64, after: u64) -> Self {
        let namespace = &mut self.0.namespaces[0];
        namespace.before.add(&format!("{group}: {name}\n{group}: {before}\n"));
        namespace.after.add(&format!("{group}: {name}\n{group}: {after}\n"));
        self
    }

    /// Adds a line that sets a sysctl at boot; no later line does.
    pub fn line(mut self, file: &str, line: usize, key: &str, value: &str) -> Self {
        let SysctlFiles { settings, .. } = &mut self.0.machine.files;
        settings.iter_mut().filter(|setting| setting.key == key).for_each(|setting| setting.wins = false);
        let file = Path::new(file).to_owned();
        settings.push(Setting { key: key.to_owned(), value: value.to_owned(), file, line, wins: true });
        self
    }

    /// Adds a process of root's that holds so many descriptors, all of them sockets, of so many.
    pub fn process(mut self, pid: u32, comm: &str, descriptors: u64, soft: u64) -> Self {
        let Census { processes, system, .. } = &mut self.0.machine.census;
        system.get_or_insert(SystemFiles { allocated: 1000, limit: 1_000_000 });
        processes.push(Process {
            pid,
            comm: comm.to_owned(),
            uid: 0,
            descriptors,
            sockets: descriptors,
            whole: true,
            soft: Some(Limit::Of(soft)),
            hard: Some(Limit::Of(524_288)),
        });
        self
    }

    /// Changes anything else of the namespace, and ends.
    pub fn namespace(mut self, change: impl FnOnce(&mut Namespace)) -> Facts {
        change(&mut self.0.namespaces[0]);
        self.0
    }

    /// Changes anything else of the machine, and ends.
    pub fn machine(mut self, change: impl FnOnce(&mut Machine)) -> Facts {
        change(&mut self.0.machine);
        self.0
    }

    /// Ends.
    pub fn facts(self) -> Facts {
        self.0
    }
}

/// 10.0.0.1 to a port of 10.0.0.2.
pub fn destination(rport: u16) -> Destination {
    Destination { laddr: IpAddr::from([10, 0, 0, 1]), raddr: IpAddr::from([10, 0, 0, 2]), rport }
}

/// What was found.
pub fn ids(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.id.as_str()).collect()
}

/// A number of a finding's evidence, the first of its name.
pub fn number(finding: &Finding, name: &str) -> Option<f64> {
    match finding.evidence.iter().find(|evidence| evidence.name == name)?.value {
        Value::Count(count) => Some(count as f64),
        Value::Number(number) => Some(number),
        _ => None,
    }
}

/// Counters that somebody judges, in their groups.
const COUNTERS: [(&str, &str); 14] = [
    ("Tcp", "ActiveOpens"),
    ("Tcp", "PassiveOpens"),
    ("Tcp", "OutRsts"),
    ("TcpExt", "ListenDrops"),
    ("TcpExt", "ListenOverflows"),
    ("TcpExt", "TCPAbortOnClose"),
    ("TcpExt", "TCPAbortOnData"),
    ("TcpExt", "TCPReqQFullDoCookies"),
    ("TcpExt", "TCPReqQFullDrop"),
    ("TcpExt", "TCPTimeWaitOverflow"),
    ("TcpExt", "TW"),
    ("TcpExt", "TWRecycled"),
    ("IpExt", "InOctets"),
    ("IpExt", "OutOctets"),
];

/// Any number that a file can tell; those at the ends more often.
fn number_of_a_file() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(2), 3_u64..100_000, Just(u64::MAX), any::<u64>()]
}

/// As many as there may be of something that takes memory.
fn some() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1_u64..100, 0_u64..1 << 32]
}

/// What others wrote.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![select(&["nginx", "java", "a b", "", "\u{1b}[31m\n"][..]).prop_map(str::to_owned), ".{0,20}"]
}

fn ends() -> impl Strategy<Value = Ends> {
    ([some(), some(), some(), some()], [some(), some(), some(), some()], some(), of(any::<u32>())).prop_map(
        |([time_wait, fin_wait2, established, other], [recent, young, in_range, second_half], bytes, inode)| Ends {
            time_wait,
            fin_wait2,
            established,
            other,
            recent: recent.min(time_wait),
            young: young.min(time_wait),
            fresh: young.min(time_wait) / 2,
            in_range,
            second_half: second_half.min(in_range),
            bytes,
            asked: established,
            inode,
        },
    )
}

fn listener() -> impl Strategy<Value = Listener> {
    (any::<IpAddr>(), any::<u16>(), any::<[u32; 4]>(), of(any::<u32>()), some()).prop_map(
        |(address, port, [queue, limit, sharing, inode], drops, requests)| Listener {
            address,
            port,
            queue,
            limit,
            drops,
            requests,
            sharing,
            inode,
        },
    )
}

fn sockets() -> impl Strategy<Value = Sockets> {
    let opened = prop::collection::hash_map((any::<IpAddr>(), any::<IpAddr>(), 0_u16..4), ends(), 0..4);
    let accepted = prop::collection::hash_map((any::<IpAddr>(), 0_u16..4), ends(), 0..4);
    let listeners = prop::collection::vec(listener(), 0..4);
    (opened, accepted, listeners, [some(), some(), some(), some()]).prop_map(
        |(opened, accepted, listeners, [time_wait, fin_wait2, orphans, left_out])| Sockets {
            time_wait,
            fin_wait2,
            orphans,
            left_out,
            listeners,
            opened: opened
                .into_iter()
                .map(|((laddr, raddr, rport), ends)| (Destination { laddr, raddr, rport }, ends))
                .collect(),
            accepted: accepted.into_iter().map(|((laddr, lport), ends)| (Service { laddr, lport }, ends)).collect(),
            ..Sockets::default()
        },
    )
}

fn table() -> impl Strategy<Value = (Conntrack, Option<Stats>)> {
    let stats = || {
        let numbers = [number_of_a_file(), number_of_a_file(), number_of_a_file()];
        numbers.prop_map(|[drop, early_drop, insert_failed]| Stats {
            drop,
            early_drop,
            insert_failed,
            ..Stats::default()
        })
    };
    let numbers = (number_of_a_file(), number_of_a_file(), of(number_of_a_file()), of(number_of_a_file()));
    (numbers, of(stats()), of(stats())).prop_map(|((count, max, buckets, time_wait), stats, before)| {
        let timeout_s = Timeouts { time_wait, ..Timeouts::default() };
        (Conntrack { count, max, buckets, timeout_s, stats }, before)
    })
}

fn namespace() -> impl Strategy<Value = Namespace> {
    let sysctls = prop::collection::vec(of(number_of_a_file()), SYSCTLS.len());
    let counters = prop::collection::vec(of((number_of_a_file(), number_of_a_file())), COUNTERS.len());
    let misc = (any::<u32>(), 0_u64..2000, any::<(u16, u16)>(), of(some()), of(number_of_a_file()));
    (sysctls, counters, sockets(), of(table()), misc).prop_map(
        |(sysctls, counters, sockets, table, (inum, window, (low, high), tw, hash_slots))| {
            let (mut before, mut after) = (Snmp::default(), Snmp::default());
            for ((group, name), counts) in COUNTERS.into_iter().zip(counters) {
                let Some((first, second)) = counts else { continue };
                before.add(&format!("{group}: {name}\n{group}: {first}\n"));
                after.add(&format!("{group}: {name}\n{group}: {second}\n"));
            }
            Namespace {
                inum,
                window: Duration::from_millis(window),
                sysctls: SYSCTLS.into_iter().zip(sysctls).collect(),
                range: low.min(high)..=low.max(high),
                reserved: Vec::new(),
                before,
                after,
                sockstat: tw.map(|tw| Sockstat { tw, ..Sockstat::default() }),
                sockets,
                openers: HashMap::new(),
                hash_slots,
                conntrack: table.map(|(table, _)| table),
                tracked_before: table.and_then(|(_, before)| before),
            }
        },
    )
}

fn process() -> impl Strategy<Value = Process> {
    let limit = || of(prop_oneof![number_of_a_file().prop_map(Limit::Of), Just(Limit::Unlimited)]);
    (any::<(u32, u32, bool)>(), word(), (number_of_a_file(), some()), limit(), limit()).prop_map(
        |((pid, uid, whole), comm, (descriptors, sockets), soft, hard)| Process {
            pid,
            comm,
            uid,
            descriptors,
            sockets,
            whole,
            soft,
            hard,
        },
    )
}

fn setting() -> impl Strategy<Value = Setting> {
    let names = SYSCTLS.map(|name| name.replace('/', "."));
    let value = prop_oneof![number_of_a_file().prop_map(|number| number.to_string()), word()];
    let file = prop_oneof![Just("/etc/sysctl.conf".to_owned()), word()];
    (select(names.to_vec()), value, file, any::<(usize, bool)>()).prop_map(|(key, value, file, (line, wins))| Setting {
        key,
        value,
        file: file.into(),
        line,
        wins,
    })
}

fn machine() -> impl Strategy<Value = Machine> {
    let slab = (some(), some(), some()).prop_map(|(slabs, object_bytes, pages_per_slab)| Slab {
        slabs,
        object_bytes,
        pages_per_slab,
        ..Slab::default()
    });
    let name = select(&["tw_sock_TCP", "nf_conntrack"][..]).prop_map(str::to_owned);
    let slabs = of(prop::collection::btree_map(name, slab, 0..3));
    let files = (prop::collection::vec(setting(), 0..8), any::<bool>()).prop_map(|(settings, systemd)| SysctlFiles {
        settings,
        systemd,
        ..SysctlFiles::default()
    });
    let system = of((number_of_a_file(), number_of_a_file()))
        .prop_map(|numbers| numbers.map(|(allocated, limit)| SystemFiles { allocated, limit }));
    let processes = prop::collection::vec(process(), 0..8);
    let census =
        (processes, prop::collection::hash_map(any::<u32>(), any::<u32>(), 0..4), system, of(number_of_a_file()))
            .prop_map(|(processes, owners, system, nr_open)| Census {
                processes,
                owners,
                system,
                nr_open,
                ..Census::default()
            });
    (of(number_of_a_file()), slabs, census, files).prop_map(|(memory, slabs, census, files)| Machine {
        memory,
        slabs,
        census,
        files,
    })
}

/// Any machine.
pub fn any_facts() -> impl Strategy<Value = Facts> {
    (word(), prop::collection::vec(namespace(), 0..3), machine()).prop_map(|(kernel, namespaces, machine)| Facts {
        kernel,
        namespaces,
        machine,
        ..Facts::default()
    })
}
