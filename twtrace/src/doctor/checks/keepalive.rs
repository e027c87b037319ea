//! What would keepalive save? Many short connections to one place, and how few would do.

mod nginx;
mod opener;
mod remedies;
mod stories;
mod streams;

use std::net::{IpAddr, SocketAddr};

use opener::{Pool, opener};
use remedies::Case;
use streams::{Stream, streams};

use super::ports::{TOP, is_reused};
use crate::{
    doctor::{
        facts::{Facts, Namespace, Traced},
        finding::{Evidence, Finding, Severity, Story},
    },
    host::sockets::{Ends, Peers},
    model::occupancy::Destination,
};

pub use stories::{MANY_CLIENTS, PEER_CLOSES, ROOM, SHORT};

/// So many connections per second to one place are many.
const MANY: f64 = 10.0;
/// If their TIME_WAITs are this share of the ports or of the buckets, it is a warning.
const MUCH: f64 = 0.1;
/// A connection that carries so many bytes is not short.
const MUCH_BYTES: f64 = 32.0 * 1024.0;
/// With fewer connections a minute a client has nothing to pool.
const FEW_PER_MINUTE: f64 = 10.0;
/// The smallest pool that is worth a line, and the largest that is advised.
const POOL: (u64, u64) = (16, 1 << 16);
/// This share of the new connections that were seen goes to one place: it is they.
const MOSTLY: f64 = 0.8;

/// What this question can find.
pub const STORIES: &[Story] = &[SHORT, PEER_CLOSES, MANY_CLIENTS, ROOM];

/// Judges.
#[must_use]
pub fn check(facts: &Facts, namespace: &Namespace) -> Vec<Finding> {
    let streams = streams(namespace);
    let is_many = |stream: &&Stream<'_>| {
        is_stuck(namespace, stream) || stream.per_s >= MANY && !carries_much(facts, namespace, stream)
    };
    let many: Vec<&Stream<'_>> = streams.iter().filter(is_many).take(TOP).collect();
    let mut findings: Vec<Finding> = many
        .into_iter()
        .map(|stream| match crowd(namespace, stream) {
            Some(peers) => many_clients(namespace, stream, peers),
            None => short(facts, namespace, stream),
        })
        .collect();
    findings.extend(peer_closes(facts, namespace, &streams));
    if findings.is_empty() {
        findings.push(enough(namespace, &streams));
    }
    findings
}

/// No connection to it can begin: all ports are held, most of them by TIME_WAITs that connect() may not take over.
fn is_stuck(namespace: &Namespace, stream: &Stream<'_>) -> bool {
    stream.client.is_some_and(|(laddr, ends)| {
        let to = Destination { laddr, raddr: stream.service.ip(), rport: stream.service.port() };
        let is_full = ends.in_range > 0 && ends.in_range >= namespace.available();
        let is_free = is_reused(namespace, &to) && ends.time_wait > ends.young;
        is_full && !is_free && ends.time_wait.saturating_mul(2) >= ends.in_range
    })
}

/// True of a stream whose connections carry so much that a handshake more or less is nothing: they are used again already, or
/// what is sent is large. Those that are open now are rather the long ones, so what the whole namespace sends has to agree. A trace tells
/// of the very connections that ended.
fn carries_much(facts: &Facts, namespace: &Namespace, stream: &Stream<'_>) -> bool {
    let much = |bytes: Option<f64>| bytes.is_some_and(|bytes| bytes >= MUCH_BYTES);
    match traced(facts, namespace, stream.service).and_then(Traced::mean_bytes) {
        Some(bytes) => bytes >= MUCH_BYTES,
        None => much(stream.bytes()) && much(octets_per_connection(namespace)),
    }
}

/// What a trace told of the connections to a service. The trace is of the namespace that was asked for.
fn traced<'a>(facts: &'a Facts, namespace: &Namespace, service: SocketAddr) -> Option<&'a Traced> {
    let is_first = facts.namespaces.first().is_some_and(|first| first.inum == namespace.inum);
    facts.trace.as_ref().filter(|_| is_first)?.services.get(&(service.ip(), service.port()))
}

/// The clients of a service of this host, if they are so many that each opens few connections.
fn crowd(namespace: &Namespace, stream: &Stream<'_>) -> Option<Peers> {
    let peers = stream.server.filter(|_| stream.client.is_none())?.peers;
    let minute = stream.per_s * f64::from(namespace.time_wait_ms()) / 1000.0;
    let is_crowd = peers.at_least || peers.count > 1 && minute / (peers.count as f64) < FEW_PER_MINUTE;
    is_crowd.then_some(peers)
}

