mod random;

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::{other::Others, *};
use crate::model::{
    event::{Call, Cause, Comm, Connection, Refusal, Role, Task},
    expression::Expression,
    occupancy::{Destination as To, Held, Namespace, Passive, Service},
};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const SECOND: u64 = 1_000_000_000;

fn comm(name: &str) -> Comm {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Comm(bytes)
}

fn life(role: Option<Role>, lport: u16, rport: u16) -> Life {
    Life {
        id: Some(1),
        netns: Some(7),
        tuple: Some(Tuple { laddr: LOCAL, lport, raddr: PEER, rport }),
        substate: Some(Substate::TimeWait),
        role,
        closer: Some(Closer { task: Task { pid: 42, comm: comm("curl") }, cgroup_id: 9 }),
        preexisting: Some(false),
    }
}

fn connection() -> Connection {
    Connection {
        opener: None,
        conn_ns: Some(5_000_000),
        connect_ns: Some(40_000),
        timestamps: Some(true),
        bytes_in: None,
        bytes_out: None,
        srtt_us: None,
        mark: None,
    }
}

fn event(life: Life, detail: Detail) -> Event {
    Event { mono_ns: 0, life, detail, self_test: false }
}

fn born(life: Life) -> Event {
    event(life, Detail::Born { timeout_ms: Some(60_000), connection: connection() })
}

fn died(life: Life, cause: Cause) -> Event {
    event(life, Detail::Died { cause, life_ns: Some(60 * SECOND), taker: None })
}

fn space(available: u32, listeners: &[u16]) -> Namespace {
    Namespace {
        range: 30_000..=30_199,
        available,
        tw_limit: Some(65_536),
        tw_reuse: Some(2),
        listeners: listeners.iter().copied().collect(),
        held: HashMap::new(),
    }
}

#[test]
fn a_life_is_counted_in_every_table_and_taken_out_again() {
    let mut all = Aggregates::default();
    let client = life(Some(Role::Client), 30_001, 443);
    all.event(&born(client));
    all.event(&born(life(Some(Role::Client), 30_002, 443)));
    all.event(&died(client, Cause::Reused));
    let ports = all.port_rows();
    assert_eq!(ports.len(), 1);
    let row = &ports[0];
    assert_eq!((row.role, row.port, row.live, row.born, row.died.all()), (Side::Client, 443, 1, 2, 1));
    assert_eq!(row.died.of(&[Cause::Reused]), 1);
    assert!(row.life_p50_ns.unwrap().abs_diff(60 * SECOND) < SECOND);
    assert!(row.age_p99_ns.unwrap().abs_diff(5_000_000) < 50_000);
    assert_eq!(row.closes_first, None, "nobody counts what the peer closes");
    let destinations = all.destination_rows();
    assert_eq!((destinations[0].time_wait, destinations[0].in_use, destinations[0].available), (1, None, None));
    assert!(destinations[0].connect_p50_ns.unwrap().abs_diff(40_000) < 4_000);
    let owner = &all.process_rows()[0];
    assert_eq!((owner.who.pid, owner.who.comm.as_str(), owner.live, owner.born), (42, "curl", 1, 2));
    assert_eq!(all.cgroup_rows()[0].live, 1);
    assert_eq!(all.live(), Live { time_wait: 1, fin_wait2: 0 });
    let targets = all.targets_of_process(&Process { pid: 42, comm: comm("curl") });
    assert_eq!(targets.len(), 1);
    assert_eq!((targets[0].0.raddr, targets[0].1), (Some(PEER), 2));
}

#[test]
fn what_was_accepted_holds_no_port_of_a_destination() {
    let mut all = Aggregates::default();
    all.event(&born(life(Some(Role::Server), 80, 50_000)));
    assert_eq!((all.port_rows()[0].role, all.port_rows()[0].port), (Side::Server, 80));
    assert!(all.destination_rows().is_empty());
}

