//! Events and reports to be printed: everything known, nothing known, IPv4, IPv6.

use std::{collections::BTreeMap, net::IpAddr};

use twtrace::{
    model::{
        event::{
            Call, Cause, Closer, Comm, Connection, Denial, Detail, Event, Life, Refusal, Role, Substate, Task, Tuple,
        },
        holder::{HeldBy, Holder},
        own::{Own, Runs},
        report::{CapabilityReport, Counter, Missed, Reconciled, Start, Summary, Totals},
        trouble::Trouble,
        watch::Backend,
    },
    show::Clock,
};

/// 2023-11-14 22:13:20 UTC was when this machine came up.
pub const CLOCK: Clock = Clock { offset_ns: 1_700_000_000_000_000_000 };

pub fn comm(name: &str) -> Comm {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Comm(bytes)
}

pub fn task(pid: u32, name: &str) -> Task {
    Task { pid, comm: comm(name) }
}

fn tuple(laddr: &str, raddr: &str) -> Tuple {
    let ip = |text: &str| text.parse().unwrap_or(IpAddr::from([0; 4]));
    Tuple { laddr: ip(laddr), lport: 43210, raddr: ip(raddr), rport: 443 }
}

pub fn v4() -> Life {
    Life {
        id: Some(17),
        netns: Some(4_026_531_840),
        tuple: Some(tuple("10.0.0.5", "192.0.2.123")),
        substate: Some(Substate::TimeWait),
        role: Some(Role::Client),
        closer: Some(Closer { task: task(4_194_303, "curl"), cgroup_id: 9001 }),
        preexisting: Some(false),
    }
}

pub fn v6() -> Life {
    Life {
        tuple: Some(tuple("2001:db8:1234:5678:9abc:def0:1234:5678", "2001:db8::1")),
        role: Some(Role::Server),
        substate: Some(Substate::FinWait2),
        closer: Some(Closer { task: task(812, "nginx"), cgroup_id: 1 }),
        ..v4()
    }
}

pub fn unknown() -> Life {
    Life { id: None, netns: None, tuple: None, substate: None, role: None, closer: None, preexisting: None }
}

fn connection() -> Connection {
    Connection {
        opener: Some(task(4711, "a \"b\"\\c")),
        conn_ns: Some(1_234_567),
        connect_ns: Some(34_567),
        timestamps: Some(true),
        bytes_in: Some(1 << 40),
        bytes_out: Some(0),
        srtt_us: Some(250),
        mark: Some(u32::MAX),
    }
}

fn known_details() -> Vec<Detail> {
    let died = |cause, life_ns| Detail::Died { cause, life_ns: Some(life_ns), taker: None };
    let mut details = vec![
        Detail::Born { timeout_ms: Some(60_000), connection: connection() },
        Detail::Turned { after_ns: Some(12_345) },
        Detail::Rearmed { timeout_ms: Some(2030) },
        Detail::Refused {
            reason: Refusal::Buckets,
            used: Some(262_144),
            limit: Some(262_144),
            connection: connection(),
        },
        Detail::Refused { reason: Refusal::Memory, used: None, limit: Some(5), connection: Connection::default() },
    ];
    details.push(Detail::NoPort { took_ns: Some(1_234_000), holder: None });
    let counts = [28_232, 2, 1, 14_116];
    let denied = |(&reason, count)| Detail::ReuseDenied { reason, count, took_ns: Some(1_234_000) };
    details.extend(Denial::ALL.iter().zip(counts).map(denied));
    let causes = Cause::ALL.iter().zip([60_123_456_789, 1_500_000, 12_345, 999, 100_000_000, 1_000_000_000, 0]);
    details.extend(causes.map(|(&cause, life_ns)| died(cause, life_ns)));
    for cause in [Cause::Reused, Cause::ReusedBound] {
        details.push(Detail::Died { cause, life_ns: Some(1_500_000), taker: Some(task(999, "wrk")) });
    }
    details
}

fn unknown_details() -> Vec<Detail> {
    vec![
        Detail::Born { timeout_ms: None, connection: Connection::default() },
        Detail::Turned { after_ns: None },
        Detail::Rearmed { timeout_ms: None },
        Detail::Died { cause: Cause::Unknown(0), life_ns: None, taker: None },
        Detail::Died { cause: Cause::Unknown(200), life_ns: None, taker: None },
        Detail::Refused { reason: Refusal::Unknown(9), used: None, limit: None, connection: Connection::default() },
        Detail::NoPort { took_ns: None, holder: None },
        Detail::ReuseDenied { reason: Denial::Unknown(5), count: 0, took_ns: None },
        Detail::NoBind { call: Call::Unknown(3), holder: None },
    ]
}

