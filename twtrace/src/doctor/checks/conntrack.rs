//! Is connection tracking full? netfilter's table of connections, how long it keeps those that are closed, and whether NAT
//! finds ports.

mod nat;
mod stories;

use crate::{
    doctor::{
        facts::{Facts, Namespace},
        finding::{Evidence, Finding, Severity},
        severity::Loss,
    },
    host::conntrack::{Conntrack, Stats},
    show::human::Many,
};

pub use stories::STORIES;
use stories::{FILLING, FULL, OFF, ROOM, TIME_WAIT};

/// From this share of the table on it is nearly full.
const NEAR: f64 = 0.8;
/// From here on the kernel's collector removes closed connections early, once a packet was dropped (gc_worker).
const PRESSED: f64 = 0.95;
/// From this share of the table on, entries of closed connections count.
const MUCH: f64 = 0.1;
/// Ports that a NAT chooses from towards one destination: 1024 to 65535.
const NAT_PORTS: u64 = 64_512;
/// Packets of a short connection, both directions: three that open it, a request, an answer, their acknowledgements, and
/// what closes it.
const PACKETS: u64 = 10;
/// What an entry takes on most kernels, bytes.
const ENTRY: u64 = 256;

/// Judges.
#[must_use]
pub fn check(facts: &Facts, namespace: &Namespace) -> Vec<Finding> {
    let Some(table) = &namespace.conntrack else {
        return vec![Finding::new(&OFF, Severity::Fine, "no connection is tracked: nf_conntrack is not loaded")];
    };
    if table.count == 0 {
        let sentence = "no connection is tracked: no rule here asks for it";
        return vec![Finding::new(&OFF, Severity::Fine, sentence).shown_by(numbers(namespace, table))];
    }
    let kept = Kept::at(namespace, table);
    let mut findings: Vec<Finding> = [
        filling(facts, namespace, table, kept.as_ref()),
        nat::check(namespace, table),
        kept.as_ref().map(|kept| closed(namespace, table, kept)),
    ]
    .into_iter()
    .flatten()
    .collect();
    if findings.iter().all(|finding| finding.severity < Severity::Warning) {
        findings.push(room(namespace, table));
    }
    findings
}

/// Entries of closed connections, as many as there are at a steady rate.
struct Kept {
    /// How long an entry is kept, seconds.
    timeout_s: u64,
    /// How long a TIME_WAIT lasts, seconds.
    socket_s: u64,
    /// TIME_WAITs begun per second.
    rate: f64,
    /// Entries of connections that were closed here.
    entries: f64,
}

impl Kept {
    /// `None` if no TIME_WAIT began, or if the entries do not outlive it.
    fn at(namespace: &Namespace, table: &Conntrack) -> Option<Self> {
        let timeout_s = table.timeout_s.time_wait?;
        let socket_s = u64::from(namespace.time_wait_ms() / 1000);
        let sockets = &namespace.sockets;
        let opens = namespace.opens_per_s();
        let rate: f64 = sockets.opened.values().chain(sockets.accepted.values()).map(|ends| ends.per_s(opens)).sum();
        // Some may be tracked elsewhere, or not at all.
        let entries = (rate * timeout_s as f64).min(table.count as f64);
        (rate > 0.0 && timeout_s > socket_s).then_some(Self { timeout_s, socket_s, rate, entries })
    }

    /// So many that it matters.
    fn is_much(&self, table: &Conntrack) -> bool {
        table.max > 0 && self.entries >= table.max as f64 * MUCH
    }

    fn shorten(&self, namespace: &Namespace) -> String {
        shorten(namespace, self.socket_s, self.timeout_s)
    }
}

/// How to keep closed connections no longer than their sockets.
fn shorten(namespace: &Namespace, socket_s: u64, timeout_s: u64) -> String {
    let why = format!("now {timeout_s}; entries of closed connections then end with their TIME_WAITs");
    namespace.step("net.netfilter.nf_conntrack_tcp_timeout_time_wait", socket_s, why)
}

fn sysctl(name: &str) -> String {
    format!("/proc/sys/net/netfilter/nf_conntrack_{name}")
}

fn numbers(namespace: &Namespace, table: &Conntrack) -> Vec<Evidence> {
    let times = &table.timeout_s;
    let mut evidence = vec![
        Evidence::new("nf_conntrack_count", table.count, "entries", sysctl("count")),
        Evidence::new("nf_conntrack_max", table.max, "entries", sysctl("max")),
        Evidence::new("nf_conntrack_buckets", table.buckets, "of all namespaces", sysctl("buckets")),
        Evidence::new("nf_conntrack_tcp_timeout_time_wait", times.time_wait, "s", sysctl("tcp_timeout_time_wait")),
        Evidence::new(
            "nf_conntrack_tcp_timeout_established",
            times.established,
            "s",
            sysctl("tcp_timeout_established"),
        ),
    ];
    let of = |get: fn(&Stats) -> u64| table.stats.as_ref().map(get);
    let counts: [(&str, Option<u64>); 4] = [
        ("drop", of(|stats| stats.drop)),
        ("early_drop", of(|stats| stats.early_drop)),
        ("insert_failed", of(|stats| stats.insert_failed)),
        ("found", table.stats.and_then(|stats| stats.found)),
    ];
    let source = "/proc/net/stat/nf_conntrack";
    evidence.extend(counts.map(|(name, count)| Evidence::new(name, count, "since the namespace began", source)));
    let moved = moved(namespace, table);
    let now =
        |name, get: fn(&Stats) -> u64| Evidence::new(name, moved.as_ref().map(get), "packets", namespace.twice(source));
    evidence.push(now("drop now", |stats| stats.drop));
    evidence.push(now("insert_failed now", |stats| stats.insert_failed));
    evidence
}

