use super::*;
use crate::doctor::checks::fixture::{Fixture, destination, ids, listening, number, sample, severity, shown, the};
use crate::doctor::places::{Container, Reach, Runtime};
use crate::host::{counters::Sockstat, diag::TCP_ESTABLISHED, sockets::Ends};

/// A socket accepted at 10.0.0.1:8080 that was silent for so long.
fn stays(state: u8, idle_ms: u32) -> Sample {
    Sample { inode: 7, idle_ms: Some(idle_ms), ..sample(state) }
}

fn asked(samples: impl IntoIterator<Item = Sample>) -> Vec<Finding> {
    samples.into_iter().fold(Fixture::quiet().owner(7, 42, "python3"), Fixture::sample).asked(check)
}

fn many(count: usize, sample: Sample) -> Vec<Finding> {
    asked(std::iter::repeat_n(sample, count))
}

#[test]
fn a_program_that_does_not_close_is_named() {
    let found = many(900, stays(TCP_CLOSE_WAIT, 5000));
    assert_eq!(ids(&found), ["states.close-wait"]);
    assert_eq!(found[0].severity, Severity::Warning);
    assert_eq!(
        found[0].sentence,
        "python3 (42) has 900 connections in CLOSE_WAIT, accepted at 10.0.0.1:8080: the peers have closed them, python3 has \
         not"
    );
    assert_eq!(
        (number(&found[0], "silent for, the longest"), number(&found[0], "CLOSE_WAIT")),
        (Some(5.0), Some(900.0))
    );
    assert_eq!(number(&found[0], "accepted at 10.0.0.1:8080"), Some(900.0));
    assert!(
        found[0].to_do[0].contains("ss -tnp state close-wait") && found[0].to_do[0].contains("pid=42,"),
        "{found:?}"
    );
}

#[test]
fn a_pile_in_a_container_names_it() {
    let facts = std::iter::repeat_n(stays(TCP_CLOSE_WAIT, 5000), 200).fold(Fixture::quiet(), Fixture::sample);
    let facts = facts.namespace(|namespace| {
        let id = "0123456789ab".to_owned();
        namespace.place.container = Some(Container { runtime: Runtime::Docker, id });
        namespace.place.reach = Reach::Process(77);
    });
    let found = Fixture::from(facts).asked(check);
    assert_eq!(shown(&found[0], "container").as_deref(), Some("docker 0123456789ab"));
    assert!(found[0].to_do[0].contains("nsenter --net=/proc/77/ns/net ss -tnp state close-wait"), "{found:?}");
}

#[test]
fn what_passes_through_close_wait_is_no_pile() {
    // A handful for long; many in passing; silence that is not known.
    for (count, idle_ms) in [(15, Some(3_600_000)), (99, Some(30_000)), (5000, Some(999)), (5000, None)] {
        let found = many(count, Sample { idle_ms, ..stays(TCP_CLOSE_WAIT, 0) });
        assert_eq!(ids(&found), ["states.fine"], "{count} {idle_ms:?}");
    }
    assert_eq!(severity(&many(100, stays(TCP_CLOSE_WAIT, 1000)), "states.close-wait"), Some(Severity::Warning));
    // A small leak is worth a word.
    assert_eq!(severity(&many(16, stays(TCP_CLOSE_WAIT, 60_000)), "states.close-wait"), Some(Severity::Note));
}

#[test]
fn piles_are_each_programs_own() {
    let two = (0..200).map(|n| Sample { inode: 7 + n % 2, ..stays(TCP_CLOSE_WAIT, 5000) });
    let fixture = two.fold(Fixture::quiet().owner(7, 42, "python3").owner(8, 43, "java"), Fixture::sample);
    let found = fixture.asked(check);
    assert_eq!(ids(&found), ["states.close-wait", "states.close-wait"]);
    assert!(found.iter().any(|it| it.sentence.starts_with("java (43) has 100 ")), "{found:?}");
    // Nobody may know whose they are.
    let found =
        std::iter::repeat_n(stays(TCP_CLOSE_WAIT, 5000), 300).fold(Fixture::quiet(), Fixture::sample).asked(check);
    assert!(found[0].sentence.starts_with("a program that could not be named has 300 connections"), "{found:?}");
}

