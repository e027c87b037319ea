//! The pure half of the end-to-end oracle (tests/e2e/conformance), which needs no root: what it decides, that it can fail,
//! and its peer.
#![expect(dead_code, reason = "what only root can do is not called here")]

#[path = "e2e/conformance/fate.rs"]
mod fate;
#[path = "e2e/conformance/peer.rs"]
mod peer;
#[path = "e2e/conformance/script.rs"]
mod script;
#[path = "e2e/conformance/wire.rs"]
mod wire;

use fate::{Fact, Known, Look, Seen, Stimulus, What, compare, decide};
use peer::Peer;
use proptest::{collection::vec, prelude::*};
use script::{Ack, Climate, Flags, Script, Segment, Seq, Stamp, Step, script};
use twtrace::{
    host::diag::{TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_SYN_SENT},
    model::event::{Cause, Connection, Detail, Event, Life, Role, Substate},
};
use wire::Packet;

const MS: u64 = 1_000_000;
const KNOWN: Known = Known { role: Role::Client, timestamps: Some(true), aborts: false };
const SYN: Stimulus = Stimulus::Segment { rst: false, syn: true, stamped: true, answered: false };
const RST: Stimulus = Stimulus::Segment { rst: true, syn: false, stamped: true, answered: false };
const DATA: Stimulus = Stimulus::Segment { rst: false, syn: false, stamped: true, answered: true };
const ACK: Stimulus = Stimulus::Segment { rst: false, syn: false, stamped: true, answered: false };
const FIN_WAIT2: Seen = Seen::Mini(Substate::FinWait2, 60_000);
const TIME_WAIT: Seen = Seen::Mini(Substate::TimeWait, 60_000);

/// Decides between two looks that are a millisecond apart.
fn what(before: Seen, stimulus: Stimulus, after: Seen) -> Result<Option<What>, String> {
    let look = |seen, at_ms: u64| Look { seen, asked_ns: at_ms * MS, known_ns: at_ms * MS };
    decide(&look(before, 1), &look(after, 2), stimulus, false, KNOWN).map(|fact| fact.map(|fact| fact.what))
}

/// At 1 ms, with a minute left.
fn died(cause: Cause) -> Result<Option<What>, String> {
    Ok(Some(What::Died { cause, due_ns: 60_001 * MS }))
}

#[test]
fn each_end_has_its_cause() {
    let syn_sent = Seen::Full(TCP_SYN_SENT);
    assert_eq!(what(TIME_WAIT, Stimulus::Connected { bound: true }, syn_sent), died(Cause::ReusedBound));
    assert_eq!(what(TIME_WAIT, Stimulus::Connected { bound: false }, syn_sent), died(Cause::Reused));
    assert_eq!(what(TIME_WAIT, SYN, Seen::Full(3)), died(Cause::Recycled));
    assert_eq!(what(TIME_WAIT, SYN, Seen::Nothing), died(Cause::Recycled));
    assert_eq!(what(TIME_WAIT, RST, Seen::Nothing), died(Cause::Reset));
    assert_eq!(what(FIN_WAIT2, RST, Seen::Nothing), died(Cause::Reset));
    assert_eq!(what(FIN_WAIT2, DATA, Seen::Nothing), died(Cause::DataReset));
    assert_eq!(what(TIME_WAIT, Stimulus::Destroyed, Seen::Nothing), died(Cause::Killed));
    let due = Seen::Mini(Substate::FinWait2, 10);
    let expired = |cause| Ok(Some(What::Died { cause, due_ns: 11 * MS }));
    assert_eq!(what(due, Stimulus::Nothing, Seen::Nothing), expired(Cause::Expired));
    assert_eq!(what(due, RST, Seen::Nothing), expired(Cause::Reset));
}

