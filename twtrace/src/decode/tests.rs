use proptest::prelude::*;
use twtrace_common::record::{
    Bind, Birth, Connect, Death, Header, Touch, call, cause, denial, refusal, role, substate,
};

use super::*;
use crate::model::event::Kind;

fn bytes_of<T: Record>(record: &T) -> Vec<u8> {
    // SAFETY: a Record is plain old data without padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast::<u8>(), size_of::<T>()) }.to_vec()
}

fn zeroed<T: Record>() -> T {
    // SAFETY: all zeroes is a value of every Record.
    unsafe { std::mem::zeroed() }
}

fn header(kind: u8) -> Header {
    Header { mono_ns: 42, kind, abi: ABI, pad: [0; 6] }
}

/// 10.0.0.1:80 <- 10.0.0.2:4000, all of it known.
fn life() -> raw::Life {
    let mut life = zeroed::<Birth>().life;
    (life.id, life.netns, life.lport, life.rport, life.family) = (7, 4_026_531_840, 80, 4000, 4);
    life.laddr[..4].copy_from_slice(&[10, 0, 0, 1]);
    life.raddr[..4].copy_from_slice(&[10, 0, 0, 2]);
    (life.substate, life.role, life.closer_pid, life.cgroup_id) = (substate::TIME_WAIT, role::SERVER, 99, 5);
    life.closer_comm[..5].copy_from_slice(b"nginx");
    life.valid = valid::TUPLE | valid::NETNS | valid::SUBSTATE | valid::CLOSER;
    life
}

#[test]
fn a_birth_tells_what_is_valid_and_nothing_else() {
    let mut record: Birth = zeroed();
    (record.header, record.life) = (header(kind::BORN), life());
    (record.bytes_in, record.bytes_out, record.srtt_us, record.conn_ns) = (101, 200, 30, 4_000);
    record.connect_ns = 1_000;
    record.life.valid |= valid::BYTES | valid::CONN;
    let event = decode(&bytes_of(&record)).unwrap();
    assert_eq!((event.mono_ns, event.kind(), event.self_test), (42, Kind::Born, false));
    assert_eq!(event.life.tuple.unwrap().laddr.to_string(), "10.0.0.1");
    assert_eq!(event.life.closer.unwrap().task.comm.name(), "nginx");
    assert_eq!(event.life.preexisting, Some(false));
    let Detail::Born { timeout_ms, connection } = event.detail else { panic!("{event:?}") };
    // The peer's FIN was counted as a byte.
    assert_eq!((connection.bytes_in, connection.bytes_out, connection.conn_ns), (Some(100), Some(200), Some(4_000)));
    assert_eq!((timeout_ms, connection.srtt_us, connection.opener, connection.mark), (None, None, None, None));
    assert_eq!(connection.connect_ns, None);
    record.life.valid |= valid::CONNECT;
    let event = decode(&bytes_of(&record)).unwrap();
    assert!(matches!(event.detail, Detail::Born { connection, .. } if connection.connect_ns == Some(1_000)));
}

#[test]
fn in_fin_wait2_no_fin_has_been_counted() {
    let mut record: Birth = zeroed();
    (record.header, record.life, record.bytes_in) = (header(kind::BORN), life(), 101);
    record.life.substate = substate::FIN_WAIT2;
    record.life.valid |= valid::BYTES;
    let event = decode(&bytes_of(&record)).unwrap();
    assert!(matches!(event.detail, Detail::Born { connection, .. } if connection.bytes_in == Some(101)));
}

#[test]
fn ipv6_is_ipv6() {
    let mut record: Death = zeroed();
    (record.header, record.life, record.cause) = (header(kind::DIED), life(), cause::NETNS);
    record.life.family = 6;
    record.life.laddr = Ipv6Addr::LOCALHOST.octets();
    let event = decode(&bytes_of(&record)).unwrap();
    assert_eq!(event.life.tuple.unwrap().laddr.to_string(), "::1");
    assert_eq!(event.life.tuple.unwrap().family(), 6);
}

#[test]
fn a_death_without_a_birth_leaves_open_whether_it_is_older() {
    let mut record: Death = zeroed();
    (record.header, record.life) = (header(kind::DIED), life());
    for (flags, preexisting) in [(0, Some(false)), (flag::PREEXISTING, Some(true)), (flag::UNKNOWN_BIRTH, None)] {
        record.life.flags = flags;
        assert_eq!(decode(&bytes_of(&record)).unwrap().life.preexisting, preexisting);
    }
}

#[test]
fn an_unknown_cause_stays_unknown() {
    let mut record: Death = zeroed();
    (record.header, record.life, record.cause) = (header(kind::DIED), life(), 200);
    let event = decode(&bytes_of(&record)).unwrap();
    assert!(matches!(event.detail, Detail::Died { cause: Cause::Unknown(200), life_ns: None, taker: None }));
}

#[test]
fn a_refusal_tells_room_and_reason() {
    let mut record: Birth = zeroed();
    (record.header, record.life) = (header(kind::REFUSED), life());
    (record.reason, record.used, record.limit) = (refusal::BUCKETS, 5, 5);
    record.life.valid |= valid::BUCKETS;
    let event = decode(&bytes_of(&record)).unwrap();
    assert!(matches!(event.detail, Detail::Refused { reason: Refusal::Buckets, used: Some(5), limit: Some(5), .. }));
}

