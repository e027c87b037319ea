use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::{
    doctor::{
        checks::fixture::{Fixture, destination, ids, listening, number, severity, shown, the},
        facts::Trace,
    },
    host::openers::Came,
};

const SHORT_ID: &str = "keepalive.short-connections";
const PEER_ID: &str = "keepalive.peer-closes";

/// So many TIME_WAITs begun per second.
fn waits(per_s: u64) -> Ends {
    Ends { time_wait: per_s * 60, recent: per_s * 10, young: per_s, last_left_ms: 59_990, ..Ends::default() }
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
        "10.0.0.1 opens 10 short connections per second to 10.0.0.2:443: 1 kept open would do, a pool of 16 leaves room"
    );
    assert_eq!(number(&many[0], "TIME_WAITs begun"), Some(10.0));
    assert_eq!(number(&many[0], "TIME_WAITs at that rate"), Some(600.0));
    assert_eq!(many[0].to_do, ["let the clients of 10.0.0.2:443 keep their connections and use them again"]);
    // Nine to each of ten places are not many to one.
    let spread = (1..=10).fold(Fixture::quiet(), |fixture, rport| fixture.opened(destination(rport), waits(9)));
    assert_eq!(ids(&spread.asked(check)), ["keepalive.enough"]);
    assert_eq!(Fixture::quiet().asked(check)[0].sentence, "there is no TIME_WAIT here");
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
        let advice = found.sentence.split(": ").nth(1).unwrap().to_owned();
        (number(&found, "open now"), number(&found, "mean life"), advice)
    };
    let advice = |need, pool| format!("{need} kept open would do, a pool of {pool} leaves room");
    assert_eq!(with(0), (Some(0.0), None, advice(1, 16)));
    assert_eq!(with(5), (Some(5.0), Some(100.0), advice(5, 16)));
    assert_eq!(with(9), (Some(9.0), Some(180.0), advice(9, 32)));
    assert_eq!(with(100), (Some(100.0), Some(2000.0), advice(100, 256)));
    assert_eq!(with(5000), (Some(5000.0), Some(100_000.0), advice(5000, 16_384)));
}

