//! Can tcp_tw_reuse help here? It serves the end that connects, and only with timestamps.

use super::ports;
use crate::doctor::{
    facts::{Facts, Namespace, Trace},
    finding::{Evidence, Finding, Severity, Story},
};

/// From this share of births without timestamps on it is a warning.
const MANY: f64 = 0.1;

/// It would help and is off.
pub const WOULD_HELP: Story = Story {
    id: "reuse.would-help",
    title: "tcp_tw_reuse would free ports here, and is off for them",
    why: "With tcp_tw_reuse = 1 connect() takes over a TIME_WAIT of the same connection that is older than a second, if \
          both ends used timestamps: they keep old segments out as TIME_WAIT did.",
    story: "net.ipv4.tcp_tw_reuse has three values. 0: connect() never takes over a TIME_WAIT whose port it chose itself. \
            2, the default since 4.19: only on loopback. 1: everywhere. It is asked only when connect() has found a port \
            whose connection to this very destination is in TIME_WAIT, and only if the peer's timestamps are known.\n\n\
            How old the TIME_WAIT has to be: since 6.14 net.ipv4.tcp_tw_reuse_delay milliseconds, counted from its \
            beginning (default 1000); before, until the clock shows another second than at the last timestamp of the \
            peer.\n\n\
            It does nothing for a socket that accepted its connection, and nothing for TIME_WAITs as such: it only \
            lets connect() have their ports.",
    by_hand: &[
        "sysctl net.ipv4.tcp_tw_reuse net.ipv4.tcp_tw_reuse_delay net.ipv4.tcp_timestamps",
        "nstat -az TcpExtTWRecycled     # how often connect() took one over",
    ],
    sources: &["net/ipv4/tcp_ipv4.c: tcp_twsk_unique", "RFC 6191"],
};

/// Timestamps are off.
pub const NO_TIMESTAMPS: Story = Story {
    id: "reuse.no-timestamps",
    title: "Without timestamps connect() can take over no TIME_WAIT",
    why: "tcp_tw_reuse rests on the peer's timestamps; a TIME_WAIT of a connection without them holds its port for the full \
          60 seconds, whatever tcp_tw_reuse says.",
    story: "Timestamps (RFC 7323) are used on a connection if both ends offer them in their SYN. \
            net.ipv4.tcp_timestamps = 0 on either is enough to have none. They are on by default (1) and cost twelve \
            bytes a segment; switching them off, as old tuning guides say, also takes PAWS away, which protects fast \
            connections from their own old segments.",
    by_hand: &["sysctl net.ipv4.tcp_timestamps", "ss -ti | grep -c ' ts '     # open connections that use them"],
    sources: &["net/ipv4/tcp_ipv4.c: tcp_twsk_unique", "RFC 7323, sections 3 and 5"],
};

/// Some peers have none.
pub const PEERS: Story = Story {
    id: "reuse.peers-without-timestamps",
    title: "Some peers do not use timestamps: their TIME_WAITs cannot be taken over",
    why: "Timestamps take both ends; a peer or a device on the way that leaves them out makes tcp_tw_reuse useless towards \
          it.",
    story: "sock_diag does not tell whether a connection in TIME_WAIT had timestamps; a trace does. Record one with \
            `twtrace run --format json --events born > FILE` and hand it over with --with-trace FILE: for each peer, \
            births of connections that were opened here are counted, and those among them without timestamps.",
    by_hand: &["tcpdump -nn 'tcp[tcpflags] & tcp-syn != 0'     # SYN and SYN-ACK: both should have TS val"],
    sources: &["net/ipv4/tcp_ipv4.c: tcp_twsk_unique", "RFC 7323, section 3.2"],
};

/// The TIME_WAITs are at the end that accepts.
pub const ACCEPTING: Story = Story {
    id: "reuse.accepting-side",
    title: "tcp_tw_reuse cannot help: these TIME_WAITs are of accepted connections",
    why: "tcp_tw_reuse is asked by connect() only. A TIME_WAIT of an accepted connection holds no port that this host \
          could run out of, and a new SYN of the same client takes it over in any case.",
    story: "TIME_WAIT is at the end that closes first. If that is the server, its TIME_WAITs all have the port of the \
            service, which they share with the listener: nothing runs out here. A client that comes back from the \
            same port is let in at once, if its sequence number or its timestamp is newer.\n\n\
            If there are too many nevertheless, let the clients close first, or keep connections open longer.",
    by_hand: &["ss -Htan state time-wait | awk '{print $3}' | sort | uniq -c | sort -n | tail   # by local end"],
    sources: &["net/ipv4/tcp_minisocks.c: tcp_timewait_state_process (TCP_TW_SYN)", "net/ipv4/tcp_ipv4.c: tcp_v4_rcv"],
};