#[test]
fn older_connections_go_by_who_listened() {
    let mut all = Aggregates::default();
    all.begin(&Occupancy { namespaces: [(7, space(200, &[80]))].into(), ..Occupancy::default() });
    all.seeded(&life(None, 80, 50_000));
    all.seeded(&life(None, 50_000, 443));
    // Nobody listens any more; the answer stays.
    all.occupied(&Occupancy { namespaces: [(7, space(200, &[]))].into(), ..Occupancy::default() });
    all.event(&died(life(None, 80, 50_000), Cause::Expired));
    let mut rows: Vec<_> = all.port_rows().iter().map(|row| (row.role, row.port, row.live)).collect();
    rows.sort();
    assert_eq!(rows, [(Side::Client, 443, 1), (Side::Server, 80, 0)]);
}

#[test]
fn a_destination_runs_out_when_it_is_foretold() {
    let mut all = Aggregates::default();
    let mut look = Occupancy { namespaces: [(7, space(200, &[]))].into(), ..Occupancy::default() };
    let to = To { laddr: LOCAL, raddr: PEER, rport: 443 };
    look.namespaces.get_mut(&7).unwrap().held.insert(to, Held { established: 10, other: 0 });
    all.begin(&look);
    for second in 0..=14_u64 {
        all.tick(second * SECOND);
        for n in 0..10 {
            all.event(&born(life(Some(Role::Client), 30_000 + (second * 10 + n) as u16, 443)));
        }
    }
    all.tick(15 * SECOND);
    let row = &all.destination_rows()[0];
    assert_eq!((row.time_wait, row.established, row.in_use, row.headroom), (150, Some(10), Some(160), Some(40)));
    assert_eq!((row.born_per_s, row.exhausted_in_s), (Some(10.0), Some(trend::Forecast::In(4.0))));
    assert_eq!(row.limit_per_s, Some(3.333));
    assert_eq!(row.reuse, Some(destination::Reuse::Off), "2 is for loopback alone");
}

/// The tables of a run with this filter, after a look at two namespaces.
fn filtered(filter: &str) -> Aggregates {
    let filter = Expression::read(filter).unwrap();
    let mut all = Aggregates::default().wanting(Wanted::new(&filter));
    let look = Occupancy { namespaces: [7, 8].map(|netns| (netns, held_space())).into(), ..Occupancy::default() };
    all.begin(&look);
    all.occupied(&look);
    all
}

/// Ten connections to port 443, three to 80.
fn held_space() -> Namespace {
    let to = |rport| To { laddr: LOCAL, raddr: PEER, rport };
    let held = |established| Held { established, other: 0 };
    Namespace { held: HashMap::from([(to(443), held(10)), (to(80), held(3))]), ..space(200, &[30_100]) }
}

fn places(all: &Aggregates) -> Vec<(Option<u32>, u16)> {
    let mut places: Vec<_> = all.destination_rows().iter().map(|row| (row.netns, row.rport)).collect();
    places.sort_unstable();
    places
}

#[test]
fn filters_hold_for_what_is_polled() {
    assert_eq!(places(&filtered("ip or ip6")).len(), 4);
    let netns = filtered("netns 7");
    assert_eq!(places(&netns), [(Some(7), 80), (Some(7), 443)]);
    assert_eq!(netns.namespaces().keys().collect::<Vec<_>>(), [&7], "nor do notes tell of another");
    let rport = filtered("dst port 80");
    assert_eq!(places(&rport), [(Some(7), 80), (Some(8), 80)]);
    assert!(places(&filtered("ip6")).is_empty());
    assert!(places(&filtered("role server")).is_empty());
    assert_eq!(places(&filtered("role client")).len(), 4);
}

#[test]
fn who_closes_what_is_polled_is_not_known() {
    let mut all = filtered("pid 42");
    assert!(places(&all).is_empty(), "no row for sockets of which it is not known whose they are");
    all.event(&born(life(Some(Role::Client), 30_001, 443)));
    let row = &all.destination_rows()[0];
    assert_eq!((row.time_wait, row.established, row.other), (1, None, None));
    assert_eq!((row.in_use, row.available, row.headroom, row.fill()), (None, Some(200), None, None));
    assert_eq!((row.exhausted_in_s, row.forecast, row.limit_per_s), (None, None, Some(3.333)));
}

