//! What would keepalive save? Many short connections to one place, and how few would do.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use super::{is_program, ports::TOP};
use crate::{
    doctor::{
        facts::{Facts, Namespace},
        finding::{Evidence, Finding, Severity, Story},
    },
    host::sockets::{Ends, Service},
};

/// So many connections per second to one place are many.
const MANY: f64 = 10.0;
/// If their TIME_WAITs are this share of the ports or of the buckets, it is a warning.
const MUCH: f64 = 0.1;

/// A connection that carries so many bytes is not short.
const MUCH_BYTES: f64 = 32.0 * 1024.0;

/// Many short ones to one place.
pub const SHORT: Story = Story {
    id: "keepalive.short-connections",
    title: "Many short connections go to one place: keepalive would save most of them",
    why: "By Little's law as many connections are open at a time as begin per second, times how long each lasts; \
          that many, kept open and used again, do the same work without a handshake and a TIME_WAIT for each request.",
    story: "twtrace counts how many TIME_WAITs began in the last moments (their timers tell how old they are) by \
            destination and by service, and how many connections are open there now. Rate and number give the mean \
            life of a connection; the number alone, with as much again for bursts, is the size of the pool that would \
            be enough. What is saved: a handshake and a close for each request, with TLS several round trips, and \
            rate times 60 sockets in TIME_WAIT with their ports.\n\n\
            nginx does not keep connections to an upstream unless it is told to (its HTTP/1.0 and 'Connection: \
            close' make the upstream close first, so the TIME_WAITs are over there):\n\n\
            \x20   upstream app { server 192.0.2.1:8080; keepalive 32; }\n\
            \x20   location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; }\n\n\
            'keepalive' counts idle connections of each worker process. HAProxy keeps them by default: look for \
            'option httpclose' and 'option http-server-close' and remove them, and use 'http-reuse safe'. Envoy keeps \
            them too: look for max_requests_per_connection: 1 and for a short idle_timeout in the cluster. In programs: \
            one client with its pool for all requests instead of one for each, and read each answer to its end.\n\n\
            Whoever waits the longer should close last: an idle timeout at the server above that of the clients' pools.",
    holds: "",
    does_not: "",
    by_hand: &[
        "ss -Htan state time-wait | awk '{print $3, $4}' | sort | uniq -c | sort -n | tail",
        "nstat -d 10 TcpActiveOpens TcpPassiveOpens",
    ],
    sources: &["RFC 9112, section 9.3", "nginx: ngx_http_upstream_module, keepalive", "J. D. C. Little, 1961: L = λW"],
};

/// The peer closes first.
pub const PEER_CLOSES: Story = Story {
    id: "keepalive.peer-closes",
    title: "This host opens many short connections that the peer closes first",
    why: "The end that closes first has the TIME_WAIT; these connections leave none here, so they show only as a rate. Their \
          cost, a handshake for each request, is the same.",
    story: "Tcp ActiveOpens counts every connect(). What is neither in TIME_WAIT here nor at a service of this host \
            was closed by a peer elsewhere. sock_diag cannot tell where such connections went once they are gone; \
            those that are open at the moment give the direction. See keepalive.short-connections for the remedy.",
    holds: "",
    does_not: "",
    by_hand: &[
        "nstat -d 10 TcpActiveOpens",
        "sudo twtrace run --by dest     # counts closes by the peer for each service",
    ],
    sources: &["net/ipv4/tcp_output.c: tcp_connect (TCP_MIB_ACTIVEOPENS)"],
};

/// There are none.
pub const ROOM: Story = Story {
    id: "keepalive.enough",
    title: "Few short connections begin here: keepalive would save little",
    why: "No place gets more than ten connections per second whose close left a TIME_WAIT here.",
    story: "See keepalive.short-connections for what is counted, and how.",
    holds: "",
    does_not: "",
    by_hand: &["nstat -d 10 TcpActiveOpens TcpPassiveOpens"],
    sources: &["net/ipv4/tcp_output.c: tcp_connect", "net/ipv4/tcp_input.c: tcp_rcv_state_process"],
};

