//! Connections that their own end resets: SO_LINGER 0, by whom, and whether on purpose.

use std::cmp::Reverse;

use crate::{
    doctor::{
        checks::is_program,
        facts::{Facts, Machine, Namespace, Owner},
        finding::{Evidence, Finding, Severity, Story},
    },
    host::openers::fresh::Fresh,
    show::human::Many,
};

/// SO_LINGER 0.
pub const LINGER0: Story = Story {
    id: "folklore.linger0",
    title: "Programs reset their connections instead of closing them",
    why: "close() with SO_LINGER 0 sends a RST and leaves no TIME_WAIT. The reset throws away what was not yet sent, and what \
          the peer has not yet read: data is lost, and only ECONNRESET tells.",
    story: "With l_onoff = 1 and l_linger = 0 close() breaks a connection instead of ending it, and TcpExt TCPAbortOnData counts \
            it. The same counter moves when data comes for a connection that was closed already, so that nobody can read the \
            data: there a program closes before it has got the whole answer. sock_diag does not tell the two apart, for \
            neither leaves a socket. Both lose data.\n\n\
            TCPAbortOnClose is another thing: close() while there is data that the program did not read. That too sends a \
            RST, and needs no SO_LINGER; mostly a client does not read an answer to its end.\n\n\
            Resets are right where nothing can be lost: a health check that has had its answer, a load generator, a \
            connection that is known to be broken. HAProxy resets its health checks and its idle connections to servers, \
            keepalived its TCP checks, to keep their ports free. The doctor samples who gets new sockets, for a quarter of \
            a second. Resets that such a program's connections can explain are a note.\n\n\
            As a remedy for TIME_WAIT resets are the wrong one: let the other end close first, or keep connections open.",
    holds: "TCPAbortOnData moves by 10 % of the connections that begin, or more: a warning from 10 resets on, between the looks \
            or since the namespace began; else a note.",
    does_not: "HAProxy or keepalived is here and opens enough connections to explain the resets: a note that names it. \
               TCPAbortOnClose alone; resets that came from the peer.",
    by_hand: &[
        "nstat -d 10 TcpExtTCPAbortOnData TcpExtTCPAbortOnClose TcpOutRsts TcpActiveOpens TcpPassiveOpens",
        "strace -f -e trace=setsockopt -p PID     # SO_LINGER, {l_onoff=1, l_linger=0}",
        "tcpdump -nn 'tcp[tcpflags] & tcp-rst != 0'",
    ],
    sources: &[
        "net/ipv4/tcp.c: __tcp_close",
        "net/ipv4/tcp_input.c: tcp_rcv_state_process",
        "socket(7): SO_LINGER",
        "HAProxy: src/check.c, src/proto_tcp.c; keepalived: keepalived/core/layer4.c",
    ],
};

/// From this share of the connections on, resets by their own end are a habit.
const HABIT: f64 = 0.1;
/// Fewer than these may be chance.
const SOME: u64 = 10;
/// A sample tells shares only about.
const SLACK: f64 = 1.2;
/// Resets beyond what a program opened that are still its own: connections that began before the first look.
const FEW: f64 = 3.0;
/// Programs that are shown.
const TOP: usize = 3;
/// Programs that reset connections on purpose, and which.
const ON_PURPOSE: [(&str, &str); 2] = [
    ("haproxy", "health checks that have had their answer, and idle connections to servers"),
    ("keepalived", "TCP checks that have succeeded"),
];

/// Judges every namespace; of those beside the first only what asks for something to be done.
pub fn check(facts: &Facts) -> Vec<Finding> {
    let of = |(place, namespace)| {
        one(&facts.machine, namespace).filter(|finding| place == 0 || finding.severity >= Severity::Warning)
    };
    facts.namespaces.iter().enumerate().filter_map(of).collect()
}

