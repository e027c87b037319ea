//! Which states pile up? What is neither open nor in TIME_WAIT, who holds it, and what it waits for.

mod machine;
mod places;
mod stories;

use std::{cmp::Reverse, collections::BTreeMap, net::SocketAddr};

use machine::{memory, orphans};
use places::{Place, mostly, places};

use self::stories::{CLOSE_WAIT, CLOSING, FIN_WAIT2, FINE, SYN_RECV, SYN_SENT};
use super::ports::TOP;
use crate::{
    doctor::{
        facts::{Facts, Namespace, Owner},
        finding::{Evidence, Finding, Severity, Story},
    },
    host::{
        diag::{TCP_CLOSE_WAIT, TCP_CLOSING, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK, TCP_SYN_RECV, TCP_SYN_SENT},
        sockets::{Listener, SAMPLES, Sample},
        states::NAMES,
    },
};

pub use self::stories::STORIES;

/// A socket that was silent for so long is not just passing through its state, milliseconds: a round trip is shorter.
const PASSING_MS: u32 = 1_000;
/// After so long even a few are no chance, milliseconds.
const LONG_MS: u32 = 60_000;
/// So many are a pile.
const MANY: u64 = 100;
/// So many are worth a word if they stay.
const SOME: u64 = 16;
/// From this share of a limit on, what grows towards it is a warning.
const NEAR: f64 = 0.8;

/// Judges.
#[must_use]
pub fn check(facts: &Facts, namespace: &Namespace) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(held(facts, namespace, TCP_CLOSE_WAIT));
    findings.extend(held(facts, namespace, TCP_FIN_WAIT2));
    findings.extend(closing(facts, namespace));
    findings.extend(syn_sent(facts, namespace));
    findings.extend(syn_recv(facts, namespace));
    // What is the machine's is told once.
    if facts.namespaces.first().is_some_and(|first| first.inum == namespace.inum) {
        findings.extend(orphans(facts, namespace));
        findings.extend(memory(facts, namespace));
    }
    if findings.iter().all(|finding| finding.severity < Severity::Warning) {
        findings.push(fine(namespace));
    }
    findings
}

fn name(state: u8) -> String {
    let name = NAMES.iter().find(|(known, _)| *known == state).map_or("?", |(_, name)| name);
    // As the kernel writes it: FIN_WAIT1, where ss has FIN-WAIT-1.
    name.replace("WAIT-", "WAIT").replace('-', "_")
}

/// A number of which more may be: of each state only the first [`SAMPLES`] sockets are looked at one by one.
fn counted(count: u64, namespace: &Namespace, state: u8) -> String {
    if namespace.sockets.states.of(state) > SAMPLES as u64 { format!("at least {count}") } else { count.to_string() }
}

fn placed(places: &[(Place, u64)]) -> impl Iterator<Item = Evidence> {
    places.iter().take(TOP).map(|(place, count)| Evidence::new(place.to_string(), *count, "sockets", "sock_diag"))
}

/// The longest and the median silence, of those of which it is known.
fn silence<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> [Evidence; 2] {
    let mut silent: Vec<u32> = samples.into_iter().filter_map(|sample| sample.idle_ms).collect();
    silent.sort_unstable();
    let seconds = |ms: Option<&u32>| ms.map(|ms| f64::from(*ms) / 1000.0);
    let source = "sock_diag tcp_info: last_ack_recv";
    [
        Evidence::new("silent for, the longest", seconds(silent.last()), "s", source),
        Evidence::new("silent for, the median", seconds(silent.get(silent.len() / 2)), "s", source),
    ]
}

fn is_silent(sample: &Sample, ms: u32) -> bool {
    sample.idle_ms.is_some_and(|idle| idle >= ms)
}

/// How bad a pile is: many that stay, or some that have stayed for long.
fn pile(samples: &[&Sample]) -> Option<Severity> {
    let silent = |ms| samples.iter().filter(|sample| is_silent(sample, ms)).count() as u64;
    if silent(PASSING_MS) >= MANY {
        Some(Severity::Warning)
    } else {
        (silent(LONG_MS) >= SOME).then_some(Severity::Note)
    }
}