/// How bad a rate is, whoever closes: what its TIME_WAITs would take of the buckets, and of the ports if a client is
/// here.
fn severity(namespace: &Namespace, per_s: f64, is_opened: bool) -> Severity {
    let ports = if is_opened { namespace.available() as f64 } else { f64::INFINITY };
    let buckets = namespace.sysctl("ipv4/tcp_max_tw_buckets").map_or(f64::INFINITY, |limit| limit as f64);
    if minute(namespace, per_s) >= ports.min(buckets) * MUCH { Severity::Warning } else { Severity::Note }
}

/// TIME_WAITs at a rate.
fn minute(namespace: &Namespace, per_s: f64) -> f64 {
    per_s * f64::from(namespace.time_wait_ms()) / 1000.0
}

fn short(facts: &Facts, namespace: &Namespace, stream: &Stream<'_>) -> Finding {
    let service = stream.service;
    let traced = traced(facts, namespace, service);
    let life_ms = traced.and_then(Traced::mean_life).map(|life| life.as_secs_f64() * 1000.0);
    let by_trace = life_ms.map_or(0.0, |life| stream.per_s * life / 1000.0);
    let pool = Pool::of(by_trace.max(stream.at_a_time().unwrap_or(0.0)).max(stream.open() as f64));
    let remote = (service.ip(), service.port());
    let client = opener(facts, namespace, remote, stream.client.and_then(|(_, ends)| ends.inode), traced);
    let server = facts.machine.owner(listener_inode(namespace, service).unwrap_or_default());
    let who = match (client.owner, stream.client) {
        (Some(owner), _) => Some(owner.to_string()),
        (None, Some((laddr, _))) => Some(laddr.to_string()),
        (None, None) => None,
    };
    let stuck = is_stuck(namespace, stream);
    let sentence = match (who, stuck) {
        (Some(who), true) => format!(
            "{who} left {} short connections to {service} in TIME_WAIT, and no port is free for another: {}",
            stream.time_wait(),
            pool.words()
        ),
        (Some(who), false) => {
            format!("{who} opens {:.0} short connections per second to {service}: {}", stream.per_s, pool.words())
        }
        (None, _) => format!("{:.0} short connections per second go to {service}: {}", stream.per_s, pool.words()),
    };
    let severity = if stuck { Severity::Warning } else { severity(namespace, stream.per_s, stream.client.is_some()) };
    let case = Case {
        service,
        pool: pool.pool,
        per_s: stream.per_s,
        peer_first: !stream.is_closed_by_client(),
        client: client.comm(),
        nginx: client.nginx,
        server: server.map(|owner| owner.comm),
        serving: server.and_then(|owner| facts.machine.nginxes.iter().find(|nginx| nginx.has(owner.pid))),
    };
    let closer = if stream.is_closed_by_client() { "the client" } else { "the server" };
    let mean_life = match life_ms {
        Some(life) => Evidence::new("mean life", life, "ms", "the trace: conn_ns"),
        None => Evidence::new("mean life", stream.mean_life_ms(), "ms", "open at a time / rate (Little's law)"),
    };
    let bytes = match traced.and_then(Traced::mean_bytes) {
        Some(bytes) => Evidence::new("bytes per connection", bytes, "bytes", "the trace: bytes_in + bytes_out"),
        None => Evidence::new("bytes per open connection", stream.bytes(), "bytes", "sock_diag tcp_info"),
    };
    let mut evidence = begun(stream, stuck);
    evidence.extend([
        Evidence::new("open now", stream.open(), "connections", "sock_diag"),
        mean_life,
        Evidence::new("closed first by", closer, "", "sock_diag: who has the TIME_WAIT"),
        Evidence::new(
            "TIME_WAITs at that rate",
            minute(namespace, stream.per_s),
            "sockets",
            "rate × length, if no SYN takes one over",
        ),
        bytes,
    ]);
    if let Some(open) = stream.came {
        let source = format!("sock_diag, {} looks", namespace.looks);
        evidence.push(Evidence::new("short ones open at a time", open, "connections", source));
    }
    evidence.extend(rates(namespace));
    evidence.extend(client.shown());
    evidence.extend(server.map(|owner| owner.shown("accepted by")));
    evidence.extend(nginx::shown(&case));
    Finding::new(&SHORT, severity, sentence).shown_by(evidence).to_do(remedies::steps(&case)).avoid(AVOID)
}

const AVOID: [&str; 2] = [
    "do not tune TIME_WAIT for this: the handshakes cost more than the sockets",
    "do not set SO_LINGER 0: it cuts answers off",
];

/// The rate and what says so, or what is left where none can begin.
fn begun(stream: &Stream<'_>, stuck: bool) -> Vec<Evidence> {
    let recent =
        Evidence::new("TIME_WAITs younger than 10 s", stream.recent(), "sockets", "sock_diag: the age of each");
    if stuck && stream.per_s == 0.0 {
        let held = Evidence::new("TIME_WAIT", stream.time_wait(), "sockets", "sock_diag");
        return vec![held, recent];
    }
    vec![Evidence::new("TIME_WAITs begun", stream.per_s, "1/s", stream.basis.source()), recent]
}

