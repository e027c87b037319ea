//! The doctor's reports: what was read is made up here, judged by its own checks, and shown.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use insta::assert_snapshot;
use serde_json::{Value, json};
use twtrace::{
    doctor::{
        checks,
        facts::{Facts, Machine, Namespace, SYSCTLS},
        finding::{Missed, Severity},
        report::{self, Report, Style},
    },
    host::{
        conntrack::{Conntrack, Stats, Timeouts},
        counters::Sockstat,
        diag::{TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_LISTEN},
        processes::{Census, Limit, Process, SystemFiles},
        sockets::{Ends, Listener, Sample, Service},
        states::States,
        sysctl_files::{Setting, SysctlFiles},
    },
    model::{event::Tuple, occupancy::Destination},
};

const PLAIN: Style = Style { width: 110, colour: false };
const OWN: u32 = 4_026_531_840;

/// What the sysctls are by default.
fn sysctls() -> BTreeMap<&'static str, Option<u64>> {
    let default = |name: &str| match name.rsplit('/').next().unwrap_or_default() {
        "somaxconn" => Some(4096),
        "tcp_abort_on_overflow" | "tcp_rfc1337" => Some(0),
        "tcp_fin_timeout" => Some(60),
        "tcp_max_tw_buckets" => Some(131_072),
        "tcp_max_syn_backlog" => Some(2048),
        "tcp_synack_retries" => Some(5),
        "tcp_syncookies" | "tcp_timestamps" => Some(1),
        "tcp_tw_reuse" => Some(2),
        _ => None,
    };
    SYSCTLS.into_iter().map(|name| (name, default(name))).collect()
}

/// A namespace in which nothing happens.
fn namespace(inum: u32) -> Namespace {
    Namespace {
        window: Duration::from_millis(500),
        sockstat: Some(Sockstat::default()),
        hash_slots: Some(262_144),
        ..Namespace::new(inum, sysctls(), 32_768..=60_999)
    }
}

fn process(pid: u32, comm: &str, descriptors: u64) -> Process {
    Process {
        pid,
        comm: comm.to_owned(),
        uid: 33,
        descriptors,
        sockets: descriptors / 2,
        whole: true,
        soft: Some(Limit::Of(1024)),
        hard: Some(Limit::Of(524_288)),
    }
}

fn listener(port: u16, queue: u32, limit: u32, inode: u32) -> Listener {
    let address = IpAddr::from([0; 4]);
    Listener { address, port, queue, limit, drops: Some(queue), requests: 1, resent: 0, sharing: 1, inode }
}

fn upstream() -> Destination {
    Destination { laddr: [10, 0, 0, 1].into(), raddr: [10, 0, 0, 2].into(), rport: 8080 }
}

/// An open connection to the upstream, of the process that has this inode.
fn open(inode: u32) -> Sample {
    let Destination { laddr, raddr, rport } = upstream();
    Sample {
        tuple: Tuple { laddr, lport: 40_000, raddr, rport },
        state: TCP_ESTABLISHED,
        accepted: false,
        inode,
        idle_ms: Some(20),
        unsent: 0,
        retried: false,
        probing: false,
    }
}

/// So many TIME_WAITs, begun at the rate that makes them.
fn waits(time_wait: u64) -> Ends {
    let per_s = time_wait / 60;
    Ends { time_wait, recent: per_s * 10, young: per_s, in_range: time_wait, ..Ends::default() }
}

/// A server with some traffic, on which nothing is wrong.
fn fine() -> Facts {
    let mut namespace = namespace(OWN);
    namespace.sockets.opened.insert(upstream(), Ends { established: 4, ..waits(120) });
    namespace.sockets.time_wait = 120;
    namespace.sockstat = Some(Sockstat { tw: 120, ..Sockstat::default() });
    namespace.sockets.listeners = vec![listener(22, 0, 4096, 1), listener(80, 0, 4096, 2)];
    namespace.sockets.states = States::default().with(TCP_LISTEN, 2, 0).with(TCP_ESTABLISHED, 4, 0);
    namespace.sockets.samples = vec![open(3); 4];
    let census = Census {
        processes: vec![process(812, "nginx", 40), process(1, "systemd", 200)],
        owners: [(2, 812), (3, 812)].into(),
        system: Some(SystemFiles { allocated: 4000, limit: 1_000_000 }),
        ..Census::default()
    };
    let machine = Machine { memory: Some(16 << 30), slabs: Some(BTreeMap::new()), census, ..Machine::default() };
    Facts { kernel: "6.12.48".to_owned(), namespaces: vec![namespace], machine, ..Facts::default() }
}

