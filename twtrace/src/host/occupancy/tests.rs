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
        hold(&mut held, &entry);
    }
    let of = |raddr| held.get(&Destination { laddr: here, raddr, rport: 443 }).copied();
    assert_eq!(of(there), Some(Held { established: 2, other: 2 }));
    assert_eq!(of(here), Some(Held { established: 0, other: 1 }));
    assert_eq!(held.len(), 2);
}

#[test]
fn a_machine_without_proc_has_no_namespaces() {
    let mut places = Places::default();
    let seen = look(&Host::at("/nonexistent"), &mut places, &[1]);
    assert!(seen.namespaces.is_empty() && places.absent.contains(&1));
}

#[test]
fn what_cannot_be_found_is_searched_for_once() {
    let (host, mut places) = (Host::at("/nonexistent"), Places::default());
    places.open(&host, &[]);
    let first = places.searched;
    // A second has not passed, so not even an unknown name is looked for.
    places.open(&host, &[1]);
    assert_eq!(places.searched, first);
    let ago = |duration| Instant::now().checked_sub(duration);
    places.searched = ago(SEARCH_AGAIN);
    places.open(&host, &[1]);
    assert!(places.absent.contains(&1));
    // It was not there, and is not asked for again before the next search.
    let earlier = ago(SEARCH / 2);
    places.searched = earlier;
    places.open(&host, &[1]);
    assert_eq!(places.searched, earlier);
    places.searched = ago(SEARCH);
    places.open(&host, &[]);
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
