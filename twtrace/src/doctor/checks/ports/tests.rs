use super::*;
use crate::{
    doctor::checks::fixture::{Fixture, destination, ids, listening, number, severity, shown},
    host::states::States,
};

/// A thousand ports.
fn thousand() -> Fixture {
    let facts = Fixture::quiet().namespace(|namespace| namespace.range = 20_000..=20_999);
    facts.into()
}

/// So many ports of the range, all held by TIME_WAITs of which so many began within the last second.
fn waiting(held: u64, young: u64) -> Ends {
    Ends { time_wait: held, in_range: held, young, recent: young, last_left_ms: 60_000, ..Ends::default() }
}

/// A destination on loopback.
fn loopback() -> Destination {
    Destination { laddr: [127, 0, 0, 1].into(), raddr: [127, 0, 0, 1].into(), rport: 443 }
}

/// One destination that all that is held is held towards.
fn held(held: u64) -> Vec<Finding> {
    thousand().opened(destination(443), waiting(held, 0)).asked(check)
}

#[test]
fn half_of_the_ports_is_the_border() {
    let below = held(499);
    assert_eq!((ids(&below), below[0].severity), (vec!["ports.room"], Severity::Fine));
    assert_eq!(below[0].sentence, "the fullest destination, 10.0.0.1 to 10.0.0.2:443, holds 499 of 1000 ports");
    let half = held(500);
    assert_eq!((ids(&half), half[0].severity), (vec!["ports.filling"], Severity::Warning));
    assert_eq!(
        half[0].sentence,
        "500 of 1000 ports from 10.0.0.1 to 10.0.0.2:443 are held, all by TIME_WAIT: 500 are left"
    );
    assert_eq!(number(&half[0], "ports held"), Some(500.0));
    assert_eq!(number(&half[0], "sustainable without reuse"), Some(1000.0 / 60.0));
    assert_eq!(shown(&half[0], "ip_local_port_range").as_deref(), Some("20000 20999"));
}

#[test]
fn none_left_is_critical() {
    assert_eq!(severity(&held(999), "ports.filling"), Some(Severity::Warning));
    for count in [1000, 1001, 5000] {
        assert_eq!(severity(&held(count), "ports.exhausted"), Some(Severity::Critical), "{count}");
    }
    assert!(held(1000)[0].sentence.starts_with("no port is left from 10.0.0.1 to 10.0.0.2:443: 1000 of 1000"));
}

#[test]
fn destinations_are_not_summed() {
    let ports = (1..=10).fold(thousand(), |fixture, rport| fixture.opened(destination(rport), waiting(499, 0)));
    assert_eq!(ids(&ports.asked(check)), ["ports.room"]);
    let two = thousand().opened(destination(1), waiting(600, 0)).opened(destination(2), waiting(1000, 0)).asked(check);
    assert_eq!(ids(&two), ["ports.exhausted", "ports.filling"]);
}

#[test]
fn a_few_ports_are_a_matter_only_when_they_are_all() {
    let with = |held, range| {
        let facts = Fixture::quiet().opened(destination(443), waiting(held, 0));
        Fixture::from(facts.namespace(|namespace| namespace.range = range)).asked(check)
    };
    assert_eq!(ids(&with(8, 20_000..=20_009)), ["ports.room"]);
    assert_eq!(ids(&with(10, 20_000..=20_009)), ["ports.exhausted"]);
    assert_eq!(ids(&with(15, 20_000..=20_019)), ["ports.room"]);
    assert_eq!(ids(&with(16, 20_000..=20_019)), ["ports.filling"]);
    // Of an odd number one is not looked at.
    assert_eq!(ids(&with(9, 20_000..=20_010)), ["ports.room"]);
    assert_eq!(ids(&with(10, 20_000..=20_010)), ["ports.exhausted"]);
}

