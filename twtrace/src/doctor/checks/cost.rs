//! What do these sockets cost? Memory and buckets; and whether the buckets are full.

use crate::{
    doctor::{
        facts::{Facts, Namespace},
        finding::{Evidence, Finding, Severity, Story},
    },
    host::slab::Slab,
};

/// From this share of the buckets on they are nearly full.
const NEAR: f64 = 0.8;
/// From this share of the memory on it is worth knowing.
const MUCH: f64 = 0.01;
/// From so many on it is worth a word that peers do not close.
const MANY: u64 = 100;

/// All buckets are taken, or were.
pub const OVERFLOW: Story = Story {
    id: "cost.overflow",
    title: "The kernel gives sockets up without a TIME_WAIT, because the buckets are full",
    why: "Past tcp_max_tw_buckets the kernel closes a socket at once, without a TIME_WAIT. No connection is refused; what \
          is lost is the protection: a FIN that is sent again is answered by a RST, and old segments may meet a new \
          connection.",
    story: "Each network namespace may have net.ipv4.tcp_max_tw_buckets minisocks, those in TIME_WAIT and those in \
            FIN_WAIT2 together. The default is half the slots of the hash of connections, up to 262,144. When a \
            connection should get one more, the kernel counts TcpExt TCPTimeWaitOverflow and closes the socket for \
            good; so it does when there is no memory for one.\n\n\
            Documentation and many articles say that the kernel prints 'time wait bucket table overflow'. It does not, \
            in no kernel since 5.4. They also say that new connections are refused: that is not so either. The counter \
            is the only sign.\n\n\
            One minisock takes about 256 bytes. A million of them are a quarter of a gigabyte, so on a machine with \
            memory to spare the remedy is a higher limit; on one without, fewer connections (keepalive).",
    holds: "",
    does_not: "",
    by_hand: &[
        "nstat -az TcpExtTCPTimeWaitOverflow",
        "grep ^TCP: /proc/net/sockstat          # the number behind tw, FIN_WAIT2 minisocks included",
        "sysctl net.ipv4.tcp_max_tw_buckets",
    ],
    sources: &["net/ipv4/inet_timewait_sock.c: inet_twsk_alloc", "net/ipv4/tcp_minisocks.c: tcp_time_wait"],
};

/// The buckets are nearly all taken.
pub const BUCKETS: Story = Story {
    id: "cost.buckets",
    title: "The buckets for TIME_WAIT are nearly full",
    why: "Minisocks in TIME_WAIT and in FIN_WAIT2 share tcp_max_tw_buckets, per network namespace; past it a socket closes \
          without the protection of TIME_WAIT.",
    story: "The number to hold against net.ipv4.tcp_max_tw_buckets is the one behind 'tw' in /proc/net/sockstat. What \
            ss lists as TIME-WAIT is less: minisocks in FIN_WAIT2, of connections whose peer has not closed yet, \
            take buckets as well. See cost.overflow for what happens when they are all taken.",
    holds: "",
    does_not: "",
    by_hand: &["grep ^TCP: /proc/net/sockstat", "sysctl net.ipv4.tcp_max_tw_buckets"],
    sources: &["net/ipv4/inet_timewait_sock.c: inet_twsk_alloc", "net/ipv4/proc.c: sockstat_seq_show"],
};

/// They take memory that counts.
pub const MEMORY: Story = Story {
    id: "cost.memory",
    title: "Minisocks take a part of the memory that counts",
    why: "A minisock takes about 256 bytes, a full socket ten times as much; it takes many to matter.",
    story: "A socket in TIME_WAIT is no full socket: the kernel replaces it by a minisock, from the caches tw_sock_TCP \
            and tw_sock_TCPv6, and remembers its local port in one of tcp_bind_bucket (and tcp_bind2_bucket since \
            6.1). No descriptor, no inode, no buffers. The bytes told here are what these caches really hold.",
    holds: "",
    does_not: "",
    by_hand: &["sudo grep -E 'tw_sock_TCP|tcp_bind' /proc/slabinfo"],
    sources: &["include/net/inet_timewait_sock.h: struct inet_timewait_sock", "include/linux/tcp.h: tcp_timewait_sock"],
};

