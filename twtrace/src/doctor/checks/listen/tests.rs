use super::*;
use crate::doctor::checks::fixture::{Fixture, ids, listening, number, severity, the};

/// A program that listens at one port.
fn one(comm: &str, listener: Listener) -> Fixture {
    Fixture::quiet().owner(listener.inode, 42, comm).listener(listener)
}

fn asked(listener: Listener) -> Vec<Finding> {
    one("app", listener).asked(check)
}

#[test]
fn listeners_that_keep_up_are_fine() {
    let findings = Fixture::quiet().asked(check);
    assert_eq!((ids(&findings), findings[0].severity), (vec!["listen.room"], Severity::Fine));
    assert_eq!(findings[0].sentence, "no TCP socket listens here");
    assert_eq!(asked(listening(80, 0, 4096))[0].sentence, "the one listener keeps up");
    let two = one("app", listening(80, 0, 4096)).listener(listening(81, 1, 4096));
    assert_eq!(two.clone().asked(check)[0].sentence, "both listeners keep up");
    assert_eq!(two.listener(listening(82, 1, 4096)).asked(check)[0].sentence, "all 3 listeners keep up");
}

#[test]
fn a_queue_is_full_with_one_more_than_its_limit() {
    let below = asked(listening(80, 128, 128));
    assert_eq!(severity(&below, "listen.queue-full"), None);
    let full = asked(listening(80, 129, 128));
    assert_eq!((ids(&full), full[0].severity), (vec!["listen.queue-full"], Severity::Critical));
    assert_eq!(
        full[0].sentence,
        "the accept queue of 0.0.0.0:80 of app (42) is full: 129 connections waiting, limit 128"
    );
    assert_eq!(number(&full[0], "accept queue of 0.0.0.0:80 of app (42)"), Some(129.0));
    assert_eq!(number(&full[0], "somaxconn"), Some(4096.0));
    assert_eq!(
        full[0].to_do[1],
        "raise the backlog that the program hands to listen() at 0.0.0.0:80 of app (42) from 128 to 4096, and restart it"
    );
    // A backlog of 0 has room for one.
    assert_eq!(severity(&asked(listening(80, 0, 0)), "listen.queue-full"), None);
    assert_eq!(severity(&asked(listening(80, 1, 0)), "listen.queue-full"), Some(Severity::Critical));
}

#[test]
fn of_several_full_queues_the_fullest_is_named() {
    let mut fixture = one("app", listening(80, 129, 128)).listener(listening(81, 300, 128));
    let told = |fixture: Fixture| fixture.asked(check).remove(0).sentence;
    let two = told(fixture.clone());
    assert!(
        two.starts_with("the accept queue of 0.0.0.0:81 is full: 300 ")
            && two.ends_with("another listener's queue is full too"),
        "{two}"
    );
    fixture = fixture.listener(listening(82, 130, 128));
    assert!(told(fixture).ends_with("limit 128; the queues of 2 other listeners are full too"));
}

#[test]
fn a_backlog_at_the_cap_needs_both_raised() {
    let full = one("nginx", listening(80, 4097, 4096)).asked(check);
    assert_eq!(
        full[0].to_do[1..],
        [
            "sysctl -w net.core.somaxconn=8192     # now 4096; it caps every backlog",
            "listen 80 backlog=8192; (nginx): raises the backlog of 0.0.0.0:80 from 4096 to 8192; restart nginx to apply the \
             line"
        ]
    );
}

