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

/// It would help and is off.
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
    let step = namespace.setting("net.ipv4.tcp_timestamps", 1);
    Some(
        Finding::new(&NO_TIMESTAMPS, severity, sentence)
            .shown_by(settings(namespace))
            .to_do([format!("{step} (the default; new connections use timestamps)")])
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
    let reuse = format!(
        "{} (only if connections cannot be kept open; serves the end that connects, needs timestamps at both ends)",
        namespace.setting("net.ipv4.tcp_tw_reuse", 1)
    );
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
mod tests {
    use std::{collections::HashMap, net::IpAddr};

    use super::*;
    use crate::{
        doctor::checks::fixture::{Fixture, destination, ids, number, severity, shown, the},
        host::sockets::Ends,
        model::occupancy::Destination,
    };

    /// With a thousand ports, of which so many are held by TIME_WAITs.
    fn held(to: Destination, time_wait: u64) -> Fixture {
        let ends = Ends { time_wait, in_range: time_wait, last_left_ms: 59_900, ..Ends::default() };
        Fixture::quiet().opened(to, ends).namespace(|namespace| namespace.range = 20_000..=20_999).into()
    }

    fn loopback() -> Destination {
        Destination { laddr: [127, 0, 0, 1].into(), raddr: [127, 0, 0, 2].into(), rport: 443 }
    }

    #[test]
    fn it_would_help_where_half_of_the_ports_wait() {
        let with = |reuse, to, time_wait| held(to, time_wait).sysctl("ipv4/tcp_tw_reuse", reuse).asked(check);
        let found = with(2, destination(443), 500);
        assert_eq!((ids(&found), found[0].severity), (vec!["reuse.would-help"], Severity::Warning));
        assert_eq!(
            found[0].sentence,
            "500 TIME_WAITs hold ports from 10.0.0.1 to 10.0.0.2:443, and tcp_tw_reuse is 2, for loopback only"
        );
        assert_eq!((number(&found[0], "tcp_tw_reuse"), number(&found[0], "tcp_timestamps")), (Some(2.0), Some(1.0)));
        assert!(found[0].to_do[1].starts_with("sysctl -w net.ipv4.tcp_tw_reuse=1 "), "{found:?}");
        for (reuse, to, time_wait, expected) in [
            (2, destination(443), 499, "reuse.state"),
            (0, destination(443), 500, "reuse.would-help"),
            (1, destination(443), 1000, "reuse.state"),
            (0, loopback(), 500, "reuse.would-help"),
            (2, loopback(), 1000, "reuse.state"),
            (1, loopback(), 1000, "reuse.state"),
        ] {
            assert_eq!(ids(&with(reuse, to, time_wait)), [expected], "{reuse} {to:?} {time_wait}");
        }
    }

    #[test]
    fn what_is_left_after_a_mend_is_a_note() {
        let with = |time_wait, last_left_ms| {
            let ends = Ends { time_wait, in_range: time_wait, last_left_ms, ..Ends::default() };
            let facts = Fixture::quiet().opened(destination(443), ends).namespace(|namespace| {
                namespace.range = 20_000..=20_999;
                namespace.at = Some(std::time::UNIX_EPOCH + std::time::Duration::from_secs(10 * 3600));
            });
            check(&facts, &facts.namespaces[0]).remove(0)
        };
        let mended = with(600, 40_000);
        assert_eq!((mended.id.as_str(), mended.severity), ("reuse.would-help", Severity::Note));
        assert!(mended.sentence.ends_with("; no more begin, all are gone by 10:00:45 UTC"), "{mended:?}");
        // One that began just now, and ports that are all held: nothing has ended.
        assert_eq!(with(600, 59_500).severity, Severity::Warning);
        assert_eq!(with(1000, 40_000).severity, Severity::Warning);
    }

    #[test]
    fn open_connections_are_none_that_could_be_taken_over() {
        let ends = Ends { established: 900, time_wait: 5, in_range: 905, ..Ends::default() };
        let facts = Fixture::quiet().opened(destination(443), ends);
        let facts = facts.namespace(|namespace| namespace.range = 20_000..=20_999);
        assert_eq!(ids(&check(&facts, &facts.namespaces[0])), ["reuse.state"]);
        // Without any port at all neither.
        let facts = held(destination(443), 0).namespace(|namespace| namespace.reserved = vec![1..=65_535]);
        assert_eq!(ids(&check(&facts, &facts.namespaces[0])), ["reuse.state"]);
    }

    #[test]
    fn the_state_is_told_in_words() {
        let with = |reuse, delay: Option<u64>| {
            let fixture = Fixture::quiet().sysctl("ipv4/tcp_tw_reuse", reuse).sysctl("ipv4/tcp_tw_reuse_delay", delay);
            let mut found = fixture.asked(check);
            assert_eq!((ids(&found), found[0].severity), (vec!["reuse.state"], Severity::Fine));
            found.remove(0).sentence
        };
        assert!(with(Some(0), None).starts_with("tcp_tw_reuse is 0: connect() takes over no TIME_WAIT"));
        assert!(with(Some(2), None).ends_with("on loopback only, once the clock shows another second"));
        assert!(with(Some(2), Some(1500)).ends_with("on loopback only, after 1500 ms"));
        assert!(with(Some(1), Some(1000)).ends_with("takes over TIME_WAITs after 1000 ms, if they had timestamps"));
        assert_eq!(with(None, None), "tcp_tw_reuse is not known");
    }

    #[test]
    fn without_timestamps_it_cannot_help() {
        let with = |reuse, time_wait| {
            let fixture = held(destination(443), time_wait).sysctl("ipv4/tcp_tw_reuse", reuse);
            fixture.sysctl("ipv4/tcp_timestamps", 0).asked(check)
        };
        for reuse in [0, 1, 2] {
            let (few, many) = (with(reuse, 499), with(reuse, 500));
            assert_eq!((ids(&few), few[0].severity), (vec!["reuse.no-timestamps"], Severity::Note));
            assert_eq!((ids(&many), many[0].severity), (vec!["reuse.no-timestamps"], Severity::Warning));
            assert!(many[0].to_do[0].starts_with("sysctl -w net.ipv4.tcp_timestamps=1 "), "{many:?}");
            assert_eq!(number(&many[0], "tcp_timestamps"), Some(0.0));
        }
        // 2 is on as well, without an offset of its own for each connection.
        assert_eq!(ids(&Fixture::quiet().sysctl("ipv4/tcp_timestamps", 2).asked(check)), ["reuse.state"]);
    }

    #[test]
    fn the_end_that_accepts_is_told_so() {
        let with = |accepted: u64, opened| {
            let ends = |time_wait| Ends { time_wait, ..Ends::default() };
            let fixture = Fixture::quiet().opened(destination(443), ends(opened));
            let fixture = fixture.accepted([10, 0, 0, 1].into(), 8080, ends(accepted - 10));
            fixture.accepted([10, 0, 0, 1].into(), 80, ends(10)).asked(check)
        };
        let found = with(100, 99);
        assert_eq!((ids(&found), found[0].severity), (vec!["reuse.accepting-side"], Severity::Note));
        assert_eq!(found[0].sentence, "tcp_tw_reuse cannot help with 100 of 199 TIME_WAITs: this host accepted them");
        // The most first.
        assert_eq!(found[0].evidence[0].name, "accepted at 10.0.0.1:8080");
        assert_eq!(number(&found[0], "accepted at 10.0.0.1:8080"), Some(90.0));
        assert!(found[0].to_do.is_empty() && found[0].avoid.len() == 1);
        assert_eq!(ids(&with(99, 0)), ["reuse.state"]);
        // Half of them are not most.
        assert_eq!(ids(&with(100, 100)), ["reuse.state"]);
    }

    /// With a trace of these births, and those without timestamps, by peer.
    fn traced(peers: &[([u8; 4], (u64, u64))]) -> Facts {
        let peers: HashMap<IpAddr, (u64, u64)> = peers.iter().map(|(peer, births)| ((*peer).into(), *births)).collect();
        let trace = Trace { file: "trace.json".to_owned(), peers, births: 40, accepted: 3, ..Trace::default() };
        Facts { trace: Some(trace), ..Fixture::quiet().facts() }
    }

    #[test]
    fn peers_without_timestamps_are_named() {
        let found = |peers: &[_]| {
            let facts = traced(peers);
            check(&facts, &facts.namespaces[0])
        };
        let many = found(&[([10, 0, 0, 2], (8, 0)), ([10, 0, 0, 3], (2, 1))]);
        assert_eq!(ids(&many), ["reuse.peers-without-timestamps", "reuse.state"]);
        assert_eq!(many[0].severity, Severity::Warning);
        assert_eq!(many[0].sentence, "1 of 10 traced TIME_WAITs of connections opened here had no timestamps");
        assert_eq!(number(&many[0], "10.0.0.3 without timestamps"), Some(1.0));
        assert_eq!(shown(&many[0], "10.0.0.2 without timestamps"), None);
        assert_eq!((number(&many[0], "births"), number(&many[0], "of accepted connections")), (Some(40.0), Some(3.0)));
        let id = "reuse.peers-without-timestamps";
        assert_eq!(severity(&found(&[([10, 0, 0, 2], (11, 1))]), id), Some(Severity::Note));
        let none = found(&[([10, 0, 0, 2], (11, 0))]);
        assert_eq!((the(&none, id).severity, the(&none, id).to_do.len()), (Severity::Fine, 0));
        // Nothing that was opened here was traced.
        assert_eq!(ids(&found(&[])), ["reuse.state"]);
    }

    #[test]
    fn a_trace_is_told_of_once() {
        let mut facts = traced(&[([10, 0, 0, 2], (8, 8))]);
        facts.namespaces.push(Namespace { inum: 7, ..facts.namespaces[0].clone() });
        assert_eq!(ids(&check(&facts, &facts.namespaces[1])), ["reuse.state"]);
    }
}