/// What this question can find.
pub const STORIES: &[Story] = &[SHORT, PEER_CLOSES, ROOM];

/// Connections from somewhere to a service, of which one end at least is here.
#[derive(Clone, Debug)]
struct Stream<'a> {
    service: SocketAddr,
    /// The end that opens, if it is here.
    client: Option<(IpAddr, &'a Ends)>,
    /// The end that accepts, if it is here.
    server: Option<&'a Ends>,
    /// TIME_WAITs begun per second, at either end.
    per_s: f64,
}

impl Stream<'_> {
    /// Connections that are open now: as many as the end that is here has.
    fn open(&self) -> u64 {
        let of = |ends: &Ends| ends.established + ends.other;
        self.client.map_or(0, |(_, ends)| of(ends)).max(self.server.map_or(0, of))
    }

    /// Connections that would do if they were kept: as much again for bursts, and enough to be worth a pool.
    fn pool(&self) -> u64 {
        (self.open() * 2).next_power_of_two().clamp(16, 1024)
    }

    fn closer(&self) -> &'static str {
        let (client, server) = (self.client.map_or(0, |(_, it)| it.recent), self.server.map_or(0, |it| it.recent));
        if client > server { "the client" } else { "the server" }
    }

    /// Bytes per connection, of those that are open.
    fn bytes(&self) -> Option<f64> {
        let ends = self.client.map(|(_, ends)| ends).or(self.server).filter(|ends| ends.asked > 0)?;
        Some(ends.bytes as f64 / ends.asked as f64)
    }
}

/// Judges.
#[must_use]
pub fn check(facts: &Facts, namespace: &Namespace) -> Vec<Finding> {
    let streams = streams(namespace);
    let many = |stream: &&Stream<'_>| stream.per_s >= MANY && !carries_much(namespace, stream);
    let many: Vec<&Stream<'_>> = streams.iter().filter(many).take(TOP).collect();
    let mut findings: Vec<Finding> = many.into_iter().map(|stream| short(facts, namespace, stream)).collect();
    findings.extend(peer_closes(facts, namespace, &streams));
    if findings.is_empty() {
        findings.push(enough(namespace, &streams));
    }
    findings
}

/// Its connections carry so much that a handshake more or less is nothing: they are used again already, or what is sent
/// is large. Those that are open now are rather the long ones, so what the whole namespace sends has to agree.
fn carries_much(namespace: &Namespace, stream: &Stream<'_>) -> bool {
    let much = |bytes: Option<f64>| bytes.is_some_and(|bytes| bytes >= MUCH_BYTES);
    much(stream.bytes()) && much(octets_per_connection(namespace))
}

/// Those with the highest rate first. The two ends of a connection within this namespace are one stream.
fn streams(namespace: &Namespace) -> Vec<Stream<'_>> {
    let sockets = &namespace.sockets;
    let opens = namespace.opens_per_s();
    let rate = |ends: &Ends| ends.per_s(opens);
    // The accepting end's sockets are put to the client address that has most; mostly there is one.
    let mut fullest: HashMap<(IpAddr, u16), (u64, IpAddr)> = HashMap::new();
    for (to, ends) in &sockets.opened {
        let most = fullest.entry((to.raddr, to.rport)).or_insert((0, to.laddr));
        *most = (*most).max((ends.total(), to.laddr));
    }
    let opened = sockets.opened.iter().map(|(to, ends)| {
        let is_fullest = fullest.get(&(to.raddr, to.rport)).is_some_and(|(_, laddr)| *laddr == to.laddr);
        let service = Service { laddr: to.raddr, lport: to.rport };
        let server = sockets.accepted.get(&service).filter(|_| is_fullest);
        Stream {
            service: (to.raddr, to.rport).into(),
            client: Some((to.laddr, ends)),
            server,
            per_s: rate(ends) + server.map_or(0.0, rate),
        }
    });
    let is_elsewhere = |service: &Service| !fullest.contains_key(&(service.laddr, service.lport));
    let accepted = sockets.accepted.iter().filter(|(service, _)| is_elsewhere(service)).map(|(service, ends)| Stream {
        service: (service.laddr, service.lport).into(),
        client: None,
        server: Some(ends),
        per_s: rate(ends),
    });
    let mut streams: Vec<Stream<'_>> = opened.chain(accepted).collect();
    streams.sort_by(|a, b| b.per_s.total_cmp(&a.per_s).then(a.service.cmp(&b.service)));
    streams
}

