//! Can tcp_tw_reuse help here? It serves the end that connects, and only with timestamps.

use super::ports;
use crate::{
    doctor::{
        facts::{Ended, Facts, Namespace, Trace},
        finding::{Evidence, Finding, Severity, Story},
    },
    host::sockets::Ends,
};

/// From this share of births without timestamps on it is a warning.
const MANY: f64 = 0.1;

/// Reuse would help and is off.
pub const WOULD_HELP: Story = Story {
    id: "reuse.would-help",
    title: "tcp_tw_reuse would free ports here, and is off for them",
    why: "With tcp_tw_reuse = 1, connect() takes over a TIME_WAIT of the same connection that is older than a second, if both \
          ends used timestamps. Timestamps keep old segments out as TIME_WAIT did.",
    story: "net.ipv4.tcp_tw_reuse has three values. 0: connect() never takes over a TIME_WAIT whose port it chose itself. 2, the \
            default since 4.19: only on loopback. 1: everywhere. The kernel reads it only when connect() has found a port \
            whose connection to this very destination is in TIME_WAIT, and only if the peer's timestamps are known.\n\n\
            How old the TIME_WAIT has to be: since 6.14 net.ipv4.tcp_tw_reuse_delay milliseconds from its beginning (default \
            1000). Before, until the clock shows another second than at the last timestamp of the peer.\n\n\
            It does nothing for a socket that accepted its connection, and it shortens no TIME_WAIT. It only lets connect() \
            have the port.",
    holds: "TIME_WAITs hold at least half of the ports from one local address to one destination, and tcp_tw_reuse is 0, or 2 and \
            the destination is not loopback. A note if no more TIME_WAITs begin there",
    does_not: "ports held by open connections or by CLOSE_WAIT; tcp_timestamps = 0 (reuse.no-timestamps); TIME_WAITs of \
               accepted connections",
    by_hand: &[
        "sysctl net.ipv4.tcp_tw_reuse net.ipv4.tcp_tw_reuse_delay net.ipv4.tcp_timestamps",
        "nstat -az TcpExtTWRecycled     # how often connect() took one over",
    ],
    sources: &["net/ipv4/tcp_ipv4.c: tcp_twsk_unique", "RFC 6191"],
};

/// Timestamps are off.
pub const NO_TIMESTAMPS: Story = Story {
    id: "reuse.no-timestamps",
    title: "Without timestamps connect() takes over no TIME_WAIT",
    why: "tcp_tw_reuse needs the peer's timestamps. A TIME_WAIT of a connection without them holds its port for the full 60 \
          seconds, whatever tcp_tw_reuse says.",
    story: "Timestamps (RFC 7323) are used on a connection if both ends offer them in their SYN. net.ipv4.tcp_timestamps = 0 on \
            either end switches them off. They are on by default (1) and cost twelve bytes a segment. Old tuning guides \
            switch them off, which also takes PAWS away: PAWS protects fast connections from their own old segments.",
    holds: "tcp_timestamps is 0 in this namespace: a note, and a warning if TIME_WAITs hold half of the ports to a destination",
    does_not: "a peer that leaves timestamps out: that is reuse.peers-without-timestamps, and needs a trace",
    by_hand: &["sysctl net.ipv4.tcp_timestamps", "ss -ti | grep -c ' ts '     # open connections that use them"],
    sources: &["net/ipv4/tcp_ipv4.c: tcp_twsk_unique", "RFC 7323, sections 3 and 5"],
};

/// Some peers have none.
pub const PEERS: Story = Story {
    id: "reuse.peers-without-timestamps",
    title: "Some peers do not use timestamps: connect() cannot take over their TIME_WAITs",
    why: "Timestamps need both ends. A peer, or a device on the way, that leaves them out makes tcp_tw_reuse useless towards that \
          peer.",
    story: "sock_diag does not tell whether a connection in TIME_WAIT had timestamps; a trace does. Record one with `twtrace run \
            --format json --events born > FILE` and give it to the doctor with --with-trace FILE. For each peer, twtrace counts \
            the births of connections that were opened here, and those among them without timestamps.",
    holds: "--with-trace was given, and births of connections opened here had no timestamps: a warning from 10 % on, else a note",
    does_not: "births of accepted connections; births whose role or timestamps are null in the trace",
    by_hand: &["tcpdump -nn 'tcp[tcpflags] & tcp-syn != 0'     # SYN and SYN-ACK: both should have TS val"],
    sources: &["net/ipv4/tcp_ipv4.c: tcp_twsk_unique", "RFC 7323, section 3.2"],
};

/// The TIME_WAITs are at the end that accepts.
pub const ACCEPTING: Story = Story {
    id: "reuse.accepting-side",
    title: "tcp_tw_reuse cannot help: these TIME_WAITs are of accepted connections",
    why: "Only connect() uses tcp_tw_reuse. A TIME_WAIT of an accepted connection holds no port that this host could run out of, \
          and a new SYN of the same client takes it over in any case.",
    story: "TIME_WAIT is at the end that closes first. If that is the server, all its TIME_WAITs have the port of the service, \
            which they share with the listener: nothing runs out here. A client that comes back from the same port is accepted \
            at once, if its sequence number or its timestamp is newer.\n\n\
            If there are too many nevertheless, let the clients close first, or keep connections open longer.",
    holds: "at least 100 TIME_WAITs are of accepted connections, and they are more than half of all",
    does_not: "TIME_WAITs of connections that were opened here are as many or more",
    by_hand: &["ss -Htan state time-wait | awk '{print $3}' | sort | uniq -c | sort -n | tail   # by local end"],
    sources: &["net/ipv4/tcp_minisocks.c: tcp_timewait_state_process (TCP_TW_SYN)", "net/ipv4/tcp_ipv4.c: tcp_v4_rcv"],
};