#[test]
fn each_program_is_told_in_its_own_words() {
    for (comm, words) in [
        ("nginx", "listen 8080 backlog=4096; (nginx): "),
        ("haproxy", "bind *:8080 backlog 4096 (HAProxy): "),
        ("envoy", "tcp_backlog_size: 4096 (Envoy): "),
        ("apache2", "ListenBacklog 4096 (Apache): "),
        ("redis-server", "tcp-backlog 4096 (Redis): "),
        ("php-fpm8.2", "listen.backlog = 4096 (PHP-FPM): "),
        ("node", "server.listen({ port: 8080, backlog: 4096 }) (Node.js): "),
        ("gunicorn", "gunicorn --backlog 4096 (Gunicorn): "),
        ("postgres", "max_connections = 2048 (PostgreSQL): "),
        ("caddy", "restart 0.0.0.0:8080 of caddy (42): written in Go, "),
        ("python3.11", "socket.listen(4096), or request_queue_size = 4096 in socketserver"),
        ("node_exporter", "restart "),
        ("app", "raise the backlog that the program hands to listen() at 0.0.0.0:8080 of app (42) from 10 to 4096"),
    ] {
        let step = one(comm, listening(8080, 20, 10)).asked(check).remove(0).to_do.remove(1);
        assert!(step.starts_with(words), "{comm}: {step}");
        assert!(!step.contains("ssl"), "{step}");
    }
    // The command line tells what is written in the same language.
    let tomcat = one("java", listening(8080, 200, 100)).machine(|machine| {
        machine.commands.insert(42, "java org.apache.catalina.startup.Bootstrap start".to_owned());
    });
    let step = Fixture::from(tomcat).asked(check).remove(0).to_do.remove(1);
    assert!(step.starts_with("<Connector port=\"8080\" acceptCount=\"4096\" />"), "{step}");
}

#[test]
fn the_number_is_computed_from_what_was_measured() {
    let raised = |rate: u64| {
        let fixture = one("app", listening(80, 4097, 4096)).counter("TcpExt", "ListenOverflows", 0, rate / 2);
        fixture.asked(check).remove(0).to_do.remove(1)
    };
    // What waits, and three seconds of what overflows.
    for (rate, expected) in [(0, 8192), (1000, 8192), (2000, 16_384), (10_000, 65_536)] {
        assert!(raised(rate).starts_with(&format!("sysctl -w net.core.somaxconn={expected} ")), "{}", raised(rate));
    }
}

#[test]
fn drops_are_as_bad_as_they_are_many() {
    let with = |overflows: (u64, u64), drops: (u64, u64), accepted: (u64, u64)| {
        let listener = Listener { drops: Some(9), ..listening(80, 0, 128) };
        let fixture = one("app", listener).counter("TcpExt", "ListenOverflows", overflows.0, overflows.1);
        let fixture = fixture.counter("Tcp", "PassiveOpens", accepted.0, accepted.1);
        fixture.counter("TcpExt", "ListenDrops", drops.0, drops.1).asked(check)
    };
    let now = with((2, 5), (2, 6), (96, 100));
    let found = the(&now, "listen.overflows");
    assert_eq!(found.severity, Severity::Critical);
    assert_eq!(found.sentence, "listeners dropped 4 SYNs (or last ACKs of handshakes) in 0.5 s, 50 % of the attempts");
    assert_eq!((number(found, "ListenOverflows"), number(found, "ListenOverflows now")), (Some(5.0), Some(6.0)));
    assert_eq!((number(found, "ListenDrops"), number(found, "ListenDrops now")), (Some(6.0), Some(8.0)));
    assert_eq!((number(found, "drops at 0.0.0.0:80"), number(found, "share lost now")), (Some(9.0), Some(50.0)));
    assert_eq!(found.to_do[0], "find out why 0.0.0.0:80 of app (42) does not call accept() often enough");

    // One drop is not critical; one of very many is not even a warning.
    assert_eq!(severity(&with((0, 1), (0, 1), (0, 3)), "listen.overflows"), Some(Severity::Warning));
    assert_eq!(severity(&with((0, 1), (0, 1), (0, 500)), "listen.overflows"), Some(Severity::Note));

    let before = with((5, 5), (6, 6), (100, 100));
    let found = the(&before, "listen.overflows");
    assert_eq!((found.severity, found.to_do.len()), (Severity::Note, 0));
    assert_eq!(
        found.sentence,
        "listeners have dropped 6 SYNs (or last ACKs of handshakes) since the namespace began, 6 % of the attempts; no drop now"
    );
    // A third of all attempts is worth a warning after it has ended.
    let many = with((36, 36), (36, 36), (64, 64));
    assert_eq!(severity(&many, "listen.overflows"), Some(Severity::Warning));
    // What is dropped for another reason is not the program's doing.
    let other = with((5, 5), (6, 9), (0, 0));
    let found = the(&other, "listen.overflows");
    assert_eq!(found.severity, Severity::Critical);
    assert!(found.to_do.len() == 1 && found.to_do[0].contains("no accept queue was full"), "{found:?}");
    assert_eq!(severity(&with((0, 0), (0, 0), (0, 0)), "listen.overflows"), None);
}