/// How far the counts moved between the looks.
fn moved(namespace: &Namespace, table: &Conntrack) -> Option<Stats> {
    Some(table.stats?.since(&namespace.tracked_before?))
}

/// First packets of connections that were lost, `get` of the counts, beside connections that passed: nobody counts these, so
/// they are taken from the packets that were forwarded and sent, [`PACKETS`] each.
fn loss(namespace: &Namespace, table: &Conntrack, get: fn(&Stats) -> u64) -> Option<Loss> {
    let connections = |count: &dyn Fn(&str, &str) -> Option<u64>| {
        let packets = count("Ip", "ForwDatagrams")?.saturating_add(count("Ip", "OutRequests")?);
        Some(packets / PACKETS)
    };
    Some(Loss {
        now: moved(namespace, table).as_ref().map_or(0, get),
        well_now: connections(&|group, name| namespace.moved(group, name)),
        seconds: namespace.window.as_secs_f64(),
        total: get(&table.stats?),
        well: connections(&|group, name| namespace.total(group, name)),
    })
}

fn filling(facts: &Facts, namespace: &Namespace, table: &Conntrack, kept: Option<&Kept>) -> Option<Finding> {
    let (count, max) = (table.count, table.max);
    let share = count as f64 / max as f64;
    if max == 0 || share < NEAR {
        return None;
    }
    let loss = loss(namespace, table, |stats| stats.drop.saturating_sub(stats.insert_failed)).unwrap_or_default();
    let (story, severity, sentence) = if count >= max {
        let sentence = format!("the table of tracked connections is full: {count} of {max} entries");
        (&FULL, Severity::Critical, sentence)
    } else if share >= PRESSED && loss.now > 0 {
        let sentence = format!(
            "the table of tracked connections overflows: {count} of {max} entries taken, {} dropped in {:.1} s",
            Many(loss.now, "packet"),
            loss.seconds
        );
        (&FULL, loss.severity().max(Severity::Warning), sentence)
    } else {
        (&FILLING, Severity::Warning, format!("{count} of {max} entries for tracked connections are taken"))
    };
    let entry = facts.machine.slabs.as_ref().and_then(|slabs| slabs.get("nf_conntrack"));
    let bytes = entry.map_or(ENTRY, |slab| slab.object_bytes);
    let more = max.saturating_mul(2);
    let why = format!(
        "in the initial network namespace (the key is read-only elsewhere); twice the limit; an entry takes about {bytes} bytes"
    );
    let mut steps = vec![namespace.step("net.netfilter.nf_conntrack_max", more, why)];
    if table.buckets.is_some_and(|buckets| buckets < more / 4) {
        let buckets = more / 4;
        let why = "in the initial network namespace; keeps the chains of the hash short";
        steps.push(namespace.step("net.netfilter.nf_conntrack_buckets", buckets, why));
    }
    steps.extend(kept.map(|kept| kept.shorten(namespace)));
    steps.push(
        "notrack in chains of priority raw, prerouting and output: leaves a busy service untracked that needs neither NAT nor \
         state"
            .to_owned(),
    );
    Some(
        Finding::new(story, severity, sentence)
            .shown_by(numbers(namespace, table))
            .shown_by(kept.map(|kept| entries(kept, table)))
            .to_do(steps)
            .avoid([
                "do not flush the table (conntrack -F) in production: connections that pass a NAT break",
                "do not tune TIME_WAIT for this: the table has timeouts of its own",
            ]),
    )
}

fn entries(kept: &Kept, table: &Conntrack) -> Evidence {
    let source = format!("TIME_WAITs begun, {:.1}/s × {} s, at most all", kept.rate, kept.timeout_s);
    Evidence::new("entries of connections closed here, about", kept.entries, format!("of {}", table.count), source)
}

fn closed(namespace: &Namespace, table: &Conntrack, kept: &Kept) -> Finding {
    let (timeout, socket) = (kept.timeout_s, kept.socket_s);
    let sentence = format!(
        "about {:.0} of {} tracked connections are closed: netfilter keeps a closed connection for {timeout} s, the socket's \
         TIME_WAIT lasts {socket} s",
        kept.entries, table.count
    );
    let ports = NAT_PORTS as f64;
    let is_much = kept.is_much(table);
    let finding = Finding::new(&TIME_WAIT, if is_much { Severity::Note } else { Severity::Fine }, sentence).shown_by([
        entries(kept, table),
        Evidence::new(
            "connections that a NAT address can carry to one destination",
            ports / timeout.max(1) as f64,
            "1/s",
            format!("{NAT_PORTS} ports / {timeout} s"),
        ),
    ]);
    let finding = finding.shown_by(numbers(namespace, table));
    if is_much {
        finding
            .to_do([kept.shorten(namespace)])
            .avoid(["do not tune TCP for this: tcp_fin_timeout and tcp_tw_reuse do not shorten the entries"])
    } else {
        finding
    }
}

fn room(namespace: &Namespace, table: &Conntrack) -> Finding {
    let sentence = match table.max {
        0 => format!("{} connections are tracked, and there is no limit", table.count),
        max => format!("{} of {max} entries for tracked connections are taken", table.count),
    };
    Finding::new(&ROOM, Severity::Fine, sentence).shown_by(numbers(namespace, table))
}

#[cfg(test)]
mod tests;
