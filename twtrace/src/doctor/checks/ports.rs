//! Where do ports run out? Towards one destination, never in total.

use crate::{
    doctor::{
        facts::{Facts, Namespace},
        finding::{Evidence, Finding, Severity, Story},
    },
    host::sockets::Ends,
    model::occupancy::Destination,
};

/// Destinations that are shown.
pub(super) const TOP: usize = 5;
/// From this share of the range on, ports that a bind() took are a loss.
const BOUND: f64 = 0.1;
/// Fewer than these may be chance.
const SOME: u64 = 16;

/// There is none left.
pub const EXHAUSTED: Story = Story {
    id: "ports.exhausted",
    title: "There is no port left towards a destination",
    why: "A connection is told by both addresses and both ports. Towards one remote address and port, from one local \
          address, there are as many connections as there are local ports to choose from; one in TIME_WAIT holds its \
          port as well as one that is open. connect() then fails with EADDRNOTAVAIL.",
    story: "connect() without bind() chooses a port of net.ipv4.ip_local_port_range that no other connection between \
            the same addresses and to the same remote port has. The ports held towards one destination do not hinder \
            connections to another: a sum over all destinations says nothing, and 28,232 ports (32768 to 60999) are \
            28,232 towards each.\n\n\
            Without tcp_tw_reuse the port of a connection that was closed here first comes back after 60 seconds, so \
            28,232 ports are worth 470 connections per second towards one destination, for ever.\n\n\
            Not counted as available: ports in ip_local_reserved_ports, those that somebody listens on, and those \
            that a client bound before its connect() (ports.bound-first).",
    holds: "",
    does_not: "",
    by_hand: &[
        "ss -Htan | awk '{print $5}' | sort | uniq -c | sort -n | tail   # by remote end",
        "sysctl net.ipv4.ip_local_port_range net.ipv4.ip_local_reserved_ports",
    ],
    sources: &["net/ipv4/inet_hashtables.c: __inet_hash_connect, __inet_check_established", "RFC 6056"],
};

/// They become few.
pub const FILLING: Story = Story {
    id: "ports.filling",
    title: "More than half of the ports towards a destination are held",
    why: "connect() looks at every second port first and at the others when all of those are taken: from half of the range \
          on each connect() looks at thousands of ports, which takes CPU time before it fails.",
    story: "The search begins somewhere and visits the ports of the same parity as the first of the range; only when none \
            of them is free it visits the others. Up to half of the range the first try mostly succeeds. Beyond it \
            the search becomes longer and longer: it shows in profiles as __inet_hash_connect and \
            __inet_check_established. At the end stands EADDRNOTAVAIL: see ports.exhausted.",
    holds: "",
    does_not: "",
    by_hand: &["ss -Htan dst 192.0.2.1:443 | wc -l", "perf top     # __inet_hash_connect"],
    sources: &["net/ipv4/inet_hashtables.c: __inet_hash_connect"],
};

/// A bind() takes ports from everybody.
pub const BOUND_FIRST: Story = Story {
    id: "ports.bound-first",
    title: "Clients bind before they connect, and take ports from every destination",
    why: "A port that bind() took, even one that bind() chose, is passed over by every connect() without bind(), for all \
          destinations, until its last connection is gone, TIME_WAIT included.",
    story: "A program that wants a certain source address calls bind() with port 0 and then connect(). Without \
            IP_BIND_ADDRESS_NO_PORT, bind() has to choose the port at once, not knowing the destination, and marks \
            the port as bound; connect() of others passes over ports that are so marked.\n\n\
            How twtrace knows: connect() begins with the ports that have the parity of the first of the range, \
            bind() with the others, so as not to be in each other's way. While the first half has room, a connection \
            on a port of the second half had its port bound. (Since 6.18, and in stable kernels with 'tcp: Update \
            bind bucket state on port release', the mark goes away with the last socket that was bound.)",
    holds: "",
    does_not: "",
    by_hand: &[
        "strace -f -e trace=bind,connect,setsockopt -p PID    # bind(.., port 0) before connect()",
        "ss -Htan | awk '{n=split($4,a,\":\"); print a[n]%2}' | sort | uniq -c   # parities of local ports",
    ],
    sources: &[
        "net/ipv4/inet_connection_sock.c: inet_csk_find_open_port",
        "net/ipv4/inet_hashtables.c: __inet_hash_connect",
        "ip(7): IP_BIND_ADDRESS_NO_PORT",
    ],
};

