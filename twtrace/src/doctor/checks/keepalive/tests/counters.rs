//! What the kernel's counters say of connections, against the ages of their TIME_WAITs.

use super::*;

/// A service of which this host's end closes first: so many TIME_WAITs, all younger than a second, and so many accepted a
/// second.
fn recycled(time_wait: u64, accepted_per_s: u64) -> Fixture {
    let ends = Ends { time_wait, recent: time_wait, young: time_wait, last_left_ms: 59_990, ..Ends::default() };
    let fixture = Fixture::quiet().accepted([10, 0, 0, 1].into(), 80, ends).listener(listening(80, 0, 4096));
    let fixture = fixture.counter("Tcp", "PassiveOpens", 1000, 1000 + accepted_per_s / 2);
    fixture.counter("Tcp", "ActiveOpens", 7, 7)
}

#[test]
fn where_time_waits_are_taken_over_the_counters_win() {
    for (time_wait, per_s) in [(16, 400), (8, 30), (29, 3000)] {
        let found = recycled(time_wait, per_s).asked(check);
        assert_eq!(ids(&found), [SHORT_ID], "{time_wait} {per_s}");
        assert_eq!(number(&found[0], "TIME_WAITs begun").map(f64::round), Some(per_s as f64));
        assert!(found[0].evidence[0].source.contains("PassiveOpens"), "{found:?}");
    }
    // The counters agree.
    assert_eq!(ids(&recycled(2, 8).asked(check)), ["keepalive.enough"]);
    // Clients that close first leave old ones here, and few: they are not this service's short connections.
    let old = Ends { time_wait: 120, recent: 20, young: 2, last_left_ms: 59_990, ..Ends::default() };
    let fixture = Fixture::quiet().accepted([10, 0, 0, 1].into(), 80, old).counter("Tcp", "PassiveOpens", 0, 200);
    assert_eq!(ids(&fixture.counter("Tcp", "ActiveOpens", 0, 0).asked(check)), ["keepalive.enough"]);
    // Of two services it is the one whose TIME_WAITs do not grow old.
    let two = recycled(16, 400).accepted([10, 0, 0, 1].into(), 81, old).asked(check);
    assert!(two[0].sentence.contains("10.0.0.1:80:"), "{two:?}");
}

#[test]
fn ages_that_say_more_than_the_counters_are_not_believed() {
    let found = opening(200).counter("Tcp", "ActiveOpens", 5, 10).counter("Tcp", "PassiveOpens", 0, 0).asked(check);
    assert_eq!(number(the(&found, SHORT_ID), "TIME_WAITs begun"), Some(10.0));
    assert!(found[0].evidence[0].source.contains("ActiveOpens"), "{found:?}");
    // What ended half a second ago.
    let over = opening(200).counter("Tcp", "ActiveOpens", 5, 5).counter("Tcp", "PassiveOpens", 0, 0).asked(check);
    assert_eq!(ids(&over), ["keepalive.enough"]);
}

#[test]
fn full_buckets_do_not_hide_short_connections() {
    let few = || Ends { time_wait: 100, recent: 16, young: 1, last_left_ms: 59_000, ..Ends::default() };
    let full = |per_s: u64| {
        let fixture = Fixture::quiet().opened(destination(443), few()).counter("Tcp", "ActiveOpens", 0, per_s / 2);
        fixture.counter("Tcp", "PassiveOpens", 0, 0).counter("TcpExt", "TCPTimeWaitOverflow", 0, per_s / 2)
    };
    let found = full(400).asked(check);
    assert_eq!((ids(&found), severity(&found, SHORT_ID)), (vec![SHORT_ID], Some(Severity::Warning)));
    assert!(number(&found[0], "TIME_WAITs begun").unwrap() >= 400.0, "{found:?}");
    // Where new connections were seen to go, they went; the old TIME_WAITs are of another place.
    let mut facts = full(400).opened(destination(80), Ends { established: 3, ..Ends::default() }).facts();
    facts.namespaces[0].looks = 30;
    facts.namespaces[0].came.insert((destination(80).raddr, 80), Came { sockets: 60, open: 1.5 });
    let found = check(&facts, &facts.namespaces[0]);
    assert!(
        found[0].sentence.starts_with("10.0.0.1 opens 400 short connections per second to 10.0.0.2:80"),
        "{found:?}"
    );
    // None began, but something closed: nobody says that there was nothing.
    let none = Fixture::quiet().counter("TcpExt", "TCPTimeWaitOverflow", 0, 20).asked(check);
    assert_eq!(none[0].sentence, "20 connections closed without a TIME_WAIT just now; see cost.overflow");
}