fn short(facts: &Facts, namespace: &Namespace, stream: &Stream<'_>) -> Finding {
    let rate = stream.per_s;
    let open = stream.open();
    let pool = stream.pool();
    let waits = rate * f64::from(namespace.time_wait_ms()) / 1000.0;
    let ports = namespace.available() as f64;
    let buckets = namespace.sysctl("ipv4/tcp_max_tw_buckets").map_or(f64::INFINITY, |limit| limit as f64);
    let severity = if waits >= ports.min(buckets) * MUCH { Severity::Warning } else { Severity::Note };
    let remote = (stream.service.ip(), stream.service.port());
    let client = namespace.opener(&facts.machine, remote, stream.client.and_then(|(_, ends)| ends.inode));
    let server = facts.machine.owner(listener_inode(namespace, stream.service).unwrap_or_default());
    let from = match (client, stream.client) {
        (Some(owner), _) => format!(" by {owner}"),
        (None, Some((laddr, _))) => format!(" from {laddr}"),
        (None, None) => String::new(),
    };
    let sentence = format!(
        "{rate:.0} short connections per second go to {}{from}: about {pool} that are kept open would do",
        stream.service
    );
    let mut evidence = vec![
        Evidence::new("TIME_WAITs begun", rate, "1/s", "sock_diag: the age of each"),
        Evidence::new("open now", open, "connections", "sock_diag"),
        Evidence::new("mean life", mean_life_ms(open, rate), "ms", "open now / rate (Little's law)"),
        Evidence::new("closed first by", stream.closer(), "", "sock_diag: who has the TIME_WAIT"),
        Evidence::new("TIME_WAITs at that rate", waits, "sockets", "rate × length, if no SYN takes one over"),
        Evidence::new("bytes per open connection", stream.bytes(), "bytes", "sock_diag tcp_info"),
    ];
    evidence.extend(rates(namespace));
    evidence.extend(client.map(|owner| owner.shown("opened by")));
    evidence.extend(server.map(|owner| owner.shown("accepted by")));
    Finding::new(&SHORT, severity, sentence)
        .shown_by(evidence)
        .to_do(remedies(stream, client.map(|owner| owner.comm), server.map(|owner| owner.comm)))
        .avoid([
            "do not tune TIME_WAIT for this: the handshakes cost more than the sockets",
            "do not set SO_LINGER 0: it cuts answers off",
        ])
}

fn mean_life_ms(open: u64, rate: f64) -> Option<f64> {
    // None open in one look is no life of 0.
    (open > 0 && rate > 0.0).then(|| open as f64 / rate * 1000.0)
}

fn listener_inode(namespace: &Namespace, service: SocketAddr) -> Option<u32> {
    let mut listeners = namespace.sockets.listeners.iter();
    let is_it = |address: IpAddr| address == service.ip() || address.is_unspecified();
    listeners.find(|it| it.port == service.port() && is_it(it.address)).map(|it| it.inode)
}

