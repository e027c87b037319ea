//! Who opens short connections, and where they go; and what the nginxes are configured with that may do so.

use std::{
    collections::HashSet,
    thread,
    time::{Duration, Instant},
};

use super::{Gatherer, as_root, counters};
use crate::{
    doctor::{
        facts::{Machine, Namespace},
        finding::Missed,
    },
    host::{
        Host,
        counters::Snmp,
        netns::Netns,
        nginx::{self, Nginx},
        openers::{self, Remote, Wanted},
        sockets::Sockets,
    },
};

/// How long whoever opens short connections may be looked for.
const OPENERS: Duration = Duration::from_millis(600);
/// TIME_WAITs begun in a second that make a service busy.
const BUSY: u64 = 10;
/// TIME_WAITs begun in ten seconds that do.
const BUSY_LATELY: u64 = 100;
/// Connections opened in a second that leave nothing here: so many, and it is looked where they go.
const UNTOLD: f64 = 25.0;
/// The shortest time over which connections are counted for that.
const GLANCE: Duration = Duration::from_millis(100);
/// The most nginxes whose configuration is read.
const NGINXES: usize = 8;
/// The most services whose clients are looked for.
const SERVICES: usize = 16;
impl Gatherer<'_> {
    /// Looks for those who open short connections, and for where these go, in the namespaces in which there are some.
    pub(super) fn watch(
        &self,
        seen: &mut [(usize, &Netns, Namespace)],
        machine: &mut Machine,
        missed: &mut Vec<Missed>,
    ) {
        let shortest = self.last.values().map(|(at, ..)| at.elapsed()).min().unwrap_or(GLANCE);
        thread::sleep(GLANCE.saturating_sub(shortest));
        let until = Instant::now() + OPENERS;
        let mut any = false;
        for (_, netns, look) in seen {
            let wanted = Wanted {
                remotes: busy(&look.sockets),
                all: self.untold(netns, &look.sockets).is_some_and(|rate| rate >= UNTOLD),
                listens: look.sockets.listeners.iter().map(|listener| listener.port).collect(),
            };
            if wanted.remotes.is_empty() && !wanted.all {
                continue;
            }
            any = true;
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                let watch = || openers::watch(self.host, &wanted, &machine.census.processes, left);
                let watched = netns.run(watch).unwrap_or_default();
                (look.openers, look.came) = (watched.openers, watched.came);
                (look.looks, look.changing) = (watched.looks, watched.changing);
            }
        }
        if any {
            let pids = machine.census.processes.iter().filter(|it| it.comm == "nginx").map(|it| it.pid);
            machine.nginxes = nginxes(self.host, pids, missed);
        }
    }

    /// Connections opened here per second since the first look, without those that left a TIME_WAIT here.
    fn untold(&self, netns: &Netns, sockets: &Sockets) -> Option<f64> {
        let (at, before, _) = self.last.get(&netns.inum())?;
        let seconds = at.elapsed().as_secs_f64();
        let now = netns.run(|| counters(self.host)).ok()?;
        let opens = |snmp: &Snmp| snmp.get("Tcp", "ActiveOpens");
        let opened = opens(&now)?.saturating_sub(opens(before)?) as f64 / seconds;
        let told: u64 = sockets.opened.values().chain(sockets.accepted.values()).map(|ends| ends.young).sum();
        Some(opened - told as f64)
    }
}

/// What the nginxes that these processes belong to are configured with.
fn nginxes(host: &Host, pids: impl Iterator<Item = u32>, missed: &mut Vec<Missed>) -> Vec<Nginx> {
    let mut found: Vec<Nginx> = Vec::new();
    for pid in pids {
        if found.len() == NGINXES || found.iter().any(|nginx| nginx.has(pid)) {
            continue;
        }
        match nginx::read(host, pid) {
            Ok(nginx) => found.push(nginx),
            Err(error) => {
                missed.push(Missed {
                    what: format!("what nginx ({pid}) is configured with"),
                    why: error.to_string(),
                    remedy: as_root(""),
                });
                // The others of its are no better.
                return found;
            }
        }
    }
    found
}

/// Services that somebody here opens many short connections to, or did a moment ago.
fn busy(sockets: &Sockets) -> HashSet<Remote> {
    let opened = sockets.opened.iter().map(|(to, ends)| ((to.raddr, to.rport), ends));
    let accepted = sockets.accepted.iter().map(|(service, ends)| ((service.laddr, service.lport), ends));
    let mut busy: Vec<(u64, Remote)> = opened
        .chain(accepted)
        .filter(|(_, ends)| ends.young >= BUSY || ends.recent >= BUSY_LATELY)
        .map(|(remote, ends)| (ends.young.max(ends.recent / 10), remote))
        .collect();
    busy.sort_unstable_by(|a, b| b.cmp(a));
    busy.into_iter().take(SERVICES).map(|(_, remote)| remote).collect()
}
