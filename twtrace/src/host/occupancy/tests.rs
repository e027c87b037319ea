use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::model::event::Tuple;

#[test]
fn the_range_is_two_numbers() {
    assert_eq!(range("32768\t60999\n"), Some(32_768..=60_999));
    assert_eq!(range("1 1"), Some(1..=1));
    for wrong in ["", "1", "2 1", "1 2 3", "a b", "1 65536", "-1 5"] {
        assert_eq!(range(wrong), None, "{wrong}");
    }
}

#[test]
fn reserved_ports_are_numbers_and_ranges() {
    assert_eq!(ranges("\n"), []);
    assert_eq!(ranges("8080,9000-9010\n"), [8080..=8080, 9000..=9010]);
    assert_eq!(ranges("x,1-,-2,3-4-5,70000,7"), [7..=7]);
}

#[test]
fn full_sockets_are_counted_by_destination() {
    let (here, there) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv4Addr::new(10, 0, 0, 1)));
    let entry =
        |lport, raddr, state, minisock| Entry::of(Tuple { laddr: here, lport, raddr, rport: 443 }, state, minisock);
    let mut held = HashMap::new();
    for entry in [
        entry(1, there, TCP_ESTABLISHED, false),
        entry(2, there, TCP_ESTABLISHED, false),
        entry(3, there, 8, false),
        entry(4, there, 5, false),
        entry(5, there, 5, true),
        entry(6, there, 6, true),
        entry(1, here, 2, false),
    ] {
        assert!(hold(&mut held, &entry, 100));
    }
    let of = |raddr| held.get(&Destination { laddr: here, raddr, rport: 443 }).copied();
    assert_eq!(of(there), Some(Held { established: 2, other: 2 }));
    assert_eq!(of(here), Some(Held { established: 0, other: 1 }));
    assert_eq!(held.len(), 2);
}

#[test]
fn destinations_are_bounded_and_what_is_left_out_is_said() {
    let here = IpAddr::from(Ipv4Addr::LOCALHOST);
    let entry = |raddr: u32| {
        let tuple = Tuple { laddr: here, lport: 1, raddr: Ipv4Addr::from(raddr).into(), rport: 443 };
        Entry::of(tuple, TCP_ESTABLISHED, false)
    };
    let mut held = HashMap::new();
    let told: Vec<bool> = [1, 2, 3, 2, 4].map(|raddr| hold(&mut held, &entry(raddr), 2)).into();
    assert_eq!(told, [true, true, false, true, false]);
    assert_eq!(held.values().map(|held| held.established).sum::<u32>(), 3);
}

#[test]
fn namespaces_take_turns_and_those_that_are_named_come_first() {
    let mut places = Places::default();
    let host = Host::at("/nonexistent");
    places.find(&host, &[]);
    for inum in [10, 20, 30, 40] {
        places.found.insert(inum, Place::default());
    }
    assert_eq!(places.turns(&[]), [10, 20, 30, 40]);
    places.next = 21;
    assert_eq!(places.turns(&[]), [30, 40, 10, 20]);
    assert_eq!(places.turns(&[20, 77]), [20, 30, 40, 10]);
    places.next = 41;
    assert_eq!(places.turns(&[]), [10, 20, 30, 40]);
}

#[test]
fn a_machine_without_proc_has_no_namespaces() {
    let mut places = Places::default();
    let seen = look(&Host::at("/nonexistent"), &mut places, &[1], Duration::ZERO);
    assert!(seen.namespaces.is_empty() && places.absent.contains(&1));
}

#[test]
fn what_cannot_be_found_is_searched_for_once() {
    let (host, mut places) = (Host::at("/nonexistent"), Places::default());
    places.find(&host, &[]);
    let first = places.searched;
    // A second has not passed, so not even an unknown name is looked for.
    places.find(&host, &[1]);
    assert_eq!(places.searched, first);
    let ago = |duration| Instant::now().checked_sub(duration);
    places.searched = ago(SEARCH_AGAIN);
    places.find(&host, &[1]);
    assert!(places.absent.contains(&1));
    // It was not there, and is not asked for again before the next search.
    let earlier = ago(SEARCH / 2);
    places.searched = earlier;
    places.find(&host, &[1]);
    assert_eq!(places.searched, earlier);
    places.searched = ago(SEARCH);
    places.find(&host, &[]);
    assert!(places.absent.is_empty());
}

proptest! {
    /// Total: any text is a range or none.
    #[test]
    fn any_text_is_read(text in "[0-9,\\- \t\n]{0,40}") {
        let (_, reserved) = (range(&text), ranges(&text));
        prop_assert!(reserved.len() <= 40);
    }
}
