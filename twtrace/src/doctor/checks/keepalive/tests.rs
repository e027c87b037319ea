use super::*;
use crate::doctor::checks::fixture::{Fixture, destination, ids, listening, number, severity, shown, the};

const SHORT_ID: &str = "keepalive.short-connections";
const PEER_ID: &str = "keepalive.peer-closes";

/// So many TIME_WAITs begun per second.
fn waits(per_s: u64) -> Ends {
    Ends { time_wait: per_s * 60, recent: per_s * 10, young: per_s, ..Ends::default() }
}

/// 10.0.0.1 opens so many per second to a service elsewhere.
fn opening(per_s: u64) -> Fixture {
    Fixture::quiet().opened(destination(443), waits(per_s))
}

/// What to do about connections of this program.
fn steps(comm: &str) -> Vec<String> {
    let ends = Ends { inode: Some(7), ..waits(50) };
    let found = Fixture::quiet().owner(7, 42, comm).opened(destination(443), ends).asked(check);
    the(&found, SHORT_ID).to_do.clone()
}

#[test]
fn ten_per_second_to_one_place_are_many() {
    let few = opening(9).asked(check);
    assert_eq!((ids(&few), few[0].severity), (vec!["keepalive.enough"], Severity::Fine));
    assert_eq!(few[0].sentence, "the busiest place, 10.0.0.2:443, gets 9.0 short connections per second");
    let many = opening(10).asked(check);
    assert_eq!((ids(&many), many[0].severity), (vec![SHORT_ID], Severity::Note));
    assert_eq!(
        many[0].sentence,
        "10 short connections per second go to 10.0.0.2:443 from 10.0.0.1: about 16 that are kept open would do"
    );
    assert_eq!(number(&many[0], "TIME_WAITs begun"), Some(10.0));
    assert_eq!(number(&many[0], "TIME_WAITs at that rate"), Some(600.0));
    assert_eq!(many[0].to_do, ["let the clients of 10.0.0.2:443 keep their connections and use them again"]);
    // Nine to each of ten places are not many to one.
    let spread = (1..=10).fold(Fixture::quiet(), |fixture, rport| fixture.opened(destination(rport), waits(9)));
    assert_eq!(ids(&spread.asked(check)), ["keepalive.enough"]);
    assert!(Fixture::quiet().asked(check)[0].sentence.starts_with("no short connections"));
}

#[test]
fn a_tenth_of_the_ports_or_buckets_is_a_warning() {
    let with = |per_s, range: std::ops::RangeInclusive<u16>, buckets: Option<u64>| {
        let fixture = opening(per_s).sysctl("ipv4/tcp_max_tw_buckets", buckets);
        let facts = fixture.namespace(|namespace| namespace.range = range);
        severity(&check(&facts, &facts.namespaces[0]), SHORT_ID)
    };
    // 20/s are 1200 TIME_WAITs.
    assert_eq!(with(20, 20_000..=31_999, Some(131_072)), Some(Severity::Warning));
    assert_eq!(with(20, 20_000..=32_001, Some(131_072)), Some(Severity::Note));
    assert_eq!(with(20, 20_000..=59_999, Some(12_000)), Some(Severity::Warning));
    assert_eq!(with(20, 20_000..=59_999, Some(12_001)), Some(Severity::Note));
    assert_eq!(with(20, 20_000..=59_999, None), Some(Severity::Note));
}