#[test]
fn who_dropped_may_be_gone() {
    let fixture = Fixture::quiet().counter("TcpExt", "ListenDrops", 0, 3).counter("TcpExt", "ListenOverflows", 0, 3);
    assert!(fixture.asked(check)[0].to_do[0].starts_with("ss -lmtn: the listener that drops"));
}

#[test]
fn a_syn_queue_is_full_at_the_limit() {
    let with = |requests, sharing, limit| {
        severity(&asked(Listener { requests, sharing, ..listening(80, 0, limit) }), "listen.syn-queue")
    };
    assert_eq!((with(128, 1, 128), with(127, 1, 128)), (Some(Severity::Warning), None));
    // Sockets that share the port have queues of their own.
    assert_eq!((with(512, 4, 128), with(511, 4, 128)), (Some(Severity::Warning), None));
    assert_eq!((with(1, 1, 0), with(0, 1, 0)), (Some(Severity::Warning), None));
    let found = asked(Listener { requests: 200, ..listening(80, 0, 128) });
    let sentence = "the SYN queue of 0.0.0.0:80 of app (42) is full: 200 handshakes unfinished, limit 128";
    assert_eq!(the(&found, "listen.syn-queue").sentence, sentence);
    assert_eq!(number(the(&found, "listen.syn-queue"), "requests at 0.0.0.0:80"), Some(200.0));
}

#[test]
fn with_cookies_nobody_is_dropped() {
    let on = Fixture::quiet().counter("TcpExt", "TCPReqQFullDoCookies", 3, 8).asked(check);
    assert_eq!((ids(&on), on[0].severity), (vec!["listen.syn-queue"], Severity::Warning));
    assert_eq!(on[0].sentence, "a SYN queue was full just now: 5 SYNs answered by a cookie");
    assert!(
        on[0].to_do.len() == 1 && on[0].to_do[0].starts_with("ss -Htan state syn-recv: shows who sends the SYNs"),
        "{on:?}"
    );
    // With 2 every SYN gets one.
    let always = Fixture::quiet().sysctl("ipv4/tcp_syncookies", 2).counter("TcpExt", "TCPReqQFullDoCookies", 3, 8);
    assert_eq!(ids(&always.asked(check)), ["listen.room"]);
    // It was, and is not now.
    assert_eq!(ids(&Fixture::quiet().counter("TcpExt", "TCPReqQFullDoCookies", 8, 8).asked(check)), ["listen.room"]);
}

#[test]
fn without_cookies_they_are() {
    let fixture = Fixture::quiet().sysctl("ipv4/tcp_syncookies", 0);
    let off = fixture.counter("TcpExt", "TCPReqQFullDrop", 3, 8).asked(check);
    assert_eq!((ids(&off), off[0].severity), (vec!["listen.syn-queue"], Severity::Critical));
    assert!(off[0].to_do[0].starts_with("sysctl -w net.ipv4.tcp_syncookies=1     # the default"), "{off:?}");
    assert_eq!(off[0].sentence, "a SYN queue was full just now; 5 SYNs dropped in 0.5 s");
    assert_eq!(number(&off[0], "TCPReqQFullDrop now"), Some(10.0));
    assert_eq!(number(&off[0], "tcp_syncookies"), Some(0.0));
}