/// What it means here.
pub const STATE: Story = Story {
    id: "reuse.state",
    title: "What tcp_tw_reuse means on this machine",
    why: "It lets connect() have the port of a TIME_WAIT that is old enough; it neither shortens TIME_WAIT nor serves the \
          end that accepts.",
    story: "See reuse.would-help for its values, and for what it asks for. A bind() to a port before connect(), with \
            SO_REUSEADDR at both sockets, takes a TIME_WAIT over at once and whatever the value.",
    by_hand: &["sysctl net.ipv4.tcp_tw_reuse net.ipv4.tcp_timestamps", "nstat -az TcpExtTWRecycled"],
    sources: &["net/ipv4/tcp_ipv4.c: tcp_twsk_unique"],
};

/// What this question can find.
pub const STORIES: &[Story] = &[WOULD_HELP, NO_TIMESTAMPS, PEERS, ACCEPTING, STATE];

/// Judges.
#[must_use]
pub fn check(facts: &Facts, namespace: &Namespace) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_first = facts.namespaces.first().is_some_and(|first| first.inum == namespace.inum);
    findings.extend(facts.trace.as_ref().filter(|_| is_first).and_then(peers));
    findings.extend(no_timestamps(namespace));
    if findings.iter().all(|finding| finding.id != NO_TIMESTAMPS.id) {
        findings.extend(would_help(namespace));
    }
    findings.extend(accepting(namespace));
    if findings.iter().all(|finding| finding.id == PEERS.id) {
        findings.push(state(namespace));
    }
    findings
}

fn settings(namespace: &Namespace) -> Vec<Evidence> {
    let mut evidence = vec![
        namespace.set("ipv4/tcp_tw_reuse"),
        namespace.set("ipv4/tcp_tw_reuse_delay"),
        namespace.set("ipv4/tcp_timestamps"),
    ];
    evidence.extend(namespace.counted("TcpExt", "TWRecycled"));
    evidence
}

/// The fullest destination, if ports become scarce there.
fn scarce(namespace: &Namespace) -> Option<(String, u64, bool)> {
    let fullest = ports::fullest(namespace);
    let (destination, ends) = fullest.first()?;
    let waits = ends.time_wait * 2 >= namespace.available();
    waits.then(|| (ports::name(destination), ends.time_wait, ports::is_reused(namespace, destination)))
}

fn no_timestamps(namespace: &Namespace) -> Option<Finding> {
    if namespace.sysctl("ipv4/tcp_timestamps") != Some(0) {
        return None;
    }
    let severity = if scarce(namespace).is_some() { Severity::Warning } else { Severity::Note };
    let sentence = "tcp_timestamps is 0: connect() can take over no TIME_WAIT, whatever tcp_tw_reuse says";
    Some(
        Finding::new(&NO_TIMESTAMPS, severity, sentence)
            .shown_by(settings(namespace))
            .to_do([
                "switch them on: sysctl -w net.ipv4.tcp_timestamps=1 (the default); it takes effect on new connections",
            ])
            .avoid(["do not count on tcp_tw_reuse before"]),
    )
}

fn would_help(namespace: &Namespace) -> Option<Finding> {
    let (place, waiting, reused) = scarce(namespace)?;
    if reused {
        return None;
    }
    let value = namespace.sysctl("ipv4/tcp_tw_reuse");
    let meaning = match value {
        Some(2) => "2, for loopback alone",
        Some(0) => "0, off",
        _ => "not known",
    };
    let sentence = format!("{waiting} TIME_WAITs hold ports from {place}, and tcp_tw_reuse is {meaning}");
    Some(
        Finding::new(&WOULD_HELP, Severity::Warning, sentence)
            .shown_by(settings(namespace))
            .to_do([
                "keep connections open and use them again; nothing has to be reused then",
                "if that cannot be: sysctl -w net.ipv4.tcp_tw_reuse=1, which is for the end that connects, and takes \
                 timestamps at both ends",
            ])
            .avoid([
                "do not look for tcp_tw_recycle: it broke clients behind NAT, and is gone since 4.12",
                "do not set SO_LINGER 0 to get rid of TIME_WAIT: it throws away what the peer has not read",
            ]),
    )
}

