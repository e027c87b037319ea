use std::collections::{BTreeSet, HashMap};

use super::{tally::bounded, *};
use crate::host::diag::*;

static FRAME: Frame = Frame { range: 20_000..=20_099, reserved: Vec::new(), time_wait_ms: 60_000 };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn entry(lport: u16, rport: u16, state: u8, minisock: bool) -> Entry {
    Entry::of(Tuple { laddr: ip("10.0.0.1"), lport, raddr: ip("10.0.0.2"), rport }, state, minisock)
}

fn counted(listeners: &[Entry], entries: &[Entry]) -> Sockets {
    let mut tally = Tally::new(&FRAME, listeners);
    entries.iter().for_each(|entry| tally.count(entry));
    tally.finish(listeners)
}

fn listens(address: &str, port: u16, queue: u32, limit: u32) -> Entry {
    let tuple = Tuple { laddr: ip(address), lport: port, raddr: ip(address), rport: 0 };
    Entry { receive_queue: queue, send_queue: limit, ..Entry::of(tuple, 10, false) }
}

#[test]
fn who_listens_has_accepted() {
    let time_wait = |lport, rport, left_ms| Entry { left_ms, ..entry(lport, rport, TCP_TIME_WAIT, true) };
    let sockets = counted(
        &[listens("::", 80, 0, 511)],
        &[
            time_wait(80, 30_000, 0),
            // Nobody listens at 81 any more.
            time_wait(81, 20_001, 0),
            time_wait(20_000, 443, 59_500),
            time_wait(20_003, 443, 50_500),
            time_wait(20_002, 443, 50_000),
            entry(20_004, 443, TCP_FIN_WAIT2, true),
            entry(20_006, 443, TCP_ESTABLISHED, false),
            // From a port that was bound outside the range.
            entry(1_000, 443, 8, false),
        ],
    );
    let destination = Destination { laddr: ip("10.0.0.1"), raddr: ip("10.0.0.2"), rport: 443 };
    let ends = sockets.opened[&destination];
    assert_eq!((ends.time_wait, ends.fin_wait2, ends.established, ends.other), (3, 1, 1, 1));
    assert_eq!((ends.recent, ends.young, ends.in_range, ends.second_half), (2, 1, 5, 1));
    let services: BTreeSet<u16> = sockets.accepted.keys().map(|service| service.lport).collect();
    assert_eq!(services, BTreeSet::from([80, 81]));
    assert_eq!((sockets.time_wait, sockets.fin_wait2), (5, 1));
    assert_eq!(sockets.accepted.values().map(|ends| ends.time_wait).sum::<u64>(), 2);
}

#[test]
fn a_rate_is_of_the_shortest_time_that_tells() {
    let ends = |recent, young, fresh| Ends { recent, young, fresh, ..Ends::default() };
    let rate = |recent, young, fresh| ends(recent, young, fresh).per_s(Some(10_500.0));
    assert_eq!(rate(14_000, 9_000, 1_000), 10_000.0);
    assert_eq!(rate(14_000, 9_000, 2_000), 10_500.0);
    assert_eq!(rate(500, 40, 3), 40.0);
    assert_eq!(rate(200, 25, 3), 20.0);
    assert_eq!(rate(14_000, 20, 2), 20.0);
    assert_eq!(rate(14_000, 0, 0), 0.0);
    assert_eq!(rate(0, 0, 0), 0.0);
    // A burst that is over.
    assert_eq!(ends(100, 100, 100).per_s(Some(0.0)), 100.0);
    assert_eq!(ends(100, 100, 100).per_s(None), 100.0);
}

#[test]
fn requests_go_to_the_nearest_listener() {
    let listeners = [
        listens("0.0.0.0", 80, 0, 10),
        listens("10.0.0.1", 80, 3, 2),
        listens("::", 81, 0, 5),
        listens("::", 81, 0, 5),
        listens("127.0.0.1", 82, 0, 1),
    ];
    let requests: Vec<Entry> =
        [80, 80, 81, 82].map(|lport| entry(lport, 5_000, TCP_SYN_RECV, false)).into_iter().collect();
    let sockets = counted(&listeners, &requests);
    let told: Vec<_> = sockets.listeners.iter().map(|it| (it.requests, it.sharing, it.is_full())).collect();
    assert_eq!(told, [(0, 1, false), (2, 1, true), (1, 2, false), (1, 2, false), (0, 1, false)]);
    assert!(sockets.opened.is_empty() && sockets.accepted.is_empty());
}

#[test]
fn tables_are_bounded_and_say_so() {
    let (mut table, mut left_out) = (HashMap::new(), 0);
    for key in 0..MOST + 3 {
        bounded(&mut table, key, &mut left_out, |value: &mut u8| *value += 1);
    }
    bounded(&mut table, 0, &mut left_out, |value| *value += 1);
    assert_eq!((table.len(), left_out, table[&0]), (MOST, 3, 2));
}