/// A proxy that opens a connection for each request, and a line of somebody who wanted to help.
fn warning() -> Facts {
    let mut facts = fine();
    let ends = Ends { established: 12, inode: Some(3), ..waits(18_000) };
    let own = &mut facts.namespaces[0];
    own.sockets.opened.insert(upstream(), ends);
    own.sockets.time_wait = 18_000;
    own.sockstat = Some(Sockstat { tw: 18_000, ..Sockstat::default() });
    moved(own, "Tcp", "ActiveOpens", 90_000, 90_150);
    moved(own, "Tcp", "PassiveOpens", 1000, 1000);
    let stats = Stats { drop: 3, ..Stats::default() };
    own.conntrack = Some(Conntrack {
        count: 50_000,
        max: 262_144,
        buckets: Some(65_536),
        timeout_s: Timeouts { time_wait: Some(120), established: Some(432_000), ..Timeouts::default() },
        stats: Some(stats),
    });
    own.tracked_before = Some(stats);
    facts.machine.census.owners.insert(3, 812);
    facts.machine.files = SysctlFiles {
        settings: vec![Setting {
            key: "net.ipv4.tcp_tw_recycle".to_owned(),
            value: Some("1".to_owned()),
            file: "/etc/sysctl.d/99-tuning.conf".into(),
            line: 12,
        }],
        ..SysctlFiles::default()
    };
    facts
}

/// A program that does not call accept(), and another namespace whose buckets are full.
fn critical() -> Facts {
    let mut facts = warning();
    facts.machine.census.processes.push(process(77, "java", 1024));
    facts.machine.census.owners.extend([(4, 77), (6, 77)]);
    let own = &mut facts.namespaces[0];
    let tuple = Tuple { lport: 8443, ..open(6).tuple };
    let leaked = Sample { tuple, state: TCP_CLOSE_WAIT, accepted: true, idle_ms: Some(90_000), ..open(6) };
    own.sockets.samples.extend(vec![leaked; 400]);
    own.sockets.states = own.sockets.states.with(TCP_CLOSE_WAIT, 400, 0).with(TCP_LISTEN, 3, 0);
    own.sockets.listeners.push(listener(8443, 51, 50, 4));
    moved(own, "TcpExt", "ListenOverflows", 100, 107);
    moved(own, "TcpExt", "ListenDrops", 100, 107);
    let mut other = namespace(4_026_532_600);
    other.sockstat = Some(Sockstat { tw: 131_072, ..Sockstat::default() });
    let service = Service { laddr: "2001:db8::80".parse().unwrap_or(IpAddr::from([0; 4])), lport: 80 };
    other.sockets.accepted.insert(service, waits(131_072));
    other.sockets.time_wait = 131_072;
    moved(&mut other, "TcpExt", "TCPTimeWaitOverflow", 0, 40);
    facts.namespaces.push(other);
    facts.missed = vec![
        Missed {
            what: "the descriptors and sockets of 12 processes".to_owned(),
            why: "they are another user's".to_owned(),
            remedy: "run twtrace as root".to_owned(),
        },
        Missed {
            what: "what the kernel's caches of minisocks hold".to_owned(),
            why: "/proc/slabinfo: Permission denied (os error 13)".to_owned(),
            remedy: "run twtrace as root".to_owned(),
        },
    ];
    facts
}

/// Whoever named this process wants to steer the terminal.
fn hostile() -> Facts {
    let mut facts = fine();
    let name = "x\u{1b}[2J\ny\u{9b}31m";
    facts.machine.census.processes.push(process(66, name, 1024));
    facts.machine.census.owners.insert(5, 66);
    facts.namespaces[0].sockets.listeners.push(listener(666, 9, 5, 5));
    facts
}

/// A counter at the first look and at the second.
fn moved(namespace: &mut Namespace, group: &str, name: &str, before: u64, after: u64) {
    namespace.before.add(&format!("{group}: {name}\n{group}: {before}\n"));
    namespace.after.add(&format!("{group}: {name}\n{group}: {after}\n"));
}

fn report(facts: &Facts) -> Report {
    let report = Report::new(facts, checks::examine(facts), "2026-07-01T12:30:00.123456789Z".to_owned(), 17);
    Report { version: "0.0.0".to_owned(), ..report }
}

#[test]
fn verdicts() {
    for (name, facts, severity) in [
        ("fine", fine(), Severity::Fine),
        ("warning", warning(), Severity::Warning),
        ("critical", critical(), Severity::Critical),
    ] {
        let report = report(&facts);
        assert_eq!(report.verdict.severity, severity, "{name}");
        assert_snapshot!(name, report::text(&report, PLAIN));
    }
}

#[test]
fn narrow() {
    let text = report::text(&report(&critical()), Style { width: 80, colour: false });
    assert_snapshot!(text);
}

