use super::*;
use crate::{
    doctor::checks::fixture::{self, Fixture, ids},
    host::{
        conntrack::{
            Timeouts,
            nat::{Ports, Taken},
        },
        sockets::Ends,
    },
};

fn table(count: u64, max: u64) -> Conntrack {
    Conntrack {
        count,
        max,
        buckets: Some(max),
        timeout_s: Timeouts { time_wait: Some(120), established: Some(432_000), ..Timeouts::default() },
        stats: Some(Stats { drop: 7, ..Stats::default() }),
    }
}

/// With so many TIME_WAITs begun per second.
fn found(table: Option<Conntrack>, rate: u64, dropped: u64) -> Vec<Finding> {
    let facts = Fixture::quiet().namespace(|namespace| {
        namespace.tracked_before =
            table.and_then(|table| table.stats).map(|stats| Stats { drop: stats.drop - dropped, ..stats });
        namespace.conntrack = table;
        let ends = Ends { time_wait: rate * 60, recent: rate * 10, young: rate, ..Ends::default() };
        namespace.sockets.opened.insert(fixture::destination(443), ends);
    });
    check(&facts, &facts.namespaces[0])
}

#[test]
fn a_full_table_is_critical() {
    let findings = found(Some(table(1000, 1000)), 0, 0);
    assert_eq!(ids(&findings), ["conntrack.full"]);
    assert_eq!(findings[0].severity, Severity::Critical);
    assert!(findings[0].to_do[0].contains("nf_conntrack_max=2000"), "{findings:?}");
    assert_eq!(ids(&found(Some(table(999, 1000)), 0, 0)), ["conntrack.filling"]);
}

#[test]
fn a_table_that_drops_stays_below_its_limit() {
    // The collector makes room as long as it is over 95 %.
    assert_eq!(ids(&found(Some(table(960, 1000)), 0, 3)), ["conntrack.full"]);
    assert_eq!(ids(&found(Some(table(960, 1000)), 0, 0)), ["conntrack.filling"]);
    // Something else is dropped.
    assert_eq!(ids(&found(Some(table(940, 1000)), 0, 3)), ["conntrack.filling"]);
    assert_eq!(ids(&found(Some(table(10, 1000)), 0, 3)), ["conntrack.room"]);
}

#[test]
fn from_four_fifths_on_it_is_filling() {
    assert_eq!(found(Some(table(800, 1000)), 0, 0)[0].severity, Severity::Warning);
    assert_eq!(ids(&found(Some(table(799, 1000)), 0, 0)), ["conntrack.room"]);
}

#[test]
fn no_limit_is_never_reached() {
    let findings = found(Some(table(1_000_000, 0)), 0, 0);
    assert_eq!(ids(&findings), ["conntrack.room"]);
    assert!(findings[0].sentence.contains("no limit"), "{findings:?}");
}

#[test]
fn nothing_tracked_is_fine() {
    for none in [None, Some(table(0, 1000)), Some(table(0, 0))] {
        let findings = found(none, 50, 0);
        assert_eq!(ids(&findings), ["conntrack.off"]);
        assert_eq!(findings[0].severity, Severity::Fine);
    }
}

#[test]
fn closed_connections_are_told_of() {
    // 10/s for 120 s are 1200 entries: more than a tenth of 10,000.
    let findings = found(Some(table(3000, 10_000)), 10, 0);
    assert_eq!(ids(&findings), ["conntrack.time-wait", "conntrack.room"]);
    assert_eq!(findings[0].severity, Severity::Note);
    assert_eq!(fixture::number(&findings[0], "entries of connections closed here, about"), Some(1200.0));
    assert!(findings[0].to_do[0].contains("time_wait=60 "), "{findings:?}");
    assert_eq!(found(Some(table(3000, 1_000_000)), 10, 0)[0].severity, Severity::Fine);
    // There are no more of them than entries.
    let few = found(Some(table(100, 10_000)), 10, 0);
    assert_eq!(fixture::number(&few[0], "entries of connections closed here, about"), Some(100.0));
    // Nothing was closed, or is kept no longer than the socket.
    assert_eq!(ids(&found(Some(table(3000, 10_000)), 0, 0)), ["conntrack.room"]);
    let short = Timeouts { time_wait: Some(60), ..Timeouts::default() };
    let findings = found(Some(Conntrack { timeout_s: short, ..table(3000, 10_000) }), 10, 0);
    assert_eq!(ids(&findings), ["conntrack.room"]);
}

#[test]
fn one_packet_of_a_table_that_is_nearly_full_is_a_warning() {
    let findings = found(Some(table(960, 1000)), 0, 1);
    assert_eq!((ids(&findings), findings[0].severity), (vec!["conntrack.full"], Severity::Warning));
    assert_eq!(found(Some(table(960, 1000)), 0, 3)[0].severity, Severity::Critical);
}