#[test]
fn what_tcp_does_not_do_is_a_contradiction() {
    for (before, stimulus, after) in [
        (TIME_WAIT, Stimulus::Nothing, Seen::Nothing),
        (TIME_WAIT, Stimulus::Call, Seen::Nothing),
        (TIME_WAIT, ACK, Seen::Nothing),
        (TIME_WAIT, DATA, Seen::Nothing),
        (FIN_WAIT2, SYN, Seen::Full(3)),
        (TIME_WAIT, SYN, FIN_WAIT2),
        (FIN_WAIT2, Stimulus::Call, TIME_WAIT),
        (Seen::Nothing, SYN, TIME_WAIT),
        (TIME_WAIT, Stimulus::Connected { bound: true }, Seen::Nothing),
        (Seen::Mini(Substate::TimeWait, 50_000), Stimulus::Nothing, TIME_WAIT),
    ] {
        assert!(what(before, stimulus, after).is_err(), "{before} became {after} by {stimulus:?}");
    }
}

#[test]
fn births_turns_and_what_is_none_of_them() {
    let full = Seen::Full(TCP_ESTABLISHED);
    let Ok(Some(What::Born { substate, known, timeout_ms })) = what(full, ACK, FIN_WAIT2) else { panic!("no birth") };
    assert_eq!((substate, known), (Substate::FinWait2, KNOWN));
    assert!(timeout_ms.contains(&60_000) && !timeout_ms.contains(&59_000));
    assert_eq!(what(FIN_WAIT2, ACK, TIME_WAIT), Ok(Some(What::Turned { stamped: true })));
    assert_eq!(what(full, RST, Seen::Nothing), Ok(None));
    assert_eq!(what(Seen::Full(TCP_FIN_WAIT1), ACK, Seen::Nothing), Ok(Some(What::Aborted)));
    let old = Seen::Mini(Substate::TimeWait, 50_000);
    assert_eq!(what(old, ACK, TIME_WAIT), Ok(Some(What::Rearmed { sure: true })));
    assert_eq!(what(TIME_WAIT, ACK, TIME_WAIT), Ok(Some(What::Rearmed { sure: false })));
    assert_eq!(what(old, ACK, Seen::Mini(Substate::TimeWait, 49_999)), Ok(None));
    let look = |seen, at_ns| Look { seen, asked_ns: at_ns, known_ns: at_ns };
    let refused = decide(&look(full, 1), &look(Seen::Nothing, 2), ACK, true, KNOWN).unwrap().unwrap();
    assert_eq!(refused, Fact { what: What::Refused, within_ns: 1..=2 });
    assert!(decide(&look(full, 1), &look(full, 2), ACK, true, KNOWN).is_err());
}

/// A life: a FIN_WAIT2 that turns, may be armed anew, and is reset.
fn life() -> (Vec<Fact>, Vec<Event>) {
    let facts = [
        (What::Born { substate: Substate::FinWait2, known: KNOWN, timeout_ms: 59_900..=60_100 }, 10),
        (What::Turned { stamped: true }, 20),
        (What::Rearmed { sure: true }, 30),
        (What::Died { cause: Cause::Reset, due_ns: 60_000 * MS }, 40),
    ];
    let facts = facts.map(|(what, ms)| Fact { what, within_ns: ms * MS..=(ms + 5) * MS });
    let connection = Connection {
        opener: None,
        conn_ns: None,
        connect_ns: None,
        timestamps: Some(true),
        bytes_in: None,
        bytes_out: None,
        srtt_us: None,
        mark: None,
    };
    let details = [
        Detail::Born { timeout_ms: Some(60_000), connection },
        Detail::Turned { after_ns: None },
        Detail::Rearmed { timeout_ms: None },
        Detail::Died { cause: Cause::Reset, life_ns: None, taker: None },
    ];
    let events = details.into_iter().zip(1..).map(|(detail, number)| Event {
        mono_ns: (10 * number + 1) * MS,
        life: Life {
            id: Some(7),
            netns: None,
            tuple: None,
            substate: Some(Substate::FinWait2),
            role: Some(Role::Client),
            closer: None,
            preexisting: None,
        },
        detail,
        self_test: false,
    });
    (facts.to_vec(), events.collect())
}

