use super::*;
use crate::{
    doctor::checks::fixture::{Fixture, destination, ids, number, severity, the},
    host::sockets::Ends,
};

const OVERFLOWED: &str = "TCPTimeWaitOverflow";

/// With so many minisocks of so many, all towards one destination.
fn filled(used: u64, limit: u64) -> Fixture {
    let ends = Ends { time_wait: used, ..Ends::default() };
    let mut facts = Fixture::quiet().sysctl("ipv4/tcp_max_tw_buckets", limit).opened(destination(443), ends).facts();
    facts.namespaces[0].sockstat.as_mut().unwrap().tw = used;
    facts.into()
}

#[test]
fn a_quiet_machine_costs_nothing() {
    let findings = Fixture::quiet().asked(check);
    assert_eq!((ids(&findings), findings[0].severity), (vec!["cost.harmless"], Severity::Fine));
    assert_eq!(findings[0].sentence, "there is no TIME_WAIT here");
    let told = |used| filled(used, 131_072).asked(check).remove(0).sentence;
    assert_eq!(told(1), "1 TIME_WAIT costs nothing: harmless");
    assert_eq!(told(2), "2 TIME_WAITs take 0.5 kB of memory and no descriptor: harmless");
    assert_eq!(told(100_000), "100000 TIME_WAITs take 25.6 MB of memory and no descriptor: harmless");
}

#[test]
fn minisocks_of_both_kinds_are_not_called_time_waits() {
    let both = Ends { time_wait: 5, fin_wait2: 3, ..Ends::default() };
    let facts = Fixture::quiet().opened(destination(443), both).namespace(|namespace| namespace.sockstat = None);
    let findings = Fixture::from(facts).asked(check);
    assert!(findings[0].sentence.starts_with("8 minisocks, in TIME_WAIT and FIN_WAIT2,"), "{findings:?}");
    assert_eq!(number(&findings[0], "TIME_WAIT"), Some(5.0));
    assert_eq!(number(&findings[0], "tw"), None);
}

#[test]
fn buckets_are_nearly_full_from_four_fifths_on() {
    let border = filled(800, 1000).asked(check);
    assert_eq!((ids(&border), border[0].severity), (vec!["cost.buckets"], Severity::Warning));
    assert_eq!(border[0].sentence, "800 of 1000 buckets for TIME_WAIT are taken");
    assert_eq!(
        border[0].to_do[0],
        "sysctl -w net.ipv4.tcp_max_tw_buckets=2048     # now 1000; a minisock takes 256 bytes, so these \
         take at most 524.3 kB"
    );
    assert_eq!((number(&border[0], "tw"), number(&border[0], "tcp_max_tw_buckets")), (Some(800.0), Some(1000.0)));
    assert_eq!(ids(&filled(799, 1000).asked(check)), ["cost.harmless"]);
    // More than there may be: the limit was lowered.
    assert!(filled(4000, 1000).asked(check)[0].to_do[0].contains("=8192 "));
    // Without a limit that can be read nothing is near it.
    assert_eq!(ids(&filled(800, 1000).sysctl("ipv4/tcp_max_tw_buckets", None).asked(check)), ["cost.harmless"]);
}

#[test]
fn what_the_kernel_says_of_a_minisock_counts() {
    let slab = Slab { object_bytes: 280, ..Slab::default() };
    let facts = filled(900, 1000).machine(|machine| {
        machine.slabs.as_mut().unwrap().insert("tw_sock_TCP".to_owned(), slab);
    });
    assert!(Fixture::from(facts).asked(check)[0].to_do[0].contains("a minisock takes 280 bytes"));
}

#[test]
fn an_overflow_is_a_warning_while_it_happens() {
    let full = filled(1000, 1000).counter("TcpExt", OVERFLOWED, 5, 12).asked(check);
    assert_eq!((ids(&full), full[0].severity), (vec!["cost.overflow"], Severity::Warning));
    assert_eq!(full[0].sentence, "7 sockets closed without TIME_WAIT just now: all 1000 buckets are taken");
    assert_eq!(number(&full[0], OVERFLOWED), Some(12.0));
    assert_eq!(number(&full[0], "TCPTimeWaitOverflow now"), Some(14.0));
    assert!(full[0].to_do[0].starts_with("sysctl -w net.ipv4.tcp_max_tw_buckets="), "{full:?}");
    // There were buckets left: a higher limit does not help.
    let empty = filled(10, 1000).counter("TcpExt", OVERFLOWED, 5, 12).asked(check);
    assert_eq!((ids(&empty), empty[0].severity), (vec!["cost.overflow"], Severity::Warning));
    assert!(empty[0].to_do.iter().all(|step| !step.contains("tcp_max_tw_buckets")), "{empty:?}");
    // One may be chance, unless the table is full.
    let one = |used| filled(used, 1000).counter("TcpExt", OVERFLOWED, 0, 1).asked(check)[0].severity;
    assert_eq!((one(10), one(1000)), (Severity::Note, Severity::Warning));
}