/// Peers do not close their end.
pub const FIN_WAIT2: Story = Story {
    id: "cost.fin-wait2",
    title: "Many connections wait for a peer that does not close its end",
    why: "A connection that was closed here stays in FIN_WAIT2 until the peer closes too, at most tcp_fin_timeout; it takes \
          a bucket of TIME_WAIT meanwhile, though ss lists it as FIN-WAIT-2.",
    story: "After close() the kernel waits for the peer's FIN. Nobody here holds the socket any more (an orphan), so the \
            kernel keeps a minisock in its place and gives it up after net.ipv4.tcp_fin_timeout, or after TCP_LINGER2 \
            of the socket. This is all that tcp_fin_timeout does: it has no influence on TIME_WAIT.\n\n\
            Many of them mean that the other program got end-of-file and did not close: a pool that keeps dead \
            connections, or a handler that hangs. There the peer shows as many sockets in CLOSE-WAIT.",
    holds: "",
    does_not: "",
    by_hand: &["ss -tan state fin-wait-2 | wc -l", "ss -tanp state close-wait     # on the peer: who does not close"],
    sources: &["net/ipv4/tcp.c: __tcp_close", "net/ipv4/tcp_input.c: tcp_rcv_state_process, case TCP_FIN_WAIT1"],
};

/// They do no harm.
pub const HARMLESS: Story = Story {
    id: "cost.harmless",
    title: "These TIME_WAITs are harmless",
    why: "A TIME_WAIT takes a quarter of a kilobyte and no descriptor, and goes away by itself. It does its work: it keeps \
          old segments from a new connection, and answers a FIN that is sent again.",
    story: "TIME_WAIT is the last state of the end that closed first. It lasts 60 seconds (TCP_TIMEWAIT_LEN, a constant) \
            and the slack of the timer, and protects the next connection between the same addresses and ports from what \
            is left of this one (RFC 9293, 3.6.1).\n\n\
            A high number is no fault. It is what a busy end that closes first looks like: connections per second times \
            60. It begins to matter in two cases only: when the ports towards one destination run out (ports.*), and \
            when tcp_max_tw_buckets is reached (cost.overflow).",
    holds: "",
    does_not: "",
    by_hand: &["ss -s", "ss -Htan state time-wait | wc -l"],
    sources: &["include/net/tcp.h: TCP_TIMEWAIT_LEN", "RFC 9293, section 3.6.1", "RFC 1337"],
};

/// What this question can find.
pub const STORIES: &[Story] = &[OVERFLOW, BUCKETS, MEMORY, FIN_WAIT2, HARMLESS];

/// Judges.
#[must_use]
pub fn check(facts: &Facts, namespace: &Namespace) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        [buckets(facts, namespace), memory(facts, namespace), fin_wait2(namespace)].into_iter().flatten().collect();
    if findings.iter().all(|finding| finding.severity < Severity::Warning) {
        findings.push(harmless(facts, namespace));
    }
    findings
}

/// Minisocks of both kinds, as the kernel counts them.
fn minisocks(namespace: &Namespace) -> u64 {
    let listed = namespace.sockets.time_wait + namespace.sockets.fin_wait2;
    namespace.sockstat.as_ref().map_or(listed, |sockstat| sockstat.tw)
}

fn numbers(namespace: &Namespace) -> Vec<Evidence> {
    let sockets = &namespace.sockets;
    vec![
        Evidence::new("TIME_WAIT", sockets.time_wait, "minisocks", "sock_diag"),
        Evidence::new("FIN_WAIT2", sockets.fin_wait2, "minisocks", "sock_diag"),
        Evidence::new("tw", namespace.sockstat.as_ref().map(|it| it.tw), "minisocks", "/proc/net/sockstat TCP"),
        namespace.set("ipv4/tcp_max_tw_buckets"),
    ]
}

