use super::*;
use crate::{
    doctor::checks::{
        fixture::{Fixture, destination, ids, number, sample, severity, shown, the},
        ports::check,
    },
    host::diag::TCP_ESTABLISHED,
    model::event::Tuple,
};

/// Open connections to a port of 10.0.0.2: so many on ports of the first half, and so many on others.
fn halves(first: u64, second: u64) -> Ends {
    let both = first + second;
    let held = Ends { established: both, in_range: both, inode: Some(7), ..Ends::default() };
    Ends { second_half: second, second_half_now: second, ..held }
}

/// What these make of the ports 20000 to 20999, each connection with one of its own.
fn namespace(to: &[(u16, Ends)]) -> Fixture {
    let sum = |of: fn(&Ends) -> u64| to.iter().map(|(_, ends)| of(ends)).sum::<u64>();
    let second = sum(|ends| ends.second_half);
    let first = sum(|ends| ends.in_range) - second;
    let fixture = to.iter().fold(Fixture::quiet(), |fixture, (port, ends)| fixture.opened(destination(*port), *ends));
    let facts = fixture.namespace(|namespace| {
        namespace.range = 20_000..=20_999;
        let span = (second > 0).then_some((20_001, 20_999));
        let held = [first.min(500), second.min(500)];
        namespace.sockets.local =
            LocalPorts { choosable: [500, 500], held, second_span: span, ..LocalPorts::default() };
    });
    facts.into()
}

/// Open connections of python3 (42), so many on each half.
fn of_python(fixture: Fixture, first: u16, second: u16) -> Fixture {
    let on = |lport| {
        let tuple = Tuple { laddr: [10, 0, 0, 1].into(), lport, raddr: [10, 0, 0, 2].into(), rport: 443 };
        Sample { tuple, accepted: false, inode: 7, ..sample(TCP_ESTABLISHED) }
    };
    let ports = (0..first).map(|n| 20_000 + 2 * n).chain((0..second).map(|n| 20_001 + 2 * n));
    ports.fold(fixture.owner(7, 42, "python3"), |fixture, port| fixture.sample(on(port)))
}

#[test]
fn a_guess_by_parity_is_a_note_that_says_so() {
    let with = |first, second| namespace(&[(443, halves(first, second))]).asked(check);
    assert_eq!(ids(&with(0, 15)), ["ports.room"]);
    for second in [16, 100, 499] {
        assert_eq!(severity(&with(0, second), "ports.bound-first"), Some(Severity::Note), "{second}");
    }
    let found = with(10, 100);
    assert_eq!(
        the(&found, "ports.bound-first").sentence,
        "100 of 1000 ports were perhaps bound before connect(): a guess by the parity of their numbers"
    );
    // All that connect() chose.
    assert_eq!(ids(&with(400, 0)), ["ports.room"]);
}

#[test]
fn a_program_whose_connections_avoid_the_first_half_is_named() {
    let with = |first: u16, second: u16| {
        let fixture = namespace(&[(443, halves(first.into(), second.into()))]);
        of_python(fixture, first, second).asked(check)
    };
    let found = with(40, 150);
    let found = the(&found, "ports.bound-first");
    assert_eq!(found.severity, Severity::Warning);
    assert_eq!(
        found.sentence,
        "150 of 1000 ports were bound by python3 (42) before connect(): no other connect() can have them"
    );
    assert_eq!(
        (number(found, "10.0.0.1 to 10.0.0.2:443"), number(found, "of python3 (42)")),
        (Some(150.0), Some(150.0))
    );
    assert!(found.to_do[0].starts_with("let python3 set IP_BIND_ADDRESS_NO_PORT"), "{found:?}");
    // Less than a tenth is no loss, and a few are no second sign.
    assert_eq!(severity(&with(0, 99), "ports.bound-first"), Some(Severity::Note));
    assert!(the(&with(0, 31), "ports.bound-first").sentence.contains("perhaps"));
}

#[test]
fn bound_ports_are_summed_over_destinations() {
    let to: Vec<(u16, Ends)> = (1..=10).map(|rport| (rport, halves(0, 10))).collect();
    let found = of_python(namespace(&to), 0, 100).asked(check);
    assert_eq!(severity(&found, "ports.bound-first"), Some(Severity::Warning));
}

