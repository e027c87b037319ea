//! A machine on which nothing is wrong, to be spoiled by tests.

mod any;

use std::{collections::BTreeMap, net::IpAddr, path::Path, time::Duration};

use crate::{
    doctor::{
        facts::{Facts, Machine, Namespace, SYSCTLS},
        finding::{Finding, Severity, Value},
    },
    host::{
        counters::Sockstat,
        processes::{Census, Limit, Process, SystemFiles},
        sockets::{Ends, Listener, Sample, Service},
        sysctl_files::{Setting, SysctlFiles},
    },
    model::{event::Tuple, occupancy::Destination},
};

pub use any::any_facts;

/// What the sysctls are if nobody changes them; the others of [`SYSCTLS`] are those of other kernels.
const DEFAULTS: [(&str, u64); 10] = [
    ("net/core/somaxconn", 4096),
    ("net/ipv4/tcp_abort_on_overflow", 0),
    ("net/ipv4/tcp_fin_timeout", 60),
    ("net/ipv4/tcp_max_syn_backlog", 2048),
    ("net/ipv4/tcp_max_tw_buckets", 131_072),
    ("net/ipv4/tcp_rfc1337", 0),
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
            window: Duration::from_millis(500),
            sockstat: Some(Sockstat::default()),
            hash_slots: Some(262_144),
            ..Namespace::new(INUM, sysctls, 32_768..=60_999)
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

    /// Adds a line that sets a sysctl at boot.
    pub fn line(mut self, file: &str, line: usize, key: &str, value: &str) -> Self {
        let SysctlFiles { settings, .. } = &mut self.0.machine.files;
        let file = Path::new(file).to_owned();
        settings.push(Setting { key: key.to_owned(), value: Some(value.to_owned()), file, line });
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

    /// Makes a process the owner of a socket.
    pub fn owner(mut self, inode: u32, pid: u32, comm: &str) -> Self {
        self.0.machine.census.owners.insert(inode, pid);
        self.process(pid, comm, 10, 1024)
    }

    /// Adds a socket that listens.
    pub fn listener(mut self, listener: Listener) -> Self {
        self.0.namespaces[0].sockets.listeners.push(listener);
        self
    }

    /// Adds a full socket.
    pub fn sample(mut self, sample: Sample) -> Self {
        let sockets = &mut self.0.namespaces[0].sockets;
        sockets.states.add(sample.state, sample.inode != 0);
        sockets.samples.push(sample);
        self
    }

    /// Adds connections that were opened here.
    pub fn opened(mut self, to: Destination, ends: Ends) -> Self {
        let sockets = &mut self.0.namespaces[0].sockets;
        (sockets.time_wait, sockets.fin_wait2) =
            (sockets.time_wait + ends.time_wait, sockets.fin_wait2 + ends.fin_wait2);
        sockets.opened.insert(to, ends);
        self
    }

    /// Adds connections that were accepted here.
    pub fn accepted(mut self, laddr: IpAddr, lport: u16, ends: Ends) -> Self {
        let sockets = &mut self.0.namespaces[0].sockets;
        (sockets.time_wait, sockets.fin_wait2) =
            (sockets.time_wait + ends.time_wait, sockets.fin_wait2 + ends.fin_wait2);
        sockets.accepted.insert(Service { laddr, lport }, ends);
        self
    }

    /// What a question about the namespace finds.
    pub fn asked(self, check: fn(&Facts, &Namespace) -> Vec<Finding>) -> Vec<Finding> {
        check(&self.0, &self.0.namespaces[0])
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

impl From<Facts> for Fixture {
    fn from(facts: Facts) -> Self {
        Self(facts)
    }
}

/// A socket that was accepted at 10.0.0.1:8080, from 10.0.0.2:40000; no process has it.
pub fn sample(state: u8) -> Sample {
    let tuple = Tuple { laddr: [10, 0, 0, 1].into(), lport: 8080, raddr: [10, 0, 0, 2].into(), rport: 40_000 };
    Sample { tuple, state, accepted: true, inode: 0, idle_ms: None, unsent: 0, retried: false, probing: false }
}

/// 10.0.0.1 to a port of 10.0.0.2.
pub fn destination(rport: u16) -> Destination {
    Destination { laddr: IpAddr::from([10, 0, 0, 1]), raddr: IpAddr::from([10, 0, 0, 2]), rport }
}

/// A socket that listens at all addresses.
pub fn listening(port: u16, queue: u32, limit: u32) -> Listener {
    let address = IpAddr::from([0; 4]);
    Listener { address, port, queue, limit, drops: Some(0), requests: 0, resent: 0, sharing: 1, inode: u32::from(port) }
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

/// The word, or whatever it is, of a finding's evidence.
pub fn shown(finding: &Finding, name: &str) -> Option<String> {
    Some(finding.evidence.iter().find(|evidence| evidence.name == name)?.value.to_string())
}

/// How bad the one of this id is; `None` if it was not found.
pub fn severity(findings: &[Finding], id: &str) -> Option<Severity> {
    findings.iter().find(|finding| finding.id == id).map(|finding| finding.severity)
}

/// The one of this id.
pub fn the<'a>(findings: &'a [Finding], id: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.id == id).unwrap_or_else(|| panic!("no {id}: {:?}", ids(findings)))
}
