use super::*;
use crate::doctor::checks::fixture::{Fixture, ids, listening, number, severity, shown, the};

/// A thousand ports.
fn thousand() -> Fixture {
    Fixture::quiet().namespace(|namespace| namespace.range = 20_000..=20_999).into()
}

fn waits(time_wait: u64, last_left_ms: u32) -> Ends {
    Ends { time_wait, last_left_ms, ..Ends::default() }
}

/// What is found where connections are left at a port of 10.0.0.1.
fn left(port: u16, ends: Ends) -> Vec<Finding> {
    thousand().accepted([10, 0, 0, 1].into(), port, ends).asked(check)
}

#[test]
fn a_service_that_is_down_leaves_its_minute() {
    let found = left(8080, waits(3500, 55_100));
    assert_eq!((ids(&found), found[0].severity), (vec!["binds.no-listener"], Severity::Note));
    assert_eq!(
        found[0].sentence,
        "nobody listens at port 8080, and 3500 TIME_WAITs hold it for about 56 s more: bind() fails without SO_REUSEADDR"
    );
    assert_eq!(number(&found[0], "last TIME_WAIT gone in"), Some(56.0));
    assert!(found[0].to_do[0].contains("SO_REUSEADDR") && found[0].to_do[1].contains("56 s"), "{found:?}");
    // The beginner's: one connection was enough.
    assert_eq!(ids(&left(8000, waits(1, 100))), ["binds.no-listener"]);
}

#[test]
fn the_addresses_of_a_service_are_one_port() {
    let both = thousand().accepted([10, 0, 0, 1].into(), 80, waits(3, 9000)).accepted(
        [127, 0, 0, 1].into(),
        80,
        waits(4, 30_000),
    );
    let found = both.asked(check);
    assert_eq!(ids(&found), ["binds.no-listener"]);
    assert!(found[0].sentence.contains("7 TIME_WAITs hold it for about 30 s more"), "{found:?}");
}

#[test]
fn what_still_drains_is_named() {
    let ends = Ends { established: 100, inode: Some(7), ..waits(0, 0) };
    let found = thousand().owner(7, 42, "gunicorn").accepted([10, 0, 0, 1].into(), 8080, ends).asked(check);
    assert!(
        found[0]
            .sentence
            .starts_with("nobody listens at port 8080, and 100 connections hold it (gunicorn (42) holds some)"),
        "{found:?}"
    );
    assert!(found[0].to_do.iter().any(|step| step.contains("ss -tnp sport = :8080")), "{found:?}");
    assert_eq!(shown(&found[0], "last TIME_WAIT gone in").as_deref(), Some("?"));
    let both = Ends { fin_wait2: 5, ..waits(9, 1000) };
    assert!(left(8080, both)[0].sentence.contains("; 5 connections and 9 TIME_WAITs hold it"));
}

#[test]
fn who_listens_has_its_port() {
    // On another address, or on any: the bind() has been done.
    let found =
        thousand().listener(listening(8080, 0, 511)).accepted([10, 0, 0, 1].into(), 8080, waits(3500, 1)).asked(check);
    assert_eq!(ids(&found), ["binds.free"]);
    // Clients have ports of their own.
    let to = crate::doctor::checks::fixture::destination(443);
    assert_eq!(ids(&thousand().opened(to, waits(3500, 1)).asked(check)), ["binds.free"]);
    assert_eq!(ids(&left(8080, Ends::default())), ["binds.free"]);
}

#[test]
fn a_listener_inside_the_range_is_told_with_the_line_that_reserves_it() {
    let with = |reserved: Vec<RangeInclusive<u16>>, ports: &[u16]| {
        let fixture = ports.iter().fold(thousand(), |fixture, port| fixture.listener(listening(*port, 0, 511)));
        Fixture::from(fixture.owner(20_051, 42, "python3").namespace(|it| it.reserved = reserved)).asked(check)
    };
    let found = with(vec![], &[5432, 20_051]);
    assert_eq!((ids(&found), found[0].severity), (vec!["binds.in-range"], Severity::Note));
    assert_eq!(
        found[0].sentence,
        "python3 (42) listens at port 20051, inside ip_local_port_range 20000-20999 and not reserved: while it is down, a \
         connect() can take the port"
    );
    assert!(found[0].to_do[0].contains("sysctl -w net.ipv4.ip_local_reserved_ports=20051 "), "{found:?}");
    // Several are one finding, and what is reserved stays so.
    let found = with(vec![7000..=7010, 20_052..=20_053], &[20_051, 20_060, 20_999, 20_053]);
    assert_eq!(ids(&found), ["binds.in-range"]);
    assert!(
        found[0].sentence.starts_with(
            "3 listeners have ports inside ip_local_port_range 20000-20999 that are not reserved (20051, 20060, 20999)"
        ),
        "{found:?}"
    );
    assert!(found[0].to_do[0].contains("=7000-7010,20051-20053,20060,20999 "), "{found:?}");
    // Outside, or reserved.
    assert_eq!(ids(&with(vec![], &[80, 19_999, 21_000])), ["binds.free"]);
    assert_eq!(ids(&with(vec![20_000..=20_100], &[20_051])), ["binds.free"]);
}

#[test]
fn ports_that_bind_chose_are_no_noise() {
    let owned = |fixture: Fixture, port: u16| fixture.owner(port.into(), 42, "java").listener(listening(port, 0, 50));
    let many = (20_001..20_019).step_by(2).fold(thousand(), owned);
    assert_eq!(ids(&many.clone().asked(check)), ["binds.free"]);
    // Beside them one that is meant.
    let found = many.owner(20_500, 43, "etcd").listener(listening(20_500, 0, 4096)).asked(check);
    let found = the(&found, "binds.in-range");
    assert!(found.sentence.starts_with("etcd (43) listens at port 20500"), "{found:?}");
    assert_eq!(number(found, "listeners of java (42), ports chosen by bind()"), Some(9.0));
}

#[test]
fn lists_of_ports_are_as_the_sysctl_takes_them() {
    for (ports, expected) in [
        (vec![], ""),
        (vec![80..=80, 80..=80], "80"),
        (vec![9000..=9010, 80..=80, 9005..=9020, 9021..=9021], "80,9000-9021"),
        (vec![65_535..=65_535, 65_534..=65_535], "65534-65535"),
    ] {
        assert_eq!(list(ports.into_iter()), expected);
    }
    assert_eq!(severity(&Fixture::quiet().asked(check), "binds.free"), Some(Severity::Fine));
}
