use std::net::Ipv4Addr;

use super::*;
use crate::{
    lab::want::SOME_TIME,
    model::{
        event::{Call, Comm, Connection, Denial, Life, Refusal, Role, Task},
        kernel::{KernelCounters, TwCounts},
    },
    traffic::oracle::Look,
};

const NETNS: u32 = 7;
const SERVER: u32 = 9;

fn tuple(lport: u16) -> Tuple {
    let here = IpAddr::from(Ipv4Addr::LOCALHOST);
    Tuple { laddr: here, lport, raddr: here, rport: 80 }
}

fn task() -> Task {
    let mut comm = [0; 16];
    comm[..3].copy_from_slice(b"lab");
    Task { pid: SERVER, comm: Comm(comm) }
}

fn event(mono_ns: u64, id: u64, detail: Detail) -> Event {
    let life = Life {
        id: Some(id),
        netns: Some(NETNS),
        tuple: Some(tuple(id as u16)),
        substate: Some(Substate::FinWait2),
        role: Some(Role::Client),
        closer: Some(Closer { task: task(), cgroup_id: 1 }),
        preexisting: Some(false),
    };
    Event { mono_ns, life, detail, self_test: false }
}

fn connection() -> Connection {
    Connection {
        opener: Some(task()),
        conn_ns: Some(100),
        connect_ns: Some(100),
        timestamps: Some(true),
        bytes_in: Some(1),
        bytes_out: Some(2),
        srtt_us: Some(3),
        mark: None,
    }
}

/// One life, from FIN_WAIT2 over TIME_WAIT to its end, one that lives on, and one refusal.
fn told() -> Vec<Event> {
    let born = |at, id| event(at, id, Detail::Born { timeout_ms: Some(60_000), connection: connection() });
    let refused = Detail::Refused { reason: Refusal::Buckets, used: Some(5), limit: Some(5), connection: connection() };
    vec![
        born(1, 1),
        event(2, 1, Detail::Turned { after_ns: Some(1) }),
        event(3, 1, Detail::Rearmed { timeout_ms: Some(60_000) }),
        event(4, 1, Detail::Died { cause: Cause::Expired, life_ns: Some(3), taker: None }),
        born(5, 2),
        event(6, 3, refused),
    ]
}

fn want(lport: u16) -> Want {
    let who = || Is::Exactly(Who::told(task()));
    Want {
        netns: NETNS,
        tuple: tuple(lport),
        preexisting: false,
        role: Is::Exactly(Role::Client),
        born: Is::Exactly(Substate::FinWait2),
        turn: Turn::Never,
        rearmed: Is::Exactly(0),
        closer: who(),
        cgroup: Is::Exactly(1),
        opener: who(),
        conn_ns: Is::Within(50..=100),
        bytes_in: Is::Exactly(1),
        bytes_out: Is::Exactly(2),
        srtt_us: Is::Exactly(3),
        timestamps: Is::Exactly(true),
        timeout_ms: Is::Exactly(60_000),
        end: End::Alive,
    }
}

fn made() -> Made {
    let end = End::Died { cause: Cause::Expired, life_ns: Is::Within(1..=3), taker: Is::Unknown };
    let dying = Want { turn: Turn::IfFinWait2, rearmed: Is::Exactly(1), end, ..want(1) };
    let look = |tw, overflow, sockstat_tw, minisocks| Look {
        counters: KernelCounters { tw, overflow, sockstat_tw, ..KernelCounters::default() },
        minisocks,
    };
    Made {
        netns: vec![NETNS],
        wants: vec![dying, want(2)],
        refused: vec![WantRefused {
            netns: NETNS,
            tuple: tuple(3),
            reason: Refusal::Buckets,
            used: 5,
            limit: 5,
            closer: Is::Exactly(Who::told(task())),
        }],
        looks: Some(Looks {
            before: look(0, 0, 0, Vec::new()),
            after: look(2, 1, 1, vec![(tuple(2), Substate::FinWait2)]),
            tw_counts: Some(TwCounts::Births),
        }),
        until_ns: 100,
        ..Made::default()
    }
}

