//! A recorded run for the tables: sixteen seconds in which one destination fills up, another is steady, a service
//! recycles, and the buckets are full for a while.

use std::{collections::HashMap, net::IpAddr};

use twtrace::{
    model::{
        aggregate::Aggregates,
        buckets::Buckets,
        cgroup::Named,
        event::{Cause, Closer, Connection, Detail, Event, Life, Refusal, Role, Substate, Task, Tuple},
        happening::{Happening, Tick},
        occupancy::{Destination, Held, Namespace, Occupancy, Passive, Service},
        report::{Counter, Reconciled, Totals},
    },
    sink::Observer,
};

use crate::fixture::{self, comm};

/// The namespace of it all.
pub const NETNS: u32 = 4_026_531_840;
const SECOND: u64 = 1_000_000_000;
/// How long it goes on.
pub const SECONDS: u64 = 16;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or(IpAddr::from([0; 4]))
}

/// Who closes.
fn closer(pid: u32, name: &str, cgroup_id: u64) -> Closer {
    Closer { task: Task { pid, comm: comm(name) }, cgroup_id }
}

fn life(id: u64, role: Role, raddr: &str, ports: (u16, u16), closer: Closer) -> Life {
    Life {
        id: Some(id),
        netns: Some(NETNS),
        tuple: Some(Tuple { laddr: ip("10.0.0.5"), lport: ports.0, raddr: ip(raddr), rport: ports.1 }),
        substate: Some(Substate::TimeWait),
        role: Some(role),
        closer: Some(closer),
        preexisting: Some(false),
    }
}

fn connection(age_us: u64, connect_us: u64, timestamps: bool) -> Connection {
    Connection {
        opener: None,
        conn_ns: Some(age_us * 1000),
        connect_ns: Some(connect_us * 1000),
        timestamps: Some(timestamps),
        bytes_in: Some(100),
        bytes_out: Some(10),
        srtt_us: Some(50),
        mark: None,
    }
}

/// The events of one second, in order.
fn second(second: u64) -> Vec<Event> {
    let mut events = Vec::new();
    let mut at = second * SECOND;
    let mut push = |life: Life, detail: Detail| {
        at += 1_000_000;
        events.push(Event { mono_ns: at, life, detail, self_test: false });
    };
    let nginx = closer(812, "nginx", 9001);
    let born = |age, connect, timestamps| Detail::Born {
        timeout_ms: Some(60_000),
        connection: connection(age, connect, timestamps),
    };
    // Ten a second to a database that nothing is reused for: 200 ports are gone after twenty seconds.
    for n in 0..10 {
        let port = 30_000 + second * 10 + n;
        let life = life(port, Role::Client, "192.0.2.10", (port as u16, 5432), closer(4711, "worker", 9002));
        push(life, born(2_000 + n * 100, 30 + second * 10, false));
    }
    // One a second to an upstream, reused a second later.
    let port = 31_000 + second % 2;
    if second >= 2 {
        let old = life(port, Role::Client, "192.0.2.80", (port as u16, 80), nginx);
        let taker = Some(Task { pid: 812, comm: comm("nginx") });
        push(old, Detail::Died { cause: Cause::Reused, life_ns: Some(1_100_000_000 + second * 1_000_000), taker });
    }
    push(life(port, Role::Client, "192.0.2.80", (port as u16, 80), nginx), born(700_000, 90, true));
    // A service whose clients come back at once.
    let client = life(7, Role::Server, "198.51.100.7", (443, 50_000), nginx);
    if second > 0 {
        push(client, Detail::Died { cause: Cause::Recycled, life_ns: Some(998_000_000), taker: None });
    }
    push(client, Detail::Born { timeout_ms: Some(60_000), connection: connection(5_000_000, 0, true) });
    if second == 5 {
        let refused = life(8, Role::Server, "198.51.100.8", (443, 50_001), nginx);
        let connection = connection(1_000, 0, true);
        push(refused, Detail::Refused { reason: Refusal::Buckets, used: Some(4096), limit: Some(4096), connection });
    }
    if second == 9 {
        let mut portless = life(0, Role::Client, "192.0.2.10", (0, 5432), closer(4711, "worker", 9002));
        (portless.id, portless.substate) = (None, None);
        push(portless, Detail::NoPort { took_ns: Some(4_000_000), holder: None });
        let orphan = life(9, Role::Client, "2001:db8::1", (30_900, 8443), closer(99, "curl", 1));
        push(Life { substate: Some(Substate::FinWait2), ..orphan }, born(1_500, 45, true));
    }
    events
}