fn many_clients(namespace: &Namespace, stream: &Stream<'_>, peers: Peers) -> Finding {
    let rate = stream.per_s;
    let sentence = format!(
        "{peers} clients open {rate:.0} short connections per second to {}: too few for each to gain by a pool",
        stream.service
    );
    let each = Evidence::new(
        "connections of each client in a minute",
        (!peers.at_least && peers.count > 0).then(|| minute(namespace, rate) / peers.count as f64),
        "connections",
        "rate × length of TIME_WAIT / clients",
    );
    Finding::new(&MANY_CLIENTS, Severity::Note, sentence)
        .shown_by(begun(stream, false))
        .shown_by([Evidence::new("clients", peers.to_string(), "remote addresses", "sock_diag"), each])
        .shown_by(rates(namespace))
        .avoid(["do not tune TIME_WAIT for this: an accepting end runs out of no port"])
}

fn listener_inode(namespace: &Namespace, service: SocketAddr) -> Option<u32> {
    let mut listeners = namespace.sockets.listeners.iter();
    let is_it = |address: IpAddr| address == service.ip() || address.is_unspecified();
    listeners.find(|it| it.port == service.port() && is_it(it.address)).map(|it| it.inode)
}

/// Bytes in both directions, by connections opened or accepted here, between the looks. On loopback each is counted
/// twice.
fn octets_per_connection(namespace: &Namespace) -> Option<f64> {
    let moved = |group, name| namespace.moved(group, name);
    let opened = moved("Tcp", "ActiveOpens")?.saturating_add(moved("Tcp", "PassiveOpens")?);
    let octets = moved("IpExt", "InOctets")?.saturating_add(moved("IpExt", "OutOctets")?);
    (opened > 0).then(|| octets as f64 / opened as f64)
}

/// What the whole namespace opens and accepts, and how much goes over one connection.
fn rates(namespace: &Namespace) -> Vec<Evidence> {
    let source = namespace.twice("/proc/net/snmp");
    let rate = |name| Evidence::new(name, namespace.per_s("Tcp", name), "1/s, all", source.clone());
    let each = octets_per_connection(namespace);
    let unit = "bytes, all";
    let source = "/proc/net/netstat IpExt InOctets + OutOctets, by connections opened or accepted";
    vec![rate("ActiveOpens"), rate("PassiveOpens"), Evidence::new("octets per connection", each, unit, source)]
}

/// Growth of the connections that are open, per second: what is opened and kept is not short.
fn kept_per_s(namespace: &Namespace) -> f64 {
    namespace.per_s("Tcp", "CurrEstab").unwrap_or(0.0)
}

/// The place that most of the new connections go to, of those that were seen and whose TIME_WAITs are not here; and how many
/// were seen to go anywhere.
fn busiest(namespace: &Namespace, streams: &[Stream<'_>]) -> Option<(SocketAddr, u64, u64)> {
    let is_told = |service: &SocketAddr| streams.iter().any(|it| it.service == *service && it.per_s >= MANY);
    let came = namespace.came.iter().map(|(remote, came)| (SocketAddr::from(*remote), came.sockets));
    let came: Vec<(SocketAddr, u64)> = came.filter(|(service, sockets)| *sockets > 1 && !is_told(service)).collect();
    let all = came.iter().map(|(_, sockets)| *sockets).fold(0, u64::saturating_add);
    let (service, most) = came.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(&a.0)))?;
    Some((service, most, all))
}

