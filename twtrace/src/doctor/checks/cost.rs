//! What do these sockets cost? Memory and buckets; and whether the buckets are full.

use crate::{
    doctor::{
        facts::{Facts, Namespace},
        finding::{Evidence, Finding, Severity, Story},
        severity::Loss,
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
    title: "Sockets close without a TIME_WAIT, because tcp_max_tw_buckets is full",
    why: "Beyond tcp_max_tw_buckets the kernel closes a socket at once, without a TIME_WAIT. No connection is refused. What \
          is lost is the protection: a FIN that is sent again is answered by a RST, and old segments may reach a new \
          connection.",
    story: "Each network namespace may have net.ipv4.tcp_max_tw_buckets minisocks: those in TIME_WAIT and those in FIN_WAIT2 \
            together. The default is half the slots of the hash of connections, up to 262,144. When a connection should get \
            one more, the kernel counts TcpExt TCPTimeWaitOverflow and closes the socket for good. It does the same when \
            there is no memory for a minisock.\n\n\
            Documentation and many articles say that the kernel prints 'time wait bucket table overflow'. No kernel since \
            5.4 does. They also say that new connections are refused: they are not. The counter is the only sign.\n\n\
            The limit that would do is the rate at which TIME_WAITs begin, those that were refused among them, times 60 \
            seconds. twtrace adds half for bursts and rounds up to a power of two. One minisock takes about 256 bytes, a \
            million of them a quarter of a gigabyte. On a machine without memory to spare the remedy is fewer connections \
            (keepalive).",
    holds: "TCPTimeWaitOverflow moves between the two looks: a warning if 80 % of the buckets are taken, else severity follows \
            rate, share and duration, up to a warning. It moved earlier only, and fewer than 80 % of the buckets are taken: a note",
    does_not: "a high number of TIME_WAITs below the limit",
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
    why: "Minisocks in TIME_WAIT and in FIN_WAIT2 share tcp_max_tw_buckets, per network namespace. Beyond it a socket closes \
          without the protection of TIME_WAIT.",
    story: "Compare net.ipv4.tcp_max_tw_buckets with the number behind 'tw' in /proc/net/sockstat. What ss lists as \
            TIME-WAIT is less: minisocks in FIN_WAIT2, of connections whose peer has not closed yet, take buckets as well. \
            See cost.overflow for what happens when all are taken, and for the limit that would do.",
    holds: "sockstat's tw is at least 80 % of tcp_max_tw_buckets, and TCPTimeWaitOverflow does not move",
    does_not: "many TIME_WAITs below 80 % of the limit, whatever their number",
    by_hand: &["grep ^TCP: /proc/net/sockstat", "sysctl net.ipv4.tcp_max_tw_buckets"],
    sources: &["net/ipv4/inet_timewait_sock.c: inet_twsk_alloc", "net/ipv4/proc.c: sockstat_seq_show"],
};

/// TIME_WAITs take memory that counts.
pub const MEMORY: Story = Story {
    id: "cost.memory",
    title: "Minisocks take a part of the memory that counts",
    why: "A minisock takes about 256 bytes, a full socket ten times as much. Many are needed to matter.",
    story: "A socket in TIME_WAIT is no full socket. The kernel replaces it by a minisock, from the caches tw_sock_TCP and \
            tw_sock_TCPv6, and remembers its local port in a tcp_bind_bucket (and a tcp_bind2_bucket since 6.1). It has no \
            descriptor, no inode and no buffers. The bytes reported here are what these caches hold on the whole machine.",
    holds: "the caches tw_sock_TCP, tw_sock_TCPv6, tcp_bind_bucket and tcp_bind2_bucket hold at least 1 % of MemTotal",
    does_not: "/proc/slabinfo cannot be read: then nothing is said of memory",
    by_hand: &["sudo grep -E 'tw_sock_TCP|tcp_bind' /proc/slabinfo"],
    sources: &["include/net/inet_timewait_sock.h: struct inet_timewait_sock", "include/linux/tcp.h: tcp_timewait_sock"],
};

/// Peers do not close their end.
pub const FIN_WAIT2: Story = Story {
    id: "cost.fin-wait2",
    title: "Many connections wait for a peer that does not close its end",
    why: "A connection that was closed here stays in FIN_WAIT2 until the peer closes too, at most for tcp_fin_timeout. It \
          takes a bucket of TIME_WAIT meanwhile, though ss lists it as FIN-WAIT-2.",
    story: "After close() the kernel waits for the peer's FIN. No process holds the socket any more (an orphan), so the kernel \
            keeps a minisock in its place. It gives the minisock up after net.ipv4.tcp_fin_timeout, or after TCP_LINGER2 of \
            the socket. tcp_fin_timeout does nothing else: it has no influence on TIME_WAIT.\n\n\
            Many of them mean that the other program got end-of-file and did not close: a pool that keeps dead \
            connections, or a handler that hangs. The peer shows as many sockets in CLOSE-WAIT.",
    holds: "at least 100 minisocks and orphans are in FIN_WAIT2, and they are at least half as many as the TIME_WAITs",
    does_not: "sockets in FIN_WAIT2 that a process still holds after shutdown(); a few beside many TIME_WAITs, which are on \
               their way",
    by_hand: &["ss -tan state fin-wait-2 | wc -l", "ss -tanp state close-wait     # on the peer: who does not close"],
    sources: &["net/ipv4/tcp.c: __tcp_close", "net/ipv4/tcp_input.c: tcp_rcv_state_process, case TCP_FIN_WAIT1"],
};

/// TIME_WAITs do no harm.
pub const HARMLESS: Story = Story {
    id: "cost.harmless",
    title: "These TIME_WAITs are harmless",
    why: "A TIME_WAIT takes a quarter of a kilobyte and no descriptor, and goes away by itself. It keeps old segments from a \
          new connection, and answers a FIN that is sent again.",
    story: "TIME_WAIT is the last state of the end that closed first. It lasts 60 seconds (TCP_TIMEWAIT_LEN, a constant) and \
            the slack of the timer. It protects the next connection between the same addresses and ports from what is left \
            of this one (RFC 9293, 3.6.1).\n\n\
            A high number is no fault. It is connections per second times 60, at an end that closes first. It begins to \
            matter in two cases only: the ports towards one destination run out (ports.*), or tcp_max_tw_buckets is reached \
            (cost.overflow).",
    holds: "no other cost finding is a warning",
    does_not: "buckets are nearly full or overflow, or 100 connections wait in FIN_WAIT2",
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

/// TIME_WAITs that begin per second, or would if there were buckets: by their ages and by TCPTimeWaitOverflow. `None` if none
/// begins.
fn begun_per_s(namespace: &Namespace) -> Option<f64> {
    let sockets = &namespace.sockets;
    let opens = namespace.opens_per_s();
    let ages: f64 = sockets.opened.values().chain(sockets.accepted.values()).map(|ends| ends.per_s(opens)).sum();
    let refused = namespace.per_s("TcpExt", "TCPTimeWaitOverflow").unwrap_or(0.0);
    Some(ages + refused).filter(|rate| *rate > 0.0)
}

/// The limit that would do: what the rate makes in the life of a TIME_WAIT, and half of it for bursts, as a power of two.
/// Never less than what is taken, and more than the limit there is. Without a rate, twice what is taken.
fn enough(namespace: &Namespace, limit: u64, used: u64) -> u64 {
    let minute = begun_per_s(namespace).map(|rate| rate * f64::from(namespace.time_wait_ms()) / 1000.0);
    let need = minute.map_or(used.saturating_mul(2), |minute| (minute * 1.5) as u64);
    need.max(used).max(limit.saturating_add(1)).min(1 << 30).next_power_of_two().max(limit)
}

fn buckets(facts: &Facts, namespace: &Namespace) -> Option<Finding> {
    let limit = namespace.sysctl("ipv4/tcp_max_tw_buckets")?;
    let used = minisocks(namespace);
    let now = namespace.moved("TcpExt", "TCPTimeWaitOverflow").unwrap_or_default();
    let since = namespace.total("TcpExt", "TCPTimeWaitOverflow").unwrap_or_default();
    let object = object_bytes(facts);
    let enough = enough(namespace, limit, used);
    let most = mega(enough.saturating_mul(object));
    let why = format!("now {limit}; a minisock takes {object} bytes, so these take at most {most}");
    let room = namespace.step("net.ipv4.tcp_max_tw_buckets", enough, why);
    let fewer = "make fewer short connections: `twtrace doctor --explain keepalive.short-connections`";
    let avoid = ["do not lower tcp_max_tw_buckets: sockets then close without the protection of TIME_WAIT"];
    let story = |story, severity, sentence: String| {
        let rate = begun_per_s(namespace);
        let minute = rate.map(|rate| rate * f64::from(namespace.time_wait_ms()) / 1000.0);
        // tcp_max_tw_buckets is half the slots of the hash (tcp_sk_init, net/ipv4/tcp_ipv4.c).
        let default = namespace.hash_slots.map(|slots| slots / 2);
        Finding::new(story, severity, sentence)
            .shown_by(numbers(namespace))
            .shown_by(namespace.counted("TcpExt", "TCPTimeWaitOverflow"))
            .shown_by([
                Evidence::new(
                    "TIME_WAITs that begin or are refused",
                    rate,
                    "1/s",
                    "sock_diag: ages; TCPTimeWaitOverflow",
                ),
                Evidence::new("buckets at that rate", minute, "minisocks", "rate × length of TIME_WAIT"),
                Evidence::new("default of tcp_max_tw_buckets", default, "", "net.ipv4.tcp_ehash_entries / 2"),
            ])
    };
    let is_near = used as f64 >= limit as f64 * NEAR;
    if now > 0 && !is_near {
        // The counter moves for want of memory too.
        let sentence = format!(
            "{now} sockets closed without TIME_WAIT just now, with {used} of {limit} buckets taken: memory was short, or \
             buckets are free again"
        );
        let memory = "dmesg, and grep -E 'MemAvailable|Slab' /proc/meminfo: see whether the kernel is out of memory";
        // No connection fails by it.
        let loss = Loss::counted(namespace, ("TcpExt", "TCPTimeWaitOverflow"), ("TcpExt", "TW"));
        let severity = loss.map_or(Severity::Note, |loss| loss.severity().min(Severity::Warning));
        return Some(story(&OVERFLOW, severity, sentence).to_do([memory, fewer]).avoid(avoid));
    }
    if now > 0 {
        let sentence = format!("{now} sockets closed without TIME_WAIT just now: all {limit} buckets are taken");
        return Some(story(&OVERFLOW, Severity::Warning, sentence).to_do([room.as_str(), fewer]).avoid(avoid));
    }
    if is_near {
        let sentence = format!("{used} of {limit} buckets for TIME_WAIT are taken");
        return Some(story(&BUCKETS, Severity::Warning, sentence).to_do([room.as_str(), fewer]).avoid(avoid));
    }
    (since > 0).then(|| {
        let sentence = format!("{since} sockets closed without TIME_WAIT since the namespace began, none of them now");
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
            .to_do(["ss -tanp state close-wait     # on the peers: the program that does not close"])
            .avoid(["do not lower tcp_fin_timeout to get rid of TIME_WAITs: it only shortens FIN_WAIT2"]),
    )
}

fn harmless(facts: &Facts, namespace: &Namespace) -> Finding {
    let used = minisocks(namespace);
    let bytes = used.saturating_mul(object_bytes(facts));
    let sentence = match (used, namespace.sockets.fin_wait2) {
        (0, _) => "there is no TIME_WAIT here".to_owned(),
        (1, 0) => "1 TIME_WAIT costs nothing: harmless".to_owned(),
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
mod tests;