#[test]
fn ports_that_are_all_held_do_not_hide_who_held_them() {
    let with = |time_wait: u64, recent, reuse: u64| {
        let ends = Ends { time_wait, recent, in_range: time_wait, last_left_ms: 57_000, ..Ends::default() };
        let fixture = Fixture::quiet().opened(destination(6379), ends).sysctl("ipv4/tcp_tw_reuse", reuse);
        let fixture = fixture.counter("Tcp", "ActiveOpens", 0, 0).counter("Tcp", "PassiveOpens", 0, 0);
        let facts = fixture.namespace(|namespace| namespace.range = 40_000..=41_999);
        check(&facts, &facts.namespaces[0])
    };
    let found = with(2000, 2000, 2);
    assert_eq!(
        found[0].sentence,
        "10.0.0.1 left 2000 short connections to 10.0.0.2:6379 in TIME_WAIT, and no port is free for another: 1 kept open \
         would do, a pool of 16 leaves room"
    );
    assert_eq!((number(&found[0], "TIME_WAIT"), number(&found[0], "TIME_WAITs begun")), (Some(2000.0), None));
    // Older than ten seconds, and held nevertheless.
    assert_eq!(ids(&with(2000, 0, 2)), [SHORT_ID]);
    // One port is free, or connect() may take one over: they have ended.
    for found in [with(1999, 1999, 2), with(2000, 2000, 1)] {
        assert_eq!(ids(&found), ["keepalive.enough"]);
        assert!(found[0].sentence.starts_with("short connections have ended: the last of "), "{found:?}");
    }
    // Open connections hold them.
    let ends = Ends { time_wait: 5, established: 1995, in_range: 2000, ..Ends::default() };
    let facts = Fixture::quiet().opened(destination(6379), ends).namespace(|it| it.range = 40_000..=41_999);
    assert_eq!(ids(&check(&facts, &facts.namespaces[0])), ["keepalive.enough"]);
}

#[test]
fn absence_is_told_from_what_was_counted() {
    let told = |ends: Option<Ends>, opens: Option<(u64, u64)>| {
        let mut fixture = Fixture::quiet();
        if let Some(ends) = ends {
            fixture = fixture.opened(destination(443), ends);
        }
        if let Some((active, passive)) = opens {
            fixture = fixture.counter("Tcp", "ActiveOpens", 0, active).counter("Tcp", "PassiveOpens", 0, passive);
        }
        let facts = fixture.namespace(|it| it.at = Some(UNIX_EPOCH + Duration::from_secs(38_460)));
        let found = check(&facts, &facts.namespaces[0]);
        assert_eq!(ids(&found), ["keepalive.enough"]);
        found[0].sentence.clone()
    };
    let burst = Ends { time_wait: 300, recent: 300, last_left_ms: 58_000, ..Ends::default() };
    let mended = Ends { time_wait: 14_557, last_left_ms: 34_880, ..Ends::default() };
    let few = Ends { time_wait: 3, recent: 0, last_left_ms: 30_000, ..Ends::default() };
    let just_now = Ends { time_wait: 3, recent: 3, last_left_ms: 59_500, ..Ends::default() };
    for (ends, opens, expected) in [
        (None, None, "there is no TIME_WAIT here"),
        (None, Some((0, 0)), "no connection was opened or accepted for 0.5 s, and there is no TIME_WAIT"),
        (None, Some((3, 0)), "6.0 connections per second are opened and accepted; none is in TIME_WAIT here"),
        (
            Some(burst),
            None,
            "short connections have ended: the last of 300 TIME_WAITs is 2 s old, all are gone by 10:42:03 UTC",
        ),
        (
            Some(mended),
            None,
            "short connections have ended: the last of 14557 TIME_WAITs is 25 s old, all are gone by 10:41:40 UTC",
        ),
        (Some(few), None, "the 3 TIME_WAITs here are all older than 10 s"),
        (Some(just_now), None, "3 short connections ended in the last 10 s, and none begins now"),
    ] {
        assert_eq!(told(ends, opens), expected);
    }
}
