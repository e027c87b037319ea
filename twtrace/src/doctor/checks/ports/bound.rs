//! Which ports did a bind() take before its connect()?

use super::{SOME, TOP, name, range_set, stories::BOUND_FIRST};
use crate::{
    doctor::{
        facts::{Facts, Namespace, Owner},
        finding::{Evidence, Finding, Severity},
    },
    host::sockets::{Ends, LocalPorts, Sample},
    model::occupancy::Destination,
};

/// From this share of the range on, ports that a bind() took are a loss.
const LOSS: f64 = 0.1;
/// A half of the range is used up from this share on: connections come and go.
const USED_UP: f64 = 0.95;
/// A half of the range is so full that connect() may have gone on to the other.
const NEARLY: f64 = 0.9;
/// Ports that bind() chose lie all over the range; those of a program with a range of its own within a part of it.
const OWN_RANGE: f64 = 0.45;
/// A program that binds has so many ports of the second half for one of the first.
const TIMES: u64 = 3;

/// Ports that were bound, and how that is known.
struct Bound<'a> {
    ports: u64,
    /// By destination, the most first; those that parity tells.
    by_parity: Vec<(&'a Destination, u64, &'a Ends)>,
    /// The second half is used up, and no port is shared: the first half was bound too.
    both_halves: bool,
    /// A process whose open connections have such ports, with how many on the second half and on the first.
    owner: Option<(Owner<'a>, u64, u64)>,
}

/// Judges.
pub(super) fn first(facts: &Facts, namespace: &Namespace) -> Option<Finding> {
    let found = bound(facts, namespace)?;
    let local = &namespace.sockets.local;
    let available = namespace.available();
    let (ports, inactive) = (found.ports, LocalPorts::all(local.bound));
    let owned = found.owner.map(|(owner, ..)| format!(" by {owner}")).unwrap_or_default();
    let has_second_sign = found.both_halves || found.owner.is_some() || inactive >= SOME;
    let (severity, sentence) = if ports >= available {
        let sentence = format!(
            "{ports} of {available} ports are bound{owned} before connect(): connect() without bind() fails towards every \
             destination, bind() to port 0 fails with EADDRINUSE"
        );
        (Severity::Critical, sentence)
    } else if !has_second_sign {
        let sentence = format!(
            "{ports} of {available} ports were perhaps bound before connect(): a guess by the parity of their numbers"
        );
        (Severity::Note, sentence)
    } else {
        let is_loss = ports as f64 >= available as f64 * LOSS;
        let sentence = format!(
            "{ports} of {available} ports were bound{owned} before connect(): no other connect() can have them"
        );
        (if is_loss { Severity::Warning } else { Severity::Note }, sentence)
    };
    let mut evidence: Vec<Evidence> = found
        .by_parity
        .iter()
        .take(TOP)
        .map(|(destination, count, _)| {
            Evidence::new(name(destination), *count, "ports of the second half", "sock_diag")
        })
        .collect();
    let halves = ["first half", "second half"].into_iter().zip(local.held.iter().zip(local.choosable)).map(
        |(half, (held, choosable))| {
            Evidence::new(format!("ports held, {half}"), *held, format!("of {choosable}"), "sock_diag")
        },
    );
    evidence.extend(halves);
    evidence.push(Evidence::new("bound and not connected", inactive, "ports", "sock_diag, since Linux 6.8"));
    if let Some((owner, second, first)) = found.owner {
        let unit = format!("sockets on the second half, {first} on the first");
        evidence.push(Evidence::new(format!("of {owner}"), second, unit, "sock_diag, /proc/PID/fd"));
    }
    evidence.push(range_set(namespace));
    let program = found.owner.map_or("the client", |(owner, ..)| owner.comm);
    Some(
        Finding::new(&BOUND_FIRST, severity, sentence)
            .shown_by(evidence)
            .to_do([
                format!(
                    "let {program} set IP_BIND_ADDRESS_NO_PORT before bind() (nginx's proxy_bind and HAProxy's source do so), or \
                     not bind at all"
                ),
                format!(
                    "`{}` shows whose local ports these are",
                    namespace.command("ss -tanp")
                ),
            ])
            .avoid(["do not widen ip_local_port_range for this: bind() takes from the new ports too"]),
    )
}

