use super::*;
use crate::doctor::checks::fixture::{Fixture, destination, ids, listening, number, severity, shown, the};

/// A thousand ports.
fn thousand() -> Fixture {
    let facts = Fixture::quiet().namespace(|namespace| namespace.range = 20_000..=20_999);
    facts.into()
}

/// So many ports of the range, all held by TIME_WAITs of which so many began within the last second.
fn waiting(held: u64, young: u64) -> Ends {
    Ends { time_wait: held, in_range: held, young, recent: young, ..Ends::default() }
}

/// The same place on loopback.
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
    assert_eq!(half[0].sentence, "500 of 1000 ports from 10.0.0.1 to 10.0.0.2:443 are held: 500 are left");
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
    assert_eq!(found[0].sentence, "450 of 900 ports from 10.0.0.1 to 10.0.0.2:443 are held: 450 are left");
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

/// So many on ports of the first half, and so many on others.
fn halves(first: u64, second: u64) -> Ends {
    Ends {
        established: first + second,
        in_range: first + second,
        second_half: second,
        inode: Some(7),
        ..Ends::default()
    }
}

#[test]
fn ports_that_a_bind_took_are_told() {
    let with = |first, second| thousand().opened(destination(443), halves(first, second)).asked(check);
    // Fewer may be chance.
    assert_eq!(ids(&with(0, 15)), ["ports.room"]);
    assert_eq!(ids(&with(0, 16)), ["ports.bound-first", "ports.room"]);
    assert_eq!(severity(&with(0, 99), "ports.bound-first"), Some(Severity::Note));
    assert_eq!(severity(&with(0, 100), "ports.bound-first"), Some(Severity::Warning));
    let found = with(10, 100);
    let found = the(&found, "ports.bound-first");
    assert_eq!(found.sentence, "100 of 1000 ports were bound before connect(): no destination can have them");
    assert_eq!(number(found, "10.0.0.1 to 10.0.0.2:443"), Some(100.0));
    assert!(found.to_do[0].contains("IP_BIND_ADDRESS_NO_PORT"), "{found:?}");
    // All that connect() chose.
    assert_eq!(ids(&with(400, 0)), ["ports.room"]);
}

#[test]
fn bound_ports_are_summed_over_destinations() {
    let fixture = (1..=10).fold(thousand(), |fixture, rport| fixture.opened(destination(rport), halves(0, 10)));
    let found = fixture.owner(7, 42, "proxy").asked(check);
    let found = the(&found, "ports.bound-first");
    assert_eq!(found.severity, Severity::Warning);
    assert_eq!(shown(found, "one of them is of").as_deref(), Some("proxy (42)"));
}

#[test]
fn a_full_first_half_tells_nothing() {
    let with = |first| thousand().opened(destination(443), halves(first, 40)).asked(check);
    assert_eq!(severity(&with(449), "ports.bound-first"), Some(Severity::Note));
    assert_eq!(severity(&with(450), "ports.bound-first"), None);
    // Of an odd number the first half is that of the even number below: connect() looks at no more of it.
    let odd = |first| {
        let fixture = Fixture::quiet().opened(destination(443), halves(first, 40));
        Fixture::from(fixture.namespace(|namespace| namespace.range = 20_000..=20_200)).asked(check)
    };
    assert_eq!(severity(&odd(89), "ports.bound-first"), Some(Severity::Warning));
    assert_eq!(severity(&odd(90), "ports.bound-first"), None);
}

#[test]
fn with_a_step_width_parity_tells_nothing() {
    let with = |step| {
        let fixture = thousand().sysctl("ipv4/ip_local_port_step_width", step);
        severity(&fixture.opened(destination(443), halves(0, 100)).asked(check), "ports.bound-first")
    };
    assert_eq!((with(None), with(Some(0)), with(Some(7))), (Some(Severity::Warning), Some(Severity::Warning), None));
}

#[test]
fn nobody_opens_anything() {
    let findings = Fixture::quiet().asked(check);
    assert_eq!(findings[0].sentence, "no destination holds a port of this host; each may have 28232");
    assert_eq!(number(&findings[0], "sustainable to each without reuse"), Some(28_232.0 / 60.0));
}