/// Sockets that only the program that has them can close: one finding for each program.
fn held(facts: &Facts, namespace: &Namespace, state: u8) -> Vec<Finding> {
    // In FIN_WAIT2 the others are orphans, which end by themselves; in CLOSE_WAIT they wait for accept().
    let is_meant = |sample: &&Sample| sample.state == state && (sample.inode != 0 || state == TCP_CLOSE_WAIT);
    let mut piles: BTreeMap<Option<u32>, (Option<Owner<'_>>, Vec<&Sample>)> = BTreeMap::new();
    for sample in namespace.sockets.samples.iter().filter(is_meant) {
        let owner = facts.machine.owner(sample.inode);
        // Without an owner those that were never accepted are a pile of their own.
        let key = owner.map(|owner| owner.pid).or((sample.inode == 0).then_some(0));
        piles.entry(key).or_insert((owner, Vec::new())).1.push(sample);
    }
    let mut piles: Vec<_> = piles.into_values().filter_map(|(owner, it)| Some((pile(&it)?, owner, it))).collect();
    piles.sort_by_key(|(severity, _, samples)| (Reverse(*severity), Reverse(samples.len())));
    let piles = piles.into_iter().take(TOP);
    piles.map(|(severity, owner, samples)| kept(facts, namespace, state, severity, owner, &samples)).collect()
}

/// One program's pile of CLOSE_WAIT or FIN_WAIT2.
fn kept(
    facts: &Facts,
    namespace: &Namespace,
    state: u8,
    severity: Severity,
    owner: Option<Owner<'_>>,
    samples: &[&Sample],
) -> Finding {
    let places = places(samples.iter().copied());
    let count = counted(samples.len() as u64, namespace, state);
    let (word, mostly) = (name(state), mostly(&places));
    let waits_for_accept = samples.first().is_some_and(|sample| sample.inode == 0);
    let program = owner.map_or_else(|| "a program that could not be named".to_owned(), |owner| owner.to_string());
    let short = owner.map_or("the program", |owner| owner.comm);
    let grep = owner.map(|owner| format!(" | grep pid={},", owner.pid)).unwrap_or_default();
    let (story, sentence, steps): (&Story, String, [String; 2]) = if state == TCP_FIN_WAIT2 {
        let list = namespace.command("ss -tnp state fin-wait-2");
        (
            &FIN_WAIT2,
            format!("{program} holds {count} connections in {word}, {mostly}: it called shutdown() and not close()"),
            [
                format!(
                    "`{list}{grep}` lists them; let {short} call close() after shutdown(), or read to the end with a timeout"
                ),
                "find out why the peers do not close their end: ss -tnp state close-wait there".to_owned(),
            ],
        )
    } else if waits_for_accept {
        let listener = places.first().and_then(|(place, _)| listener(namespace, place));
        let listening = listener.and_then(|listener| facts.machine.owner(listener.inode));
        let short = listening.map_or("the program that listens", |owner| owner.comm);
        let list = namespace.command("ss -tlnp");
        (
            &CLOSE_WAIT,
            format!("{count} connections in {word}, {mostly}, wait for accept(): their clients have given up"),
            [
                format!("find out why {short} does not call accept(): `{list}` shows the queue (Recv-Q) and its limit"),
                format!("restart {short} to end them now"),
            ],
        )
    } else {
        let list = namespace.command("ss -tnp state close-wait");
        (
            &CLOSE_WAIT,
            format!(
                "{program} has {count} connections in {word}, {mostly}: the peers have closed them, {short} has not"
            ),
            [
                format!("`{list}{grep}` lists them; let {short} call close() when read() returns 0 or an error"),
                format!("restart {short} to end them now; they come back until it calls close()"),
            ],
        )
    };
    let passing = samples.iter().filter(|sample| is_silent(sample, PASSING_MS)).count() as u64;
    let finding = Finding::new(story, severity, sentence)
        .shown_by([
            Evidence::new(word.clone(), namespace.sockets.states.of(state), "sockets, all", "sock_diag"),
            Evidence::new("silent for 1 s or longer", passing, "sockets", "sock_diag tcp_info: last_ack_recv"),
        ])
        .shown_by(silence(samples.iter().copied()))
        .shown_by(placed(&places))
        .shown_by(owner.map(|owner| owner.shown("held by")))
        .shown_by(container(namespace))
        .to_do(steps);
    match state {
        TCP_FIN_WAIT2 => finding
            .shown_by([namespace.set("ipv4/tcp_fin_timeout")])
            .avoid(["do not lower tcp_fin_timeout: it ends only FIN_WAIT2 sockets that no process holds any more"]),
        _ => finding.avoid(["do not look for a sysctl: no timeout ends CLOSE_WAIT, only close() does"]),
    }
}

/// The container that the namespace belongs to, and so whoever holds its sockets.
fn container(namespace: &Namespace) -> Option<Evidence> {
    let container = namespace.place.container.as_ref()?;
    Some(Evidence::new("container", container.to_string(), "", "/proc/PID/cgroup"))
}

/// The socket that listens at a place.
fn listener<'a>(namespace: &'a Namespace, place: &Place) -> Option<&'a Listener> {
    let Place::Accepted(service) = place else { return None };
    let is_it =
        |it: &&Listener| it.port == service.port() && (it.address == service.ip() || it.address.is_unspecified());
    namespace.sockets.listeners.iter().find(is_it)
}

