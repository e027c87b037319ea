//! Why does bind() fail with 'Address already in use'? What holds a service's port while nobody listens, and which services can
//! lose theirs.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use super::ports::TOP;
use crate::{
    doctor::{
        facts::{Facts, Namespace},
        finding::{Evidence, Finding, Severity, Story},
    },
    host::{
        diag::{TCP_CLOSE_WAIT, TCP_CLOSING, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK},
        sockets::{Ends, Listener},
    },
};

/// A process with more listeners in the range than this has let bind() choose their ports: no client knows them beforehand.
const CHOSEN: usize = 8;
/// The most listeners that are listed.
const LISTED: usize = 16;

/// Connections hold the port of a service that is down.
pub const NO_LISTENER: Story = Story {
    id: "binds.no-listener",
    title: "A service's port has connections and no listener: bind() fails without SO_REUSEADDR",
    why: "bind() refuses a port that any socket has, one in TIME_WAIT too, with EADDRINUSE. With SO_REUSEADDR at both, the new \
          listener and the one that accepted those connections, it does not look at them.",
    story: "A server that stops while it has connections closes them first, and keeps their TIME_WAITs for 60 seconds. Started \
            again within that minute, bind() fails: 'Address already in use'. The remedy is SO_REUSEADDR on the listening \
            socket, before bind(); nearly every server sets it. Connections inherit the option from their listener. If the \
            former listener was without, the first restart has to wait for the minute.\n\n\
            SO_REUSEADDR does not let two programs listen at one port, and it is no SO_REUSEPORT. Connections that a child \
            process still holds keep the port as well, as long as they live.\n\n\
            A port that many connections share, or one outside of ip_local_port_range with clients inside of it, is a \
            service's.",
    holds: "Nobody listens at a port, and connections that were accepted there are left, in TIME_WAIT or open: a note.",
    does_not: "A port that somebody listens at; a port that connect() chose.",
    by_hand: &["ss -tanoe sport = :8080     # timer:(timewait,..): how long", "ss -tln sport = :8080"],
    sources: &["net/ipv4/inet_connection_sock.c: inet_bind_conflict, inet_csk_get_port", "socket(7): SO_REUSEADDR"],
};

/// connect() may take the port.
pub const IN_RANGE: Story = Story {
    id: "binds.in-range",
    title: "A service's port lies inside ip_local_port_range: a connect() can take it while the service is down",
    why: "connect() chooses among all ports of net.ipv4.ip_local_port_range that nobody listens at. While the service restarts \
          it may choose the service's; bind() then fails with EADDRINUSE until that connection and its TIME_WAIT are gone.",
    story: "SO_REUSEADDR does not help here: the port is that of another program's connection, which was opened without the \
            option. The remedy is net.ipv4.ip_local_reserved_ports: connect() and bind() to port 0 pass over these ports, and \
            a bind() to the very port works. Writing it replaces the whole list; the command that twtrace prints keeps what \
            is reserved already.\n\n\
            Not meant are listeners whose port bind() chose (port 0): there is no clash for them. The kernel does not tell \
            which these are; of a process with more than eight listeners in the range twtrace believes it.",
    holds: "Somebody listens at a port inside ip_local_port_range that is not in ip_local_reserved_ports: one note for all.",
    does_not: "Listeners outside of the range, reserved ports, and processes with more than eight listeners in the range.",
    by_hand: &["ss -tlnp", "sysctl net.ipv4.ip_local_port_range net.ipv4.ip_local_reserved_ports"],
    sources: &[
        "net/ipv4/inet_hashtables.c: __inet_hash_connect (inet_is_local_reserved_port)",
        "Documentation/networking/ip-sysctl.rst: ip_local_reserved_ports",
    ],
};

/// No port is in the way.
pub const FREE: Story = Story {
    id: "binds.free",
    title: "No service has to fear for its port",
    why: "bind() fails with EADDRINUSE where another socket has the port: an old connection of the service itself, or a \
          connection that took the port while the service was down.",
    story: "twtrace looks for connections at ports that nobody listens at any more (binds.no-listener) and for listeners whose \
            port connect() may choose (binds.in-range). A bind() that fails because somebody else listens at the port is \
            another matter: ss -tlnp names that program.",
    holds: "Neither of the other findings of binds.* is made.",
    does_not: "One of them is.",
    by_hand: &["ss -tlnp", "ss -tan state time-wait"],
    sources: &["net/ipv4/inet_connection_sock.c: inet_csk_get_port"],
};

/// What this question can find.
pub const STORIES: &[Story] = &[NO_LISTENER, IN_RANGE, FREE];

