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