fn peer_closes(facts: &Facts, namespace: &Namespace, streams: &[Stream<'_>]) -> Option<Finding> {
    let rate = namespace.per_s("Tcp", "ActiveOpens")?;
    // What began, at either end: those of a server elsewhere are among what a peer here has opened.
    let sockets = &namespace.sockets;
    let young: u64 =
        sockets.opened.values().chain(sockets.accepted.values()).map(|it| it.young).fold(0, u64::saturating_add);
    let told = streams.iter().map(|stream| stream.per_s).sum::<f64>().max(young as f64);
    // Nor do these leave a TIME_WAIT, whoever closes: what failed, was reset, found no bucket, or is open still.
    let otherwise = [("Tcp", "AttemptFails"), ("Tcp", "EstabResets"), ("TcpExt", "TCPTimeWaitOverflow")];
    let lost: f64 = otherwise.iter().filter_map(|(group, name)| namespace.per_s(group, name)).sum();
    let untold = rate - told - lost - kept_per_s(namespace);
    if untold < MANY * 5.0 || untold < rate / 2.0 {
        return None;
    }
    let mut evidence = rates(namespace);
    evidence.push(Evidence::new("TIME_WAITs begun here in the last second", young, "minisocks", "sock_diag"));
    let watch = "watch where they go: sudo twtrace run --by dest".to_owned();
    let (sentence, steps) = match busiest(namespace, streams) {
        Some((service, most, all)) => {
            let remote = (service.ip(), service.port());
            let client = opener(facts, namespace, remote, None, None);
            let came = namespace.came.get(&remote).copied().unwrap_or_default();
            let pool = Pool::of(came.open);
            let is_it = most as f64 >= all as f64 * MOSTLY;
            let sentence = match (client.owner, is_it) {
                (Some(owner), true) => format!(
                    "{owner} opens {untold:.0} short connections per second to {service}, which closes them first: {}",
                    pool.words()
                ),
                (None, true) => format!(
                    "{untold:.0} short connections per second go to {service}, which closes them first: {}",
                    pool.words()
                ),
                (Some(owner), false) => format!(
                    "{untold:.0} connections per second are opened here and closed first by their peer; most go to \
                     {service}, opened by {owner}"
                ),
                (None, false) => format!(
                    "{untold:.0} connections per second are opened here and closed first by their peer; most go to \
                     {service}"
                ),
            };
            let source = format!("sock_diag, {} looks", namespace.looks);
            evidence.push(Evidence::new(format!("new to {service}"), most, format!("of {all} seen"), source.clone()));
            evidence.push(Evidence::new("short ones open at a time", came.open, "connections", source));
            evidence.extend(client.shown());
            let case = Case {
                service,
                pool: pool.pool,
                per_s: untold,
                peer_first: true,
                client: client.comm(),
                nginx: client.nginx,
                server: None,
                serving: None,
            };
            evidence.extend(nginx::shown(&case));
            let mut steps = remedies::steps(&case);
            steps.push(watch);
            (sentence, steps)
        }
        None => {
            let sentence = format!("{untold:.0} connections per second are opened here and closed first by their peer");
            (sentence, vec![watch])
        }
    };
    Some(
        Finding::new(&PEER_CLOSES, severity(namespace, untold, true), sentence)
            .shown_by(evidence)
            .to_do(steps)
            .avoid(["do not look for these in ss: a connection that the peer closed first leaves nothing here"]),
    )
}

fn enough(namespace: &Namespace, streams: &[Stream<'_>]) -> Finding {
    Finding::new(&ROOM, Severity::Fine, little(namespace, streams)).shown_by(rates(namespace))
}

/// What there is, as it was counted: absence is not told from a rate of 0.
fn little(namespace: &Namespace, streams: &[Stream<'_>]) -> String {
    if let Some(stream) = streams.first().filter(|stream| stream.per_s > 0.0) {
        return format!("the busiest place, {}, gets {:.1} short connections per second", stream.service, stream.per_s);
    }
    let all = streams.iter().flat_map(|stream| stream.client.map(|(_, ends)| ends).into_iter().chain(stream.server));
    let left = all.fold(Ends::default(), |sum, ends| Ends {
        time_wait: sum.time_wait.saturating_add(ends.time_wait),
        recent: sum.recent.saturating_add(ends.recent),
        last_left_ms: sum.last_left_ms.max(ends.last_left_ms),
        ..sum
    });
    if let Some(ended) = namespace.ended(&left, None) {
        return format!(
            "short connections have ended: the last of {} TIME_WAITs is {} s old, all are {}",
            left.time_wait,
            ended.since.as_secs(),
            namespace.gone_by(ended)
        );
    }
    if left.recent > 0 {
        return format!("{} short connections ended in the last 10 s, and none begins now", left.recent);
    }
    let opened = ["ActiveOpens", "PassiveOpens"].map(|name| namespace.moved("Tcp", name));
    let overflow = namespace.moved("TcpExt", "TCPTimeWaitOverflow").unwrap_or(0);
    match (opened, overflow, left.time_wait) {
        (_, 1.., _) => format!("{overflow} connections closed without a TIME_WAIT just now; see cost.overflow"),
        ([Some(0), Some(0)], _, 0) => format!(
            "no connection was opened or accepted for {:.1} s, and there is no TIME_WAIT",
            namespace.window.as_secs_f64()
        ),
        ([Some(active), Some(passive)], _, 0) if active > 0 || passive > 0 => format!(
            "{:.1} connections per second are opened and accepted; none is in TIME_WAIT here",
            namespace.opens_per_s().unwrap_or(0.0)
        ),
        (.., 0) => "there is no TIME_WAIT here".to_owned(),
        (.., waiting) => format!("the {waiting} TIME_WAITs here are all older than 10 s"),
    }
}

#[cfg(test)]
mod tests;