fn bound<'a>(facts: &'a Facts, namespace: &'a Namespace) -> Option<Bound<'a>> {
    let sockets = &namespace.sockets;
    let local = &sockets.local;
    let inactive = LocalPorts::all(local.bound);
    // With a step of its own the kernel visits the ports in another order.
    let has_order = namespace.sysctl("ipv4/ip_local_port_step_width").is_none_or(|step| step == 0);
    let mut by_parity: Vec<(&Destination, u64, &Ends)> = Vec::new();
    let mut both_halves = false;
    if has_order && !is_own_range(namespace) {
        let second = sockets.opened.iter().filter(|(_, ends)| is_bound(ends));
        by_parity = second.map(|(destination, ends)| (destination, ends.second_half, ends)).collect();
        by_parity.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        both_halves = are_both_halves_bound(namespace);
    }
    let parity: u64 = by_parity.iter().map(|(_, count, _)| count).sum();
    let ports = if both_halves { LocalPorts::all(local.held) } else { parity + inactive };
    if ports < SOME {
        return None;
    }
    let owner = binder(facts, namespace, both_halves);
    Some(Bound { ports, by_parity, both_halves, owner })
}

/// Connections to a destination that have ports of the second half though connect() would have found one in the first: not
/// those that are left of a burst, which had more in the first half.
fn is_bound(ends: &Ends) -> bool {
    let first = ends.in_range.saturating_sub(ends.second_half);
    ends.second_half_now > 0 && first.saturating_mul(2) <= ends.second_half
}

/// The ports of the second half are held within a part of the range: a program has a range of its own (IP_LOCAL_PORT_RANGE), in
/// which connect() takes both halves, or before Linux 6.9 begins with that of its own first port.
fn is_own_range(namespace: &Namespace) -> bool {
    let local = &namespace.sockets.local;
    let Some((low, high)) = local.second_span else { return false };
    let span = f64::from(high.saturating_sub(low)) + 1.0;
    let is_narrow = span < namespace.range.len() as f64 * OWN_RANGE;
    local.held[1] >= SOME && is_narrow
}

/// The second half is used up and no two connections share a port, while towards no destination connect() can have been
/// driven out of the first half.
fn are_both_halves_bound(namespace: &Namespace) -> bool {
    let sockets = &namespace.sockets;
    let local = &sockets.local;
    let used_up = local.choosable[1] > 0 && local.held[1] as f64 >= local.choosable[1] as f64 * USED_UP;
    let is_full = |ends: &Ends| {
        let first = ends.in_range.saturating_sub(ends.second_half);
        first > 0 && first as f64 >= local.choosable[0] as f64 * NEARLY
    };
    used_up
        && LocalPorts::all(local.shared) == 0
        && local.held[0] >= SOME.min(local.choosable[0])
        && !sockets.opened.values().any(is_full)
}

/// The process whose connections avoid the first half; where both are used up, the one that has most.
fn binder<'a>(facts: &'a Facts, namespace: &Namespace, both_halves: bool) -> Option<(Owner<'a>, u64, u64)> {
    let has_port = |it: &&Sample| !it.accepted && namespace.range.contains(&it.tuple.lport);
    let half = |it: &&Sample| (it.tuple.lport ^ namespace.range.start()) & 1 == 1;
    let opened = || namespace.sockets.samples.iter().filter(has_port);
    let first = facts.machine.owners(opened().filter(|it| !half(it)));
    let second = facts.machine.owners(opened().filter(half));
    let owners = second.into_iter().filter_map(|(owner, count)| Some((owner?, count)));
    owners
        .map(|(owner, count)| {
            let other = first.iter().find(|(it, _)| it.is_some_and(|it| it.pid == owner.pid));
            (owner, count, other.map_or(0, |(_, count)| *count))
        })
        .find(|(_, second, first)| both_halves || *second >= 2 * SOME && second / TIMES >= *first)
}

#[cfg(test)]
mod tests;