#[test]
fn reserved_ports_and_those_listened_on_are_not_available() {
    let fixture = thousand().opened(destination(443), waiting(450, 0)).listener(listening(20_500, 0, 4096));
    let facts = fixture.namespace(|namespace| namespace.reserved = vec![20_000..=20_098]);
    let found = Fixture::from(facts).asked(check);
    assert_eq!(
        found[0].sentence,
        "450 of 900 ports from 10.0.0.1 to 10.0.0.2:443 are held, all by TIME_WAIT: 450 are left"
    );
}

#[test]
fn what_connect_may_take_over_does_not_stand_in_its_way() {
    let with = |reuse, to: Destination, ends| {
        thousand().sysctl("ipv4/tcp_tw_reuse", reuse).opened(to, ends).asked(check).remove(0)
    };
    let full = waiting(1000, 300);
    for (reuse, to) in [(1, destination(443)), (1, loopback()), (2, loopback())] {
        let found = with(reuse, to, full);
        assert_eq!((found.id.as_str(), found.severity), ("ports.filling", Severity::Note), "{found:?}");
        assert_eq!(number(&found, "that connect() may take over"), Some(700.0));
        assert!(found.sentence.ends_with("are held; 700 by TIME_WAITs that connect() may take over"), "{found:?}");
    }
    for (reuse, to) in [(0, destination(443)), (0, loopback()), (2, destination(443))] {
        let found = with(reuse, to, full);
        assert_eq!((found.id.as_str(), found.severity), ("ports.exhausted", Severity::Critical), "{found:?}");
        assert_eq!(number(&found, "that connect() may take over"), None);
    }
    // Half of the range is the border here too, and what is too young is not to be had.
    assert_eq!(with(1, destination(443), waiting(1000, 500)).severity, Severity::Warning);
    assert_eq!(with(1, destination(443), waiting(1000, 499)).severity, Severity::Note);
    assert_eq!(with(1, destination(443), waiting(1000, 1000)).severity, Severity::Critical);
    // Open connections are not taken over.
    let open = Ends { established: 1000, in_range: 1000, ..Ends::default() };
    assert_eq!(with(1, destination(443), open).id, "ports.exhausted");
}

#[test]
fn without_timestamps_nothing_is_taken_over() {
    let fixture = thousand().sysctl("ipv4/tcp_tw_reuse", 1).sysctl("ipv4/tcp_timestamps", 0);
    assert_eq!(ids(&fixture.opened(destination(443), waiting(1000, 0)).asked(check)), ["ports.exhausted"]);
}

#[test]
fn whose_connections_these_are_is_told() {
    let ends = Ends { inode: Some(7), ..waiting(600, 0) };
    let by_socket = thousand().owner(7, 42, "curl").opened(destination(443), ends).asked(check);
    assert_eq!(shown(&by_socket[0], "opened by").as_deref(), Some("curl (42)"));
    let facts = thousand().process(43, "wget", 1, 1024).opened(destination(443), waiting(600, 0));
    let facts = facts.namespace(|namespace| {
        namespace.openers.insert((destination(443).raddr, 443), 43);
    });
    assert_eq!(shown(&Fixture::from(facts).asked(check)[0], "opened by").as_deref(), Some("wget (43)"));
    assert_eq!(shown(&held(600)[0], "opened by"), None);
}