fn buckets(facts: &Facts, namespace: &Namespace) -> Option<Finding> {
    let limit = namespace.sysctl("ipv4/tcp_max_tw_buckets")?;
    let used = minisocks(namespace);
    let now = namespace.moved("TcpExt", "TCPTimeWaitOverflow").unwrap_or_default();
    let since = namespace.total("TcpExt", "TCPTimeWaitOverflow").unwrap_or_default();
    let object = object_bytes(facts);
    let room = format!(
        "raise net.ipv4.tcp_max_tw_buckets (now {limit}), e.g. to {}: each minisock takes {object} bytes",
        limit.max(used).saturating_mul(2).max(1024)
    );
    let fewer = "make fewer short connections: see `twtrace doctor --explain keepalive.short-connections`";
    let avoid = ["do not lower tcp_max_tw_buckets: that is how the protection is lost"];
    let story = |story, severity, sentence: String| {
        let finding = Finding::new(story, severity, sentence).shown_by(numbers(namespace));
        finding.shown_by(namespace.counted("TcpExt", "TCPTimeWaitOverflow"))
    };
    let is_near = used as f64 >= limit as f64 * NEAR;
    if now > 0 && !is_near {
        // The counter moves for want of memory too.
        let sentence = format!(
            "{now} sockets were closed without a TIME_WAIT just now, with {used} of {limit} buckets taken: there was no \
             memory for it, or the buckets are free again"
        );
        let memory = "see whether the kernel is out of memory: dmesg, /proc/meminfo";
        return Some(story(&OVERFLOW, Severity::Warning, sentence).to_do([memory, fewer]).avoid(avoid));
    }
    if now > 0 {
        let sentence = format!("{now} sockets were closed without a TIME_WAIT just now: the {limit} buckets are full");
        return Some(story(&OVERFLOW, Severity::Warning, sentence).to_do([room.as_str(), fewer]).avoid(avoid));
    }
    if is_near {
        let sentence = format!("{used} of {limit} buckets for TIME_WAIT are taken");
        return Some(story(&BUCKETS, Severity::Warning, sentence).to_do([room.as_str(), fewer]).avoid(avoid));
    }
    (since > 0).then(|| {
        let sentence = format!("{since} sockets have been closed without a TIME_WAIT, none of them now");
        story(&OVERFLOW, Severity::Note, sentence).avoid(avoid)
    })
}

/// What one minisock takes, bytes: what the kernel says, or what most kernels have.
fn object_bytes(facts: &Facts) -> u64 {
    facts.machine.slabs.as_ref().and_then(|slabs| slabs.get("tw_sock_TCP")).map_or(256, |slab| slab.object_bytes)
}

/// What the caches of minisocks and bind buckets hold, bytes; `None` if this process may not know.
fn held(facts: &Facts) -> Option<(u64, Vec<Evidence>)> {
    let slabs = facts.machine.slabs.as_ref()?;
    let of = |name: &str| slabs.get(name).map(Slab::bytes);
    let caches = ["tw_sock_TCP", "tw_sock_TCPv6", "tcp_bind_bucket", "tcp_bind2_bucket"];
    let evidence = caches.iter().map(|name| Evidence::new(*name, of(name), "bytes", "/proc/slabinfo"));
    Some((caches.iter().filter_map(|name| of(name)).sum(), evidence.collect()))
}

fn memory(facts: &Facts, namespace: &Namespace) -> Option<Finding> {
    let (bytes, evidence) = held(facts)?;
    let memory = facts.machine.memory?;
    // The caches are the machine's: they are told once.
    let is_first = facts.namespaces.first().is_some_and(|first| first.inum == namespace.inum);
    if !is_first || (bytes as f64) < memory as f64 * MUCH {
        return None;
    }
    let percent = bytes as f64 / memory as f64 * 100.0;
    let sentence = format!("minisocks and their ports take {}, {percent:.1} % of the memory", mega(bytes));
    let total = Evidence::new("MemTotal", memory, "bytes", "/proc/meminfo");
    Some(Finding::new(&MEMORY, Severity::Note, sentence).shown_by(evidence).shown_by([total]))
}

fn fin_wait2(namespace: &Namespace) -> Option<Finding> {
    let sockets = &namespace.sockets;
    let waiting = sockets.fin_wait2 + sockets.orphans;
    if waiting < MANY || waiting < sockets.time_wait / 2 {
        return None;
    }
    let sentence = format!("{waiting} connections were closed here and wait for a peer that does not close its end");
    let mut evidence = numbers(namespace);
    evidence.push(Evidence::new("FIN_WAIT2 orphans", sockets.orphans, "full sockets", "sock_diag"));
    evidence.push(namespace.set("ipv4/tcp_fin_timeout"));
    Some(
        Finding::new(&FIN_WAIT2, Severity::Warning, sentence)
            .shown_by(evidence)
            .to_do(["find out on the peers which program does not close: ss -tanp state close-wait"])
            .avoid(["do not lower tcp_fin_timeout to get rid of TIME_WAITs: it only shortens FIN_WAIT2"]),
    )
}