#[test]
fn clients_that_gave_up_before_accept_are_told_apart() {
    let waits = Sample { inode: 0, ..stays(TCP_CLOSE_WAIT, 9000) };
    let listener = Listener { inode: 9, ..listening(8080, 3, 512) };
    let fixture = std::iter::repeat_n(waits, 200).fold(Fixture::quiet().owner(9, 44, "uwsgi"), Fixture::sample);
    let found = fixture.listener(listener).asked(check);
    assert!(
        found[0].sentence.contains("200 connections in CLOSE_WAIT, accepted at 10.0.0.1:8080, wait for accept()"),
        "{found:?}"
    );
    assert!(found[0].to_do[0].contains("uwsgi does not call accept()"), "{found:?}");
}

#[test]
fn shutdown_without_close_is_told() {
    let found = many(400, Sample { accepted: false, ..stays(TCP_FIN_WAIT2, 4000) });
    assert_eq!(ids(&found), ["states.fin-wait2-held"]);
    assert_eq!(
        found[0].sentence,
        "python3 (42) holds 400 connections in FIN_WAIT2, opened to 10.0.0.2:40000: it called shutdown() and not close()"
    );
    assert!(found[0].avoid[0].contains("tcp_fin_timeout"), "{found:?}");
}

#[test]
fn healthy_fin_wait2_is_no_pile() {
    // Orphans end by themselves, and an answer may be read to its end.
    assert_eq!(ids(&many(5000, Sample { inode: 0, ..stays(TCP_FIN_WAIT2, 9000) })), ["states.fine"]);
    assert_eq!(ids(&many(5000, stays(TCP_FIN_WAIT2, 100))), ["states.fine"]);
    let minisocks = Ends { fin_wait2: 5000, ..Ends::default() };
    assert_eq!(ids(&Fixture::quiet().opened(destination(443), minisocks).asked(check)), ["states.fine"]);
}

#[test]
fn orphans_whose_peer_is_gone_are_told_from_those_whose_peer_does_not_read() {
    let orphan = Sample { inode: 0, unsent: 1000, ..stays(TCP_FIN_WAIT1, 9000) };
    let gone = many(600, Sample { retried: true, ..orphan });
    assert_eq!(ids(&gone), ["states.closing"]);
    assert_eq!(
        gone[0].sentence,
        "600 closed connections, accepted at 10.0.0.1:8080, are stuck, most of them in FIN_WAIT1: nothing comes back"
    );
    assert_eq!(
        (number(&gone[0], "not acknowledged"), number(&gone[0], "held by no process")),
        (Some(6e5), Some(600.0))
    );
    let full = many(600, Sample { probing: true, ..orphan });
    assert!(full[0].sentence.ends_with("most of them in FIN_WAIT1: the peer does not read what was sent"), "{full:?}");
    assert!(full[0].to_do[0].contains("does not read") && gone[0].to_do[0].contains("firewall"), "{full:?}");
    let last = many(100, Sample { retried: true, state: TCP_LAST_ACK, ..orphan });
    assert!(last[0].sentence.contains("most of them in LAST_ACK"), "{last:?}");
}

#[test]
fn closing_in_passing_is_no_pile() {
    let orphan = Sample { inode: 0, ..stays(TCP_FIN_WAIT1, 3_600_000) };
    assert_eq!(ids(&many(5000, orphan)), ["states.fine"]);
    assert_eq!(ids(&many(99, Sample { retried: true, ..orphan })), ["states.fine"]);
}

#[test]
fn a_peer_that_does_not_answer_is_named() {
    let syn = Sample { accepted: false, retried: true, ..stays(TCP_SYN_SENT, 3000) };
    let found = many(16, syn);
    assert_eq!((ids(&found), found[0].severity), (vec!["states.syn-sent"], Severity::Warning));
    assert_eq!(
        found[0].sentence,
        "16 connects by python3 (42) to 10.0.0.2:40000 wait in SYN_SENT: the peer does not answer"
    );
    // Some get through.
    let open = Ends { established: 5, ..Ends::default() };
    let with = |count| {
        let fixture = std::iter::repeat_n(syn, count).fold(Fixture::quiet(), Fixture::sample);
        severity(&fixture.opened(destination(40_000), open).asked(check), "states.syn-sent")
    };
    assert_eq!((with(16), with(99), with(100)), (Some(Severity::Note), Some(Severity::Note), Some(Severity::Warning)));
    // Too few, or on their way.
    assert_eq!(ids(&many(15, syn)), ["states.fine"]);
    assert_eq!(ids(&many(5000, Sample { retried: false, ..stays(TCP_SYN_SENT, 300) })), ["states.fine"]);
}