/// Judges.
#[must_use]
pub fn check(facts: &Facts, namespace: &Namespace) -> Vec<Finding> {
    let mut findings = deserted(facts, namespace);
    findings.extend(in_range(facts, namespace));
    if findings.is_empty() {
        let listeners = namespace.sockets.listeners.len();
        let sentence = match listeners {
            0 => "nobody listens here, and no port waits for connections of a former listener".to_owned(),
            1 => "connect() cannot take the port of the one listening socket".to_owned(),
            _ => format!("connect() can take the port of none of the {listeners} listening sockets"),
        };
        findings.push(Finding::new(&FREE, Severity::Fine, sentence).shown_by([range(namespace), reserved(namespace)]));
    }
    findings
}

fn range(namespace: &Namespace) -> Evidence {
    let range = format!("{} {}", namespace.range.start(), namespace.range.end());
    Evidence::new("ip_local_port_range", range, "", "/proc/sys/net/ipv4/ip_local_port_range")
}

fn reserved(namespace: &Namespace) -> Evidence {
    let source = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    Evidence::new("ip_local_reserved_ports", list(namespace.reserved.iter().cloned()), "", source)
}

/// Ports as the sysctl takes them: `80,8080-8090`, in order and without what is there twice.
fn list(ports: impl Iterator<Item = RangeInclusive<u16>>) -> String {
    let mut sorted: Vec<RangeInclusive<u16>> = ports.filter(|ports| !ports.is_empty()).collect();
    sorted.sort_by_key(|ports| (*ports.start(), *ports.end()));
    let mut merged: Vec<RangeInclusive<u16>> = Vec::new();
    for ports in sorted {
        match merged.last_mut() {
            Some(last) if *ports.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*last.end().max(ports.end());
            }
            _ => merged.push(ports),
        }
    }
    let shown = merged.iter().map(|ports| match (ports.start(), ports.end()) {
        (start, end) if start == end => start.to_string(),
        (start, end) => format!("{start}-{end}"),
    });
    shown.collect::<Vec<_>>().join(",")
}

/// Ports of services that nobody listens at any more: one finding each.
fn deserted(facts: &Facts, namespace: &Namespace) -> Vec<Finding> {
    let listens: BTreeSet<u16> = namespace.sockets.listeners.iter().map(|listener| listener.port).collect();
    let mut ports: BTreeMap<u16, Vec<&Ends>> = BTreeMap::new();
    for (service, ends) in &namespace.sockets.accepted {
        if !listens.contains(&service.lport) && ends.total() > 0 {
            ports.entry(service.lport).or_default().push(ends);
        }
    }
    let mut ports: Vec<(u16, Vec<&Ends>)> = ports.into_iter().collect();
    ports.sort_by_key(|(port, ends)| (Reverse(ends.iter().map(|ends| ends.total()).sum::<u64>()), *port));
    ports.iter().take(TOP).map(|(port, ends)| without_listener(facts, namespace, *port, ends)).collect()
}

fn without_listener(facts: &Facts, namespace: &Namespace, port: u16, ends: &[&Ends]) -> Finding {
    let sum = |of: fn(&Ends) -> u64| ends.iter().map(|ends| of(ends)).sum::<u64>();
    let time_wait = sum(|ends| ends.time_wait);
    let open = sum(|ends| ends.established + ends.full.of(TCP_CLOSE_WAIT));
    // On their way to the end, but for how long nobody knows.
    let closing = sum(|ends| {
        let states = [TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_CLOSING, TCP_LAST_ACK];
        ends.fin_wait2 + states.iter().map(|state| ends.full.of(*state)).sum::<u64>()
    });
    let left = ends.iter().map(|ends| ends.last_left_ms).max().unwrap_or_default().div_ceil(1000);
    let owner = ends.iter().find_map(|ends| facts.machine.owner(ends.inode?));
    let kept = owner.map(|owner| format!(" ({owner} holds some)")).unwrap_or_default();
    let sentence = match (time_wait, open + closing) {
        (_, 0) => format!(
            "nobody listens at port {port}, and {time_wait} TIME_WAITs hold it for about {left} s more: bind() fails without \
             SO_REUSEADDR"
        ),
        (0, more) => format!(
            "nobody listens at port {port}, and {more} connections hold it{kept}: bind() fails without SO_REUSEADDR"
        ),
        (_, more) => format!(
            "nobody listens at port {port}; {more} connections{kept} and {time_wait} TIME_WAITs hold it: bind() fails without \
             SO_REUSEADDR"
        ),
    };
    let until = (time_wait > 0).then(|| format!("{left} s until the last TIME_WAIT is gone"));
    let mut steps = vec![format!(
        "setsockopt(fd, SOL_SOCKET, SO_REUSEADDR) before bind() in the program that listens at port {port}; it works once \
         the listener that accepted these connections had it too"
    )];
    steps.extend(until.map(|until| format!("without it, start the service after that: {until}")));
    if open > 0 {
        let list = namespace.command(&format!("ss -tnp sport = :{port}"));
        steps.push(format!("`{list}` names the process that still holds connections; end it, or let it drain"));
    }
    Finding::new(&NO_LISTENER, Severity::Note, sentence)
        .shown_by([
            Evidence::new("TIME_WAIT", time_wait, format!("at port {port}"), "sock_diag"),
            Evidence::new("last TIME_WAIT gone in", (time_wait > 0).then_some(left), "s", "sock_diag: timers"),
            Evidence::new("closing", closing, "sockets", "sock_diag"),
            Evidence::new("open", open, "sockets", "sock_diag"),
        ])
        .shown_by(owner.map(|owner| owner.shown("some are held by")))
        .to_do(steps)
        .avoid(["do not set SO_LINGER 0 and do not look for a sysctl that shortens TIME_WAIT: there is none"])
}