#[test]
fn resets_at_overflow_do_harm_once_there_was_one() {
    let with = |value, overflows| {
        let fixture = Fixture::quiet().sysctl("ipv4/tcp_abort_on_overflow", value);
        fixture.counter("TcpExt", "ListenOverflows", overflows, overflows).asked(check)
    };
    for value in [0, 1, 2] {
        let found = (value > 0).then_some(Severity::Note);
        assert_eq!(severity(&with(value, 0), "listen.abort-on-overflow"), found, "{value}");
        let found = (value > 0).then_some(Severity::Warning);
        assert_eq!(severity(&with(value, 1), "listen.abort-on-overflow"), found, "{value}");
    }
    let found = with(1, 0);
    assert!(found[0].to_do[0].starts_with("sysctl -w net.ipv4.tcp_abort_on_overflow=0     # the default"), "{found:?}");
}

#[test]
fn a_backlog_is_low_by_default_or_under_pressure() {
    let with = |comm, listener| severity(&one(comm, listener).asked(check), "listen.low-backlog");
    // Too low for anybody, or what the program takes if nobody tells it otherwise.
    assert_eq!((with("app", listening(80, 0, 15)), with("app", listening(80, 0, 16))), (Some(Severity::Note), None));
    assert_eq!(with("nginx", listening(80, 0, 511)), Some(Severity::Note));
    assert_eq!(with("nginx", listening(80, 0, 512)), None);
    assert_eq!(with("app", listening(80, 0, 511)), None);
    assert_eq!(with("node_exporter", listening(80, 0, 511)), None);
    assert_eq!(with("lighttpd", listening(80, 0, 1024)), Some(Severity::Note));
    // What was the most before 5.4 is low if it is half full, or has dropped.
    assert_eq!(
        (with("app", listening(80, 63, 128)), with("app", listening(80, 64, 128))),
        (None, Some(Severity::Warning))
    );
    let dropped = |limit| Listener { drops: Some(1), ..listening(80, 0, limit) };
    assert_eq!((with("app", dropped(128)), with("app", dropped(129))), (Some(Severity::Warning), None));
    // What is full is told already, and what somaxconn caps is not the program's to change.
    assert_eq!(with("app", listening(80, 129, 128)), None);
    let capped = one("app", dropped(128)).sysctl("core/somaxconn", 128);
    assert_eq!(severity(&capped.asked(check), "listen.low-backlog"), None);
}

#[test]
fn of_low_backlogs_the_one_under_pressure_is_named() {
    let fixture = one("app", listening(80, 0, 1)).listener(listening(81, 70, 128));
    let found = fixture.asked(check);
    let found = the(&found, "listen.low-backlog");
    assert_eq!(
        (found.severity, found.sentence.as_str()),
        (Severity::Warning, "2 listeners have a low backlog, such as 0.0.0.0:81: 128")
    );
    assert_eq!(
        found.to_do,
        ["raise the backlog that the program hands to listen() at 0.0.0.0:81 from 128 to 4096, and restart it"]
    );
    // With none under pressure it is the lowest.
    let calm = one("nginx", listening(80, 0, 511)).listener(listening(81, 0, 5)).asked(check);
    assert!(the(&calm, "listen.low-backlog").sentence.ends_with("such as 0.0.0.0:81: 5"), "{calm:?}");
    let nginx = one("nginx", listening(80, 0, 511)).asked(check);
    assert_eq!(
        the(&nginx, "listen.low-backlog").sentence,
        "the backlog of 0.0.0.0:80 of nginx (42) is low: 511, the default of nginx"
    );
}