/// The limit that is advised: with so many minisocks, of which so many began in the last second, and so many refused.
fn advised(used: u64, limit: u64, per_s: u64, refused_per_s: u64) -> u64 {
    let ends = Ends { time_wait: used, recent: per_s * 10, young: per_s, ..Ends::default() };
    let fixture = Fixture::quiet().sysctl("ipv4/tcp_max_tw_buckets", limit).opened(destination(443), ends);
    let fixture = fixture.counter("TcpExt", OVERFLOWED, 0, refused_per_s / 2);
    let facts = fixture.namespace(|namespace| namespace.sockstat.as_mut().unwrap().tw = used);
    let found = check(&facts, &facts.namespaces[0]).remove(0);
    let steps: Vec<&String> = found.to_do.iter().filter(|step| step.contains("tcp_max_tw_buckets=")).collect();
    assert_eq!(steps.len(), 1, "one number: {found:?}");
    steps[0].split(['=', ' ']).find_map(|word| word.parse().ok()).unwrap()
}

#[test]
fn the_limit_follows_from_the_rate() {
    // 90 a second for a minute are 5,400, and half for bursts 8,100.
    assert_eq!(advised(500, 512, 90, 0), 8192);
    // Most of them are refused: they count.
    assert_eq!(advised(500, 512, 10, 80), 8192);
    // Nothing begins at the moment: twice what is taken.
    assert_eq!(advised(500, 512, 0, 0), 1024);
    // Never below what there is.
    assert_eq!(advised(120_000, 131_072, 40, 0), 262_144);
    assert_eq!(advised(5000, 1000, 1, 0), 8192);
    assert_eq!(advised(131_072, 131_072, 2000, 2000), 524_288);
}

#[test]
fn an_overflow_that_is_over_is_a_note() {
    let over = filled(10, 1000).counter("TcpExt", OVERFLOWED, 12, 12).asked(check);
    assert_eq!(ids(&over), ["cost.overflow", "cost.harmless"]);
    assert_eq!(over[0].severity, Severity::Note);
    // What is still nearly full comes before what was.
    let full = filled(1000, 1000).counter("TcpExt", OVERFLOWED, 12, 12).asked(check);
    assert_eq!((ids(&full), number(&full[0], OVERFLOWED)), (vec!["cost.buckets"], Some(12.0)));
}

#[test]
fn memory_counts_from_one_percent_on() {
    let page = rustix::param::page_size() as u64;
    let with = |slabs, memory| {
        let slab = Slab { slabs, pages_per_slab: 1, object_bytes: 256, ..Slab::default() };
        let facts = Fixture::quiet().machine(|machine| {
            machine.memory = memory;
            machine.slabs.as_mut().unwrap().insert("tcp_bind_bucket".to_owned(), slab);
        });
        Fixture::from(facts).asked(check)
    };
    let border = with(10, Some(page * 1000));
    assert_eq!(ids(&border), ["cost.memory", "cost.harmless"]);
    let found = the(&border, "cost.memory");
    assert_eq!((found.severity, number(found, "tcp_bind_bucket")), (Severity::Note, Some(10.0 * page as f64)));
    assert!(found.sentence.ends_with(", 1.0 % of the memory"), "{found:?}");
    assert_eq!(ids(&with(9, Some(page * 1000))), ["cost.harmless"]);
    assert_eq!(ids(&with(10, None)), ["cost.harmless"]);
}

#[test]
fn the_machines_memory_is_told_once() {
    let slab = Slab { slabs: 1 << 30, pages_per_slab: 1, ..Slab::default() };
    let mut facts = Fixture::quiet().machine(|machine| {
        machine.slabs.as_mut().unwrap().insert("tw_sock_TCP".to_owned(), slab);
    });
    facts.namespaces.push(Namespace { inum: 7, ..facts.namespaces[0].clone() });
    assert!(ids(&check(&facts, &facts.namespaces[0])).contains(&"cost.memory"));
    assert_eq!(ids(&check(&facts, &facts.namespaces[1])), ["cost.harmless"]);
}

#[test]
fn many_peers_that_do_not_close_are_a_warning() {
    let with = |fin_wait2, orphans, time_wait| {
        let ends = Ends { fin_wait2, time_wait, ..Ends::default() };
        let facts = Fixture::quiet().opened(destination(443), ends);
        let facts = facts.namespace(|namespace| namespace.sockets.orphans = orphans);
        Fixture::from(facts).asked(check)
    };
    let found = with(60, 40, 0);
    assert_eq!((ids(&found), found[0].severity), (vec!["cost.fin-wait2"], Severity::Warning));
    assert_eq!(found[0].sentence, "100 connections were closed here and wait for a peer that does not close its end");
    assert_eq!((number(&found[0], "FIN_WAIT2"), number(&found[0], "FIN_WAIT2 orphans")), (Some(60.0), Some(40.0)));
    assert_eq!(number(&found[0], "tcp_fin_timeout"), Some(60.0));
    assert_eq!(severity(&with(99, 0, 0), "cost.fin-wait2"), None);
    // Beside many more TIME_WAITs they are what is always on its way.
    assert_eq!(severity(&with(100, 0, 200), "cost.fin-wait2"), Some(Severity::Warning));
    assert_eq!(severity(&with(100, 0, 202), "cost.fin-wait2"), None);
}