#[test]
fn what_was_told_is_what_became_of_it() {
    let (facts, events) = life();
    let told = |events: &[Event], late| compare(&facts, &events.iter().collect::<Vec<_>>(), late);
    assert_eq!(told(&events, false), Ok(()));
    for index in 0..events.len() {
        let mut dropped = events.clone();
        dropped.remove(index);
        assert!(told(&dropped, false).is_err(), "number {index} is missing");
        let mut doubled = events.clone();
        doubled.insert(index, events[index]);
        assert!(told(&doubled, false).is_err(), "number {index} is there twice");
        for ns in [0, 100 * MS] {
            let mut moved = events.clone();
            moved[index].mono_ns = ns;
            assert!(told(&moved, false).is_err(), "number {index} was at another time");
        }
        let mut other = events.clone();
        other[index].life.id = Some(8);
        assert!(index == 0 || told(&other, false).is_err(), "number {index} has another id");
    }
    for change in [
        |event: &mut Event| event.life.role = Some(Role::Server),
        |event: &mut Event| event.life.substate = Some(Substate::TimeWait),
        |event: &mut Event| event.life.role = None,
    ] {
        let mut changed = events.clone();
        change(&mut changed[0]);
        assert!(told(&changed, false).is_err());
    }
}

#[test]
fn which_of_two_ends_came_first_is_not_asked() {
    let (mut facts, mut events) = life();
    events[3].detail = Detail::Died { cause: Cause::Expired, life_ns: None, taker: None };
    let told = |facts: &[Fact]| compare(facts, &events.iter().collect::<Vec<_>>(), false);
    assert!(told(&facts).is_err(), "a minute early");
    facts[3].what = What::Died { cause: Cause::Reset, due_ns: 300 * MS };
    assert_eq!(told(&facts), Ok(()));
}

#[test]
fn a_late_tracer_may_miss_a_rearm_and_tell_a_turn_later() {
    let (facts, events) = life();
    let late = |events: &[Event]| compare(&facts, &events.iter().collect::<Vec<_>>(), true);
    let mut without = events.clone();
    without.remove(2);
    assert_eq!(late(&without), Ok(()));
    let mut later = without.clone();
    later[1].mono_ns = 41 * MS;
    assert_eq!(late(&later), Ok(()));
    later[1].mono_ns = 11 * MS;
    assert!(late(&later).is_err(), "a turn before the FIN");
    without.remove(1);
    assert!(late(&without).is_err(), "a life that has ended without its turn");
}

#[test]
fn a_turn_by_a_bare_fin_may_look_like_a_rearm_to_a_late_tracer() {
    let (mut facts, mut events) = life();
    facts.remove(2);
    events[2].mono_ns = events[1].mono_ns;
    let told = |facts: &[Fact], late| compare(facts, &events.iter().collect::<Vec<_>>(), late);
    assert!(told(&facts, true).is_err());
    facts[1].what = What::Turned { stamped: false };
    assert_eq!(told(&facts, true), Ok(()));
    assert!(told(&facts, false).is_err());
}

#[test]
fn an_abort_is_a_refusal_to_nobody_but_a_late_tracer() {
    let (_, mut events) = life();
    let facts = [Fact { what: What::Aborted, within_ns: 0..=u64::MAX }];
    let Detail::Born { connection, .. } = events[0].detail else { panic!("no birth") };
    let reason = twtrace::model::event::Refusal::Buckets;
    events[0].detail = Detail::Refused { reason, used: None, limit: None, connection };
    events[0].life.id = None;
    assert!(compare(&facts, &[], false).is_ok() && compare(&facts, &[], true).is_ok());
    assert!(compare(&facts, &[&events[0]], true).is_ok());
    assert!(compare(&facts, &[&events[0]], false).is_err());
}

fn ends() -> (Peer, std::net::SocketAddr, std::net::SocketAddr) {
    let (here, there) = (([10, 0, 0, 2], 10_000).into(), ([10, 0, 0, 1], 80).into());
    (Peer::new(here, there, true, false), here, there)
}

fn plain(flags: u8) -> Segment {
    Segment { flags: Flags(flags), seq: Seq::Next, ack: Ack::All, data: 0, stamp: Stamp::Fresh, window: 1 }
}