/// There are enough.
pub const ROOM: Story = Story {
    id: "ports.room",
    title: "Every destination has ports left",
    why: "Ports run out towards one destination at a time: what counts is the fullest, not the sum.",
    story: "For each destination (local address, remote address, remote port) twtrace counts the local ports held by \
            TIME_WAIT, by open connections and by those in between, and holds them against those that connect() may \
            choose. See ports.exhausted for how the kernel does it.",
    holds: "",
    does_not: "",
    by_hand: &["ss -Htan | awk '{print $5}' | sort | uniq -c | sort -n | tail"],
    sources: &["net/ipv4/inet_hashtables.c: __inet_hash_connect"],
};

/// What this question can find.
pub const STORIES: &[Story] = &[EXHAUSTED, FILLING, BOUND_FIRST, ROOM];

/// Judges.
#[must_use]
pub fn check(facts: &Facts, namespace: &Namespace) -> Vec<Finding> {
    let mut findings = Vec::new();
    let available = namespace.available();
    let fullest = fullest(namespace);
    let crowded = fullest.iter().copied().filter(|(_, ends)| is_crowded(ends.in_range, available));
    for (destination, ends) in crowded.take(TOP) {
        findings.push(full(facts, namespace, destination, ends, available));
    }
    findings.extend(bound_first(facts, namespace));
    if findings.iter().all(|finding| finding.severity < Severity::Warning) {
        findings.push(room(namespace, &fullest, available));
    }
    findings
}

/// Whether that many of the ports there are is worth a word: half of them. A few may be chance, unless they are all.
pub(super) fn is_crowded(held: u64, available: u64) -> bool {
    held > 0 && held.saturating_mul(2) >= available && held >= SOME.min(available)
}

/// Destinations by the ports of the range that are held towards them, most first.
pub(super) fn fullest(namespace: &Namespace) -> Vec<(&Destination, &Ends)> {
    let mut destinations: Vec<_> = namespace.sockets.opened.iter().collect();
    destinations.sort_by(|(a, x), (b, y)| y.in_range.cmp(&x.in_range).then(a.cmp(b)));
    destinations
}

/// `10.0.0.1 to 10.0.0.2:443`.
pub(super) fn name(destination: &Destination) -> String {
    let remote = std::net::SocketAddr::from((destination.raddr, destination.rport));
    format!("{} to {remote}", destination.laddr)
}

/// Whether connect() takes over TIME_WAITs towards this destination once they are a second old, as far as the sysctls go
/// (tcp_twsk_unique, net/ipv4/tcp_ipv4.c): 2 means loopback alone. The connections must have had timestamps too.
pub(super) fn is_reused(namespace: &Namespace, destination: &Destination) -> bool {
    let stamps = namespace.sysctl("ipv4/tcp_timestamps").is_none_or(|value| value != 0);
    let is_loopback = destination.raddr.is_loopback() || destination.laddr.is_loopback();
    match namespace.sysctl("ipv4/tcp_tw_reuse") {
        Some(1) => stamps,
        Some(2) => stamps && is_loopback,
        _ => false,
    }
}

fn full(facts: &Facts, namespace: &Namespace, destination: &Destination, ends: &Ends, available: u64) -> Finding {
    let held = ends.in_range;
    let place = name(destination);
    let reused = is_reused(namespace, destination);
    // What connect() may take over does not stand in its way.
    let takeable = if reused { ends.time_wait.saturating_sub(ends.young) } else { 0 };
    let left = available.saturating_sub(held) + takeable.min(held);
    let mut evidence = vec![
        Evidence::new("ports held", held, format!("of {available}"), "sock_diag"),
        Evidence::new("TIME_WAIT", ends.time_wait, "sockets", "sock_diag"),
        Evidence::new("FIN_WAIT2", ends.fin_wait2, "minisocks", "sock_diag"),
        Evidence::new("established", ends.established, "sockets", "sock_diag"),
        Evidence::new("other states", ends.other, "sockets", "sock_diag"),
        Evidence::new("TIME_WAITs begun", ends.per_s(namespace.opens_per_s()), "1/s", "sock_diag: the age of each"),
        sustainable("sustainable without reuse", namespace, available),
        range_set(namespace),
        namespace.set("ipv4/tcp_tw_reuse"),
        namespace.set("ipv4/tcp_timestamps"),
    ];
    if reused {
        evidence.push(Evidence::new(
            "that connect() may take over",
            takeable,
            "TIME_WAITs",
            "sock_diag, older than 1 s",
        ));
    }
    let remote = (destination.raddr, destination.rport);
    evidence.extend(namespace.opener(&facts.machine, remote, ends.inode).map(|owner| owner.shown("opened by")));
    let remedies = [
        "keep connections open and use them again: `twtrace doctor --explain keepalive.short-connections`".to_owned(),
        "spread over more local addresses, or over more addresses or ports of the destination: each has ports of its own"
            .to_owned(),
        format!("widen net.ipv4.ip_local_port_range (now {}) where no service listens", range(namespace)),
    ];
    let avoid = [
        "do not lower tcp_fin_timeout: it does not shorten TIME_WAIT",
        "do not lower tcp_max_tw_buckets: it gives up the protection of all connections for the ports of some",
    ];
    let (story, severity, sentence) = if left == 0 {
        let sentence = format!("no port is left from {place}: {held} of {available} are held");
        (&EXHAUSTED, Severity::Critical, sentence)
    } else if takeable > 0 && available.saturating_sub(held) < left {
        let sentence = format!(
            "{held} of {available} ports from {place} are held; {takeable} by TIME_WAITs that connect() may take over"
        );
        (&FILLING, if left * 2 > available { Severity::Note } else { Severity::Warning }, sentence)
    } else {
        let sentence = format!("{held} of {available} ports from {place} are held: {left} are left");
        (&FILLING, Severity::Warning, sentence)
    };
    Finding::new(story, severity, sentence).shown_by(evidence).to_do(remedies).avoid(avoid)
}

