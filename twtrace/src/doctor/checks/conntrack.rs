//! Is connection tracking full? netfilter's table of connections, and how long it keeps those that are closed.

use crate::{
    doctor::{
        facts::{Facts, Namespace},
        finding::{Evidence, Finding, Severity, Story},
    },
    host::conntrack::{Conntrack, Stats},
};

/// From this share of the table on it is nearly full.
const NEAR: f64 = 0.8;
/// From here on the kernel's collector removes closed connections early, once a packet was dropped (gc_worker).
const PRESSED: f64 = 0.95;
/// From this share of the table on, entries of closed connections count.
const MUCH: f64 = 0.1;
/// Ports that a NAT chooses from towards one destination: 1024 to 65535.
const NAT_PORTS: u64 = 64_512;
/// What an entry takes on most kernels, bytes.
const ENTRY: u64 = 256;

/// It is full.
pub const FULL: Story = Story {
    id: "conntrack.full",
    title: "The table of tracked connections is full: new connections are dropped",
    why: "netfilter drops the first packet of a connection that it has no entry for, whatever the rules say. The client \
          sees a connect() that hangs; nothing here is told of it, for the packet never gets to a socket.",
    story: "Where a rule asks for a connection's state, or does NAT, nf_conntrack keeps an entry for each connection that \
            passes, local ones included. net.netfilter.nf_conntrack_max is the most entries that each network namespace \
            may have. When the table is full the kernel first looks in a few buckets for a connection that has not been \
            answered yet, and forgets it (early_drop); if there is none, it drops the packet, and logs 'nf_conntrack: \
            table full, dropping packet'. From then on, while the table is over 95 % full, its collector also removes \
            connections that are closing, so a table that is too small stays between 95 and 100 %.\n\n\
            The number of entries is the evidence. The counters are not: 'drop' and 'insert_failed' move for other \
            reasons as well.\n\n\
            A SYN that is dropped here leaves no trace in the counters of TCP: it is not in ListenDrops.",
    holds: "",
    does_not: "",
    by_hand: &[
        "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
        "dmesg | grep 'nf_conntrack: table full'",
        "conntrack -S     # drop, early_drop, insert_failed by CPU",
    ],
    sources: &[
        "net/netfilter/nf_conntrack_core.c: __nf_conntrack_alloc, early_drop, gc_worker",
        "Documentation/networking/nf_conntrack-sysctl.rst",
    ],
};

/// It becomes full.
pub const FILLING: Story = Story {
    id: "conntrack.filling",
    title: "The table of tracked connections is nearly full",
    why: "Past nf_conntrack_max new connections are dropped before any socket sees them; a burst is enough to get there.",
    story: "See conntrack.full for what happens then. What fills the table is rarely open connections. It is closed ones \
            (conntrack.time-wait), and open ones that nobody closed: those are kept for \
            net.netfilter.nf_conntrack_tcp_timeout_established, five days, after their last packet.",
    holds: "",
    does_not: "",
    by_hand: &[
        "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
        "conntrack -L -p tcp | awk '{print $4}' | sort | uniq -c     # by state",
    ],
    sources: &["net/netfilter/nf_conntrack_core.c: __nf_conntrack_alloc"],
};

/// Closed connections stay.
pub const TIME_WAIT: Story = Story {
    id: "conntrack.time-wait",
    title: "Connection tracking keeps a closed connection longer than its TIME_WAIT lasts",
    why: "netfilter has a TIME_WAIT of its own, 120 seconds by default, which knows nothing of the socket's 60: the entry, \
          and with NAT its port, is held for a minute after the socket is gone.",
    story: "An entry goes to TIME_WAIT when both FINs have passed and been confirmed, whichever end closed first, and stays \
            there for net.netfilter.nf_conntrack_tcp_timeout_time_wait seconds. So at a steady rate the table holds rate \
            times 120 entries of closed connections, for connections that leave no TIME_WAIT here as well: those that \
            the peer closed first, and those that are only forwarded.\n\n\
            With NAT an entry also holds the port that it was given. A source NAT has 64,512 ports (1024 to 65535) from \
            one address towards one destination, so at 120 seconds it can carry 537 connections per second there, and \
            1,075 at 60. Beyond that packets are dropped and insert_failed or drop moves; newer kernels take the port of \
            an entry in TIME_WAIT if they find no other.\n\n\
            60 is enough: the entry need not outlive the TIME_WAIT that it was for. No setting of TCP shortens the \
            entries, tcp_fin_timeout no more than tcp_tw_reuse.",
    holds: "",
    does_not: "",
    by_hand: &[
        "sysctl net.netfilter.nf_conntrack_tcp_timeout_time_wait",
        "conntrack -L -p tcp --state TIME_WAIT | wc -l",
        "nstat -d 10 TcpActiveOpens TcpPassiveOpens",
    ],
    sources: &[
        "net/netfilter/nf_conntrack_proto_tcp.c: tcp_timeouts, tcp_conntracks",
        "net/netfilter/nf_nat_core.c: nf_nat_l4proto_unique_tuple, nf_nat_used_tuple_harder",
    ],
};