fn harmless(facts: &Facts, namespace: &Namespace) -> Finding {
    let used = minisocks(namespace);
    let bytes = used.saturating_mul(object_bytes(facts));
    let sentence = match (used, namespace.sockets.fin_wait2) {
        (0, _) => "there is no TIME_WAIT at all".to_owned(),
        (1, 0) => "the one TIME_WAIT that there is costs nothing: harmless".to_owned(),
        (_, 0) => format!("{used} TIME_WAITs take {} of memory and no descriptor: harmless", mega(bytes)),
        _ => format!(
            "{used} minisocks, in TIME_WAIT and FIN_WAIT2, take {} of memory and no descriptor: harmless",
            mega(bytes)
        ),
    };
    let mut evidence = numbers(namespace);
    if let Some((_, caches)) = held(facts) {
        evidence.extend(caches);
    }
    Finding::new(&HARMLESS, Severity::Fine, sentence).shown_by(evidence)
}

/// Bytes for the eye.
fn mega(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        doctor::checks::fixture::{Fixture, destination, ids, number, severity, the},
        host::sockets::Ends,
    };

    const OVERFLOWED: &str = "TCPTimeWaitOverflow";

    /// With so many minisocks of so many, all towards one destination.
    fn filled(used: u64, limit: u64) -> Fixture {
        let ends = Ends { time_wait: used, ..Ends::default() };
        let mut facts =
            Fixture::quiet().sysctl("ipv4/tcp_max_tw_buckets", limit).opened(destination(443), ends).facts();
        facts.namespaces[0].sockstat.as_mut().unwrap().tw = used;
        facts.into()
    }

    #[test]
    fn a_quiet_machine_costs_nothing() {
        let findings = Fixture::quiet().asked(check);
        assert_eq!((ids(&findings), findings[0].severity), (vec!["cost.harmless"], Severity::Fine));
        assert_eq!(findings[0].sentence, "there is no TIME_WAIT at all");
        let told = |used| filled(used, 131_072).asked(check).remove(0).sentence;
        assert_eq!(told(1), "the one TIME_WAIT that there is costs nothing: harmless");
        assert_eq!(told(2), "2 TIME_WAITs take 0.5 kB of memory and no descriptor: harmless");
        assert_eq!(told(100_000), "100000 TIME_WAITs take 25.6 MB of memory and no descriptor: harmless");
    }

    #[test]
    fn minisocks_of_both_kinds_are_not_called_time_waits() {
        let both = Ends { time_wait: 5, fin_wait2: 3, ..Ends::default() };
        let facts = Fixture::quiet().opened(destination(443), both).namespace(|namespace| namespace.sockstat = None);
        let findings = Fixture::from(facts).asked(check);
        assert!(findings[0].sentence.starts_with("8 minisocks, in TIME_WAIT and FIN_WAIT2,"), "{findings:?}");
        assert_eq!(number(&findings[0], "TIME_WAIT"), Some(5.0));
        assert_eq!(number(&findings[0], "tw"), None);
    }

    #[test]
    fn buckets_are_nearly_full_from_four_fifths_on() {
        let border = filled(800, 1000).asked(check);
        assert_eq!((ids(&border), border[0].severity), (vec!["cost.buckets"], Severity::Warning));
        assert_eq!(border[0].sentence, "800 of 1000 buckets for TIME_WAIT are taken");
        assert!(border[0].to_do[0].contains("(now 1000), e.g. to 2000: each minisock takes 256 bytes"), "{border:?}");
        assert_eq!((number(&border[0], "tw"), number(&border[0], "tcp_max_tw_buckets")), (Some(800.0), Some(1000.0)));
        assert_eq!(ids(&filled(799, 1000).asked(check)), ["cost.harmless"]);
        // More than there may be: the limit was lowered.
        assert!(filled(4000, 1000).asked(check)[0].to_do[0].contains("e.g. to 8000"));
        // Without a limit that can be read nothing is near it.
        assert_eq!(ids(&filled(800, 1000).sysctl("ipv4/tcp_max_tw_buckets", None).asked(check)), ["cost.harmless"]);
    }

    #[test]
    fn what_the_kernel_says_of_a_minisock_counts() {
        let slab = Slab { object_bytes: 280, ..Slab::default() };
        let facts = filled(900, 1000).machine(|machine| {
            machine.slabs.as_mut().unwrap().insert("tw_sock_TCP".to_owned(), slab);
        });
        assert!(Fixture::from(facts).asked(check)[0].to_do[0].ends_with("each minisock takes 280 bytes"));
    }

    #[test]
    fn an_overflow_is_a_warning_while_it_happens() {
        let full = filled(1000, 1000).counter("TcpExt", OVERFLOWED, 5, 12).asked(check);
        assert_eq!((ids(&full), full[0].severity), (vec!["cost.overflow"], Severity::Warning));
        assert_eq!(full[0].sentence, "7 sockets were closed without a TIME_WAIT just now: the 1000 buckets are full");
        assert_eq!(number(&full[0], OVERFLOWED), Some(12.0));
        assert_eq!(number(&full[0], "TCPTimeWaitOverflow now"), Some(14.0));
        assert!(full[0].to_do[0].starts_with("raise net.ipv4.tcp_max_tw_buckets"), "{full:?}");
        // There were buckets left: a higher limit does not help.
        let empty = filled(10, 1000).counter("TcpExt", OVERFLOWED, 5, 12).asked(check);
        assert_eq!((ids(&empty), empty[0].severity), (vec!["cost.overflow"], Severity::Warning));
        assert!(empty[0].to_do.iter().all(|step| !step.contains("tcp_max_tw_buckets")), "{empty:?}");
    }

    #[test]
    fn an_overflow_that_is_over_is_a_note() {
        let over = filled(10, 1000).counter("TcpExt", OVERFLOWED, 12, 12).asked(check);
        assert_eq!(ids(&over), ["cost.overflow", "cost.harmless"]);
        assert_eq!(over[0].severity, Severity::Note);
        // What is still nearly full comes before what was.
        let full = filled(1000, 1000).counter("TcpExt", OVERFLOWED, 12, 12).asked(check);
        assert_eq!((ids(&full), number(&full[0], OVERFLOWED)), (vec!["cost.buckets"], Some(12.0)));
    }

    #[test]
    fn memory_counts_from_one_percent_on() {
        let page = rustix::param::page_size() as u64;
        let with = |slabs, memory| {
            let slab = Slab { slabs, pages_per_slab: 1, object_bytes: 256, ..Slab::default() };
            let facts = Fixture::quiet().machine(|machine| {
                machine.memory = memory;
                machine.slabs.as_mut().unwrap().insert("tcp_bind_bucket".to_owned(), slab);
            });
            Fixture::from(facts).asked(check)
        };
        let border = with(10, Some(page * 1000));
        assert_eq!(ids(&border), ["cost.memory", "cost.harmless"]);
        let found = the(&border, "cost.memory");
        assert_eq!((found.severity, number(found, "tcp_bind_bucket")), (Severity::Note, Some(10.0 * page as f64)));
        assert!(found.sentence.ends_with(", 1.0 % of the memory"), "{found:?}");
        assert_eq!(ids(&with(9, Some(page * 1000))), ["cost.harmless"]);
        assert_eq!(ids(&with(10, None)), ["cost.harmless"]);
    }

    #[test]
    fn the_machines_memory_is_told_once() {
        let slab = Slab { slabs: 1 << 30, pages_per_slab: 1, ..Slab::default() };
        let mut facts = Fixture::quiet().machine(|machine| {
            machine.slabs.as_mut().unwrap().insert("tw_sock_TCP".to_owned(), slab);
        });
        facts.namespaces.push(Namespace { inum: 7, ..facts.namespaces[0].clone() });
        assert!(ids(&check(&facts, &facts.namespaces[0])).contains(&"cost.memory"));
        assert_eq!(ids(&check(&facts, &facts.namespaces[1])), ["cost.harmless"]);
    }

    #[test]
    fn many_peers_that_do_not_close_are_a_warning() {
        let with = |fin_wait2, orphans, time_wait| {
            let ends = Ends { fin_wait2, time_wait, ..Ends::default() };
            let facts = Fixture::quiet().opened(destination(443), ends);
            let facts = facts.namespace(|namespace| namespace.sockets.orphans = orphans);
            Fixture::from(facts).asked(check)
        };
        let found = with(60, 40, 0);
        assert_eq!((ids(&found), found[0].severity), (vec!["cost.fin-wait2"], Severity::Warning));
        assert_eq!(
            found[0].sentence,
            "100 connections were closed here and wait for a peer that does not close its end"
        );
        assert_eq!((number(&found[0], "FIN_WAIT2"), number(&found[0], "FIN_WAIT2 orphans")), (Some(60.0), Some(40.0)));
        assert_eq!(number(&found[0], "tcp_fin_timeout"), Some(60.0));
        assert_eq!(severity(&with(99, 0, 0), "cost.fin-wait2"), None);
        // Beside many more TIME_WAITs they are what is always on its way.
        assert_eq!(severity(&with(100, 0, 200), "cost.fin-wait2"), Some(Severity::Warning));
        assert_eq!(severity(&with(100, 0, 202), "cost.fin-wait2"), None);
    }
}