#[test]
fn the_peer_keeps_count() {
    let (mut peer, here, there) = ends();
    let kernel = |flags, seq, ack, data| Packet {
        from: there,
        to: here,
        flags: Flags(flags),
        seq,
        ack,
        window: 1,
        stamp: Some((5, 0)),
        signed: false,
        data,
    };
    // At the end of the sequence numbers.
    let isn = u32::MAX - 1;
    peer.hear(&kernel(Flags::SYN, isn, 0, 0));
    let answer = peer.handshake(false, 0, true).unwrap();
    assert_eq!((answer.flags.0, answer.ack), (Flags::SYN | Flags::ACK, u32::MAX));
    peer.hear(&kernel(Flags::ACK | Flags::PSH, u32::MAX, answer.seq.wrapping_add(1), 10));
    let data = peer.segment(&Segment { data: 7, ..plain(Flags::PSH | Flags::ACK) });
    assert_eq!((data.seq, data.ack), (answer.seq.wrapping_add(1), 9));
    assert_eq!(data.stamp.unwrap().1, 5);
    let fin = peer.segment(&plain(Flags::FIN | Flags::ACK));
    assert_eq!(fin.seq, data.seq.wrapping_add(7));
    peer.hear(&kernel(Flags::FIN | Flags::ACK, 9, fin.seq.wrapping_add(1), 0));
    let last = peer.segment(&plain(Flags::ACK));
    assert_eq!((last.seq, last.ack), (fin.seq.wrapping_add(1), 10));
    // What is old, rejected or a RST moves nothing.
    for odd in [Segment { stamp: Stamp::Old, data: 5, ..plain(Flags::ACK) }, plain(Flags::RST | Flags::FIN)] {
        let _sent = peer.segment(&odd);
        assert_eq!(peer.segment(&plain(Flags::ACK)).seq, last.seq);
    }
    peer.hear(&kernel(Flags::RST, 0, 0, 0));
    assert_eq!(peer.resets, 1);
}

#[test]
fn both_can_open_at_once() {
    let (mut peer, here, there) = ends();
    let (window, stamp, signed, data) = (1, None, false, 0);
    let syn = Packet { from: there, to: here, flags: Flags(Flags::SYN), seq: 100, ack: 0, window, stamp, signed, data };
    peer.hear(&syn);
    let ours = peer.handshake(true, 0, true).unwrap();
    assert_eq!(ours.flags.0, Flags::SYN);
    peer.hear(&Packet { flags: Flags(Flags::SYN | Flags::ACK), ack: ours.seq.wrapping_add(1), ..syn });
    let ack = peer.handshake(true, 0, false).unwrap();
    assert_eq!((ack.flags.0, ack.seq, ack.ack), (Flags::ACK, ours.seq.wrapping_add(1), 101));
    assert_eq!(peer.handshake(true, 0, false), None);
}

fn any_script() -> impl Strategy<Value = Script> {
    proptest::sample::select(Climate::ALL.to_vec()).prop_flat_map(script)
}

proptest! {
    #[test]
    fn scripts_are_lines_and_back(script in any_script()) {
        let line = serde_json::to_string(&script).unwrap();
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(serde_json::from_str::<Script>(&line).unwrap(), script.clone());
        for smaller in script.smaller() {
            prop_assert_ne!(&smaller, &script);
            prop_assert!(smaller.before.len() + smaller.after.len() <= script.before.len() + script.after.len());
        }
    }

    #[test]
    fn segments_are_packets_and_back(scripts in vec(any_script(), 1..3), v6: bool) {
        let (mut peer, here, there) = ends();
        if v6 {
            let end = |end: u16| std::net::SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, end], 1));
            peer = Peer::new(end(2), end(1), false, true);
        }
        for step in scripts.iter().flat_map(|script| script.before.iter().chain(&script.after)) {
            let Step::Segment(segment) = step else { continue };
            let packet = peer.segment(segment);
            prop_assert!(v6 || (packet.from, packet.to) == (here, there));
            prop_assert_eq!(Packet::read(&packet.bytes().unwrap()), Some(packet.clone()));
            // It may hear its own words.
            peer.hear(&packet);
        }
    }

    #[test]
    fn any_bytes_are_a_packet_or_not(bytes in vec(any::<u8>(), 0..100)) {
        let _packet = Packet::read(&bytes);
    }
}

#[test]
fn the_cases_can_be_read() {
    let cases = include_str!("e2e/conformance/cases.jsonl");
    assert!(cases.lines().all(|line| serde_json::from_str::<Script>(line).is_ok()));
    assert!(cases.lines().count() > 50);
}