#[test]
fn handshakes_that_do_not_end_are_a_share_of_what_may_wait() {
    let with = |requests, resent, limit| {
        let listener = Listener { requests, resent, inode: 7, ..listening(80, 0, limit) };
        Fixture::quiet().owner(7, 42, "nginx").listener(listener).asked(check)
    };
    let found = with(900, 800, 4096);
    assert_eq!((ids(&found), found[0].severity), (vec!["states.syn-recv"], Severity::Warning));
    assert_eq!(
        found[0].sentence,
        "900 handshakes at 0.0.0.0:80 of nginx (42) wait in SYN_RECV, limit 4096: the clients do not answer"
    );
    assert_eq!(ids(&with(600, 0, 1024)), ["states.syn-recv"]);
    // In their first round trip; few; and a full queue is told by another question.
    for (requests, resent, limit) in [(900, 100, 4096), (99, 99, 128), (1024, 1024, 1024), (3000, 3000, 128)] {
        assert_eq!(ids(&with(requests, resent, limit)), ["states.fine"], "{requests} {resent} {limit}");
    }
}

#[test]
fn orphans_are_compared_with_what_the_machine_may_have() {
    let with = |orphan, limit| {
        let mut facts = Fixture::quiet().machine(|machine| machine.tcp.max_orphans = limit);
        facts.namespaces[0].sockstat = Some(Sockstat { orphan, ..Sockstat::default() });
        severity(&Fixture::from(facts).asked(check), "states.orphans")
    };
    assert_eq!((with(799, Some(1000)), with(800, Some(1000))), (None, Some(Severity::Warning)));
    assert_eq!((with(99, Some(50)), with(100_000, None), with(0, Some(0))), (None, None, None));
}

#[test]
fn memory_is_compared_with_its_three_numbers() {
    let with = |pages, before, after| {
        let counted = Fixture::quiet().counter("TcpExt", "TCPMemoryPressures", before, after);
        let mut facts = counted.machine(|machine| machine.tcp.mem_pages = Some([100, 200, 300]));
        facts.namespaces[0].sockstat = Some(Sockstat { mem_pages: pages, ..Sockstat::default() });
        severity(&Fixture::from(facts).asked(check), "states.memory")
    };
    assert_eq!(
        (with(199, 0, 0), with(200, 0, 0), with(299, 0, 0)),
        (None, Some(Severity::Warning), Some(Severity::Warning))
    );
    assert_eq!(
        (with(300, 0, 0), with(0, 3, 4), with(0, 4, 4)),
        (Some(Severity::Critical), Some(Severity::Warning), Some(Severity::Note))
    );
    let aborts = Fixture::quiet().counter("TcpExt", "TCPAbortOnMemory", 1, 3).asked(check);
    assert!(aborts[0].sentence.starts_with("2 connections were reset just now"), "{aborts:?}");
}

#[test]
fn what_is_the_machines_is_told_once() {
    let mut facts = Fixture::quiet().machine(|machine| machine.tcp.max_orphans = Some(100));
    facts.namespaces[0].sockstat = Some(Sockstat { orphan: 200, ..Sockstat::default() });
    facts.namespaces.push(Namespace { inum: 7, ..facts.namespaces[0].clone() });
    assert_eq!(ids(&check(&facts, &facts.namespaces[0])), ["states.orphans"]);
    assert_eq!(ids(&check(&facts, &facts.namespaces[1])), ["states.fine"]);
}

#[test]
fn more_than_was_looked_at_is_told_as_at_least() {
    let mut facts =
        std::iter::repeat_n(stays(TCP_CLOSE_WAIT, 5000), SAMPLES).fold(Fixture::quiet(), Fixture::sample).facts();
    facts.namespaces[0].sockets.states = crate::host::states::States::default().with(TCP_CLOSE_WAIT, 20_000, 0);
    let found = Fixture::from(facts).asked(check);
    assert!(found[0].sentence.contains("has at least 8192 connections in CLOSE_WAIT"), "{found:?}");
    assert_eq!(number(&found[0], "CLOSE_WAIT"), Some(20_000.0));
}

#[test]
fn all_states_are_told_when_all_is_well() {
    let found = asked([stays(TCP_ESTABLISHED, 1), stays(TCP_ESTABLISHED, 1), stays(TCP_CLOSE_WAIT, 1)]);
    assert_eq!(found[0].sentence, "3 TCP sockets, and in no state do they pile up");
    assert_eq!((number(&found[0], "ESTAB"), number(&found[0], "CLOSE-WAIT")), (Some(2.0), Some(1.0)));
    assert_eq!(shown(the(&found, "states.fine"), "SYN-SENT"), None);
    assert_eq!(Fixture::quiet().asked(check)[0].sentence, "there are no TCP sockets");
}
