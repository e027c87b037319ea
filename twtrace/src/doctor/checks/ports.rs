//! Where do ports run out? Towards one destination, and for all where clients bind before they connect.

mod bound;
mod stories;

use std::cmp::Reverse;

pub use self::stories::STORIES;
use self::stories::{BOUND_FIRST, EXHAUSTED, FILLING, ROOM};
use crate::{
    doctor::{
        facts::{Ended, Facts, Namespace, Owner},
        finding::{Evidence, Finding, Severity},
    },
    host::{
        diag::{
            TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK, TCP_SYN_SENT,
        },
        sockets::Ends,
    },
    model::occupancy::Destination,
};

/// Destinations that are shown.
pub(super) const TOP: usize = 5;
/// Fewer than these may be chance.
const SOME: u64 = 16;

/// Judges.
#[must_use]
pub fn check(facts: &Facts, namespace: &Namespace) -> Vec<Finding> {
    let mut findings = Vec::new();
    let available = namespace.available();
    let fullest = fullest(namespace);
    let bound = bound::bound(facts, namespace);
    let elsewhere = |(destination, ends): (&Destination, &Ends)| {
        bound.as_ref().map_or(0, |bound| bound.elsewhere(namespace, destination, ends))
    };
    let crowded = fullest.iter().copied().filter(|it| {
        let held = it.1.in_range;
        is_crowded(held, available) || held >= SOME && held + elsewhere(*it) >= available
    });
    for (destination, ends) in crowded.take(TOP) {
        let lost = elsewhere((destination, ends));
        let by = bound.as_ref().map(bound::Bound::by).unwrap_or_default();
        findings.push(full(facts, namespace, destination, ends, (available, lost, &by)));
    }
    findings.extend(bound.as_ref().map(|bound| bound::first(bound, namespace)));
    // What is critical for all destinations is told before what is for some.
    findings.sort_by_key(|finding| Reverse((finding.severity, finding.id == BOUND_FIRST.id)));
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

/// What the sockets towards a destination are, most of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    TimeWait,
    /// As minisocks or full: the peer does not close.
    FinWait2,
    Established,
    CloseWait,
    SynSent,
    /// FIN_WAIT1, CLOSING, LAST_ACK.
    Closing,
    /// What the facts do not tell.
    Other,
}

impl Holds {
    fn name(self) -> &'static str {
        match self {
            Self::TimeWait => "TIME_WAIT",
            Self::FinWait2 => "FIN_WAIT2",
            Self::Established => "ESTABLISHED",
            Self::CloseWait => "CLOSE_WAIT",
            Self::SynSent => "SYN_SENT",
            Self::Closing => "FIN_WAIT1, CLOSING or LAST_ACK",
            Self::Other => "other states",
        }
    }

    /// How many there are in each state.
    fn all(ends: &Ends) -> [(Self, u64); 7] {
        let of = |state| ends.full.of(state);
        let known = [
            (Self::TimeWait, ends.time_wait),
            (Self::FinWait2, ends.fin_wait2 + of(TCP_FIN_WAIT2)),
            (Self::Established, ends.established.max(of(TCP_ESTABLISHED))),
            (Self::CloseWait, of(TCP_CLOSE_WAIT)),
            (Self::SynSent, of(TCP_SYN_SENT)),
            (Self::Closing, of(TCP_FIN_WAIT1) + of(TCP_CLOSING) + of(TCP_LAST_ACK)),
        ];
        let told: u64 = known.iter().map(|(_, count)| count).sum();
        let [a, b, c, d, e, f] = known;
        [a, b, c, d, e, f, (Self::Other, ends.total().saturating_sub(told))]
    }

    /// The state that has most of them, and how many.
    fn most(ends: &Ends) -> (Self, u64) {
        let [first, rest @ ..] = Self::all(ends);
        rest.into_iter().fold(first, |most, it| if it.1 > most.1 { it } else { most })
    }

    /// What to do about them.
    fn remedies(self, namespace: &Namespace, to: &Destination, owner: Option<Owner<'_>>, count: u64) -> Vec<String> {
        let remote = std::net::SocketAddr::from((to.raddr, to.rport));
        let program = owner.map_or_else(|| "the program".to_owned(), |owner| owner.to_string());
        let list = |state| namespace.command(&format!("ss -tnp state {state} dst {remote}"));
        match self {
            Self::TimeWait | Self::Other => vec![
                "keep connections open and use them again: `twtrace doctor --explain keepalive.short-connections`".to_owned(),
                "spread over more local addresses, or over more addresses or ports of the destination: each has ports of its \
                 own"
                .to_owned(),
            ],
            Self::CloseWait => vec![
                format!(
                    "let {program} close what {remote} has closed: call close() when read() returns 0; `{}` lists them",
                    list("close-wait")
                ),
                format!("restart {program} to have the ports back now"),
            ],
            Self::SynSent => vec![
                format!("find out why {remote} does not answer: is the host up, does a firewall drop what is sent there?"),
                format!(
                    "give connect() of {program} a timeout of a few seconds, and wait longer between tries; `{}` lists what waits",
                    list("syn-sent")
                ),
            ],
            Self::Established => vec![
                format!(
                    "bound the pool of {program} to what it uses, or find the leak: it holds {count} open connections to \
                     {remote}; `{}` lists them",
                    list("established")
                ),
                "spread over more local addresses, or over more addresses or ports of the destination: each has ports of its \
                 own"
                .to_owned(),
            ],
            Self::FinWait2 => vec![
                format!("find out which program at {remote} does not close its end: ss -tnp state close-wait there"),
                format!("let {program} call close() and not only shutdown(): then tcp_fin_timeout ends them"),
            ],
            Self::Closing => vec![
                format!("find out why {remote} does not acknowledge: is the peer gone, or does its program not read?"),
                format!("`{}` shows Send-Q and timers", namespace.command(&format!("ss -tanoe dst {remote}"))),
            ],
        }
    }
}