/// There is room.
pub const ROOM: Story = Story {
    id: "conntrack.room",
    title: "The table of tracked connections has room",
    why: "New connections are dropped only when there are nf_conntrack_max entries.",
    story: "net.netfilter.nf_conntrack_count is held against net.netfilter.nf_conntrack_max, network namespace by network \
            namespace. A limit of 0 is none. See conntrack.full for what happens past it.",
    holds: "",
    does_not: "",
    by_hand: &["sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max"],
    sources: &["net/netfilter/nf_conntrack_core.c: __nf_conntrack_alloc"],
};

/// Nothing is tracked.
pub const OFF: Story = Story {
    id: "conntrack.off",
    title: "No connection is tracked here",
    why: "Without an entry nothing can be full: connections are tracked only where a rule asks for their state.",
    story: "nf_conntrack tracks nothing until a rule of a network namespace needs it (NAT, or a match on a connection's \
            state), even where the module is loaded or built in. Another network namespace, such as the one that the \
            machine's rules are in, may track the same connections when they pass.",
    holds: "",
    does_not: "",
    by_hand: &["sysctl net.netfilter.nf_conntrack_count", "nft list ruleset | grep -E ' ct |nat'"],
    sources: &["net/netfilter/nf_conntrack_proto.c: nf_ct_netns_get"],
};

/// What this question can find.
pub const STORIES: &[Story] = &[FULL, FILLING, TIME_WAIT, ROOM, OFF];

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
    let mut findings: Vec<Finding> =
        [filling(facts, namespace, table, kept.as_ref()), kept.as_ref().map(|kept| closed(namespace, table, kept))]
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

    fn shorten(&self) -> String {
        format!(
            "let the entries end with their TIME_WAITs: sysctl -w net.netfilter.nf_conntrack_tcp_timeout_time_wait={} \
             (now {})",
            self.socket_s, self.timeout_s
        )
    }
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
    let counts: [(&str, Option<u64>); 3] = [
        ("drop", of(|stats| stats.drop)),
        ("early_drop", of(|stats| stats.early_drop)),
        ("insert_failed", of(|stats| stats.insert_failed)),
    ];
    let source = "/proc/net/stat/nf_conntrack";
    evidence.extend(counts.map(|(name, count)| Evidence::new(name, count, "since the namespace began", source)));
    evidence.push(Evidence::new("drop now", dropped(namespace, table), "packets", namespace.twice(source)));
    evidence
}

/// Packets that were dropped between the looks.
fn dropped(namespace: &Namespace, table: &Conntrack) -> Option<u64> {
    Some(table.stats?.drop.saturating_sub(namespace.tracked_before?.drop))
}