#[test]
fn a_connect_without_a_port_has_none_and_no_life() {
    let mut record: Connect = zeroed();
    (record.header, record.life) = (header(kind::NO_PORT), life());
    (record.life.id, record.life.lport) = (0, 0);
    record.life.valid &= !valid::SUBSTATE;
    let event = decode(&bytes_of(&record)).unwrap();
    assert_eq!((event.kind(), event.detail), (Kind::NoPort, Detail::NoPort { took_ns: None, holder: None }));
    assert_eq!((event.life.id, event.life.substate), (None, None));
    assert_eq!(event.life.tuple.unwrap().port(), None);
    assert_eq!(event.life.closer.unwrap().task.pid, 99);
    record.took_ns = 70_000;
    record.life.valid |= valid::CONNECT;
    let told = Detail::NoPort { took_ns: Some(70_000), holder: None };
    assert_eq!(decode(&bytes_of(&record)).unwrap().detail, told);
    // A port that was bound before.
    record.life.lport = 15_060;
    let event = decode(&bytes_of(&record)).unwrap();
    assert_eq!((event.life.tuple.unwrap().port(), event.detail, event.has_holder()), (Some(15_060), told, true));
}

#[test]
fn a_bind_that_failed_tells_which_call_and_port() {
    let mut record: Bind = zeroed();
    (record.header, record.life) = (header(kind::NO_BIND), life());
    (record.life.id, record.life.lport, record.life.rport) = (0, 5_060, 0);
    for (raw, call) in [(call::BIND, Call::Bind), (call::LISTEN, Call::Listen), (9, Call::Unknown(9))] {
        record.call = raw;
        let event = decode(&bytes_of(&record)).unwrap();
        assert_eq!((event.kind(), event.detail), (Kind::NoBind, Detail::NoBind { call, holder: None }));
        assert_eq!((event.life.id, event.life.tuple.unwrap().port(), event.has_holder()), (None, Some(5_060), true));
    }
    // Any port was wanted: there is nobody to be looked for.
    record.life.lport = 0;
    assert!(!decode(&bytes_of(&record)).unwrap().has_holder());
}

#[test]
fn a_denial_tells_reason_and_number() {
    let mut record: Connect = zeroed();
    (record.header, record.life) = (header(kind::REUSE_DENIED), life());
    for (raw, reason) in [(denial::TOO_YOUNG, Denial::TooYoung), (77, Denial::Unknown(77))] {
        (record.reason, record.count) = (raw, 28_232);
        let event = decode(&bytes_of(&record)).unwrap();
        assert_eq!(event.detail, Detail::ReuseDenied { reason, count: 28_232, took_ns: None });
        assert_eq!((event.life.id, event.life.tuple.unwrap().port()), (Some(7), Some(80)));
    }
}

#[test]
fn seeds_are_lives_that_were_there_before() {
    let mut life = life();
    (life.flags, life.role, life.valid) = (flag::PREEXISTING, role::UNKNOWN, life.valid & !valid::CLOSER);
    let mut bytes = bytes_of(&life);
    life.id = 8;
    bytes.extend(bytes_of(&life));
    let found = seeds(&bytes).unwrap();
    assert_eq!(found.iter().map(|life| life.id).collect::<Vec<_>>(), [Some(7), Some(8)]);
    assert_eq!((found[0].preexisting, found[0].role, found[0].closer), (Some(true), None, None));
    assert_eq!(found[0].tuple.unwrap().lport, 80);
    assert_eq!(seeds(&[]), Ok(Vec::new()));
    assert_eq!(seeds(&bytes[..bytes.len() - 1]), Err(DecodeError::Short(size_of::<raw::Life>() - 1)));
}

#[test]
fn what_is_no_record_has_a_name() {
    let mut record: Touch = zeroed();
    record.header = header(kind::TURNED);
    let good = bytes_of(&record);
    assert!(decode(&good).is_ok());
    assert_eq!(decode(&good[..3]), Err(DecodeError::Short(3)));
    assert_eq!(decode(&good[..64]), Err(DecodeError::Length { kind: kind::TURNED, got: 64, want: good.len() }));
    record.header.abi = ABI + 1;
    assert_eq!(decode(&bytes_of(&record)), Err(DecodeError::Abi(ABI + 1)));
    record.header = header(99);
    assert_eq!(decode(&bytes_of(&record)), Err(DecodeError::Kind(99)));
}

proptest! {
    /// Total: no bytes make it panic, and what passes has one of the lengths that exist.
    #[test]
    fn any_bytes_are_an_event_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
        let _ = seeds(&bytes);
    }

    /// Random bytes behind a header that is right, so that the fields are reached.
    #[test]
    fn any_fields_are_an_event(kind in 1u8..9, body in prop::collection::vec(any::<u8>(), 200)) {
        let length = match kind {
            kind::BORN | kind::REFUSED => size_of::<Birth>(),
            kind::DIED => size_of::<Death>(),
            kind::NO_PORT | kind::REUSE_DENIED => size_of::<Connect>(),
            kind::NO_BIND => size_of::<Bind>(),
            _ => size_of::<Touch>(),
        };
        let mut bytes = body[..length].to_vec();
        bytes[8] = kind;
        bytes[9] = ABI;
        let event = decode(&bytes).unwrap();
        prop_assert_eq!(event.kind().raw(), kind);
    }
}