#[test]
fn all_ports_of_both_halves_are_critical() {
    let to: Vec<(u16, Ends)> = (1..=10).map(|rport| (rport, halves(50, 50))).collect();
    let found = of_python(namespace(&to), 500, 500).asked(check);
    assert_eq!((ids(&found), found[0].severity), (vec!["ports.bound-first"], Severity::Critical));
    assert_eq!(
        found[0].sentence,
        "1000 of 1000 ports are bound by python3 (42) before connect(): connect() without bind() fails towards every \
         destination, bind() to port 0 fails with EADDRINUSE"
    );
    // When half of the first is free, it is no failure yet, and counted nevertheless.
    let to: Vec<(u16, Ends)> = (1..=10).map(|rport| (rport, halves(20, 50))).collect();
    let found = namespace(&to).asked(check);
    assert_eq!(severity(&found, "ports.bound-first"), Some(Severity::Warning));
    assert!(found[0].sentence.starts_with("700 of 1000 ports were bound before connect()"), "{found:?}");
}

#[test]
fn shared_ports_were_chosen_by_connect() {
    let shared = |shared| {
        let to: Vec<(u16, Ends)> = (1..=4).map(|rport| (rport, halves(300, 200))).collect();
        let facts = namespace(&to).namespace(|namespace| namespace.sockets.local.shared = shared);
        severity(&Fixture::from(facts).asked(check), "ports.bound-first")
    };
    assert_eq!((shared([480, 300]), shared([1, 0])), (None, None));
    assert_eq!(shared([0, 0]), Some(Severity::Critical));
    // One destination drove connect() out of the first half, another has what was bound.
    let mixed = namespace(&[(1, halves(500, 0)), (2, halves(0, 500))]).asked(check);
    assert_eq!(severity(&mixed, "ports.bound-first"), Some(Severity::Note));
}

#[test]
fn sockets_that_are_bound_and_no_more_are_a_fact() {
    let with = |bound: [u64; 2]| {
        let facts = namespace(&[]).namespace(|namespace| {
            namespace.sockets.local = LocalPorts { held: bound, bound, ..namespace.sockets.local };
        });
        Fixture::from(facts).asked(check)
    };
    assert_eq!(severity(&with([0, 15]), "ports.bound-first"), None);
    assert_eq!(severity(&with([0, 99]), "ports.bound-first"), Some(Severity::Note));
    assert_eq!(severity(&with([0, 100]), "ports.bound-first"), Some(Severity::Warning));
    let all = with([500, 500]);
    assert_eq!(all[0].severity, Severity::Critical);
    assert!(all[0].sentence.starts_with("1000 of 1000 ports are bound before connect()"), "{all:?}");
    assert_eq!(number(&all[0], "bound and not connected"), Some(1000.0));
}

#[test]
fn a_program_with_a_range_of_its_own_does_not_bind() {
    // Both parities, or (before 6.9) that of its own first port: within less than half of the range.
    for (first, second) in [(100, 100), (0, 200)] {
        let facts = namespace(&[(443, halves(first, second))]).namespace(|namespace| {
            namespace.sockets.local.second_span = Some((20_101, 20_499));
        });
        let found = of_python(facts.into(), first as u16, second as u16).asked(check);
        assert_eq!(severity(&found, "ports.bound-first"), None, "{first} {second}");
    }
    // Both parities all over the range are no bind() either.
    let found = of_python(namespace(&[(443, halves(200, 200))]), 200, 200).asked(check);
    assert_eq!(severity(&found, "ports.bound-first"), None);
}

#[test]
fn what_is_left_of_a_burst_was_not_bound() {
    // The first half was full, and its connections end first.
    for first in [500, 440, 200, 100] {
        let found = namespace(&[(443, halves(first, 150))]).asked(check);
        assert_eq!(severity(&found, "ports.bound-first"), None, "{first}");
    }
    // TIME_WAITs that began before the last ten seconds.
    let old = Ends { time_wait: 150, established: 0, second_half_now: 0, ..halves(0, 150) };
    assert_eq!(severity(&namespace(&[(443, old)]).asked(check), "ports.bound-first"), None);
    let new = Ends { time_wait: 150, established: 0, second_half_now: 1, ..halves(0, 150) };
    assert_eq!(severity(&namespace(&[(443, new)]).asked(check), "ports.bound-first"), Some(Severity::Note));
}

#[test]
fn with_a_step_width_parity_tells_nothing() {
    let with = |step| {
        let fixture = namespace(&[(443, halves(0, 100))]).sysctl("ipv4/ip_local_port_step_width", step);
        severity(&fixture.asked(check), "ports.bound-first")
    };
    assert_eq!((with(None), with(Some(0)), with(Some(7))), (Some(Severity::Note), Some(Severity::Note), None));
    assert_eq!(shown(the(&namespace(&[(1, halves(0, 50))]).asked(check), "ports.bound-first"), "one of them"), None);
}