#[test]
fn syns_dropped_without_cookies_are_one_finding() {
    // As the kernel counts them: each in TCPReqQFullDrop and in ListenDrops, none in ListenOverflows.
    let with = |cookies, full: u64, drops: u64, overflows: u64| {
        let listener = Listener { requests: 128, drops: Some(236), ..listening(8080, 0, 128) };
        let fixture = one("app", listener).sysctl("ipv4/tcp_syncookies", cookies);
        let fixture = fixture.counter("TcpExt", "TCPReqQFullDrop", 0, full).counter("TcpExt", "ListenDrops", 0, drops);
        fixture.counter("TcpExt", "ListenOverflows", 0, overflows).counter("Tcp", "PassiveOpens", 0, 0).asked(check)
    };
    let found = with(0, 236, 236, 0);
    assert_eq!((found[0].id.as_str(), found[0].severity), ("listen.syn-queue", Severity::Critical));
    assert_eq!(severity(&found, "listen.overflows"), None);
    assert_eq!(
        found[0].sentence,
        "the SYN queue of 0.0.0.0:8080 of app (42) is full: 128 handshakes unfinished, limit 128; 236 SYNs dropped in 0.5 s, \
         100 % of the attempts"
    );
    assert!(found[0].to_do[0].starts_with("sysctl -w net.ipv4.tcp_syncookies=1 "), "{found:?}");
    // The last quarter of tcp_max_syn_backlog moves ListenDrops alone.
    let quarter = with(0, 0, 100, 0);
    assert_eq!((quarter[0].id.as_str(), quarter[0].severity), ("listen.syn-queue", Severity::Critical));
    assert_eq!(severity(&quarter, "listen.overflows"), None);
    // An accept queue that overflowed earlier does not make it one now.
    let earlier = one("app", Listener { requests: 128, ..listening(8080, 0, 128) }).sysctl("ipv4/tcp_syncookies", 0);
    let earlier = earlier.counter("TcpExt", "ListenOverflows", 5, 5).counter("Tcp", "PassiveOpens", 1000, 1000);
    let earlier = earlier.counter("TcpExt", "ListenDrops", 5, 241).counter("TcpExt", "TCPReqQFullDrop", 0, 236);
    let earlier = earlier.asked(check);
    assert_eq!((earlier[1].id.as_str(), earlier[1].severity), ("listen.syn-queue", Severity::Critical));
    let overflows = the(&earlier, "listen.overflows");
    assert_eq!((overflows.severity, number(overflows, "ListenOverflows")), (Severity::Note, Some(5.0)));
    assert!(overflows.sentence.starts_with("listeners have dropped 5 SYNs "), "{overflows:?}");
    // An accept queue that overflows is told of all the same.
    assert_eq!(severity(&with(0, 0, 100, 100), "listen.overflows"), Some(Severity::Critical));
    assert_eq!(severity(&with(1, 0, 100, 100), "listen.overflows"), Some(Severity::Critical));
}

#[test]
fn syns_that_were_dropped_earlier_are_a_warning_if_they_were_many() {
    let with = |dropped: u64, accepted: u64| {
        let fixture = Fixture::quiet().sysctl("ipv4/tcp_syncookies", 0);
        let fixture = fixture.counter("TcpExt", "TCPReqQFullDrop", dropped, dropped);
        let fixture = fixture.counter("TcpExt", "ListenDrops", dropped, dropped);
        fixture.counter("Tcp", "PassiveOpens", accepted, accepted).asked(check)
    };
    assert_eq!(severity(&with(236, 100), "listen.syn-queue"), Some(Severity::Warning));
    assert_eq!(severity(&with(5, 100_000), "listen.syn-queue"), Some(Severity::Note));
    assert_eq!(ids(&with(0, 100)), ["listen.room"]);
    let found = with(236, 100);
    assert!(the(&found, "listen.syn-queue").to_do[0].starts_with("sysctl -w net.ipv4.tcp_syncookies=1"), "{found:?}");
}

#[test]
fn without_cookies_three_quarters_of_the_syn_backlog_are_the_limit() {
    let with = |cookies, requests| {
        let listener = Listener { requests, ..listening(80, 0, 4096) };
        let fixture =
            one("app", listener).sysctl("ipv4/tcp_syncookies", cookies).sysctl("ipv4/tcp_max_syn_backlog", 256);
        severity(&fixture.asked(check), "listen.syn-queue")
    };
    assert_eq!((with(0, 192), with(0, 191), with(1, 192)), (Some(Severity::Warning), None, None));
}