fn filling(facts: &Facts, namespace: &Namespace, table: &Conntrack, kept: Option<&Kept>) -> Option<Finding> {
    let (count, max) = (table.count, table.max);
    let share = count as f64 / max as f64;
    if max == 0 || share < NEAR {
        return None;
    }
    let dropped = dropped(namespace, table).unwrap_or_default();
    let (story, severity, sentence) = if count >= max {
        let sentence = format!("the table of tracked connections is full: {count} of {max} entries");
        (&FULL, Severity::Critical, sentence)
    } else if share >= PRESSED && dropped > 0 {
        let sentence = format!(
            "the table of tracked connections overflows: {count} of {max} entries, and {dropped} packets dropped just now"
        );
        (&FULL, Severity::Critical, sentence)
    } else {
        (&FILLING, Severity::Warning, format!("{count} of {max} entries for tracked connections are taken"))
    };
    let entry = facts.machine.slabs.as_ref().and_then(|slabs| slabs.get("nf_conntrack"));
    let bytes = entry.map_or(ENTRY, |slab| slab.object_bytes);
    let more = max.saturating_mul(2);
    let mut steps = vec![format!(
        "raise the limit, in the initial network namespace (elsewhere it cannot be written): sysctl -w \
         net.netfilter.nf_conntrack_max={more}; an entry takes about {bytes} bytes"
    )];
    if table.buckets.is_some_and(|buckets| buckets < more / 4) {
        let buckets = more / 4;
        steps.push(format!("and the hash with it: sysctl -w net.netfilter.nf_conntrack_buckets={buckets}"));
    }
    steps.extend(kept.map(Kept::shorten));
    steps.push(
        "leave untracked what needs neither NAT nor state, such as a busy service of this host: notrack, in chains of \
         priority raw, for both directions (prerouting and output)"
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
        "about {:.0} of {} tracked connections are closed: they are kept for {timeout} s, their TIME_WAITs {socket}",
        kept.entries, table.count
    );
    let ports = NAT_PORTS as f64;
    let is_much = kept.is_much(table);
    let finding = Finding::new(&TIME_WAIT, if is_much { Severity::Note } else { Severity::Fine }, sentence).shown_by([
        entries(kept, table),
        Evidence::new(
            "that a NAT can carry to one destination",
            ports / timeout.max(1) as f64,
            "1/s",
            format!("{NAT_PORTS} ports / {timeout} s"),
        ),
    ]);
    let finding = finding.shown_by(numbers(namespace, table));
    if is_much {
        finding
            .to_do([kept.shorten()])
            .avoid(["do not look for a setting of TCP that does this: tcp_fin_timeout and tcp_tw_reuse do not"])
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
mod tests {
    use super::*;
    use crate::{
        doctor::checks::fixture::{self, Fixture, ids},
        host::{conntrack::Timeouts, sockets::Ends},
    };

    fn table(count: u64, max: u64) -> Conntrack {
        Conntrack {
            count,
            max,
            buckets: Some(max),
            timeout_s: Timeouts { time_wait: Some(120), established: Some(432_000), ..Timeouts::default() },
            stats: Some(Stats { drop: 7, ..Stats::default() }),
        }
    }

    /// With so many TIME_WAITs begun per second.
    fn found(table: Option<Conntrack>, rate: u64, dropped: u64) -> Vec<Finding> {
        let facts = Fixture::quiet().namespace(|namespace| {
            namespace.tracked_before =
                table.and_then(|table| table.stats).map(|stats| Stats { drop: stats.drop - dropped, ..stats });
            namespace.conntrack = table;
            let ends = Ends { time_wait: rate * 60, recent: rate * 10, young: rate, ..Ends::default() };
            namespace.sockets.opened.insert(fixture::destination(443), ends);
        });
        check(&facts, &facts.namespaces[0])
    }

    #[test]
    fn a_full_table_is_critical() {
        let findings = found(Some(table(1000, 1000)), 0, 0);
        assert_eq!(ids(&findings), ["conntrack.full"]);
        assert_eq!(findings[0].severity, Severity::Critical);
        assert!(findings[0].to_do[0].contains("nf_conntrack_max=2000"), "{findings:?}");
        assert_eq!(ids(&found(Some(table(999, 1000)), 0, 0)), ["conntrack.filling"]);
    }

    #[test]
    fn a_table_that_drops_stays_below_its_limit() {
        // The collector makes room as long as it is over 95 %.
        assert_eq!(ids(&found(Some(table(960, 1000)), 0, 3)), ["conntrack.full"]);
        assert_eq!(ids(&found(Some(table(960, 1000)), 0, 0)), ["conntrack.filling"]);
        // Something else is dropped.
        assert_eq!(ids(&found(Some(table(940, 1000)), 0, 3)), ["conntrack.filling"]);
        assert_eq!(ids(&found(Some(table(10, 1000)), 0, 3)), ["conntrack.room"]);
    }

    #[test]
    fn from_four_fifths_on_it_is_filling() {
        assert_eq!(found(Some(table(800, 1000)), 0, 0)[0].severity, Severity::Warning);
        assert_eq!(ids(&found(Some(table(799, 1000)), 0, 0)), ["conntrack.room"]);
    }

    #[test]
    fn no_limit_is_never_reached() {
        let findings = found(Some(table(1_000_000, 0)), 0, 0);
        assert_eq!(ids(&findings), ["conntrack.room"]);
        assert!(findings[0].sentence.contains("no limit"), "{findings:?}");
    }

    #[test]
    fn nothing_tracked_is_fine() {
        for none in [None, Some(table(0, 1000)), Some(table(0, 0))] {
            let findings = found(none, 50, 0);
            assert_eq!(ids(&findings), ["conntrack.off"]);
            assert_eq!(findings[0].severity, Severity::Fine);
        }
    }

    #[test]
    fn closed_connections_are_told_of() {
        // 10/s for 120 s are 1200 entries: more than a tenth of 10,000.
        let findings = found(Some(table(3000, 10_000)), 10, 0);
        assert_eq!(ids(&findings), ["conntrack.time-wait", "conntrack.room"]);
        assert_eq!(findings[0].severity, Severity::Note);
        assert_eq!(fixture::number(&findings[0], "entries of connections closed here, about"), Some(1200.0));
        assert!(findings[0].to_do[0].ends_with("time_wait=60 (now 120)"), "{findings:?}");
        assert_eq!(found(Some(table(3000, 1_000_000)), 10, 0)[0].severity, Severity::Fine);
        // There are no more of them than entries.
        let few = found(Some(table(100, 10_000)), 10, 0);
        assert_eq!(fixture::number(&few[0], "entries of connections closed here, about"), Some(100.0));
        // Nothing was closed, or is kept no longer than the socket.
        assert_eq!(ids(&found(Some(table(3000, 10_000)), 0, 0)), ["conntrack.room"]);
        let short = Timeouts { time_wait: Some(60), ..Timeouts::default() };
        let findings = found(Some(Conntrack { timeout_s: short, ..table(3000, 10_000) }), 10, 0);
        assert_eq!(ids(&findings), ["conntrack.room"]);
    }
}