#[test]
fn the_pool_is_twice_what_is_open() {
    let with = |established| {
        let found = Fixture::quiet().opened(destination(443), Ends { established, ..waits(50) }).asked(check);
        let found = the(&found, SHORT_ID).clone();
        let pool = found.sentence.split("about ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        (number(&found, "open now"), number(&found, "mean life"), pool)
    };
    assert_eq!(with(0), (Some(0.0), None, 16));
    assert_eq!(with(5), (Some(5.0), Some(100.0), 16));
    assert_eq!(with(9), (Some(9.0), Some(180.0), 32));
    assert_eq!(with(100), (Some(100.0), Some(2000.0), 256));
    assert_eq!(with(5000), (Some(5000.0), Some(100_000.0), 1024));
}

#[test]
fn each_owner_is_told_in_its_own_words() {
    assert_eq!(
        steps("nginx"),
        [
            "nginx, in an upstream block with 10.0.0.2:443, which proxy_pass has to name: keepalive 16;",
            "nginx, in the location: proxy_http_version 1.1;",
            "nginx, in the location: proxy_set_header Connection \"\";",
        ]
    );
    assert_eq!(
        steps("haproxy"),
        [
            "HAProxy, in the backend: http-reuse safe",
            "HAProxy: remove 'option httpclose' and 'option http-server-close'",
        ]
    );
    assert_eq!(
        steps("envoy"),
        [
            "Envoy, in the cluster: remove max_requests_per_connection: 1 (common_http_protocol_options)",
            "Envoy, in the cluster: common_http_protocol_options.idle_timeout of a minute or more",
        ]
    );
    for comm in ["curl", "haproxy_exporte"] {
        let step =
            format!("let {comm} keep its connections to 10.0.0.2:443: one client with a pool of 16 for all requests");
        assert_eq!(steps(comm), [step]);
    }
}

#[test]
fn the_owner_may_be_one_who_came_and_went() {
    let facts = opening(50).process(42, "nginx", 1, 1024).namespace(|namespace| {
        namespace.openers.insert((destination(443).raddr, 443), 42);
    });
    let found = check(&facts, &facts.namespaces[0]);
    assert!(found[0].sentence.contains("go to 10.0.0.2:443 by nginx (42): about"), "{found:?}");
    assert_eq!(shown(&found[0], "opened by").as_deref(), Some("nginx (42)"));
    assert!(found[0].to_do[0].ends_with("keepalive 16;"));
}

/// A service of this host, of which the accepting end closes so many per second first.
fn accepting(per_s: u64) -> Fixture {
    Fixture::quiet().accepted([10, 0, 0, 1].into(), 80, waits(per_s))
}

#[test]
fn whoever_closes_first_is_told_so() {
    let client = opening(50).asked(check);
    assert_eq!(shown(&client[0], "closed first by").as_deref(), Some("the client"));
    assert_eq!(client[0].to_do.len(), 1);
    let at_server = |comm| {
        let fixture = accepting(50).owner(80, 42, comm).listener(listening(80, 0, 4096));
        let found = fixture.asked(check).remove(0);
        assert_eq!(shown(&found, "closed first by").as_deref(), Some("the server"));
        assert_eq!(shown(&found, "accepted by"), Some(format!("{comm} (42)")));
        assert!(found.sentence.contains("go to 10.0.0.1:80: about"), "{found:?}");
        found.to_do.last().cloned()
    };
    let nginx = "nginx at the accepting end: keepalive_timeout 75s; keepalive_requests 1000; (or more)";
    assert_eq!(at_server("nginx").as_deref(), Some(nginx));
    let other = "see that java does not close after each answer: its keepalive timeout and limits";
    assert_eq!(at_server("java").as_deref(), Some(other));
    let unknown = "see that the server does not close after each answer: its keepalive timeout and limits";
    assert_eq!(accepting(50).asked(check)[0].to_do.last().map(String::as_str), Some(unknown));
}

#[test]
fn both_ends_of_a_stream_within_the_host_are_one() {
    let to = |laddr: [u8; 4]| crate::model::occupancy::Destination {
        laddr: laddr.into(),
        raddr: [127, 0, 0, 1].into(),
        rport: 8080,
    };
    let server = Ends { established: 3, ..waits(6) };
    let both = || Fixture::quiet().accepted([127, 0, 0, 1].into(), 8080, server);
    // Neither end is ten by itself.
    let found = both().opened(to([127, 0, 0, 1]), Ends { established: 4, ..waits(4) }).asked(check);
    assert_eq!(ids(&found), [SHORT_ID]);
    assert_eq!((number(&found[0], "TIME_WAITs begun"), number(&found[0], "open now")), (Some(10.0), Some(4.0)));
    assert_eq!(shown(&found[0], "closed first by").as_deref(), Some("the server"));
    let client = both().opened(to([127, 0, 0, 1]), waits(7)).asked(check);
    assert_eq!(shown(&client[0], "closed first by").as_deref(), Some("the client"));
    // Of several clients the accepting end's are put to the one that has most, and once.
    let two = both().opened(to([127, 0, 0, 1]), waits(5)).opened(to([127, 0, 0, 2]), waits(3)).asked(check);
    assert_eq!((ids(&two), number(&two[0], "TIME_WAITs begun")), (vec![SHORT_ID], Some(11.0)));
    // Another service is another stream.
    let other = both().opened(destination(8080), waits(9)).asked(check);
    assert_eq!(ids(&other), ["keepalive.enough"]);
}

#[test]
fn connections_that_carry_much_are_not_short() {
    let with = |bytes, octets| {
        let ends = Ends { established: 10, asked: 10, bytes, ..waits(50) };
        let fixture = Fixture::quiet().opened(destination(443), ends);
        let fixture = fixture.counter("Tcp", "ActiveOpens", 100, 110).counter("Tcp", "PassiveOpens", 0, 0);
        let fixture = fixture.counter("IpExt", "InOctets", 0, octets).counter("IpExt", "OutOctets", 0, 0);
        severity(&fixture.asked(check), SHORT_ID)
    };
    let much = 10 * 32 * 1024;
    assert_eq!(with(much, much), None);
    assert_eq!(with(much - 1, much), Some(Severity::Warning));
    assert_eq!(with(much, much - 1), Some(Severity::Warning));
    // Of connections that are all gone nothing is known.
    assert_eq!(severity(&opening(50).asked(check), SHORT_ID), Some(Severity::Warning));
}

/// So many opened per second, over the half second between the looks, and otherwise ended.
fn opened(per_s: u64, otherwise: &[(&str, &str, u64)]) -> Fixture {
    let fixture = Fixture::quiet().counter("Tcp", "ActiveOpens", 1000, 1000 + per_s / 2);
    otherwise.iter().fold(fixture, |fixture, &(group, name, per_s)| fixture.counter(group, name, 7, 7 + per_s / 2))
}

#[test]
fn what_leaves_no_time_wait_was_closed_by_the_peer() {
    let with = |per_s, otherwise: &[_]| severity(&opened(per_s, otherwise).asked(check), PEER_ID);
    assert_eq!((with(50, &[]), with(48, &[])), (Some(Severity::Note), None));
    // Nor do those that failed, were reset, or found no bucket.
    for lost in [("Tcp", "AttemptFails", 60), ("Tcp", "EstabResets", 60), ("TcpExt", "TCPTimeWaitOverflow", 60)] {
        assert_eq!(with(120, &[lost]), Some(Severity::Note), "{lost:?}");
        assert_eq!(with(108, &[lost]), None, "{lost:?}");
    }
    let found = opened(120, &[("TcpExt", "TCPTimeWaitOverflow", 20), ("Tcp", "EstabResets", 20)]).asked(check);
    assert_eq!(ids(&found), [PEER_ID]);
    assert_eq!(found[0].sentence, "80 connections per second are opened here and closed first by their peer");
    assert_eq!(found[0].to_do, ["watch where they go: sudo twtrace run --by dest"]);
}

#[test]
fn time_waits_at_either_end_account_for_connections() {
    let young = |young| Ends { young, recent: young, time_wait: young, ..Ends::default() };
    let with = |client, server| {
        let fixture = opened(200, &[]).opened(destination(443), young(client));
        severity(&fixture.accepted([10, 0, 0, 1].into(), 80, young(server)).asked(check), PEER_ID)
    };
    assert_eq!(with(50, 50), Some(Severity::Note));
    // Less than half of them are untold.
    assert_eq!(with(50, 51), None);
}

#[test]
fn what_is_open_tells_where_they_go() {
    let ends = Ends { established: 20, inode: Some(7), ..Ends::default() };
    let busy = opened(100, &[]).owner(7, 42, "nginx").opened(destination(443), ends);
    // Nobody knows whose these are.
    let found = busy.opened(destination(80), Ends { established: 30, ..Ends::default() }).asked(check);
    let found = the(&found, PEER_ID);
    assert_eq!(number(found, "open to 10.0.0.2:443"), Some(20.0));
    assert_eq!(number(found, "open to 10.0.0.2:80"), Some(30.0));
    assert_eq!(found.to_do.len(), 5);
    assert!(found.to_do[1].contains("10.0.0.2:443, which proxy_pass has to name: keepalive 64;"), "{found:?}");
    assert!(found.to_do[4].starts_with("see that the server does not close after each answer"), "{found:?}");
}