/// The last segments of closed connections that nobody acknowledges.
fn closing(facts: &Facts, namespace: &Namespace) -> Option<Finding> {
    const STATES: [u8; 3] = [TCP_FIN_WAIT1, TCP_CLOSING, TCP_LAST_ACK];
    let is_stuck = |it: &&Sample| STATES.contains(&it.state) && (it.retried || it.probing);
    let stuck: Vec<&Sample> = namespace.sockets.samples.iter().filter(is_stuck).collect();
    let total = stuck.len() as u64;
    if total < MANY {
        return None;
    }
    let of = |state| stuck.iter().filter(|it| it.state == state).count() as u64;
    let most = STATES.into_iter().max_by_key(|state| of(*state)).unwrap_or(TCP_FIN_WAIT1);
    let probing = stuck.iter().filter(|it| it.probing).count() as u64;
    let reads_nothing = probing * 2 > total;
    let places = places(stuck.iter().copied());
    let why = if reads_nothing { "the peer does not read what was sent" } else { "nothing comes back" };
    let count = counted(total, namespace, most);
    let share = if of(most) == total { "all" } else { "most of them" };
    let sentence =
        format!("{count} closed connections, {}, are stuck, {share} in {}: {why}", mostly(&places), name(most));
    let unsent: u64 = stuck.iter().map(|it| u64::from(it.unsent)).sum();
    let orphans = stuck.iter().filter(|it| it.inode == 0).count() as u64;
    let states = STATES.map(|state| Evidence::new(name(state), of(state), "sockets that are stuck", "sock_diag"));
    let steps = if reads_nothing {
        [
            "find out which program at the peer does not read: its receive buffer is full (zero window); ss -tnp there, Recv-Q",
            "set TCP_USER_TIMEOUT in the program here: it bounds how long unread data is kept",
        ]
    } else {
        [
            "find out whether the peer is gone or a firewall drops what is sent: ping, traceroute, tcpdump at both ends",
            "let the program here end idle connections with keepalive or TCP_USER_TIMEOUT while the peer is still known",
        ]
    };
    let finding = Finding::new(&CLOSING, Severity::Warning, sentence)
        .shown_by(states)
        .shown_by([
            Evidence::new(
                "sent again without an answer",
                total - probing,
                "sockets",
                "sock_diag: timer and retransmits",
            ),
            Evidence::new("peer's window is zero", probing, "sockets", "sock_diag: timer"),
            Evidence::new("not acknowledged", unsent, "bytes", "sock_diag"),
            Evidence::new("held by no process", orphans, "orphans", "sock_diag"),
        ])
        .shown_by(silence(stuck.iter().copied()))
        .shown_by([namespace.set("ipv4/tcp_orphan_retries")])
        .shown_by(placed(&places));
    let owners = facts.machine.owners(stuck.iter().copied());
    Some(
        finding
            .shown_by(owners.into_iter().filter_map(|(owner, _)| owner).next().map(|owner| owner.shown("held by")))
            .to_do(steps)
            .avoid(["do not lower tcp_fin_timeout: it ends FIN_WAIT2, not FIN_WAIT1, CLOSING or LAST_ACK"]),
    )
}

/// Connects that get no answer, by where they go: one finding each.
fn syn_sent(facts: &Facts, namespace: &Namespace) -> Vec<Finding> {
    let is_waiting = |it: &&Sample| it.state == TCP_SYN_SENT && (it.retried || is_silent(it, PASSING_MS));
    let mut services: BTreeMap<SocketAddr, Vec<&Sample>> = BTreeMap::new();
    for sample in namespace.sockets.samples.iter().filter(is_waiting) {
        services.entry((sample.tuple.raddr, sample.tuple.rport).into()).or_default().push(sample);
    }
    let mut services: Vec<_> = services.into_iter().filter(|(_, waiting)| waiting.len() as u64 >= SOME).collect();
    services.sort_by_key(|(_, waiting)| Reverse(waiting.len()));
    services.into_iter().take(TOP).map(|(service, waiting)| unanswered(facts, namespace, service, &waiting)).collect()
}