/// Who has a port: a minisock, a listener, a connection, somebody of whom nothing is known, and nobody who was found.
fn holders() -> Vec<Option<Holder>> {
    let minisock = Holder { by: HeldBy::TimeWait, task: None, held_ms: Some(12_300), expires_in_ms: Some(47_700) };
    let of = |by, task| Holder { by, task, held_ms: None, expires_in_ms: None };
    vec![
        Some(minisock),
        Some(of(HeldBy::Listener, Some(task(1234, "nginx")))),
        Some(of(HeldBy::Socket, Some(task(4711, "a \"b\"")))),
        Some(of(HeldBy::Socket, None)),
        Some(of(HeldBy::Unknown(9), None)),
        None,
    ]
}

/// Events of one life, a bit more than a second from one to the next.
fn events(life: Life, details: Vec<Detail>) -> Vec<Event> {
    let times = (1..).map(|i: u64| i * 1_001_000_001);
    let event = |(mono_ns, detail)| Event { mono_ns, life, detail, self_test: false };
    times.zip(details).map(event).collect()
}

/// By name: what a golden file is made of.
pub fn all_events() -> Vec<(&'static str, Vec<Event>)> {
    let before = Life { preexisting: Some(true), closer: None, role: None, ..v4() };
    let odd = Life { substate: Some(Substate::Unknown(3)), role: Some(Role::Unknown(7)), ..v4() };
    let portless = Tuple { lport: 0, ..tuple("10.0.0.5", "192.0.2.123") };
    let no_port = Life { id: None, tuple: Some(portless), substate: None, ..v4() };
    let bound = Life { id: None, substate: None, ..v4() };
    let no_port_of = |holder| Detail::NoPort { took_ns: Some(12_000), holder };
    let local = Tuple { raddr: IpAddr::from([0; 4]), rport: 0, ..tuple("127.0.0.1", "0.0.0.0") };
    let wanted = Life { role: None, tuple: Some(local), ..bound };
    let any = Life { tuple: Some(Tuple { lport: 0, ..local }), ..wanted };
    let no_bind_of = |holder| Detail::NoBind { call: Call::Listen, holder };
    let of_before = vec![Detail::Died { cause: Cause::Expired, life_ns: None, taker: None }];
    vec![
        ("v4", events(v4(), known_details())),
        ("v6", events(v6(), known_details())),
        ("unknown", events(unknown(), unknown_details())),
        ("known_life_unknown_detail", events(v4(), unknown_details())),
        ("unknown_life_known_detail", events(unknown(), known_details())),
        ("no_port", events(no_port, vec![Detail::NoPort { took_ns: Some(1_234_000), holder: None }])),
        ("no_port_bound", events(bound, holders().into_iter().map(no_port_of).collect())),
        ("no_bind", events(wanted, holders().into_iter().map(no_bind_of).collect())),
        ("no_bind_any", events(any, vec![Detail::NoBind { call: Call::Bind, holder: None }])),
        ("preexisting", events(before, of_before)),
        ("integers_without_a_word", events(odd, unknown_details())),
    ]
}

pub fn start() -> Start {
    let by = |backend| CapabilityReport { backend: Some(backend), reason: None };
    let fell_back = CapabilityReport { backend: Some(Backend::Tracepoint), reason: Some("fentry: EPERM".to_owned()) };
    let missing = |reason: &str| CapabilityReport { backend: None, reason: Some(reason.to_owned()) };
    Start {
        kernel: "6.12.57+deb13-cloud-amd64".to_owned(),
        realtime: false,
        version: "0.1.0".to_owned(),
        capabilities: BTreeMap::from([
            ("birth".to_owned(), fell_back.clone()),
            ("death".to_owned(), fell_back),
            ("cause".to_owned(), by(Backend::Fentry)),
            ("closer".to_owned(), by(Backend::Tracepoint)),
            ("refusal".to_owned(), missing("inet_twsk_alloc is not in BTF; boot a kernel with CONFIG_DEBUG_INFO_BTF")),
            ("no_port".to_owned(), CapabilityReport { backend: None, reason: None }),
            ("reuse_denied".to_owned(), missing("no tracepoint fires where connect() passes over a TIME_WAIT")),
        ]),
        seeded: Some(3),
        namespaces_missed: 2,
        namespaces_missed_why: Some("CAP_SYS_PTRACE is missing".to_owned()),
        self_test: "passed".to_owned(),
    }
}

