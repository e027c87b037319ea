use super::*;
use crate::model::event::Tuple;

const FRAME: Frame = Frame { range: 20_000..=20_099, time_wait_ms: 60_000 };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn entry(lport: u16, rport: u16, state: u8, minisock: bool) -> Entry {
    Entry::of(Tuple { laddr: ip("10.0.0.1"), lport, raddr: ip("10.0.0.2"), rport }, state, minisock)
}

fn counted(listeners: &[Entry], entries: &[Entry]) -> (Sockets, Requests) {
    let counter = Counter::new(&FRAME, listeners);
    let (mut sockets, mut requests) = (Sockets::default(), HashMap::new());
    for entry in entries {
        counter.count(&mut sockets, &mut requests, entry);
    }
    sockets.listeners = listening(listeners, &requests);
    (sockets, requests)
}

fn listens(address: &str, port: u16, queue: u32, limit: u32) -> Entry {
    let tuple = Tuple { laddr: ip(address), lport: port, raddr: ip(address), rport: 0 };
    Entry { receive_queue: queue, send_queue: limit, ..Entry::of(tuple, 10, false) }
}

#[test]
fn who_listens_has_accepted() {
    let time_wait = |lport, rport, left_ms| Entry { left_ms, ..entry(lport, rport, state::TIME_WAIT, true) };
    let (sockets, _) = counted(
        &[listens("::", 80, 0, 511)],
        &[
            time_wait(80, 30_000, 0),
            // Nobody listens at 81 any more.
            time_wait(81, 20_001, 0),
            time_wait(20_000, 443, 59_500),
            time_wait(20_003, 443, 50_500),
            time_wait(20_002, 443, 50_000),
            entry(20_004, 443, state::FIN_WAIT2, true),
            entry(20_006, 443, state::ESTABLISHED, false),
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
    assert_eq!((sockets.time_wait, sockets.fin_wait2, sockets.states[1], sockets.states[8]), (5, 1, 1, 1));
    assert_eq!(sockets.peers.values().sum::<u64>(), 2);
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
fn a_port_of_the_second_half_was_bound_while_the_first_has_room() {
    let ends = |in_range, second_half| Ends { in_range, second_half, ..Ends::default() };
    assert_eq!(ends(10, 10).bound_first(&FRAME.range), 10);
    assert_eq!(ends(20, 0).bound_first(&FRAME.range), 0);
    assert_eq!(ends(45 + 20, 20).bound_first(&FRAME.range), 0);
    assert_eq!(ends(44 + 20, 20).bound_first(&FRAME.range), 20);
    assert_eq!(ends(1, 1).bound_first(&(7..=7)), 0);
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
        [80, 80, 81, 82].map(|lport| entry(lport, 5_000, state::SYN_RECV, false)).into_iter().collect();
    let (sockets, _) = counted(&listeners, &requests);
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