/// What to do, in the words of whoever opens the connections.
fn remedies(stream: &Stream<'_>, client: Option<&str>, server: Option<&str>) -> Vec<String> {
    let (service, pool) = (stream.service, stream.pool());
    let mut steps = match client {
        Some(comm) if is_program(comm, "nginx") => vec![
            format!("nginx, in an upstream block with {service}, which proxy_pass has to name: keepalive {pool};"),
            "nginx, in the location: proxy_http_version 1.1;".to_owned(),
            "nginx, in the location: proxy_set_header Connection \"\";".to_owned(),
        ],
        Some(comm) if is_program(comm, "haproxy") => vec![
            "HAProxy, in the backend: http-reuse safe".to_owned(),
            "HAProxy: remove 'option httpclose' and 'option http-server-close'".to_owned(),
        ],
        Some(comm) if is_program(comm, "envoy") => vec![
            "Envoy, in the cluster: remove max_requests_per_connection: 1 (common_http_protocol_options)".to_owned(),
            "Envoy, in the cluster: common_http_protocol_options.idle_timeout of a minute or more".to_owned(),
        ],
        Some(comm) => vec![format!(
            "let {comm} keep its connections to {service}: one client with a pool of {pool} for all requests"
        )],
        None => vec![format!("let the clients of {service} keep their connections and use them again")],
    };
    if stream.closer() == "the server" {
        steps.push(match server {
            Some(comm) if is_program(comm, "nginx") => {
                "nginx at the accepting end: keepalive_timeout 75s; keepalive_requests 1000; (or more)".to_owned()
            }
            Some(comm) => format!("see that {comm} does not close after each answer: its keepalive timeout and limits"),
            None => "see that the server does not close after each answer: its keepalive timeout and limits".to_owned(),
        });
    }
    steps
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

fn peer_closes(facts: &Facts, namespace: &Namespace, streams: &[Stream<'_>]) -> Option<Finding> {
    let rate = namespace.per_s("Tcp", "ActiveOpens")?;
    let sockets = &namespace.sockets;
    // What began in the last second, at either end: those of a server elsewhere are among what a peer here has opened.
    let told: u64 = sockets.opened.values().chain(sockets.accepted.values()).map(|ends| ends.young).sum();
    // Nor do these leave a TIME_WAIT, whoever closes: what failed, was reset, or found no bucket.
    let otherwise = [("Tcp", "AttemptFails"), ("Tcp", "EstabResets"), ("TcpExt", "TCPTimeWaitOverflow")];
    let lost: f64 = otherwise.iter().filter_map(|(group, name)| namespace.per_s(group, name)).sum();
    let untold = rate - told as f64 - lost;
    if untold < MANY * 5.0 || untold < rate / 2.0 {
        return None;
    }
    let mut open: Vec<&Stream<'_>> = streams.iter().filter(|stream| stream.client.is_some()).collect();
    open.sort_by(|a, b| b.open().cmp(&a.open()).then(a.service.cmp(&b.service)));
    let owned = open.iter().find_map(|stream| Some((stream, facts.machine.owner(stream.client?.1.inode?)?.comm)));
    let sentence = format!("{untold:.0} connections per second are opened here and closed first by their peer");
    let shown = open
        .iter()
        .take(TOP)
        .map(|stream| Evidence::new(format!("open to {}", stream.service), stream.open(), "connections", "sock_diag"));
    let mut steps = vec!["watch where they go: sudo twtrace run --by dest".to_owned()];
    if let Some((stream, comm)) = owned {
        steps.extend(remedies(stream, Some(comm), None));
    }
    Some(
        Finding::new(&PEER_CLOSES, Severity::Note, sentence)
            .shown_by(rates(namespace))
            .shown_by([Evidence::new("TIME_WAITs begun here in the last second", told, "minisocks", "sock_diag")])
            .shown_by(shown)
            .to_do(steps)
            .avoid(["do not look for these in ss: a connection that the peer closed first leaves nothing here"]),
    )
}

fn enough(namespace: &Namespace, streams: &[Stream<'_>]) -> Finding {
    let sentence = match streams.first() {
        Some(stream) if stream.per_s > 0.0 => {
            format!("the busiest place, {}, gets {:.1} short connections per second", stream.service, stream.per_s)
        }
        _ => "no short connections: no TIME_WAIT began in the last ten seconds".to_owned(),
    };
    Finding::new(&ROOM, Severity::Fine, sentence).shown_by(rates(namespace))
}

#[cfg(test)]
mod tests;