/// Connections of so many clients, each from a port of its own, at a port of 10.0.0.1.
fn clients_of(lport: u16, count: u16) -> Vec<Entry> {
    let raddr = |n: u16| IpAddr::from([10, 0, 1, (n % 10) as u8]);
    let tuple = |n| Tuple { laddr: ip("10.0.0.1"), lport, raddr: raddr(n), rport: 30_000 + n };
    (0..count).map(|n| Entry { left_ms: 100 * u32::from(n), ..Entry::of(tuple(n), TCP_TIME_WAIT, true) }).collect()
}

#[test]
fn a_port_that_many_peers_share_is_a_services_though_nobody_listens() {
    let mut entries = clients_of(20_051, 300);
    // Clients here, of a service elsewhere and of the drained one itself.
    entries.extend((0..50).map(|n| entry(20_000 + 2 * n, 443, TCP_ESTABLISHED, false)));
    let sockets = counted(&[], &entries);
    let service = Service { laddr: ip("10.0.0.1"), lport: 20_051 };
    let ends = sockets.accepted[&service];
    assert_eq!((sockets.accepted.len(), ends.time_wait, ends.last_left_ms), (1, 300, 29_900));
    assert_eq!(ends.peers, Peers { count: 10, at_least: false });
    assert_eq!((sockets.opened.len(), sockets.local.held, sockets.local.second_span), (1, [50, 0], None));
}

#[test]
fn a_port_that_a_few_connections_share_was_chosen_by_connect() {
    // Fewer than sixteen; and a crawler, whose ports are shared by as many destinations as it visits.
    assert_eq!(counted(&[], &clients_of(20_051, 15)).accepted.len(), 0);
    let to = |n: u16| Tuple {
        laddr: ip("10.0.0.1"),
        lport: 20_000 + n % 50 * 2,
        raddr: [10, 1, (n >> 8) as u8, n as u8].into(),
        rport: 443,
    };
    let crawled: Vec<Entry> = (0..2000).map(|n| Entry::of(to(n), TCP_TIME_WAIT, true)).collect();
    let sockets = counted(&[], &crawled);
    assert_eq!((sockets.accepted.len(), sockets.opened.len()), (0, 2000));
    assert_eq!((sockets.local.held, sockets.local.shared), ([50, 0], [50, 0]));
}

#[test]
fn a_service_outside_of_the_range_is_one_whatever_ports_its_clients_have() {
    let far = |n: u16| {
        Entry::of(
            Tuple { laddr: ip("10.0.0.1"), lport: 8080, raddr: ip("10.0.0.9"), rport: 1024 + n },
            TCP_TIME_WAIT,
            true,
        )
    };
    let sockets = counted(&[], &(0..100).map(far).collect::<Vec<_>>());
    assert_eq!((sockets.opened.len(), sockets.accepted.values().map(Ends::total).sum::<u64>()), (0, 100));
}

#[test]
fn full_sockets_are_kept_one_by_one_and_by_state() {
    let of = |rport, state, inode| Entry { inode, idle_ms: Some(7000), ..entry(80, rport, state, false) };
    let mut entries: Vec<Entry> = (0..9000).map(|n| of(n, TCP_CLOSE_WAIT, 1 + u32::from(n))).collect();
    entries.push(Entry { retransmits: 3, ..of(1, TCP_FIN_WAIT1, 0) });
    entries.push(Entry { probing: true, send_queue: 77, ..of(2, TCP_FIN_WAIT1, 0) });
    let sockets = counted(&[listens("::", 80, 0, 511)], &entries);
    let states = sockets.states;
    assert_eq!((states.held(TCP_CLOSE_WAIT), states.unheld(TCP_FIN_WAIT1), states.of(TCP_LISTEN)), (9000, 2, 1));
    assert_eq!(sockets.samples.len(), SAMPLES + 2);
    let ends = sockets.accepted.values().next().unwrap();
    assert_eq!((ends.full.of(TCP_CLOSE_WAIT), ends.retried, ends.probing, ends.other), (9000, 1, 1, 9002));
    let last = sockets.samples.last().unwrap();
    assert_eq!((last.unsent, last.probing, last.retried, last.accepted), (77, true, false, true));
}

#[test]
fn bound_ports_are_held_without_a_connection() {
    let bound = |lport| entry(lport, 0, TCP_CLOSE, false);
    let no_port = Entry { no_port: Some(true), ..entry(20_007, 443, TCP_ESTABLISHED, false) };
    let sockets = counted(
        &[listens("::", 20_011, 0, 1)],
        &[bound(20_001), bound(20_002), bound(20_011), bound(900), entry(20_001, 443, TCP_ESTABLISHED, false), no_port],
    );
    let local = sockets.local;
    assert_eq!((local.choosable, local.held, local.bound), ([50, 49], [1, 2], [1, 1]));
    assert_eq!(local.second_span, Some((20_001, 20_007)));
    let ends = sockets.opened.values().next().unwrap();
    assert_eq!((sockets.opened.len(), ends.in_range, ends.second_half, ends.second_half_now), (1, 2, 1, 1));
}