/// What resets on purpose, if it is known to.
fn purpose(comm: &str) -> Option<&'static str> {
    ON_PURPOSE.iter().find(|(program, _)| is_program(comm, program)).map(|(_, purpose)| *purpose)
}

fn one(machine: &Machine, namespace: &Namespace) -> Option<Finding> {
    let moved = |group, name| namespace.moved(group, name);
    let resets = moved("TcpExt", "TCPAbortOnData").filter(|resets| *resets > 0)?;
    // As many connections end as begin; both ends of one may be here, and then only one of them resets.
    let opened = moved("Tcp", "ActiveOpens").unwrap_or(0);
    let began = opened.saturating_add(moved("Tcp", "PassiveOpens").unwrap_or(0));
    if (resets as f64) < began as f64 * HABIT {
        return None;
    }
    let known = known(machine, namespace).filter(|(_, share)| resets as f64 <= opened as f64 * share * SLACK + FEW);
    let seconds = namespace.window.as_secs_f64();
    let count = Many(resets, "connection");
    let counters = [
        ("TcpExt", "TCPAbortOnData"),
        ("TcpExt", "TCPAbortOnClose"),
        ("Tcp", "ActiveOpens"),
        ("Tcp", "PassiveOpens"),
        ("Tcp", "EstabResets"),
        ("Tcp", "OutRsts"),
        ("TcpExt", "TW"),
    ];
    let shown = |finding: Finding| {
        let seen = openers(machine, namespace).into_iter().take(TOP).map(|(owner, count)| {
            Evidence::new(format!("new sockets of {owner}"), count, "seen", "/proc/PID/fd, a sample of 0.25 s")
        });
        let finding = finding
            .shown_by(counters.into_iter().flat_map(|(group, name)| namespace.counted(group, name)))
            .shown_by(seen);
        Finding { netns: Some(namespace.inum), ..finding }
    };
    if let Some((owner, _)) = known {
        let what = purpose(owner.comm).unwrap_or_default();
        let sentence =
            format!("{count} ended by a RST of this end in {seconds:.1} s, as {owner} does on purpose: {what}");
        let finding = Finding::new(&LINGER0, Severity::Note, sentence).shown_by([owner.shown("resets on purpose")]);
        return Some(shown(finding));
    }
    let total = namespace.total("TcpExt", "TCPAbortOnData").unwrap_or(0);
    let all = ["ActiveOpens", "PassiveOpens"].into_iter().filter_map(|name| namespace.total("Tcp", name));
    let is_lasting = total >= SOME && total as f64 >= all.fold(0, u64::saturating_add) as f64 * HABIT;
    let severity = if resets >= SOME || is_lasting { Severity::Warning } else { Severity::Note };
    let suspect = suspect(machine, namespace, resets > opened);
    let by = match suspect {
        Some((owner, what)) => format!("; {owner} {what}"),
        None => String::new(),
    };
    let sentence = format!(
        "{count} reset by their own end in {seconds:.1} s, while {began} began{by}: SO_LINGER 0, or data that came after close()"
    );
    let pid = suspect.map_or_else(|| "PID".to_owned(), |(owner, _)| owner.pid.to_string());
    let finding = Finding::new(&LINGER0, severity, sentence)
        .shown_by(suspect.map(|(owner, _)| owner.shown("suspect")))
        .to_do([
            format!(
                "sudo strace -f -e trace=setsockopt -p {pid}: shows SO_LINGER with l_linger=0 if this program resets on purpose"
            ),
            "shutdown(SHUT_WR), read to the end, close(): ends a connection in order; or let the other end close first"
                .to_owned(),
        ])
        .avoid(["do not set SO_LINGER 0 to get rid of TIME_WAIT: it throws away what the peer has not read"]);
    Some(shown(finding))
}

