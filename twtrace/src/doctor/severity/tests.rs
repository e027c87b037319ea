use proptest::prelude::*;

use super::*;
use crate::doctor::checks::fixture::Fixture;

/// So many lost of so many attempts in half a second, and since the namespace began.
fn loss(now: (u64, u64), since: (u64, u64)) -> Loss {
    let well = |(lost, of): (u64, u64)| Some(of - lost);
    Loss { now: now.0, well_now: well(now), seconds: 0.5, total: since.0, well: well(since) }
}

#[test]
fn what_fails_now_is_critical() {
    for (now, since) in [
        // Every attempt; one of 20; many of very many.
        ((4, 4), (4, 4)),
        ((3, 60), (3, 1_000_000)),
        ((50, 100_000), (50, 1_000_000_000)),
        // Few at a time, but that has gone on for long.
        ((1, 1), (10, 40)),
        ((1, 20), (50, 1000)),
    ] {
        assert_eq!(loss(now, since).severity(), Severity::Critical, "{now:?} {since:?}");
    }
}

#[test]
fn one_drop_is_not_critical_by_itself() {
    for (now, since, expected) in [
        ((1, 1), (1, 1), Severity::Warning),
        ((2, 3), (2, 100), Severity::Warning),
        ((1, 500), (1, 100_000), Severity::Note),
        ((1, 500), (9, 9), Severity::Note),
        ((3, 61), (3, 1_000_000), Severity::Warning),
        ((49, 100_000), (49, 1_000_000_000), Severity::Warning),
    ] {
        assert_eq!(loss(now, since).severity(), expected, "{now:?} {since:?}");
    }
}

#[test]
fn what_has_ended_is_a_warning_if_it_was_much() {
    for (since, expected) in [
        ((0, 0), Severity::Fine),
        ((0, 1000), Severity::Fine),
        ((36, 100), Severity::Warning),
        ((10, 100), Severity::Warning),
        ((9, 9), Severity::Note),
        ((10, 101), Severity::Note),
        ((1_000_000, 1_000_000_000), Severity::Note),
    ] {
        assert_eq!(loss((0, 0), since).severity(), expected, "{since:?}");
        assert_eq!(loss((0, 5000), since).severity(), expected, "{since:?}");
    }
}

#[test]
fn attempts_that_are_not_counted_are_not_none() {
    let blind = |now, total| Loss { now, seconds: 0.5, total, ..Loss::default() }.severity();
    assert_eq!((blind(4, 4), blind(3, 3), blind(2, 2)), (Severity::Critical, Severity::Critical, Severity::Note));
    assert_eq!((blind(0, 1_000_000), blind(0, 0)), (Severity::Note, Severity::Fine));
    // In ten seconds the same three are little.
    assert_eq!(Loss { now: 3, seconds: 10.0, total: 3, ..Loss::default() }.severity(), Severity::Warning);
}

#[test]
fn counters_make_a_loss() {
    let facts =
        Fixture::quiet().counter("TcpExt", "ListenDrops", 10, 14).counter("Tcp", "PassiveOpens", 100, 112).facts();
    let loss = Loss::counted(&facts.namespaces[0], ("TcpExt", "ListenDrops"), ("Tcp", "PassiveOpens")).unwrap();
    assert_eq!((loss.now, loss.well_now, loss.total, loss.well), (4, Some(12), 14, Some(112)));
    assert_eq!((loss.share_now(), loss.severity()), (Some(0.25), Severity::Critical));
    let shown = loss.shown("connections").map(|evidence| evidence.value.to_string());
    assert_eq!(shown, ["11.1", "25.0"]);
    assert_eq!(Loss::counted(&facts.namespaces[0], ("TcpExt", "NoSuch"), ("Tcp", "PassiveOpens")), None);
}

#[test]
fn the_rule_says_what_is_done() {
    let rule = rule!();
    for (number, unit) in
        [(FEW as f64, " losses between"), (OUTAGE * 100.0, " % of the attempts or more"), (BLIND, " per second where")]
    {
        assert!(rule.contains(&format!("{number}{unit}")), "{number}{unit}");
    }
    for (number, unit) in [
        (FLOOD, " losses per second"),
        (SOME as f64, " losses are 5 %"),
        (FELT * 100.0, " % of the attempts; or"),
        (LASTING * 100.0, " % of all"),
    ] {
        assert!(rule.contains(&format!("{number}{unit}")), "{number}{unit}");
    }
}

proptest! {
    /// Total, and more of the same is never less bad.
    #[test]
    fn more_is_never_less_bad(now: u64, well_now: Option<u64>, seconds in 0.0..100.0, total: u64, well: Option<u64>) {
        let loss = Loss { now, well_now, seconds, total, well };
        let more = Loss { now: now.saturating_mul(2), total: total.saturating_mul(2), ..loss };
        prop_assert!(more.severity() >= loss.severity());
        let fewer = Loss { now: 0, ..loss };
        prop_assert!(fewer.severity() <= loss.severity() || now == 0 || loss.severity() == Severity::Note);
        for share in [loss.share(), loss.share_now()].into_iter().flatten() {
            prop_assert!((0.0..=1.0).contains(&share));
        }
    }
}