fn accepting(namespace: &Namespace) -> Option<Finding> {
    let accepted: u64 = namespace.sockets.accepted.values().map(|ends| ends.time_wait).sum();
    let all = namespace.sockets.time_wait;
    if accepted < 100 || accepted * 2 <= all {
        return None;
    }
    let mut services: Vec<_> = namespace.sockets.accepted.iter().collect();
    services.sort_by(|(a, x), (b, y)| y.time_wait.cmp(&x.time_wait).then(a.cmp(b)));
    let shown = services.iter().take(ports::TOP).map(|(service, ends)| {
        let place = std::net::SocketAddr::from((service.laddr, service.lport));
        Evidence::new(format!("accepted at {place}"), ends.time_wait, "TIME_WAITs", "sock_diag")
    });
    let sentence = format!("tcp_tw_reuse cannot help with {accepted} of {all} TIME_WAITs: this host accepted them");
    Some(
        Finding::new(&ACCEPTING, Severity::Note, sentence)
            .shown_by(shown)
            .shown_by(settings(namespace))
            .avoid(["do not set tcp_tw_reuse for the sake of a server: only connect() asks for it"]),
    )
}

fn state(namespace: &Namespace) -> Finding {
    let since = match namespace.sysctl("ipv4/tcp_tw_reuse_delay") {
        Some(millis) => format!("after {millis} ms"),
        None => "once the clock shows another second".to_owned(),
    };
    let sentence = match namespace.sysctl("ipv4/tcp_tw_reuse") {
        Some(0) => "tcp_tw_reuse is 0: connect() takes over no TIME_WAIT, and needs none here".to_owned(),
        Some(2) => {
            format!("tcp_tw_reuse is 2, the default: connect() takes over TIME_WAITs on loopback alone, {since}")
        }
        Some(1) => format!("tcp_tw_reuse is 1: connect() takes over TIME_WAITs {since}, if they had timestamps"),
        other => format!("tcp_tw_reuse is {}", other.map_or("not known".to_owned(), |value| value.to_string())),
    };
    Finding::new(&STATE, Severity::Fine, sentence).shown_by(settings(namespace))
}

fn peers(trace: &Trace) -> Option<Finding> {
    let (all, without) =
        trace.peers.values().fold((0, 0), |(all, without), (births, bare)| (all + births, without + bare));
    if all == 0 {
        return None;
    }
    let mut peers: Vec<_> = trace.peers.iter().filter(|(_, (_, bare))| *bare > 0).collect();
    peers.sort_by(|(a, (_, x)), (b, (_, y))| y.cmp(x).then(a.cmp(b)));
    let severity = match without as f64 / all as f64 {
        share if share >= MANY => Severity::Warning,
        _ if without > 0 => Severity::Note,
        _ => Severity::Fine,
    };
    let sentence = format!("{without} of {all} traced TIME_WAITs that were opened here had no timestamps");
    let shown = peers.iter().take(ports::TOP).map(|(peer, (births, bare))| {
        Evidence::new(format!("{peer} without timestamps"), *bare, format!("of {births}"), &trace.file)
    });
    let finding = Finding::new(&PEERS, severity, sentence).shown_by(shown).shown_by([
        Evidence::new("births", trace.births, "minisocks", &trace.file),
        Evidence::new("of accepted connections", trace.accepted, "minisocks", &trace.file),
        Evidence::new("not known", trace.unknown, "minisocks", &trace.file),
        Evidence::new("of peers beyond the table", trace.left_out, "minisocks", &trace.file),
        Evidence::new("lines that are none of twtrace's", trace.strange, "lines", &trace.file),
    ]);
    Some(if without > 0 {
        finding
            .to_do([
                "switch timestamps on at these peers (net.ipv4.tcp_timestamps=1), or find what removes them on the way",
            ])
            .avoid(["do not count on tcp_tw_reuse towards them"])
    } else {
        finding
    })
}