pub fn blind_start() -> Start {
    Start {
        capabilities: BTreeMap::new(),
        seeded: None,
        realtime: true,
        namespaces_missed: 0,
        namespaces_missed_why: None,
        self_test: "could not be made: EPERM".to_owned(),
        ..start()
    }
}

fn reconciled(counter: Counter, kernel: i64, twtrace: i64) -> Reconciled {
    Reconciled { counter, kernel, twtrace, diff: kernel - twtrace, slack: 0 }
}

/// A run in which everything was watched and nothing went wrong.
pub fn exact() -> Summary {
    let died = [(Cause::Unknown(0), 0)].into_iter().chain(Cause::ALL.iter().map(|&cause| (cause, 0)));
    let died = died.map(|(cause, _)| match cause {
        Cause::Expired => (cause, 12),
        Cause::ReusedBound => (cause, 5),
        _ => (cause, 0),
    });
    Summary {
        totals: Totals {
            born_time_wait: 18,
            born_fin_wait2: 2,
            turned: Some(1),
            rearmed: Some(0),
            died: died.collect(),
            refused: Some(vec![(Refusal::Buckets, 3), (Refusal::Memory, 0)]),
            no_port: Some(4),
            no_port_bound: Some(1),
            reuse_denied: Some(Denial::ALL.iter().copied().zip([0, 3, 0, 1]).collect()),
            no_bind: Some(2),
            holders_unknown: 1,
            live: Some(6),
            looked_ms_ago: Some(1_500),
            seen: 41,
            emitted: 39,
            filtered: 2,
            lost: 0,
            ticks_skipped: 0,
            missed: Missed { runs: Some(0), by: vec![] },
            trouble: vec![],
        },
        reconcile: vec![reconciled(Counter::Tw, 20, 20), reconciled(Counter::SockstatTw, 6, 6)],
        netns: 4_026_531_840,
        exact: Some(true),
        realtime: false,
        duration_ns: 30_002_345_678,
    }
}

/// What twtrace itself costs.
pub fn own() -> Own {
    let program = |name: &'static str, runs, run_ns| Runs { name: name.into(), runs, run_ns };
    Own {
        interval_ns: 1_000_000_000,
        events: 1_000,
        lost: 2,
        bpf_ns: Some(3_456_789),
        programs: vec![program("conn_tp", 10_000, 2_345_678), program("birth_tp", 6_543, 1_111_111)],
        cpu_ns: 12_345_678,
        ring_used: Some(40_960),
        ring_size: 4 << 20,
        rss_bytes: Some(14_680_064),
    }
}

/// A run in which everything went wrong.
pub fn inexact() -> Summary {
    let right = exact();
    Summary {
        totals: Totals {
            died: vec![(Cause::Unknown(0), 1), (Cause::Unknown(99), 2), (Cause::Expired, 1_234_567)],
            refused: Some(vec![(Refusal::Buckets, 1), (Refusal::Unknown(0), 2)]),
            reuse_denied: Some(vec![(Denial::TooYoung, 1), (Denial::Unknown(0), 2)]),
            lost: 1,
            seen: 1_234_567,
            ticks_skipped: 599,
            missed: Missed { runs: Some(7), by: vec![("conn_tp".into(), 5), ("no_port_fexit".into(), 2)] },
            trouble: vec![(Trouble::LivesFull, 3), (Trouble::MissedRuns, 7), (Trouble::SinkDropped, 1_000_000)],
            ..right.totals
        },
        reconcile: vec![reconciled(Counter::Tw, -1, 20), reconciled(Counter::SockstatTw, 1_000_000, 6)],
        exact: Some(false),
        realtime: true,
        ..right
    }
}

/// A run that could watch little, and not be compared.
pub fn uncompared() -> Summary {
    let right = exact();
    Summary {
        totals: Totals {
            turned: None,
            rearmed: None,
            died: vec![],
            refused: None,
            no_port: None,
            no_port_bound: None,
            reuse_denied: None,
            no_bind: None,
            holders_unknown: 0,
            live: None,
            missed: Missed::default(),
            looked_ms_ago: None,
            ..right.totals
        },
        reconcile: vec![
            reconciled(Counter::Tw, 20, 20),
            Reconciled { slack: 19, ..reconciled(Counter::SockstatTw, 6, 6) },
        ],
        exact: None,
        ..right
    }
}