#[test]
fn headroom_is_told_of_whole_destinations() {
    let by_lport = filtered("src port 30001");
    let row = by_lport.destination_rows().into_iter().find(|row| row.rport == 443).unwrap();
    assert_eq!((row.in_use, row.headroom, row.partial), (Some(10), None, false), "the look counted what passes");
    let by_rport = filtered("dst port 443");
    let row = &by_rport.destination_rows()[0];
    assert_eq!((row.in_use, row.headroom), (Some(10), Some(190)));
    let by_role = filtered("role client");
    assert!(by_role.destination_rows().iter().all(|row| row.partial && row.headroom.is_some()));
}

#[test]
fn no_headroom_is_exhausted_at_once_and_in_json_too() {
    let mut all = Aggregates::default();
    let mut look = Occupancy { namespaces: [(7, held_space())].into(), ..Occupancy::default() };
    look.namespaces.get_mut(&7).unwrap().available = 10;
    all.begin(&look);
    let json = |all: &Aggregates, rport| {
        let row = all.destination_rows().into_iter().find(|row| row.rport == rport).unwrap();
        let value = serde_json::to_value(&row).unwrap();
        (value["headroom"].clone(), value["exhausted_in_s"].clone(), value["forecast"].clone())
    };
    let null = serde_json::Value::Null;
    // Before any tick.
    assert_eq!(json(&all, 443), (0.into(), 0.0.into(), "full".into()));
    assert_eq!(json(&all, 80), (7.into(), null.clone(), null.clone()), "not known yet");
    all.started(SECOND);
    all.tick(2 * SECOND);
    assert_eq!(json(&all, 443), (0.into(), 0.0.into(), "full".into()));
    assert_eq!(json(&all, 80), (7.into(), null, "steady".into()), "known, and never");
}

#[test]
fn the_first_tick_has_every_rate() {
    let mut all = Aggregates::default();
    all.begin(&Occupancy { namespaces: [(7, space(200, &[]))].into(), ..Occupancy::default() });
    all.seeded(&life(None, 30_000, 443));
    all.started(100 * SECOND);
    for n in 1..=50 {
        all.event(&born(life(Some(Role::Client), 30_000 + n, 443)));
    }
    all.tick(105 * SECOND);
    let row = &all.destination_rows()[0];
    assert_eq!((row.born_per_s, row.in_use), (Some(10.0), Some(51)));
    assert_eq!(row.exhausted_in_s, Some(trend::Forecast::In(14.9)), "149 ports at ten a second");
    assert_eq!(all.port_rows()[0].born_per_s, Some(10.0));
    assert_eq!(all.process_rows()[0].born_per_s, Some(10.0));
    assert_eq!(all.cgroup_rows()[0].born_per_s, Some(10.0));
    // One that came between two ticks has grown from nothing.
    all.event(&born(life(Some(Role::Client), 30_100, 80)));
    all.tick(110 * SECOND);
    let new = all.destination_rows().into_iter().find(|row| row.rport == 80).unwrap();
    assert_eq!((new.born_per_s, new.forecast), (Some(0.2), Some("steady")));
}

