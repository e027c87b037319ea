//! Does NAT find ports? What was dropped because another connection had the addresses and ports already.

use super::{
    NAT_PORTS, loss, moved, numbers, shorten,
    stories::{CLASH, NAT_PORTS as STORY},
};
use crate::{
    doctor::{
        facts::Namespace,
        finding::{Evidence, Finding, Severity},
        severity::Loss,
    },
    host::conntrack::{Conntrack, Stats, nat::Taken},
    show::human::Many,
};

/// From this share of a stretch of ports on it is used up: a few may be free again by the time of the look.
const DENSE: f64 = 0.9;
/// Fewer ports side by side may be chance.
const SOME: u64 = 4;
/// Ports that NAT tries for each packet that it then drops: as many at least (nf_nat_l4proto_unique_tuple tries up to 128).
const TRIES: u64 = 8;
/// From this share of the entries on closed connections are worth a word.
const CLOSED: f64 = 0.25;

/// Judges.
pub fn check(namespace: &Namespace, table: &Conntrack) -> Option<Finding> {
    let loss = loss(namespace, table, Stats::clashes)?;
    if loss.total == 0 {
        return None;
    }
    let fullest = namespace.nat.as_ref().map(|nat| nat.fullest.as_slice()).unwrap_or_default();
    match fullest.iter().find(|taken| is_used_up(taken)) {
        Some(taken) => Some(no_port(namespace, table, &loss, Some(taken))),
        // The table tells nothing of it: NAT tried many ports for each packet that it dropped.
        None if namespace.nat.as_ref().is_none_or(|nat| nat.cut) && tries(namespace, table, &loss) => {
            Some(no_port(namespace, table, &loss, None))
        }
        None => Some(clash(namespace, table, &loss)),
    }
}

/// NAT had to change the ports of these connections, and left no gap between them: as if it chose from a range that is full.
fn is_used_up(taken: &Taken) -> bool {
    let is_dense = taken.together as f64 >= taken.stretch.len() as f64 * DENSE;
    taken.together >= SOME && is_dense && taken.changed >= taken.count / 2
        || taken.count as f64 >= NAT_PORTS as f64 * DENSE
}

fn tries(namespace: &Namespace, table: &Conntrack, loss: &Loss) -> bool {
    let tried = moved(namespace, table).and_then(|stats| stats.found);
    loss.now > 0 && tried.is_some_and(|tried| tried >= loss.now.saturating_mul(TRIES))
}

/// `2 packets dropped in 0.5 s, 22 since the namespace began`.
fn dropped(loss: &Loss) -> String {
    match loss.now {
        0 => format!("{} dropped since the namespace began, none now", Many(loss.total, "packet")),
        now => {
            format!(
                "{} dropped in {:.1} s, {} since the namespace began",
                Many(now, "packet"),
                loss.seconds,
                loss.total
            )
        }
    }
}

fn shares(loss: &Loss) -> [Evidence; 2] {
    loss.shown("connections, taken as a tenth of the packets sent and forwarded")
}

fn no_port(namespace: &Namespace, table: &Conntrack, loss: &Loss, taken: Option<&Taken>) -> Finding {
    // The next connection there finds no port either.
    let severity = loss.severity().max(if taken.is_some() { Severity::Warning } else { Severity::Note });
    let dropped = dropped(loss);
    let sentence = match taken {
        Some(taken) => format!(
            "NAT has no free port from {} to {} ({}): {} of {} ports taken ({}-{}); {dropped}",
            taken.source,
            to(taken),
            taken.protocol,
            taken.together,
            taken.stretch.len(),
            taken.stretch.start(),
            taken.stretch.end()
        ),
        None => format!("NAT finds no free port: {dropped}"),
    };
    let ports = taken.map(|taken| {
        let source = "/proc/net/nf_conntrack";
        [
            Evidence::new(format!("ports taken from {} to {}", taken.source, to(taken)), taken.count, "ports", source),
            Evidence::new("of them in TIME_WAIT", taken.time_wait, "ports", source),
            Evidence::new("of them changed by NAT", taken.changed, "ports", source),
        ]
    });
    let mut steps = Vec::new();
    let is_narrow = taken.is_none_or(|taken| (taken.stretch.len() as u64) < NAT_PORTS / 2);
    if is_narrow {
        let now = taken.map_or_else(String::new, |taken| {
            format!(", not {} as now ({}-{})", taken.stretch.len(), taken.stretch.start(), taken.stretch.end())
        });
        steps.push(format!(
            "masquerade to :1024-65535 in the NAT rule (iptables: --to-ports 1024-65535): {NAT_PORTS} ports to each \
             destination{now}"
        ));
    }
    let second = match taken {
        Some(taken) => format!("snat to {}-LAST in the NAT rule", taken.source),
        None => "snat to FIRST-LAST in the NAT rule".to_owned(),
    };
    steps.push(format!("{second}: each further source address brings as many ports to each destination"));
    let socket_s = u64::from(namespace.time_wait_ms() / 1000);
    let closed = taken.is_some_and(|taken| taken.time_wait as f64 >= taken.count as f64 * CLOSED);
    if let Some(timeout_s) = table.timeout_s.time_wait.filter(|timeout_s| closed && *timeout_s > socket_s) {
        steps.push(shorten(namespace, socket_s, timeout_s));
    }
    steps.push(match taken {
        Some(taken) => {
            format!("keep connections to {} open at the clients: fewer connections need fewer ports", to(taken))
        }
        None => "keep connections open at the clients: fewer connections need fewer ports".to_owned(),
    });
    Finding::new(&STORY, severity, sentence)
        .shown_by(ports.into_iter().flatten())
        .shown_by(shares(loss))
        .shown_by(numbers(namespace, table))
        .to_do(steps)
        .avoid(["do not raise nf_conntrack_max for this: the table has room, the NAT has no port"])
}

/// Where connections lead that NAT gives ports to.
fn to(taken: &Taken) -> std::net::SocketAddr {
    (taken.to, taken.port).into()
}

fn clash(namespace: &Namespace, table: &Conntrack, loss: &Loss) -> Finding {
    let sentence = format!(
        "connection tracking drops packets that clash with another connection: {}, with no range of NAT ports used up",
        dropped(loss)
    );
    let severity = loss.severity().max(Severity::Note);
    let finding = Finding::new(&CLASH, severity, sentence).shown_by(shares(loss)).shown_by(numbers(namespace, table));
    if severity < Severity::Warning {
        return finding;
    }
    finding
        .to_do([
            "masquerade fully-random in the NAT rule (iptables: --random-fully): connections that begin at the same moment \
             then choose different ports",
            "options single-request-reopen in /etc/resolv.conf of the clients: the resolver then sends its A and AAAA queries \
             from two sockets",
            "conntrack -L: shows the entries, if the drops go on",
        ])
        .avoid(["do not raise nf_conntrack_max for this: the table has room"])
}