const ALL: Knows = Knows { turns_late: false, no_port: true, reuse_denied: true, no_bind: true };

fn differences(made: &Made, events: &[Event]) -> Vec<String> {
    judge(made, events, ALL).differences.into_iter().map(|difference| difference.what).collect()
}

#[test]
fn what_was_made_and_told_alike_is_good() {
    let verdict = judge(&made(), &told(), ALL);
    assert!(verdict.is_good(), "{:?}", verdict.differences);
    assert!(verdict.checks > 30);
    assert_eq!(verdict.expected, verdict.seen);
    assert_eq!(verdict.seen.to_string(), "2 born, 1 turned, 1 rearmed, 1 expired, 1 refused");
}

#[test]
fn every_event_counts() {
    for index in 0..told().len() {
        let mut dropped = told();
        let event = dropped.remove(index);
        assert!(!judge(&made(), &dropped, ALL).is_good(), "{event:?} was dropped");
        let mut doubled = told();
        doubled.insert(index, event);
        assert!(!judge(&made(), &doubled, ALL).is_good(), "{event:?} was doubled");
        let mut late = told();
        late[index].mono_ns = 101;
        assert!(!judge(&made(), &late, ALL).is_good(), "{event:?} came after the scenario");
    }
}

#[test]
fn every_field_counts() {
    type Change = fn(&mut Life);
    let changes: [Change; 6] = [
        |life| life.id = Some(77),
        |life| life.tuple = Some(tuple(77)),
        |life| life.netns = Some(77),
        |life| life.role = Some(Role::Server),
        |life| life.substate = None,
        |life| life.closer = None,
    ];
    for change in changes {
        let mut events = told();
        change(&mut events[0].life);
        assert_ne!(differences(&made(), &events), Vec::<String>::new());
    }
    let mut events = told();
    let Detail::Born { connection, .. } = &mut events[0].detail else { panic!("not a birth") };
    *connection = Connection { conn_ns: Some(49), bytes_in: None, srtt_us: Some(4), ..*connection };
    // What connect() took is more than the age now.
    assert_eq!(judge(&made(), &events, ALL).differ, 4);
}

#[test]
fn what_connect_took_is_known_of_what_was_opened_here_alone() {
    let differ = |role, connect_ns: Option<u64>| {
        let (mut made, mut events) = (made(), told());
        made.wants[0].role = Is::Exactly(role);
        events.iter_mut().for_each(|event| event.life.role = Some(role));
        made.wants[1].role = Is::Exactly(role);
        made.wants[1].conn_ns = Is::Anything;
        for event in &mut events {
            if let Detail::Born { connection, .. } = &mut event.detail {
                connection.connect_ns = connect_ns;
            }
        }
        judge(&made, &events, ALL).differ
    };
    assert_eq!([Some(1), Some(100)].map(|took| differ(Role::Client, took)), [0, 0]);
    assert_eq!([None, Some(0), Some(101)].map(|took| differ(Role::Client, took)), [2, 2, 2]);
    assert_eq!([None, Some(1)].map(|took| differ(Role::Server, took)), [0, 2]);
}

#[test]
fn how_long_a_failed_connect_took_is_known() {
    let to = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    let from = std::net::SocketAddr::from((tuple(4).laddr, tuple(4).lport));
    let caller = Is::Exactly(Who::told(task()));
    let (reason, count) = (Denial::TooYoung, 2);
    let made = Made {
        netns: vec![NETNS],
        no_port: vec![WantNoPort { netns: NETNS, from: Some(from), to, caller: caller.clone(), took_ns: SOME_TIME }],
        denied: vec![WantDenied { netns: NETNS, tuple: tuple(5), reason, count, caller, took_ns: SOME_TIME }],
        until_ns: 100,
        ..Made::default()
    };
    let differ = |took_ns| {
        let events = [
            event(1, 4, Detail::NoPort { took_ns, holder: None }),
            event(2, 5, Detail::ReuseDenied { reason, count, took_ns }),
        ];
        judge(&made, &events, ALL).differ
    };
    assert_eq!([Some(1), Some(0), None].map(differ), [0, 2, 2]);
}

