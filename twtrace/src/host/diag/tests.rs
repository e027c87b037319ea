use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

/// A message: its length, type, flags, two numbers that nobody reads, and its payload.
fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = ((16 + payload.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `struct inet_diag_msg`.
fn socket(family: u8, state: u8, timer: u8, laddr: &str, lport: u16, raddr: &str, rport: u16) -> Vec<u8> {
    let address = |text: &str| {
        let mut bytes = match text.parse().unwrap() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        bytes.resize(16, 0);
        bytes
    };
    let mut bytes = vec![family, state, timer, 0];
    bytes.extend(lport.to_be_bytes());
    bytes.extend(rport.to_be_bytes());
    bytes.extend(address(laddr));
    bytes.extend(address(raddr));
    // Interface and cookie; then expires, queues, uid and inode.
    bytes.extend([0; 4 + 8 + 20]);
    bytes
}

fn read(bytes: &[u8]) -> (io::Result<Packet>, Vec<Entry>) {
    let mut entries = Vec::new();
    (packet(bytes, &mut |entry| entries.push(*entry)), entries)
}

#[test]
fn sockets_are_read_to_the_end() {
    let mapped = "::ffff:10.0.0.1";
    let mut bytes = message(SOCK_DIAG_BY_FAMILY, 2, &socket(AF_INET, 1, 0, "10.0.0.1", 40_000, "10.0.0.2", 443));
    bytes.extend(message(SOCK_DIAG_BY_FAMILY, 2, &socket(AF_INET6, 5, 3, mapped, 40_001, mapped, 80)));
    // Attributes may follow.
    let mut with_attribute = socket(AF_INET6, 10, 0, "::", 22, "::", 0);
    with_attribute.extend([5, 0, 8, 0, 0]);
    bytes.extend(message(SOCK_DIAG_BY_FAMILY, 2, &with_attribute));
    let (end, entries) = read(&bytes);
    assert_eq!(end.unwrap(), Packet::More);
    let told: Vec<_> = entries.iter().map(|it| (it.tuple.lport, it.tuple.family(), it.state, it.minisock)).collect();
    assert_eq!(told, [(40_000, 4, 1, false), (40_001, 4, 5, true), (22, 6, 10, false)]);
    bytes.extend(message(NLMSG_DONE, 2, &0_i32.to_ne_bytes()));
    assert_eq!(read(&bytes).0.unwrap(), Packet::Done);
}

/// An attribute (struct nlattr): its length, its kind, its value.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[test]
fn queues_timers_and_attributes_are_read() {
    let mut bytes = socket(AF_INET, 1, 3, "10.0.0.1", 40_000, "10.0.0.2", 443);
    for (at, value) in [(EXPIRES, 59_000_u32), (EXPIRES + 4, 2), (EXPIRES + 8, 1), (EXPIRES + 16, 4711)] {
        bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    let mut info = vec![0; BYTES_RECEIVED];
    info.extend(7_u64.to_ne_bytes());
    info[BYTES_ACKED..BYTES_ACKED + 8].copy_from_slice(&5_u64.to_ne_bytes());
    info[LAST_ACK_RECV..LAST_ACK_RECV + 4].copy_from_slice(&3000_u32.to_ne_bytes());
    let mut memory = vec![0; DROPS];
    memory.extend(3_u32.to_ne_bytes());
    bytes.extend(attribute(INET_DIAG_SKMEMINFO, &memory));
    bytes.extend(attribute(INET_DIAG_INFO, &info));
    let told = |bytes: &[u8]| read(&message(SOCK_DIAG_BY_FAMILY, 2, bytes)).1[0];
    let it = told(&bytes);
    assert_eq!((it.left_ms, it.receive_queue, it.send_queue, it.inode), (59_000, 2, 1, 4711));
    assert_eq!((it.bytes, it.drops, it.idle_ms, it.no_port), (Some(12), Some(3), Some(3000), None));
    // What the kernel tells unasked: options of the socket, and of the timer what it is for and how often it went off.
    for (options, no_port) in [([0x52, 0], Some(false)), ([0x52, 1], Some(true))] {
        let bytes = [bytes.clone(), attribute(INET_DIAG_SOCKOPT, &options)].concat();
        assert_eq!(told(&bytes).no_port, no_port);
    }
    for (timer, times, expected) in [(1, 4, (4, false)), (4, 4, (0, true)), (2, 4, (0, false)), (0, 0, (0, false))] {
        (bytes[2], bytes[3]) = (timer, times);
        assert_eq!((told(&bytes).retransmits, told(&bytes).probing), expected, "timer {timer}");
    }
    // Of a listener tcp_info holds something else; an old kernel's is shorter; a broken attribute ends the reading.
    bytes[1] = TCP_LISTEN;
    assert_eq!(told(&bytes).bytes, None);
    let mut old = socket(AF_INET, 1, 0, "10.0.0.1", 1, "10.0.0.2", 2);
    old.extend(attribute(INET_DIAG_INFO, &info[..BYTES_RECEIVED]));
    old.extend([200, 0, 7, 0]);
    assert_eq!((told(&old).bytes, told(&old).drops), (None, None));
}

#[test]
fn errors_keep_their_number_and_interruptions_are_none() {
    let enoent = (-libc::ENOENT).to_ne_bytes();
    for kind in [NLMSG_ERROR, NLMSG_DONE] {
        assert_eq!(read(&message(kind, 0, &enoent)).0.unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }
    let interrupted = message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP_INTR, &[]);
    assert_eq!(read(&interrupted).0.unwrap(), Packet::Interrupted);
    assert_eq!(read(&[]).0.unwrap(), Packet::More);
}

#[test]
fn what_is_cut_short_or_no_message_is_an_error() {
    let good = message(SOCK_DIAG_BY_FAMILY, 2, &socket(AF_INET, 1, 0, "10.0.0.1", 1, "10.0.0.2", 2));
    for length in 1..good.len() {
        assert!(read(&good[..length]).0.is_err(), "{length}");
    }
    let strange = [
        message(77, 0, &[]),
        message(NLMSG_ERROR, 0, &[1]),
        message(SOCK_DIAG_BY_FAMILY, 0, &[0; 20]),
        message(SOCK_DIAG_BY_FAMILY, 0, &socket(99, 1, 0, "10.0.0.1", 1, "10.0.0.2", 2)),
        // Shorter than its own header, and as long as never was.
        vec![0; 16],
        vec![0xff; 16],
    ];
    for bytes in strange {
        assert_eq!(read(&bytes).0.unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
    }
}

proptest! {
    /// Total: no bytes make it panic or run for ever.
    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes);
    }

    /// Random bytes behind headers that are right, one behind the other, the last cut short.
    #[test]
    fn any_messages_are_read(
        kinds in prop::collection::vec((prop::sample::select(vec![2u16, 3, 20, 21]), 0u16..64), 1..5),
        body in prop::collection::vec(any::<u8>(), 0..100),
        cut in 0usize..40,
    ) {
        let mut bytes: Vec<u8> =
            kinds.iter().flat_map(|(kind, flags)| message(*kind, *flags, &body)).collect();
        bytes.truncate(bytes.len().saturating_sub(cut));
        let (_, entries) = read(&bytes);
        prop_assert!(entries.len() <= kinds.len());
    }
}