/// The load that made the TIME_WAITs is over: without them few ports would be held, and none begins though there are ports.
fn over(namespace: &Namespace, ends: &Ends, available: u64) -> Option<Ended> {
    let others = ends.in_range.saturating_sub(ends.time_wait);
    namespace.ended(ends, Some(available)).filter(|_| !is_crowded(others, available))
}

/// `lost`: ports that were bound and have no connection to this destination; `by`: by whom.
fn full(
    facts: &Facts,
    namespace: &Namespace,
    destination: &Destination,
    ends: &Ends,
    (available, lost, by_whom): (u64, u64, &str),
) -> Finding {
    let held = ends.in_range;
    let place = name(destination);
    let reused = is_reused(namespace, destination);
    let (state, most) = Holds::most(ends);
    let remote = (destination.raddr, destination.rport);
    let owner = namespace.opener(&facts.machine, remote, ends.inode);
    // What connect() may take over does not stand in its way.
    let takeable = if reused { ends.time_wait.saturating_sub(ends.young) } else { 0 };
    let free = available.saturating_sub(held).saturating_sub(lost);
    let left = free + takeable.min(held);
    let mut evidence = vec![Evidence::new("ports held", held, format!("of {available}"), "sock_diag")];
    let states = Holds::all(ends);
    // These three even if there are none: they are what people look for.
    let always = [Holds::TimeWait, Holds::FinWait2, Holds::Established];
    let told = states.iter().filter(|(state, count)| *count > 0 || always.contains(state));
    evidence.extend(told.map(|(state, count)| Evidence::new(state.name(), *count, "sockets", "sock_diag")));
    evidence.extend([
        namespace.begun(ends),
        sustainable("sustainable without reuse", namespace, available),
        range_set(namespace),
        namespace.set("ipv4/tcp_tw_reuse"),
        namespace.set("ipv4/tcp_timestamps"),
    ]);
    if lost > 0 {
        evidence.push(Evidence::new("bound for others", lost, "ports", "sock_diag: see ports.bound-first"));
    }
    if reused {
        evidence.push(Evidence::new(
            "that connect() may take over",
            takeable,
            "TIME_WAITs",
            "sock_diag, older than 1 s",
        ));
    }
    evidence.extend(owner.map(|owner| owner.shown("opened by")));
    let by = if most == held { format!("all by {}", state.name()) } else { format!("{most} by {}", state.name()) };
    let by = if lost > 0 { format!("{by}, and {lost} more are bound{by_whom}") } else { by };
    let over = over(namespace, ends, available.saturating_sub(lost));
    let (story, severity, sentence) = if left == 0 {
        let sentence = format!("no port is left from {place}: {held} of {available} are held, {by}");
        (&EXHAUSTED, Severity::Critical, sentence)
    } else if let Some(ended) = over {
        let gone = namespace.gone_by(ended);
        let sentence =
            format!("{held} of {available} ports from {place} are held, {by}; no more begin, all are {gone}");
        (&FILLING, Severity::Note, sentence)
    } else if takeable > 0 && free < left {
        let sentence = format!(
            "{held} of {available} ports from {place} are held; {takeable} by TIME_WAITs that connect() may take over"
        );
        (&FILLING, if left * 2 > available { Severity::Note } else { Severity::Warning }, sentence)
    } else {
        let sentence = format!("{held} of {available} ports from {place} are held, {by}: {left} are left");
        (&FILLING, Severity::Warning, sentence)
    };
    let mut remedies = Vec::new();
    if over.is_none() {
        remedies = state.remedies(namespace, destination, owner, most);
        remedies.extend(wider(namespace));
    }
    let avoid = match state {
        Holds::TimeWait | Holds::FinWait2 | Holds::Other => vec![
            "do not lower tcp_fin_timeout: it does not shorten TIME_WAIT",
            "do not lower tcp_max_tw_buckets: it gives up the protection of all connections for the ports of some",
        ],
        _ => vec!["do not tune TIME_WAIT for this: it is not what holds these ports"],
    };
    Finding::new(story, severity, sentence).shown_by(evidence).to_do(remedies).avoid(avoid)
}

/// More ports, if there are more to have.
fn wider(namespace: &Namespace) -> Option<String> {
    const LOWEST: u16 = 10_240;
    let (low, high) = (*namespace.range.start(), *namespace.range.end());
    let wider = (low.min(LOWEST), u16::MAX);
    (wider != (low, high)).then(|| {
        let value = format!("\"{} {}\"", wider.0, wider.1);
        let why = format!("more ports (now {low} {high}); reserve those of services: ip_local_reserved_ports");
        namespace.step("net.ipv4.ip_local_port_range", value, why)
    })
}

fn range(namespace: &Namespace) -> String {
    format!("{} {}", namespace.range.start(), namespace.range.end())
}

/// The range as evidence.
fn range_set(namespace: &Namespace) -> Evidence {
    Evidence::new("ip_local_port_range", range(namespace), "", "/proc/sys/net/ipv4/ip_local_port_range")
}

/// Connections per second towards one destination that leave it ports for ever, if no TIME_WAIT is taken over.
fn sustainable(what: &str, namespace: &Namespace, available: u64) -> Evidence {
    let per_s = available as f64 / (f64::from(namespace.time_wait_ms()) / 1000.0);
    Evidence::new(what, per_s, "1/s", "ports / length of TIME_WAIT")
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