#[test]
fn json_lines() {
    let lines: Vec<String> = [fine(), critical()].iter().filter_map(|facts| report(facts).json().ok()).collect();
    assert!(lines.len() == 2 && lines.iter().all(|line| !line.contains('\n')));
    assert_snapshot!(lines.join("\n"));
}

#[test]
fn the_whole_story() {
    let Some(story) = checks::stories().find(|story| story.id == "keepalive.short-connections") else {
        unreachable!("there is no such story")
    };
    let explained = |facts: &Facts| report::explain(story, &checks::examine(facts), PLAIN);
    assert_snapshot!("explain", explained(&warning()));
    assert!(explained(&fine()).ends_with("Here and now:\n  this finding does not hold\n"));
}

#[test]
fn names_do_not_steer_the_terminal() {
    let text = report::text(&report(&hostile()), PLAIN);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    assert_snapshot!("hostile", text);
    // Programs get it as it is.
    let json = report(&hostile()).json().unwrap_or_default();
    assert!(json.contains(r"x\u001b[2J\ny"), "{json}");
}

/// Without the colours it is word for word the same.
#[test]
fn colour_is_never_the_only_sign() {
    for facts in [fine(), critical()] {
        let report = report(&facts);
        let coloured = report::text(&report, Style { colour: true, ..PLAIN });
        let mut bare = String::new();
        for (place, part) in coloured.split('\u{1b}').enumerate() {
            bare += if place == 0 { part } else { part.split_once('m').map_or(part, |(_, rest)| rest) };
        }
        assert!(coloured.len() > bare.len());
        assert_eq!(bare, report::text(&report, PLAIN));
    }
}

/// docs/doctor.schema.json, against what xtask would write.
fn schema() -> jsonschema::Validator {
    let text = include_str!("../../../docs/doctor.schema.json");
    assert_eq!(text, report::schema(), "run: cargo xtask docs");
    let schema = serde_json::from_str(text).unwrap_or_default();
    match jsonschema::validator_for(&schema) {
        Ok(validator) => validator,
        Err(error) => unreachable!("the schema is none: {error}"),
    }
}

fn line(facts: &Facts) -> Value {
    report(facts).json().ok().and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default()
}

#[test]
fn the_page() {
    assert_eq!(include_str!("../../../docs/doctor.md"), report::page(), "run: cargo xtask docs");
}

#[test]
fn lines_are_as_their_schema_says() {
    let schema = schema();
    for facts in [fine(), warning(), critical(), hostile(), Facts::default()] {
        let line = line(&facts);
        assert!(schema.is_valid(&line), "{:?}: {line:#}", schema.validate(&line));
    }
}

/// Places of an object, this one and all below.
fn objects(value: &Value, place: &str) -> Vec<String> {
    let below: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect(),
        _ => return Vec::new(),
    };
    let below = below.iter().flat_map(|(key, value)| objects(value, &format!("{place}/{key}")));
    value.is_object().then(|| place.to_owned()).into_iter().chain(below).collect()
}

/// Takes away each field of each object, and makes it something else, one at a time.
#[test]
fn the_schema_lets_nothing_else_pass() {
    let (schema, line) = (schema(), line(&critical()));
    let mut tried = 0;
    for place in objects(&line, "") {
        let fields = line.pointer(&place).and_then(Value::as_object).into_iter().flatten();
        for (name, _) in fields {
            let without = |value: Option<Value>| {
                let mut other = line.clone();
                if let Some(Value::Object(map)) = other.pointer_mut(&place) {
                    match value {
                        Some(value) => drop(map.insert(name.clone(), value)),
                        None => drop(map.remove(name)),
                    }
                }
                schema.is_valid(&other)
            };
            assert!(!without(None), "{place} without {name}");
            assert!(!without(Some(json!({ "a": 1 }))), "{place}/{name} is an object");
            assert!(!without(Some(json!(true))), "{place}/{name} is a truth");
            tried += 1;
        }
    }
    assert!(tried > 300, "only {tried} fields");
    for (place, value) in [
        ("/findings/0/severity", json!("dire")),
        ("/findings/0/severity", json!("Critical")),
        ("/verdict/severity", json!("dire")),
        ("/findings/0/id", json!("cost.no-such")),
        ("/findings/0/id", json!("")),
        ("/verdict/id", json!("cost.no-such")),
        ("/findings/0/netns", json!(-1)),
        ("/findings/0/netns", json!("4026531840")),
        ("/v", json!(2)),
        ("/type", json!("born")),
        ("/namespaces/0", json!(1.5)),
        ("/window_s", json!(null)),
    ] {
        let mut other = line.clone();
        if let Some(old) = other.pointer_mut(place) {
            *old = value.clone();
        }
        assert!(other != line && !schema.is_valid(&other), "{place} = {value}");
    }
}