#[test]
fn a_port_that_a_look_saw_held_is_not_held_twice() {
    let mut all = Aggregates::default();
    let to = To { laddr: LOCAL, raddr: PEER, rport: 443 };
    let held = Held { established: 1, other: 1 };
    let space = Namespace { held: HashMap::from([(to, held)]), ..space(200, &[]) };
    all.begin(&Occupancy {
        at_ns: 10 * SECOND,
        took_ns: 1_000,
        namespaces: [(7, space)].into(),
        ..Occupancy::default()
    });
    let in_use = |all: &Aggregates| all.destination_rows()[0].in_use;
    let mut close = |port, at_ns, age_ns| {
        let connection = Connection { conn_ns: Some(age_ns), ..connection() };
        let detail = Detail::Born { timeout_ms: Some(60_000), connection };
        all.event(&Event { mono_ns: at_ns, ..event(life(Some(Role::Client), port, 443), detail) });
        in_use(&all)
    };
    assert_eq!(close(30_001, 11 * SECOND, 2 * SECOND), Some(2), "it was established when the look began");
    assert_eq!(close(30_002, 11 * SECOND, SECOND / 2), Some(3), "it is younger");
    assert_eq!(close(30_003, 9 * SECOND, 2 * SECOND), Some(4), "it had closed before");
    assert_eq!(
        close(29_999, 11 * SECOND, 2 * SECOND),
        Some(5),
        "its port is not of the range, which is all that a look counts"
    );
    assert_eq!(close(30_004, 11 * SECOND, 2 * SECOND), Some(5), "it was on its way");
    assert_eq!(close(30_005, 11 * SECOND, 2 * SECOND), Some(6), "none is left");
}

#[test]
fn a_share_is_of_those_that_were_seen_from_the_start() {
    let mut all = Aggregates::default();
    let to = To { laddr: LOCAL, raddr: PEER, rport: 443 };
    let closes = |closes| Passive { service: Service::Opened { netns: 7, to }, closes };
    all.passive(&[closes(3)]);
    all.event(&born(life(Some(Role::Client), 30_001, 443)));
    assert_eq!(all.port_rows()[0].closes_first, Some(0.25));
    let key = PortKey { side: Side::Client, port: 443 };
    let then = all.port_of(&key).unwrap().clone();
    let since = |all: &Aggregates| PortRow::of(key, &all.port_of(&key).unwrap().since(&then).unwrap());
    assert_eq!((since(&all).closes_first, since(&all).live), (None, 1));
    all.passive(&[closes(1)]);
    assert_eq!(since(&all).closes_first, Some(0.0));
    assert!(then.since(all.port_of(&key).unwrap()).is_none(), "it has more than it had then");
}

#[test]
fn what_had_to_go_is_counted_and_its_return_is_marked() {
    let mut all = Aggregates::new(Limits { ports: 1, destinations: 1, owners: 1 });
    all.event(&born(life(Some(Role::Client), 30_001, 443)));
    all.event(&born(life(Some(Role::Client), 30_001, 80)));
    all.event(&died(life(Some(Role::Client), 30_001, 443), Cause::Expired));
    assert_eq!(all.evicted(), Evicted { ports: 2, destinations: 2, processes: 0, cgroups: 0 });
    let row = &all.port_rows()[0];
    assert_eq!((row.port, row.live, row.partial), (443, 0, true));
}

#[test]
fn a_look_at_a_few_namespaces_leaves_the_others_as_they_were() {
    let mut all = Aggregates::default();
    let look = |at_s, namespaces: &[u32], others: &[u32]| Occupancy {
        at_ns: at_s * SECOND,
        namespaces: namespaces.iter().map(|&netns| (netns, held_space())).collect(),
        others: others.iter().copied().collect(),
        left_out: namespaces.iter().map(|&netns| (netns, at_s)).collect(),
        ..Occupancy::default()
    };
    all.begin(&look(1, &[7, 8, 9], &[]));
    all.occupied(&look(5, &[8], &[7]));
    all.started(6 * SECOND);
    let rows = all.destination_rows();
    let of = |netns| {
        let row = rows.iter().find(|row| row.netns == Some(netns) && row.rport == 443);
        row.map(|row| (row.established, row.looked_ms_ago))
    };
    assert_eq!(of(7), Some((Some(10), Some(5_000))));
    assert_eq!(of(8), Some((Some(10), Some(1_000))));
    assert_eq!(of(9), None, "it is gone");
    assert_eq!(all.left_out(), 1 + 5);
}

#[test]
fn a_life_that_is_over_leaves_its_owner() {
    let mut all = Aggregates::default();
    let life = life(None, 30_000, 443);
    all.seeded(&life);
    all.over(&Life { tuple: None, netns: None, ..life });
    assert_eq!(all.live(), Live::default());
}