#[test]
fn the_port_of_a_failed_call_counts_and_so_does_which_call_it_was() {
    let at = std::net::SocketAddr::from((tuple(4).laddr, tuple(4).lport));
    let caller = Is::Exactly(Who::told(task()));
    let made = Made {
        netns: vec![NETNS],
        no_bind: vec![WantNoBind { netns: NETNS, at, call: Call::Listen, caller }],
        until_ns: 100,
        ..Made::default()
    };
    let differ = |id, call| judge(&made, &[event(1, id, Detail::NoBind { call, holder: None })], ALL).differ;
    assert_eq!([differ(4, Call::Listen), differ(4, Call::Bind), differ(5, Call::Listen)], [0, 1, 1]);
    assert_eq!(judge(&made, &[], ALL).differ, 1);
    // Where it is not watched nothing can be told.
    assert_eq!(judge(&made, &[], Knows { no_bind: false, ..ALL }).differ, 0);
}

#[test]
fn causes_lengths_and_marks_count() {
    let wrong = |change: fn(&mut Event)| {
        let mut events = told();
        change(&mut events[3]);
        differences(&made(), &events)
    };
    assert_eq!(
        wrong(|event| event.detail = Detail::Died { cause: Cause::Reset, life_ns: Some(3), taker: None }).len(),
        1
    );
    assert_eq!(
        wrong(|event| event.detail = Detail::Died { cause: Cause::Expired, life_ns: Some(4), taker: None }).len(),
        1
    );
    assert_eq!(wrong(|event| event.life.preexisting = Some(true)).len(), 1);
    let by = |event: &mut Event| {
        event.detail = Detail::Died { cause: Cause::Expired, life_ns: Some(3), taker: Some(task()) }
    };
    assert_eq!(wrong(by).len(), 1);
}

#[test]
fn the_kernel_has_the_last_word() {
    let mut counters = made();
    if let Some(looks) = &mut counters.looks {
        looks.after.counters.tw_recycled = 1;
        looks.after.counters.tw = 3;
    }
    assert_eq!(judge(&counters, &told(), ALL).differ, 2);
    let mut listed = made();
    if let Some(looks) = &mut listed.looks {
        looks.after.minisocks = vec![(tuple(9), Substate::TimeWait)];
    }
    assert_eq!(differences(&listed, &told()), ["listed by sock_diag", "told to be alive"]);
}

#[test]
fn a_turn_that_is_told_late_may_be_missing_while_it_lives() {
    let mut made = made();
    made.wants[1].turn = Turn::IfFinWait2;
    let late = Knows { turns_late: true, ..ALL };
    assert!(!judge(&made, &told(), ALL).is_good());
    assert!(judge(&made, &told(), late).is_good());
}

#[test]
fn nothing_looked_at_is_not_good() {
    let verdict = judge(&Made::default(), &[], ALL);
    assert!(verdict.differences.is_empty() && !verdict.is_good());
}

#[test]
fn older_sockets_have_no_birth_and_a_mark() {
    let older = Want { preexisting: true, end: End::of(Cause::Expired), ..want(1) };
    let alive = Want { preexisting: true, ..want(2) };
    let looks = made().looks.map(|looks| Looks {
        before: Look {
            counters: KernelCounters { sockstat_tw: 2, ..looks.before.counters },
            minisocks: vec![(tuple(1), Substate::FinWait2), (tuple(2), Substate::FinWait2)],
        },
        after: Look { counters: KernelCounters { tw: 0, overflow: 0, ..looks.after.counters }, ..looks.after },
        ..looks
    });
    let made = Made { wants: vec![older, alive], refused: Vec::new(), looks, ..made() };
    let mut died = told()[3];
    (died.life.preexisting, died.detail) =
        (Some(true), Detail::Died { cause: Cause::Expired, life_ns: None, taker: None });
    let verdict = judge(&made, &[died], ALL);
    assert!(verdict.is_good(), "{:?}", verdict.differences);
    died.life.preexisting = Some(false);
    assert!(!judge(&made, &[died], ALL).is_good());
}