/// Processes that were seen to open connections, the busiest first. New sockets of who listens are taken for accepted ones, but
/// for proxies.
fn openers<'a>(machine: &'a Machine, namespace: &Namespace) -> Vec<(Owner<'a>, u64)> {
    let opener = |(pid, fresh): (&u32, &Fresh)| {
        let owner = machine.named(*pid)?;
        (!fresh.listens || purpose(owner.comm).is_some()).then_some((owner, fresh.sockets))
    };
    let mut openers: Vec<_> = namespace.fresh.iter().filter_map(opener).collect();
    openers.sort_by_key(|(owner, count)| (Reverse(*count), owner.pid));
    openers
}

/// A program here that resets on purpose, and its share of the connections that are opened: by the sample, in which it may
/// have been missed once; 1 if nothing was seen.
fn known<'a>(machine: &'a Machine, namespace: &Namespace) -> Option<(Owner<'a>, f64)> {
    let openers = openers(machine, namespace);
    let is_known = |owner: &Owner<'_>| purpose(owner.comm).is_some();
    let (all, theirs) = openers.iter().fold((1_u64, 1_u64), |(all, theirs), (owner, count)| {
        let known = if is_known(owner) { *count } else { 0 };
        (all.saturating_add(*count), theirs.saturating_add(known))
    });
    let by_sample = openers.iter().map(|(owner, _)| *owner).find(is_known);
    let sockets = &namespace.sockets;
    let listeners = sockets.listeners.iter().map(|listener| listener.inode);
    let inodes = listeners.chain(sockets.opened.values().filter_map(|ends| ends.inode));
    let by_socket = || {
        let mut owners: Vec<_> = inodes.filter_map(|inode| machine.owner(inode)).filter(is_known).collect();
        owners.sort_by_key(|owner| owner.pid);
        owners.first().copied()
    };
    let by_place = || {
        let pids = namespace.inhabitants.iter().copied();
        let mut owners: Vec<_> = pids.filter_map(|pid| machine.named(pid)).filter(is_known).collect();
        owners.sort_by_key(|owner| owner.pid);
        owners.first().copied()
    };
    let owner = by_sample.or_else(by_socket).or_else(by_place)?;
    Some((owner, theirs as f64 / all as f64))
}