#[test]
fn each_owner_is_told_in_its_own_words() {
    assert_eq!(
        steps("nginx"),
        [
            "nginx, in an upstream block with 10.0.0.2:443, which the location's *_pass has to name: keepalive 16;",
            "nginx, in a location with proxy_pass: proxy_http_version 1.1;",
            "nginx, in a location with proxy_pass: proxy_set_header Connection \"\";",
            "nginx, in a location with fastcgi_pass: fastcgi_keep_conn on;",
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
    assert!(
        found[0].sentence.starts_with("nginx (42) opens 50 short connections per second to 10.0.0.2:443: 1 "),
        "{found:?}"
    );
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
        assert!(found.sentence.starts_with("50 short connections per second go to 10.0.0.1:80: 1 "), "{found:?}");
        found.to_do.last().cloned()
    };
    let nginx = "nginx at the accepting end: keepalive_timeout 75s; keepalive_requests 1000; (or more)";
    assert_eq!(at_server("nginx").as_deref(), Some(nginx));
    let other = "raise the keepalive limits of java, which closes first: keepAliveTimeout and maxKeepAliveRequests of the \
                 connector (default: 20 s in Tomcat)";
    assert_eq!(at_server("java").as_deref(), Some(other));
    let unknown =
        "check the keepalive timeout and request limit of the server at 10.0.0.1:80: it closes connections first";
    assert_eq!(accepting(50).asked(check)[0].to_do.last().map(String::as_str), Some(unknown));
}

#[test]
fn both_ends_of_a_stream_within_the_host_are_one() {
    let to = |laddr: [u8; 4]| Destination { laddr: laddr.into(), raddr: [127, 0, 0, 1].into(), rport: 8080 };
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
        let ends = Ends { established: 25, asked: 25, bytes, ..waits(50) };
        let fixture = Fixture::quiet().opened(destination(443), ends);
        let fixture = fixture.counter("Tcp", "ActiveOpens", 100, 125).counter("Tcp", "PassiveOpens", 0, 0);
        let fixture = fixture.counter("IpExt", "InOctets", 0, octets).counter("IpExt", "OutOctets", 0, 0);
        severity(&fixture.asked(check), SHORT_ID)
    };
    let much = 25 * 32 * 1024;
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
    assert_eq!((with(50, &[]), with(48, &[])), (Some(Severity::Warning), None));
    // Nor do those that failed, were reset, or found no bucket.
    for lost in [("Tcp", "AttemptFails", 60), ("Tcp", "EstabResets", 60), ("TcpExt", "TCPTimeWaitOverflow", 60)] {
        assert_eq!(with(120, &[lost]), Some(Severity::Warning), "{lost:?}");
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
    assert_eq!(with(50, 50), Some(Severity::Warning));
    // Less than half of them are untold.
    assert_eq!(with(50, 51), None);
}

/// 100/s that the peer closes first, and what came while sockets were listed: so many to each port of 10.0.0.2.
fn watched(per_s: u64, came: &[(u16, u64)]) -> Facts {
    opened(per_s, &[]).namespace(|namespace| {
        namespace.looks = 41;
        let remote = |rport| (destination(rport).raddr, rport);
        namespace.came = came.iter().map(|&(rport, sockets)| (remote(rport), Came { sockets, open: 0.4 })).collect();
    })
}

fn peer_closes_of(facts: &Facts) -> Finding {
    the(&check(facts, &facts.namespaces[0]), PEER_ID).clone()
}

#[test]
fn what_came_tells_where_they_go_and_who_opens() {
    let mut facts = watched(400, &[(9009, 95), (5432, 5)]);
    facts.namespaces[0].openers.insert((destination(9009).raddr, 9009), 42);
    // A pool of twenty that stay open is nobody who could be blamed.
    let kept = Ends { established: 20, inode: Some(7), ..Ends::default() };
    let fixture = Fixture::from(facts).owner(7, 41, "good-pool").process(42, "busy-client", 1, 1024);
    let facts = fixture.opened(destination(5432), kept).facts();
    let found = peer_closes_of(&facts);
    assert_eq!(
        found.sentence,
        "busy-client (42) opens 400 short connections per second to 10.0.0.2:9009, which closes them first: 1 kept open \
         would do, a pool of 16 leaves room"
    );
    assert_eq!((found.severity, shown(&found, "opened by")), (Severity::Warning, Some("busy-client (42)".to_owned())));
    assert_eq!(number(&found, "new to 10.0.0.2:9009"), Some(95.0));
    assert!(found.to_do[0].starts_with("let busy-client keep its connections to 10.0.0.2:9009: "), "{found:?}");
    assert!(!serde_json::to_string(&found).unwrap().contains("good-pool"), "{found:?}");
}

#[test]
fn where_nobody_was_caught_nobody_is_blamed() {
    let found = peer_closes_of(&watched(400, &[(9009, 95)]));
    assert!(
        found.sentence.starts_with("400 short connections per second go to 10.0.0.2:9009, which closes"),
        "{found:?}"
    );
    assert_eq!(shown(&found, "opened by"), None);
    assert_eq!(found.to_do[0], "let the clients of 10.0.0.2:9009 keep their connections and use them again");
    // Two places share them.
    let two = peer_closes_of(&watched(400, &[(9009, 50), (9010, 45)]));
    assert!(two.sentence.ends_with("closed first by their peer; most go to 10.0.0.2:9009"), "{two:?}");
    // One of a pool that was opened meanwhile is none of them, and nothing at all neither.
    for came in [&[(5432, 1)][..], &[]] {
        let none = peer_closes_of(&watched(400, came));
        assert!(none.sentence.ends_with("are opened here and closed first by their peer"), "{none:?}");
        assert_eq!(none.to_do, ["watch where they go: sudo twtrace run --by dest"]);
    }
}

#[test]
fn the_only_process_whose_sockets_change_opens_unless_something_is_accepted() {
    let with = |changing: &[u32], accepted| {
        let fixture = Fixture::from(watched(400, &[(9009, 95)])).process(42, "busy-client", 1, 1024);
        let mut facts = fixture.process(43, "other", 1, 1024).counter("Tcp", "PassiveOpens", 0, accepted).facts();
        facts.namespaces[0].changing = changing.to_vec();
        shown(&peer_closes_of(&facts), "opened by")
    };
    assert_eq!(with(&[42], 10).as_deref(), Some("busy-client (42)"));
    for found in [with(&[42, 43], 10), with(&[42], 30), with(&[], 0)] {
        assert_eq!(found, None);
    }
}

#[test]
fn a_pool_that_is_being_filled_is_not_closed_by_the_peer() {
    let filling = opened(400, &[]).counter("Tcp", "CurrEstab", 0, 190).asked(check);
    assert_eq!(severity(&filling, PEER_ID), None);
    let busy = opened(400, &[]).counter("Tcp", "CurrEstab", 190, 0).asked(check);
    assert_eq!(severity(&busy, PEER_ID), Some(Severity::Warning));
}

#[test]
fn the_same_rate_is_as_bad_whoever_closes() {
    for per_s in [60, 400, 5308] {
        let here = severity(&opening(per_s).asked(check), SHORT_ID);
        let there = severity(&opened(per_s, &[]).asked(check), PEER_ID);
        assert_eq!((here, there), (Some(Severity::Warning), Some(Severity::Warning)), "{per_s}");
    }
    let wide = |fixture: Fixture, id| {
        let facts = fixture.sysctl("ipv4/tcp_max_tw_buckets", None).namespace(|it| it.range = 1..=60_999);
        severity(&check(&facts, &facts.namespaces[0]), id)
    };
    assert_eq!(wide(opening(60), SHORT_ID), Some(Severity::Note));
    assert_eq!(wide(opened(60, &[]), PEER_ID), Some(Severity::Note));
}

/// A service of this host with so many clients elsewhere.
fn crowded(per_s: u64, count: u64, at_least: bool) -> Fixture {
    let ends = Ends { peers: Peers { count, at_least }, ..waits(per_s) };
    Fixture::quiet().accepted([10, 0, 0, 1].into(), 443, ends).listener(listening(443, 0, 4096))
}

#[test]
fn many_clients_with_few_connections_each_have_nothing_to_pool() {
    let id = "keepalive.many-clients";
    let public = crowded(62, 1024, true).asked(check);
    assert_eq!((ids(&public), public[0].severity), (vec![id], Severity::Note));
    assert_eq!(
        public[0].sentence,
        "at least 1024 clients open 62 short connections per second to 10.0.0.1:443: too few for each to gain by a pool"
    );
    assert_eq!(
        (public[0].to_do.len(), shown(&public[0], "connections of each client in a minute").as_deref()),
        (0, Some("?"))
    );
    // 600 a minute: of 61 clients fewer than ten each, of 60 ten.
    assert_eq!(ids(&crowded(10, 61, false).asked(check)), [id]);
    assert_eq!(ids(&crowded(10, 60, false).asked(check)), [SHORT_ID]);
    // A load balancer is one client, and so is whoever was not counted.
    assert_eq!(ids(&crowded(10, 1, false).asked(check)), [SHORT_ID]);
    assert_eq!(ids(&crowded(5000, 3, false).asked(check)), [SHORT_ID]);
    // Who opens is here: whatever the number of its addresses, it is this host's.
    let ends = Ends { peers: Peers { count: 500, at_least: false }, ..waits(10) };
    let to = Destination { laddr: [127, 0, 0, 1].into(), raddr: [127, 0, 0, 1].into(), rport: 80 };
    let local = Fixture::quiet().accepted([127, 0, 0, 1].into(), 80, ends).opened(to, waits(1)).asked(check);
    assert_eq!(ids(&local), [SHORT_ID]);
}

#[test]
fn an_accepting_end_is_not_judged_by_ports() {
    // 3,600 TIME_WAITs are a tenth of the ports, but not of the buckets.
    let found = crowded(60, 2, false).asked(check);
    assert_eq!((ids(&found), found[0].severity), (vec![SHORT_ID], Severity::Note));
    assert_eq!(severity(&opening(60).asked(check), SHORT_ID), Some(Severity::Warning));
    let full = crowded(60, 2, false).sysctl("ipv4/tcp_max_tw_buckets", 36_000).asked(check);
    assert_eq!(full[0].severity, Severity::Warning);
}

#[test]
fn a_trace_tells_who_opened_how_long_they_lived_and_what_they_carried() {
    let with = |mean_bytes: u64| {
        let traced = Traced {
            births: 100,
            life_ns: (100 * 80_000_000, 100),
            bytes: (u128::from(mean_bytes) * 100, 100),
            openers: [(("app".to_owned(), 77), 90), (("cron".to_owned(), 1), 10)].into(),
        };
        let services = [((destination(443).raddr, 443), traced)].into();
        let trace = Trace { services, ..Trace::default() };
        let facts = Facts { trace: Some(trace), ..opening(200).facts() };
        check(&facts, &facts.namespaces[0])
    };
    let found = with(512);
    // 200/s of 80 ms.
    assert_eq!(
        the(&found, SHORT_ID).sentence,
        "app (77) opens 200 short connections per second to 10.0.0.2:443: 16 kept open would do, a pool of 32 leaves room"
    );
    assert_eq!((number(&found[0], "mean life"), number(&found[0], "bytes per connection")), (Some(80.0), Some(512.0)));
    assert_eq!(severity(&with(32 * 1024), SHORT_ID), None);
    // Of another service nothing is told.
    let other = Facts { trace: Some(Trace::default()), ..opening(200).facts() };
    assert!(check(&other, &other.namespaces[0])[0].sentence.starts_with("10.0.0.1 opens 200 "));
}

mod counters;
mod nginx;