/// What it means here.
pub const STATE: Story = Story {
    id: "reuse.state",
    title: "What tcp_tw_reuse means on this machine",
    why: "tcp_tw_reuse lets connect() have the port of a TIME_WAIT that is old enough. It neither shortens TIME_WAIT nor serves \
          the end that accepts.",
    story: "See reuse.would-help for its values and for what it needs. A bind() to a port before connect(), with SO_REUSEADDR at \
            both sockets, takes a TIME_WAIT over at once, whatever the value.",
    holds: "no other reuse finding does",
    does_not: "TIME_WAITs hold half of the ports to a destination and tcp_tw_reuse does not reach them",
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

/// A destination towards which ports become scarce.
struct Scarce<'a> {
    place: String,
    ends: &'a Ends,
    /// connect() takes over TIME_WAITs there, as far as the sysctls go.
    reused: bool,
}

/// The fullest destination, if ports become scarce there.
fn scarce(namespace: &Namespace) -> Option<Scarce<'_>> {
    let fullest = ports::fullest(namespace);
    let (destination, ends) = fullest.first()?;
    let is_scarce = ports::is_crowded(ends.time_wait, namespace.available());
    let reused = ports::is_reused(namespace, destination);
    is_scarce.then(|| Scarce { place: ports::name(destination), ends, reused })
}

/// What is left after a mend is a note until it is gone.
fn severity(ended: Option<Ended>) -> Severity {
    if ended.is_some() { Severity::Note } else { Severity::Warning }
}

fn no_timestamps(namespace: &Namespace) -> Option<Finding> {
    if namespace.sysctl("ipv4/tcp_timestamps") != Some(0) {
        return None;
    }
    let ended = |scarce: Scarce<'_>| namespace.ended(scarce.ends, Some(namespace.available()));
    let severity = scarce(namespace).map_or(Severity::Note, |scarce| severity(ended(scarce)));
    let sentence = "tcp_timestamps is 0: connect() takes over no TIME_WAIT, whatever tcp_tw_reuse says";
    let step = namespace.step("net.ipv4.tcp_timestamps", 1, "the default; new connections use timestamps");
    Some(
        Finding::new(&NO_TIMESTAMPS, severity, sentence)
            .shown_by(settings(namespace))
            .to_do([step])
            .avoid(["do not rely on tcp_tw_reuse while timestamps are off"]),
    )
}

fn would_help(namespace: &Namespace) -> Option<Finding> {
    let Scarce { place, ends, reused } = scarce(namespace)?;
    if reused {
        return None;
    }
    let waiting = ends.time_wait;
    let value = namespace.sysctl("ipv4/tcp_tw_reuse");
    let meaning = match value {
        Some(2) => "2, for loopback only",
        Some(0) => "0, off",
        _ => "not known",
    };
    let ended = namespace.ended(ends, Some(namespace.available()));
    let end = ended.map_or_else(String::new, |ended| format!("; no more begin, all are {}", namespace.gone_by(ended)));
    let sentence = format!("{waiting} TIME_WAITs hold ports from {place}, and tcp_tw_reuse is {meaning}{end}");
    let keep =
        "keep connections open and use them again: `twtrace doctor --explain keepalive.short-connections`".to_owned();
    let why = "only if connections cannot be kept open; serves the end that connects, needs timestamps at both ends";
    let reuse = namespace.step("net.ipv4.tcp_tw_reuse", 1, why);
    Some(
        Finding::new(&WOULD_HELP, severity(ended), sentence)
            .shown_by([namespace.begun(ends)])
            .shown_by(settings(namespace))
            .to_do([keep, reuse])
            .avoid([
                "do not look for tcp_tw_recycle: it broke clients behind NAT, and is gone since 4.12",
                "do not set SO_LINGER 0 to avoid TIME_WAIT: it throws away what the peer has not read",
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
            .avoid(["do not set tcp_tw_reuse for a server: only connect() uses it"]),
    )
}

fn state(namespace: &Namespace) -> Finding {
    let since = match namespace.sysctl("ipv4/tcp_tw_reuse_delay") {
        Some(millis) => format!("after {millis} ms"),
        None => "once the clock shows another second".to_owned(),
    };
    let sentence = match namespace.sysctl("ipv4/tcp_tw_reuse") {
        Some(0) => "tcp_tw_reuse is 0: connect() takes over no TIME_WAIT; ports are free here without that".to_owned(),
        Some(2) => {
            format!("tcp_tw_reuse is 2, the default: connect() takes over TIME_WAITs on loopback only, {since}")
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
    let sentence = format!("{without} of {all} traced TIME_WAITs of connections opened here had no timestamps");
    let shown = peers.iter().take(ports::TOP).map(|(peer, (births, bare))| {
        Evidence::new(format!("{peer} without timestamps"), *bare, format!("of {births}"), &trace.file)
    });
    let finding = Finding::new(&PEERS, severity, sentence).shown_by(shown).shown_by([
        Evidence::new("births", trace.births, "minisocks", &trace.file),
        Evidence::new("of accepted connections", trace.accepted, "minisocks", &trace.file),
        Evidence::new("not known", trace.unknown, "minisocks", &trace.file),
        Evidence::new("of peers beyond the 65,536 that are counted", trace.left_out, "minisocks", &trace.file),
        Evidence::new("lines that twtrace did not write", trace.strange, "lines", &trace.file),
    ]);
    Some(if without > 0 {
        finding
            .to_do([
                "switch timestamps on at these peers (net.ipv4.tcp_timestamps = 1), or find the device that removes them",
            ])
            .avoid(["do not rely on tcp_tw_reuse towards these peers"])
    } else {
        finding
    })
}

#[cfg(test)]
mod tests;