/// One look at the full sockets.
pub fn occupancy() -> Occupancy {
    let to = |raddr, rport| Destination { laddr: ip("10.0.0.5"), raddr: ip(raddr), rport };
    let held = HashMap::from([
        (to("192.0.2.10", 5432), Held { established: 4, other: 1 }),
        (to("192.0.2.80", 80), Held { established: 30, other: 0 }),
    ]);
    let space = Namespace {
        range: 30_000..=30_199,
        available: 199,
        tw_limit: Some(4096),
        tw_reuse: Some(1),
        listeners: [443, 30_150].into(),
        held,
    };
    Occupancy { namespaces: [(NETNS, space)].into(), ..Occupancy::default() }
}

/// What the counters said after so many events.
fn totals(events: &[Event]) -> Totals {
    let count = |is: fn(&Detail) -> bool| events.iter().filter(|event| is(&event.detail)).count() as u64;
    let died = |cause: Cause| {
        let is = |event: &&Event| matches!(event.detail, Detail::Died { cause: c, .. } if c == cause);
        (cause, events.iter().filter(is).count() as u64)
    };
    let born = count(|detail| matches!(detail, Detail::Born { .. }));
    let ended = count(|detail| matches!(detail, Detail::Died { .. }));
    let seen = events.len() as u64;
    Totals {
        born_time_wait: born,
        died: Cause::ALL.iter().map(|&cause| died(cause)).collect(),
        refused: Some(vec![(Refusal::Buckets, count(|detail| matches!(detail, Detail::Refused { .. })))]),
        no_port: Some(count(|detail| matches!(detail, Detail::NoPort { .. }))),
        live: Some(born - ended),
        seen,
        emitted: seen,
        ..fixture::exact().totals
    }
}

/// The first `seconds` of the run.
pub fn happenings(seconds: u64) -> Vec<Happening> {
    let start = Box::new(fixture::start());
    let mut all = vec![Happening::Start { mono_ns: 0, start }, Happening::Look(Box::new(occupancy()))];
    let mut sofar = Vec::new();
    for n in 0..seconds {
        let events = second(n);
        all.extend(events.iter().copied().map(Happening::Event));
        sofar.extend(events);
        let now = (n + 1) * SECOND;
        all.extend(beside(now));
        let totals = totals(&sofar);
        let live = totals.live.unwrap_or(0).cast_signed();
        let row = |counter, kernel, diff| Reconciled { counter, kernel, twtrace: kernel - diff, diff, slack: 0 };
        let reconcile = vec![row(Counter::TwRecycled, 3, 0), row(Counter::SockstatTw, live, 0)];
        let rate = |is: fn(&Detail) -> bool| {
            let latest = sofar.iter().filter(|event: &&Event| event.mono_ns >= n * SECOND);
            Some(latest.filter(|event| is(&event.detail)).count() as f64)
        };
        let buckets = Buckets {
            netns: NETNS,
            name: Some("this namespace".to_owned()),
            used: live.unsigned_abs(),
            limit: 4096,
            namespaces: 3,
        };
        let tick = Tick {
            born_per_s: rate(|detail| matches!(detail, Detail::Born { .. })),
            died_per_s: rate(|detail| matches!(detail, Detail::Died { .. })),
            totals,
            reconcile,
            buckets: Some(buckets),
            report: true,
            ..Tick::default()
        };
        all.push(Happening::Tick { mono_ns: now, tick: Box::new(tick) });
    }
    all
}

/// Plays the first `seconds` of the run into tables and an observer, as the hub would.
pub fn play(tables: &mut Aggregates, observer: &mut dyn Observer, seconds: u64) {
    for happening in happenings(seconds) {
        tables.happened(&happening);
        observer.happening(&happening, tables);
    }
}

/// What comes with a tick.
fn beside(now: u64) -> [Happening; 4] {
    let to = Destination { laddr: ip("10.0.0.5"), raddr: ip("192.0.2.80"), rport: 80 };
    let upstream = Service::Opened { netns: NETNS, to };
    let passive =
        vec![Passive { service: Service::Accepted { port: 443 }, closes: 3 }, Passive { service: upstream, closes: 1 }];
    let docker = format!("system.slice/docker-{}.scope", "0123456789abcdef".repeat(4));
    let paths = vec![
        (9001, Some(Named { path: "system.slice/nginx.service".to_owned(), name: None })),
        (9002, Some(Named { path: docker, name: Some("web".to_owned()) })),
        (1, None),
    ];
    [
        Happening::Look(Box::new(occupancy())),
        Happening::Passive(passive),
        Happening::Paths(paths),
        Happening::Interval { mono_ns: now },
    ]
}
