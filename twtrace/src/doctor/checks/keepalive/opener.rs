//! Who opens short connections, and what pool would hold them.

use super::POOL;
use crate::{
    doctor::{
        facts::{Facts, Namespace, Owner, Traced},
        finding::Evidence,
    },
    host::{
        nginx::{Nginx, config::Fit},
        openers::Remote,
    },
};

/// Connections that would do if they were kept, and as much again for bursts.
#[derive(Clone, Copy)]
pub(super) struct Pool {
    need: u64,
    pub(super) pool: u64,
}

impl Pool {
    /// By Little's law, `at_a_time`; at least one.
    pub(super) fn of(at_a_time: f64) -> Self {
        let need = (at_a_time.ceil() as u64).clamp(1, POOL.1);
        Self { need, pool: (need * 2).next_power_of_two().clamp(POOL.0, POOL.1) }
    }

    pub(super) fn words(self) -> String {
        format!("{} kept open would do, a pool of {} leaves room", self.need, self.pool)
    }
}

/// Who opens connections to a service.
pub(super) struct Opener<'a> {
    pub(super) owner: Option<Owner<'a>>,
    source: &'static str,
    pub(super) nginx: Option<&'a Nginx>,
}

/// `inode`: of a socket there. Of several hints the best: seen to open, told by a trace, has a socket there, is configured to
/// pass there, is the only process here whose sockets come and go.
pub(super) fn opener<'a>(
    facts: &'a Facts,
    namespace: &Namespace,
    remote: Remote,
    inode: Option<u32>,
    traced: Option<&'a Traced>,
) -> Opener<'a> {
    let machine = &facts.machine;
    let passes = |nginx: &&Nginx| {
        let fit = nginx.config.passes_to(remote.0, remote.1, &nginx.names).map(|(fit, _)| fit);
        nginx.netns == Some(namespace.inum) && fit == Some(Fit::Address)
    };
    let mut hints = [
        (namespace.opener(machine, remote, None), "/proc/PID/fd of new sockets"),
        (traced.and_then(Traced::opener), "the trace"),
        (inode.and_then(|inode| machine.owner(inode)), "/proc/PID/fd"),
        (
            machine.nginxes.iter().find(passes).and_then(|nginx| machine.named(nginx.master)),
            "nginx's configuration passes there",
        ),
        (alone(facts, namespace), "the only process here whose sockets come and go"),
    ]
    .into_iter();
    let found = hints.find_map(|(owner, source)| Some((owner?, source)));
    let nginx = found.and_then(|(owner, _)| machine.nginxes.iter().find(|nginx| nginx.has(owner.pid)));
    Opener { owner: found.map(|(owner, _)| owner), source: found.map_or("", |(_, source)| source), nginx }
}

/// The one process whose sockets come and go, where hardly any connection is accepted: then it opens them.
fn alone<'a>(facts: &'a Facts, namespace: &Namespace) -> Option<Owner<'a>> {
    let [pid] = namespace.changing[..] else { return None };
    let rate = |name| namespace.per_s("Tcp", name);
    (rate("PassiveOpens")? * 10.0 < rate("ActiveOpens")?).then(|| facts.machine.named(pid))?
}

impl<'a> Opener<'a> {
    pub(super) fn comm(&self) -> Option<&'a str> {
        self.owner.map(|owner| owner.comm)
    }

    pub(super) fn shown(&self) -> Option<Evidence> {
        Some(Evidence::new("opened by", self.owner?.to_string(), "", self.source))
    }
}