/// Who may reset: whoever opens most, or, as fewer are opened than reset, whoever accepts most.
fn suspect<'a>(machine: &'a Machine, namespace: &Namespace, accepts: bool) -> Option<(Owner<'a>, &'static str)> {
    if !accepts {
        return Some((openers(machine, namespace).first()?.0, "opens most connections here"));
    }
    let sockets = &namespace.sockets;
    let accepted = |port| {
        let here = sockets.accepted.iter().filter(|(service, _)| service.lport == port);
        here.fold(0_u64, |sum, (_, ends)| sum.saturating_add(ends.total()))
    };
    let busiest = sockets.listeners.iter().max_by_key(|listener| (accepted(listener.port), Reverse(listener.port)))?;
    Some((machine.owner(busiest.inode)?, "accepts most connections here"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::checks::fixture::{Fixture, listening};

    /// Half a second in which so many were reset, opened and accepted; and who was seen to open how many.
    fn with(resets: u64, opened: u64, accepted: u64, seen: &[(u32, &str, u64)]) -> Fixture {
        let fixture = Fixture::quiet().counter("TcpExt", "TCPAbortOnData", 0, resets);
        let fixture = fixture.counter("Tcp", "ActiveOpens", 0, opened).counter("Tcp", "PassiveOpens", 0, accepted);
        let fixture = seen.iter().fold(fixture, |fixture, (pid, comm, _)| fixture.process(*pid, comm, 10, 1024));
        let facts = fixture.namespace(|namespace| {
            let fresh = |sockets| Fresh { sockets, listens: false };
            namespace.fresh = seen.iter().filter(|it| it.2 > 0).map(|(pid, _, count)| (*pid, fresh(*count))).collect();
            namespace.inhabitants = seen.iter().map(|(pid, ..)| *pid).collect();
        });
        facts.into()
    }

    fn found(fixture: Fixture) -> Finding {
        let mut findings = check(&fixture.facts());
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn health_checks_are_a_note_that_names_their_program() {
        for seen in [
            &[(7, "haproxy", 3), (8, "python3", 0)][..],
            // It was not seen to open any, but is here.
            &[(7, "haproxy", 0)][..],
            &[(7, "keepalived", 5)][..],
        ] {
            for (resets, opened, accepted) in [(10, 10, 10), (100, 100, 0), (12, 10, 0)] {
                let finding = found(with(resets, opened, accepted, seen));
                assert_eq!(finding.severity, Severity::Note, "{finding:?}");
                assert!(finding.sentence.contains(&format!("as {} (7) does on purpose", seen[0].1)), "{finding:?}");
                assert!(finding.to_do.is_empty());
            }
        }
    }

    #[test]
    fn what_they_cannot_explain_is_a_warning() {
        // Another program opens nine tenths of them.
        let finding = found(with(100, 110, 0, &[(7, "haproxy", 2), (9, "crawler", 40)]));
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(
            finding.sentence,
            "100 connections reset by their own end in 0.5 s, while 110 began; crawler (9) opens most connections here: \
             SO_LINGER 0, or data that came after close()"
        );
        assert!(finding.to_do[0].starts_with("sudo strace -f -e trace=setsockopt -p 9: "), "{finding:?}");
        // A backend's new sockets are those that it accepts.
        let backend = with(10, 10, 10, &[(7, "haproxy", 3)]).process(8, "python3", 10, 1024);
        let backend = backend.namespace(|namespace| {
            namespace.fresh.insert(8, Fresh { sockets: 30, listens: true });
        });
        assert_eq!(found(backend.into()).severity, Severity::Note);
        // More are reset than opened: whoever accepts resets.
        let fixture = with(100, 10, 100, &[(7, "haproxy", 5)]).owner(80, 12, "app").listener(listening(80, 0, 128));
        let finding = found(fixture);
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.sentence.contains("app (12) accepts most connections here"), "{finding:?}");
    }

    #[test]
    fn without_such_a_program_resets_are_a_warning() {
        for seen in [&[][..], &[(9, "crawler", 3)][..], &[(9, "haproxy_exporte", 3)][..]] {
            assert_eq!(found(with(50, 50, 0, seen)).severity, Severity::Warning, "{seen:?}");
        }
        assert!(found(with(50, 50, 0, &[])).to_do[0].contains("-p PID"));
        // Few now, but that has gone on for long.
        let slow = |before| {
            let fixture = Fixture::quiet().counter("TcpExt", "TCPAbortOnData", before, before + 2);
            found(fixture.counter("Tcp", "ActiveOpens", before, before + 2)).severity
        };
        assert_eq!((slow(100), slow(0)), (Severity::Warning, Severity::Note));
    }

    #[test]
    fn no_resets_are_no_finding() {
        for fixture in [
            with(0, 100, 100, &[(7, "haproxy", 3)]),
            with(9, 100, 0, &[]),
            Fixture::quiet().counter("TcpExt", "TCPAbortOnClose", 0, 100),
            Fixture::quiet(),
        ] {
            assert_eq!(check(&fixture.facts()), []);
        }
        assert_eq!(check(&Facts::default()), []);
    }

    #[test]
    fn every_namespace_is_judged() {
        let mut facts = with(0, 0, 0, &[]).facts();
        let other = with(50, 50, 0, &[]).facts().namespaces.remove(0);
        facts.namespaces.push(Namespace { inum: 5, ..other });
        let findings = check(&facts);
        assert_eq!((findings.len(), findings[0].netns), (1, Some(5)));
        // A note of another is left out.
        facts.namespaces[1] = with(1, 1, 0, &[]).facts().namespaces.remove(0);
        assert_eq!(check(&facts), []);
    }
}