fn unanswered(facts: &Facts, namespace: &Namespace, service: SocketAddr, waiting: &[&Sample]) -> Finding {
    let there = namespace.sockets.opened.iter().filter(|(to, _)| SocketAddr::from((to.raddr, to.rport)) == service);
    let open: u64 = there.map(|(_, ends)| ends.established).sum();
    let severity = if waiting.len() as u64 >= MANY || open == 0 { Severity::Warning } else { Severity::Note };
    let [longest, median] = silence(waiting.iter().copied());
    let count = counted(waiting.len() as u64, namespace, TCP_SYN_SENT);
    let owner = facts.machine.owners(waiting.iter().copied()).into_iter().find_map(|(owner, _)| owner);
    let by = owner.map(|owner| format!(" by {owner}")).unwrap_or_default();
    let sentence = format!("{count} connects{by} to {service} wait in SYN_SENT: the peer does not answer");
    let resent = waiting.iter().filter(|it| it.retried).count() as u64;
    Finding::new(&SYN_SENT, severity, sentence)
        .shown_by([
            Evidence::new("SYN_SENT", waiting.len() as u64, "sockets that wait", "sock_diag"),
            Evidence::new("SYN sent again", resent, "sockets", "sock_diag: retransmits"),
            Evidence::new("established there", open, "sockets", "sock_diag"),
            Evidence { name: "waiting for, the longest".to_owned(), ..longest },
            Evidence { name: "waiting for, the median".to_owned(), ..median },
            namespace.set("ipv4/tcp_syn_retries"),
        ])
        .shown_by(owner.map(|owner| owner.shown("opened by")))
        .to_do([
            format!(
                "find out why {service} does not answer: is the host up, does a firewall drop, is its SYN queue full?"
            ),
            "give the program a timeout for connect() of a few seconds: the kernel's own is two minutes".to_owned(),
        ])
        .avoid(["do not tune TIME_WAIT for this: a connect() without an answer leaves none"])
}

/// Handshakes that do not end, where the queue is not full yet: listen.syn-queue tells of those that are.
fn syn_recv(facts: &Facts, namespace: &Namespace) -> Vec<Finding> {
    let room = |it: &Listener| u64::from(it.limit) * u64::from(it.sharing.max(1));
    let is_pile = |it: &&Listener| {
        let is_stuck = it.resent * 2 >= it.requests || it.requests * 2 >= room(it);
        (MANY..room(it).max(MANY)).contains(&it.requests) && is_stuck
    };
    let mut listeners: Vec<&Listener> = namespace.sockets.listeners.iter().filter(is_pile).collect();
    listeners.sort_by_key(|it| (Reverse(it.requests), it.port, it.address, it.inode));
    // Those that share a place share its requests.
    listeners.dedup_by_key(|it| (it.address, it.port));
    let finding = |it: &Listener| {
        let place = SocketAddr::from((it.address, it.port));
        let owner = facts.machine.owner(it.inode);
        let of = owner.map(|owner| format!(" of {owner}")).unwrap_or_default();
        let (requests, room) = (it.requests, room(it));
        let sentence =
            format!("{requests} handshakes at {place}{of} wait in SYN_RECV, limit {room}: the clients do not answer");
        Finding::new(&SYN_RECV, Severity::Warning, sentence)
            .shown_by([
                Evidence::new(name(TCP_SYN_RECV), requests, format!("of {room}"), "sock_diag"),
                Evidence::new("SYN-ACK sent again", it.resent, "of these", "sock_diag: retransmits"),
                namespace.set("ipv4/tcp_syncookies"),
                namespace.set("ipv4/tcp_synack_retries"),
                namespace.set("ipv4/tcp_max_syn_backlog"),
            ])
            .shown_by(owner.map(|owner| owner.shown("accepted by")))
            .to_do([
                format!(
                    "look whose SYNs these are: `{}`; from many addresses it is a SYN flood, from one a broken way back",
                    namespace.command(&format!("ss -tn state syn-recv sport = :{}", it.port))
                ),
                "see whether the SYN-ACKs leave and reach the clients: a route or a firewall on the way back".to_owned(),
            ])
            .avoid(["do not switch tcp_syncookies off: past the limit it is what answers"])
    };
    listeners.into_iter().take(TOP).map(finding).collect()
}

fn fine(namespace: &Namespace) -> Finding {
    let sockets = &namespace.sockets;
    let states = NAMES.iter().map(|(state, name)| (*name, sockets.states.of(*state))).filter(|(_, count)| *count > 0);
    let mut shown: Vec<(&str, u64)> = states.collect();
    let minisocks = [("TIME-WAIT", sockets.time_wait), ("FIN-WAIT-2, minisocks", sockets.fin_wait2)];
    shown.extend(minisocks.into_iter().filter(|(_, count)| *count > 0));
    let all: u64 = shown.iter().map(|(_, count)| count).sum();
    let sentence = match all {
        0 => "there are no TCP sockets".to_owned(),
        1 => "one TCP socket, in a state that it may stay in".to_owned(),
        _ => format!("{all} TCP sockets, and in no state do they pile up"),
    };
    let evidence = shown.into_iter().map(|(name, count)| Evidence::new(name, count, "sockets", "sock_diag"));
    Finding::new(&FINE, Severity::Fine, sentence).shown_by(evidence)
}

#[cfg(test)]
mod tests;