/// So many ports of 10.82.0.1 towards 10.82.0.2:443, one beside the other.
fn taken(count: u16) -> Taken {
    Taken {
        protocol: "tcp".to_owned(),
        source: [10, 82, 0, 1].into(),
        to: [10, 82, 0, 2].into(),
        port: 443,
        count: count.into(),
        changed: count.into(),
        time_wait: 0,
        stretch: 40_000..=40_000 + count - 1,
        together: count.into(),
    }
}

/// A NAT that dropped so many packets, now and since the namespace began, of so many that passed, and what its table holds.
fn nat(now: u64, total: u64, packets: u64, fullest: impl Into<Vec<Taken>>) -> Vec<Finding> {
    let stats = Stats { drop: total, insert_failed: total, found: Some(total * 40), ..Stats::default() };
    let left = total - now;
    let before = Stats { drop: left, insert_failed: left, found: Some(left * 40), ..Stats::default() };
    let fixture = Fixture::quiet().counter("Ip", "ForwDatagrams", packets, packets).counter("Ip", "OutRequests", 0, 0);
    let facts = fixture.namespace(|namespace| {
        namespace.conntrack = Some(Conntrack { stats: Some(stats), ..table(64, 262_144) });
        namespace.tracked_before = Some(before);
        namespace.nat = Some(Ports { fullest: fullest.into(), cut: false });
    });
    check(&facts, &facts.namespaces[0])
}

#[test]
fn a_nat_without_ports_is_told_with_the_destination() {
    let findings = nat(2, 22, 356, [taken(64)]);
    assert_eq!((ids(&findings), findings[0].severity), (vec!["conntrack.nat-ports"], Severity::Critical));
    assert_eq!(
        findings[0].sentence,
        "NAT has no free port from 10.82.0.1 to 10.82.0.2:443 (tcp): 64 of 64 ports taken (40000-40063); 2 packets dropped in \
         0.5 s, 22 since the namespace began"
    );
    assert!(findings[0].to_do[0].starts_with("masquerade to :1024-65535 in the NAT rule"), "{findings:?}");
    assert!(findings[0].to_do[1].starts_with("snat to 10.82.0.1-LAST"), "{findings:?}");
    assert!(!findings[0].to_do.iter().any(|step| step.contains("nf_conntrack_max")), "{findings:?}");
    assert_eq!(fixture::number(&findings[0], "insert_failed now"), Some(2.0));
    // It has ended, and was a third of all connections; or nothing that matters, but the ports are taken still.
    for (total, packets) in [(36, 356), (1, 1_000_000)] {
        let findings = nat(0, total, packets, [taken(64)]);
        assert_eq!((ids(&findings), findings[0].severity), (vec!["conntrack.nat-ports"], Severity::Warning));
        assert!(findings[0].sentence.ends_with("dropped since the namespace began, none now"), "{findings:?}");
    }
}

#[test]
fn steps_follow_what_takes_the_ports() {
    // The whole range is taken, by closed connections: a wider one is not to be had.
    let whole = Taken { stretch: 1024..=65_535, together: 64_000, count: 64_000, time_wait: 60_000, ..taken(8) };
    let findings = nat(5, 50, 1000, [whole]);
    let steps = &findings[0].to_do;
    assert!(steps[0].starts_with("snat to 10.82.0.1-LAST"), "{steps:?}");
    assert!(steps[1].starts_with("sysctl -w net.netfilter.nf_conntrack_tcp_timeout_time_wait=60 "), "{steps:?}");
    // Open connections have nothing to gain from it.
    assert!(!nat(5, 50, 1000, [taken(64)])[0].to_do.iter().any(|step| step.contains("time_wait")));
}

#[test]
fn a_clash_is_no_lack_of_ports() {
    // Ports far apart, none changed, or too few of them.
    let apart = Taken { stretch: 40_000..=40_300, together: 110, ..taken(110) };
    let kept = Taken { changed: 0, ..taken(64) };
    for place in [apart, kept, taken(3)] {
        let findings = nat(0, 36, 356, [place.clone()]);
        assert_eq!((ids(&findings), findings[0].severity), (vec!["conntrack.clash"], Severity::Warning), "{place:?}");
    }
    // A few since the machine was started are a note.
    let findings = nat(0, 36, 10_000_000, []);
    assert_eq!((ids(&findings), findings[0].severity), (vec!["conntrack.clash", "conntrack.room"], Severity::Note));
    assert_eq!(ids(&nat(0, 0, 356, [taken(64)])), ["conntrack.room"]);
}

#[test]
fn without_the_table_the_tries_tell() {
    let with = |found: Option<u64>| {
        let stats = Stats { drop: 20, insert_failed: 20, found, ..Stats::default() };
        let facts = Fixture::quiet().namespace(|namespace| {
            namespace.conntrack = Some(Conntrack { stats: Some(stats), ..table(64, 262_144) });
            namespace.tracked_before = Some(Stats { found: found.map(|_| 0), ..Stats::default() });
        });
        check(&facts, &facts.namespaces[0]).remove(0).id
    };
    assert_eq!(with(Some(800)), "conntrack.nat-ports");
    assert_eq!(with(Some(0)), "conntrack.clash");
    assert_eq!(with(None), "conntrack.clash");
}