/// Listeners whose port connect() may choose.
fn in_range(facts: &Facts, namespace: &Namespace) -> Option<Finding> {
    let is_reserved = |port: u16| namespace.reserved.iter().any(|ports| ports.contains(&port));
    let is_meant = |it: &&Listener| namespace.range.contains(&it.port) && !is_reserved(it.port);
    let mut ports: BTreeMap<u16, &Listener> = BTreeMap::new();
    for listener in namespace.sockets.listeners.iter().filter(is_meant) {
        ports.entry(listener.port).or_insert(listener);
    }
    let mut each: BTreeMap<Option<u32>, Vec<(u16, &Listener)>> = BTreeMap::new();
    for (port, listener) in ports {
        let owner = facts.machine.owner(listener.inode).map(|owner| owner.pid);
        each.entry(owner).or_default().push((port, listener));
    }
    let (chosen, meant): (Vec<_>, Vec<_>) =
        each.into_iter().partition(|(owner, listeners)| owner.is_some() && listeners.len() > CHOSEN);
    let mut meant: Vec<(u16, &Listener)> = meant.into_iter().flat_map(|(_, listeners)| listeners).collect();
    meant.sort_by_key(|(port, _)| *port);
    let owner = |listener: &Listener| facts.machine.owner(listener.inode);
    let named = |listener: &Listener| owner(listener).map_or_else(|| "a program".to_owned(), |owner| owner.to_string());
    let range_text = format!("{}-{}", namespace.range.start(), namespace.range.end());
    let sentence = match meant[..] {
        [] => return None,
        [(port, listener)] => format!(
            "{} listens at port {port}, inside ip_local_port_range {range_text} and not reserved: while it is down, a \
             connect() can take the port",
            named(listener)
        ),
        _ => {
            let shown: Vec<String> = meant.iter().take(TOP).map(|(port, _)| port.to_string()).collect();
            let more = if meant.len() > TOP { ", ..." } else { "" };
            format!(
                "{} listeners have ports inside ip_local_port_range {range_text} that are not reserved ({}{more}): while one \
                 is down, a connect() can take its port",
                meant.len(),
                shown.join(", ")
            )
        }
    };
    let evidence = meant.iter().take(LISTED).map(|(port, listener)| {
        let place = std::net::SocketAddr::from((listener.address, *port));
        Evidence::new(
            format!("listener at {place}"),
            owner(listener).map(|owner| owner.to_string()),
            "",
            "/proc/PID/fd",
        )
    });
    let chosen = chosen.iter().filter_map(|(_, listeners)| {
        let owner = owner(listeners.first()?.1)?;
        let name = format!("listeners of {owner}, ports chosen by bind()");
        Some(Evidence::new(name, listeners.len() as u64, "not counted", "sock_diag"))
    });
    let all = list(namespace.reserved.iter().cloned().chain(meant.iter().map(|(port, _)| *port..=*port)));
    let why = "connect() then skips them; bind() to the port itself still works";
    let step = namespace.step("net.ipv4.ip_local_reserved_ports", &all, why);
    Some(
        Finding::new(&IN_RANGE, Severity::Note, sentence)
            .shown_by(evidence)
            .shown_by(chosen)
            .shown_by([range(namespace), reserved(namespace)])
            .to_do([step, "or move the service to a port outside of the range".to_owned()])
            .avoid(["do not count on SO_REUSEADDR for this: the connection that takes the port is another program's"]),
    )
}

#[cfg(test)]
mod tests;