fn range(namespace: &Namespace) -> String {
    format!("{} {}", namespace.range.start(), namespace.range.end())
}

/// The same as evidence.
fn range_set(namespace: &Namespace) -> Evidence {
    Evidence::new("ip_local_port_range", range(namespace), "", "/proc/sys/net/ipv4/ip_local_port_range")
}

/// Connections per second towards one destination that leave it ports for ever, if no TIME_WAIT is taken over.
fn sustainable(what: &str, namespace: &Namespace, available: u64) -> Evidence {
    let per_s = available as f64 / (f64::from(namespace.time_wait_ms()) / 1000.0);
    Evidence::new(what, per_s, "1/s", "ports / length of TIME_WAIT")
}

/// Ports that connect() did not choose; 0 if the first half is so full that connect() may have gone on to the second.
fn second_half(namespace: &Namespace, ends: &Ends) -> u64 {
    let half = namespace.range.len() as u64 / 2;
    let first_half = ends.in_range.saturating_sub(ends.second_half);
    if first_half >= half * 9 / 10 { 0 } else { ends.second_half }
}

fn bound_first(facts: &Facts, namespace: &Namespace) -> Option<Finding> {
    // With a step of its own the kernel visits the ports in another order.
    if namespace.sysctl("ipv4/ip_local_port_step_width").is_some_and(|step| step != 0) {
        return None;
    }
    let mut bound: Vec<(&Destination, u64, &Ends)> = namespace
        .sockets
        .opened
        .iter()
        .map(|(destination, ends)| (destination, second_half(namespace, ends), ends))
        .filter(|(_, count, _)| *count > 0)
        .collect();
    bound.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let ports: u64 = bound.iter().map(|(_, count, _)| count).sum();
    if ports < SOME {
        return None;
    }
    let length = namespace.range.len() as u64;
    let severity = if ports as f64 >= length as f64 * BOUND { Severity::Warning } else { Severity::Note };
    let sentence = format!("{ports} of {length} ports were bound before connect(): no destination can have them");
    let mut evidence: Vec<Evidence> = bound
        .iter()
        .take(TOP)
        .map(|(destination, count, _)| {
            Evidence::new(name(destination), *count, "ports of the second half", "sock_diag")
        })
        .collect();
    let owner = bound.iter().find_map(|(.., ends)| facts.machine.owner(ends.inode?));
    evidence.extend(owner.map(|owner| owner.shown("one of them is of")));
    evidence.push(range_set(namespace));
    let finding = Finding::new(&BOUND_FIRST, severity, sentence).shown_by(evidence);
    Some(
        finding
            .to_do([
                "let the client set IP_BIND_ADDRESS_NO_PORT before bind() (nginx's proxy_bind and HAProxy's source do \
                 so), or not bind at all",
            ])
            .avoid(["do not widen ip_local_port_range for this: bind() takes from the new ports too"]),
    )
}

fn room(namespace: &Namespace, fullest: &[(&Destination, &Ends)], available: u64) -> Finding {
    let sentence = match fullest.first() {
        Some((destination, ends)) if ends.in_range > 0 => {
            format!("the fullest destination, {}, holds {} of {available} ports", name(destination), ends.in_range)
        }
        _ => format!("no destination holds a port of this host; each may have {available}"),
    };
    let held = |(destination, ends): &(&Destination, &Ends)| {
        Evidence::new(name(destination), ends.in_range, format!("of {available} ports"), "sock_diag")
    };
    Finding::new(&ROOM, Severity::Fine, sentence)
        .shown_by(fullest.iter().take(TOP).map(held))
        .shown_by([sustainable("sustainable to each without reuse", namespace, available), range_set(namespace)])
}

#[cfg(test)]
mod tests;
