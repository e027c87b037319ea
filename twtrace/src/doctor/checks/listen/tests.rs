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
    assert_eq!(findings[0].sentence, "nobody listens here");
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
    assert_eq!(full[0].sentence, "the accept queue of 0.0.0.0:80 of app (42) is full: 129 connections wait, 128 may");
    assert_eq!(number(&full[0], "accept queue of 0.0.0.0:80 of app (42)"), Some(129.0));
    assert_eq!(number(&full[0], "somaxconn"), Some(4096.0));
    assert_eq!(full[0].to_do[1], "raise the backlog at 0.0.0.0:80 (now 128; somaxconn allows 4096)");
    // A backlog of 0 has room for one.
    assert_eq!(severity(&asked(listening(80, 0, 0)), "listen.queue-full"), None);
    assert_eq!(severity(&asked(listening(80, 1, 0)), "listen.queue-full"), Some(Severity::Critical));
}

#[test]
fn of_several_full_queues_the_fullest_is_named() {
    let mut fixture = one("app", listening(80, 129, 128)).listener(listening(81, 300, 128));
    let told = |fixture: Fixture| fixture.asked(check).remove(0).sentence;
    assert!(told(fixture.clone()).starts_with("the accept queue of 0.0.0.0:81 is full, and that of another: 300"));
    fixture = fixture.listener(listening(82, 130, 128));
    assert!(told(fixture).starts_with("the accept queue of 0.0.0.0:81 is full, and those of 2 others: 300"));
}

#[test]
fn a_backlog_at_the_cap_needs_both_raised() {
    let full = one("nginx", listening(80, 4097, 4096)).asked(check);
    assert_eq!(
        full[0].to_do[1],
        "raise net.core.somaxconn (now 4096) and the backlog at 0.0.0.0:80, in nginx: listen 443 ssl backlog=4096; (it \
         takes effect at the next listen())"
    );
}

#[test]
fn each_program_is_told_in_its_own_words() {
    for (comm, words) in [
        ("nginx", Some("in nginx: listen 443 ssl backlog=4096;")),
        ("apache2", Some("in apache2: ListenBacklog 4096")),
        ("redis-server", Some("in redis-server: tcp-backlog 4096")),
        ("php-fpm8.2", Some("in php-fpm: listen.backlog = 4096")),
        ("node", Some("in node: server.listen({ port, backlog: 4096 })")),
        ("python3.11", Some("in python: socketserver: request_queue_size = 4096")),
        ("node_exporter", None),
        ("app", None),
    ] {
        let step = one(comm, listening(80, 20, 10)).asked(check).remove(0).to_do.remove(1);
        let (_, said) = step.split_once("somaxconn allows 4096)").unwrap();
        assert_eq!(said.strip_prefix(", "), words, "{comm}");
    }
}

#[test]
fn drops_are_critical_while_they_happen() {
    let with = |overflows: (u64, u64), drops: (u64, u64)| {
        let listener = Listener { drops: Some(9), ..listening(80, 0, 128) };
        let fixture = one("app", listener).counter("TcpExt", "ListenOverflows", overflows.0, overflows.1);
        fixture.counter("TcpExt", "ListenDrops", drops.0, drops.1).asked(check)
    };
    let now = with((2, 5), (2, 6));
    let found = the(&now, "listen.overflows");
    assert_eq!(found.severity, Severity::Critical);
    assert_eq!(found.sentence, "listeners dropped 4 connections in 0.5 s");
    assert_eq!((number(found, "ListenOverflows"), number(found, "ListenOverflows now")), (Some(5.0), Some(6.0)));
    assert_eq!((number(found, "ListenDrops"), number(found, "ListenDrops now")), (Some(6.0), Some(8.0)));
    assert_eq!(number(found, "drops at 0.0.0.0:80"), Some(9.0));
    assert_eq!(found.to_do[0], "find out why 0.0.0.0:80 of app (42) does not call accept() often enough");

    let before = with((5, 5), (6, 6));
    let found = the(&before, "listen.overflows");
    assert_eq!((found.severity, found.to_do.len()), (Severity::Note, 0));
    assert_eq!(found.sentence, "listeners have dropped 6 connections so far, none of them now");
    // What is dropped for another reason is not the program's doing.
    let other = with((5, 5), (6, 7));
    let found = the(&other, "listen.overflows");
    assert_eq!(found.severity, Severity::Critical);
    assert!(found.to_do.len() == 1 && found.to_do[0].contains("it was no accept queue"), "{found:?}");
    assert_eq!(severity(&with((0, 0), (0, 0)), "listen.overflows"), None);
}

#[test]
fn who_dropped_may_be_gone() {
    let fixture = Fixture::quiet().counter("TcpExt", "ListenDrops", 0, 3).counter("TcpExt", "ListenOverflows", 0, 3);
    assert!(fixture.asked(check)[0].to_do[0].starts_with("find the listener that drops: ss -lmtn"));
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
    let sentence = "the SYN queue of 0.0.0.0:80 of app (42) is full: 200 handshakes do not end, 128 may wait";
    assert_eq!(the(&found, "listen.syn-queue").sentence, sentence);
    assert_eq!(number(the(&found, "listen.syn-queue"), "requests at 0.0.0.0:80"), Some(200.0));
}

#[test]
fn with_cookies_nobody_is_dropped() {
    let on = Fixture::quiet().counter("TcpExt", "TCPReqQFullDoCookies", 3, 8).asked(check);
    assert_eq!((ids(&on), on[0].severity), (vec!["listen.syn-queue"], Severity::Warning));
    assert_eq!(on[0].sentence, "a SYN queue was full just now: 5 SYNs got a cookie, 0 were dropped");
    assert!(on[0].to_do.len() == 1 && on[0].to_do[0].starts_with("see who sends the SYNs"), "{on:?}");
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
    assert!(off[0].to_do[0].starts_with("switch SYN cookies on: sysctl -w net.ipv4.tcp_syncookies=1"), "{off:?}");
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
    assert!(found[0].to_do[0].ends_with("sysctl -w net.ipv4.tcp_abort_on_overflow=0"), "{found:?}");
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
    assert_eq!(found.to_do, ["raise the backlog at 0.0.0.0:81 (now 128; somaxconn allows 4096)"]);
}