#[test]
fn the_state_that_holds_the_ports_decides_what_to_do() {
    let with = |state, held| {
        let full = States::default().with(state, held, 0);
        let held = u64::from(held);
        let established = if state == TCP_ESTABLISHED { held } else { 0 };
        let ends =
            Ends { full, established, other: held - established, in_range: held, inode: Some(7), ..Ends::default() };
        thousand().owner(7, 42, "curl").opened(destination(443), ends).asked(check).remove(0)
    };
    for (state, name, step) in [
        (TCP_CLOSE_WAIT, "CLOSE_WAIT", "let curl (42) close what 10.0.0.2:443 has closed"),
        (TCP_SYN_SENT, "SYN_SENT", "find out why 10.0.0.2:443 does not answer"),
        (TCP_ESTABLISHED, "ESTABLISHED", "bound the pool of curl (42)"),
        (TCP_FIN_WAIT2, "FIN_WAIT2", "find out which program at 10.0.0.2:443 does not close"),
        (TCP_LAST_ACK, "FIN_WAIT1, CLOSING or LAST_ACK", "find out why 10.0.0.2:443 does not acknowledge"),
    ] {
        let found = with(state, 1000);
        assert_eq!(found.severity, Severity::Critical);
        assert_eq!(
            found.sentence,
            format!("no port is left from 10.0.0.1 to 10.0.0.2:443: 1000 of 1000 are held, all by {name}")
        );
        assert!(found.to_do[0].starts_with(step), "{found:?}");
        assert!(found.to_do.iter().all(|step| !step.contains("keep connections open")), "{found:?}");
        assert_eq!(number(&found, name), Some(1000.0));
        assert_eq!(with(state, 600).severity, Severity::Warning);
    }
    // Of two states the one that has more.
    let ends =
        Ends { full: States::default().with(TCP_SYN_SENT, 300, 0), other: 300, in_range: 1000, ..waiting(700, 1) };
    let found = thousand().opened(destination(443), ends).asked(check);
    assert!(found[0].sentence.ends_with("1000 of 1000 are held, 700 by TIME_WAIT"), "{found:?}");
    assert!(found[0].to_do[0].starts_with("keep connections open"), "{found:?}");
}

#[test]
fn a_load_that_is_over_is_a_note_with_its_end() {
    let ended = |held, last_left_ms| Ends { recent: 0, last_left_ms, ..waiting(held, 0) };
    let with = |ends| thousand().opened(destination(443), ends).asked(check).remove(0);
    let found = with(ended(700, 41_000));
    assert_eq!((found.id.as_str(), found.severity), ("ports.filling", Severity::Note));
    assert_eq!(
        found.sentence,
        "700 of 1000 ports from 10.0.0.1 to 10.0.0.2:443 are held, all by TIME_WAIT; no more begin, all are gone in 46 s"
    );
    assert!(found.to_do.is_empty(), "{found:?}");
    // A pool that is kept now does not change that; one that holds the ports itself does.
    let kept = |established| Ends { established, in_range: 700 + established, ..ended(700, 41_000) };
    assert_eq!((with(kept(16)).severity, with(kept(299)).severity), (Severity::Note, Severity::Note));
    let open = Ends { established: 600, in_range: 700, ..ended(100, 41_000) };
    assert_eq!(with(open).severity, Severity::Warning);
    // More begin; and where no port is left, none can begin.
    assert_eq!(with(ended(700, 59_900)).severity, Severity::Warning);
    assert_eq!(with(ended(1000, 41_000)).severity, Severity::Critical);
}

#[test]
fn a_wider_range_is_offered_only_where_there_is_one() {
    let step = |range| {
        let fixture = Fixture::quiet().opened(destination(443), waiting(60_000, 1));
        let found = Fixture::from(fixture.namespace(|namespace| namespace.range = range)).asked(check).remove(0);
        found.to_do.into_iter().find(|step| step.contains("ip_local_port_range="))
    };
    assert!(step(32_768..=60_999).unwrap().starts_with("sysctl -w net.ipv4.ip_local_port_range=\"10240 65535\" "));
    assert!(step(1024..=60_999).unwrap().contains("\"1024 65535\""));
    assert_eq!(step(1024..=65_535), None);
}

#[test]
fn nobody_opens_anything() {
    let findings = Fixture::quiet().asked(check);
    assert_eq!(findings[0].sentence, "no destination holds a port of this host; each may have 28232");
    assert_eq!(number(&findings[0], "sustainable to each without reuse"), Some(28_232.0 / 60.0));
}
