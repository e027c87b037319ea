//! Who listens, and overflows? The accept queue and the SYN queue of each listener.

mod stories;

use std::{cmp::Reverse, net::SocketAddr};

use super::is_program;
use crate::{
    doctor::{
        facts::{Facts, Namespace, Owner},
        finding::{Evidence, Finding, Severity},
        severity::Loss,
    },
    host::sockets::Listener,
    sink::human::Many,
};

pub use stories::STORIES;
use stories::{ABORT, LOW_BACKLOG, OVERFLOWS, QUEUE_FULL, ROOM, SYN_QUEUE};

/// Listeners that are shown.
const TOP: usize = 5;
/// Up to here a backlog is low: what SOMAXCONN was before 5.4.
const LOW: u32 = 128;
/// Up to here it is low for anybody.
const TINY: u32 = 16;
/// What programs hand to listen() if nobody tells them otherwise, and where to tell them.
const DEFAULTS: [(&str, u32, &str); 13] = [
    ("nginx", 511, "listen 443 ssl backlog=4096;"),
    ("apache2", 511, "ListenBacklog 4096"),
    ("httpd", 511, "ListenBacklog 4096"),
    ("redis-server", 511, "tcp-backlog 4096"),
    ("php-fpm", 511, "listen.backlog = 4096"),
    ("node", 511, "server.listen({ port, backlog: 4096 })"),
    // What newer releases of Node.js call their main thread.
    ("node-MainThread", 511, "server.listen({ port, backlog: 4096 })"),
    ("python", 5, "socketserver: request_queue_size = 4096"),
    ("java", 50, "new ServerSocket(port, 4096); Tomcat: acceptCount=\"4096\""),
    ("uwsgi", 100, "listen = 4096"),
    ("beam.smp", 128, "RabbitMQ: tcp_listen_options.backlog = 4096"),
    ("sshd", 128, "(built in; MaxStartups limits it earlier)"),
    ("lighttpd", 1024, "server.listen-backlog = 4096"),
];

/// Judges.
#[must_use]
pub fn check(facts: &Facts, namespace: &Namespace) -> Vec<Finding> {
    let listeners = fullest(namespace);
    let mut findings: Vec<Finding> = [
        queue_full(facts, namespace, &listeners),
        overflows(facts, namespace, &listeners),
        syn_queue(facts, namespace, &listeners),
        abort(namespace),
        low_backlog(facts, namespace, &listeners),
    ]
    .into_iter()
    .flatten()
    .collect();
    if findings.iter().all(|finding| finding.severity < Severity::Warning) {
        findings.push(room(namespace, &listeners));
    }
    findings
}

/// Those whose queue is the nearest to its limit first.
fn fullest(namespace: &Namespace) -> Vec<&Listener> {
    let mut listeners: Vec<&Listener> = namespace.sockets.listeners.iter().collect();
    let share = |it: &Listener| f64::from(it.queue) / (f64::from(it.limit) + 1.0);
    listeners.sort_by(|a, b| {
        let (x, y) = (share(a), share(b));
        y.total_cmp(&x).then(b.drops.cmp(&a.drops)).then((a.port, a.address).cmp(&(b.port, b.address)))
    });
    listeners
}

fn place(listener: &Listener) -> SocketAddr {
    (listener.address, listener.port).into()
}

/// Its name, and whose it is.
fn name(facts: &Facts, listener: &Listener) -> String {
    match facts.machine.owner(listener.inode) {
        Some(owner) => format!("{} of {owner}", place(listener)),
        None => place(listener).to_string(),
    }
}

fn queue(facts: &Facts, listener: &Listener) -> Vec<Evidence> {
    let name = name(facts, listener);
    vec![
        Evidence::new(format!("accept queue of {name}"), listener.queue, format!("of {}", listener.limit), "sock_diag"),
        Evidence::new(format!("requests at {}", place(listener)), listener.requests, "SYN_RECV", "sock_diag"),
        Evidence::new(
            format!("drops at {}", place(listener)),
            listener.drops,
            "since it listens",
            "sock_diag skmeminfo",
        ),
    ]
}

fn overflow_counters(namespace: &Namespace) -> Vec<Evidence> {
    ["ListenOverflows", "ListenDrops"].into_iter().flat_map(|name| namespace.counted("TcpExt", name)).collect()
}

fn cookie_counters(namespace: &Namespace) -> Vec<Evidence> {
    ["TCPReqQFullDoCookies", "TCPReqQFullDrop", "SyncookiesSent", "SyncookiesRecv", "SyncookiesFailed"]
        .into_iter()
        .flat_map(|name| namespace.counted("TcpExt", name))
        .collect()
}

/// How to hand a higher number to listen().
fn raise(facts: &Facts, namespace: &Namespace, listener: &Listener) -> String {
    let cap = namespace.sysctl("core/somaxconn").unwrap_or(4096);
    let comm = facts.machine.owner(listener.inode).map(|owner| owner.comm).unwrap_or_default();
    let setting = DEFAULTS.iter().find(|(program, ..)| is_program(comm, program));
    let how = setting.map_or_else(String::new, |(program, _, setting)| format!(", in {program}: {setting}"));
    if u64::from(listener.limit) >= cap {
        format!(
            "raise net.core.somaxconn (now {cap}) and the backlog at {}{how} (it takes effect at the next listen())",
            place(listener)
        )
    } else {
        format!("raise the backlog at {} (now {}; somaxconn allows {cap}){how}", place(listener), listener.limit)
    }
}

fn queue_full(facts: &Facts, namespace: &Namespace, listeners: &[&Listener]) -> Option<Finding> {
    let full: Vec<&&Listener> = listeners.iter().filter(|listener| listener.is_full()).collect();
    let worst = full.first()?;
    let more = match full.len() {
        1 => String::new(),
        2 => ", and that of another".to_owned(),
        count => format!(", and those of {} others", count - 1),
    };
    let sentence = format!(
        "the accept queue of {} is full{more}: {} connections wait, {} may",
        name(facts, worst),
        worst.queue,
        worst.limit
    );
    Some(
        Finding::new(&QUEUE_FULL, Severity::Critical, sentence)
            .shown_by(full.iter().take(TOP).flat_map(|listener| queue(facts, listener)))
            .shown_by(overflow_counters(namespace))
            .shown_by([namespace.set("core/somaxconn")])
            .to_do([
                "find out why the program does not call accept(): CPU, threads, descriptors, or something it waits for"
                    .to_owned(),
                raise(facts, namespace, worst),
            ])
            .avoid(["do not set tcp_abort_on_overflow: it turns the delay into errors"]),
    )
}

fn overflows(facts: &Facts, namespace: &Namespace, listeners: &[&Listener]) -> Option<Finding> {
    let total = namespace.total("TcpExt", "ListenOverflows").unwrap_or_default();
    let drops = namespace.total("TcpExt", "ListenDrops").unwrap_or_default();
    let now = namespace.moved("TcpExt", "ListenDrops").unwrap_or_default();
    if total == 0 && drops == 0 {
        return None;
    }
    let loss = Loss::counted(namespace, ("TcpExt", "ListenDrops"), ("Tcp", "PassiveOpens")).unwrap_or_default();
    let severity = loss.severity().max(Severity::Note);
    let sentence = if now > 0 {
        let seconds = namespace.window.as_secs_f64();
        format!("listeners dropped {} in {seconds:.1} s", Many(now, "connection"))
    } else {
        format!("listeners have dropped {} so far, none of them now", Many(drops, "connection"))
    };
    let mut dropping: Vec<&&Listener> = listeners.iter().filter(|listener| listener.drops.unwrap_or(0) > 0).collect();
    dropping.sort_by_key(|listener| Reverse(listener.drops));
    let finding = Finding::new(&OVERFLOWS, severity, sentence)
        .shown_by(overflow_counters(namespace))
        .shown_by(dropping.iter().take(TOP).flat_map(|listener| queue(facts, listener)));
    if severity < Severity::Warning {
        return Some(finding);
    }
    let is_overflow = namespace.moved("TcpExt", "ListenOverflows").is_none_or(|count| count > 0);
    // The one that dropped may be gone by now.
    let steps = match dropping.first() {
        _ if !is_overflow => vec![
            "ListenOverflows stands still, so it was no accept queue: see whether memory is short (dmesg), or a SYN queue \
             is full without cookies (listen.syn-queue)"
                .to_owned(),
        ],
        Some(worst) => vec![
            format!("find out why {} does not call accept() often enough", name(facts, worst)),
            raise(facts, namespace, worst),
        ],
        None => vec!["find the listener that drops: ss -lmtn, the number behind d in skmem".to_owned()],
    };
    Some(finding.to_do(steps).avoid(["do not set tcp_abort_on_overflow: it turns the delay into errors"]))
}

fn syn_queue(facts: &Facts, namespace: &Namespace, listeners: &[&Listener]) -> Option<Finding> {
    let room = |it: &Listener| u64::from(it.limit) * u64::from(it.sharing.max(1));
    let full: Vec<&&Listener> = listeners.iter().filter(|it| it.requests >= room(it).max(1)).collect();
    let moved = |name| namespace.moved("TcpExt", name).unwrap_or_default();
    // With 2 every SYN gets a cookie, and is counted as if the queue were full.
    let always = namespace.sysctl("ipv4/tcp_syncookies") == Some(2);
    let cookies = if always { 0 } else { moved("TCPReqQFullDoCookies") };
    let dropped = moved("TCPReqQFullDrop");
    if full.is_empty() && cookies == 0 && dropped == 0 {
        return None;
    }
    let severity = if dropped > 0 { Severity::Critical } else { Severity::Warning };
    let sentence = match full.first() {
        Some(worst) => format!(
            "the SYN queue of {} is full: {} handshakes do not end, {} may wait",
            name(facts, worst),
            worst.requests,
            room(worst)
        ),
        None => format!("a SYN queue was full just now: {cookies} SYNs got a cookie, {dropped} were dropped"),
    };
    let settings = ["ipv4/tcp_syncookies", "ipv4/tcp_synack_retries", "ipv4/tcp_max_syn_backlog", "core/somaxconn"];
    let cookies_off = namespace.sysctl("ipv4/tcp_syncookies") == Some(0);
    let finding = Finding::new(&SYN_QUEUE, severity, sentence)
        .shown_by(full.iter().take(TOP).flat_map(|listener| queue(facts, listener)))
        .shown_by(cookie_counters(namespace))
        .shown_by(settings.map(|name| namespace.set(name)));
    let finding = if cookies_off {
        finding
            .to_do(["switch SYN cookies on: sysctl -w net.ipv4.tcp_syncookies=1 (the default); then nobody is dropped"])
    } else {
        finding
    };
    Some(
        finding
            .to_do([
                "see who sends the SYNs, and whether our SYN-ACKs reach them: ss -Htan state syn-recv; many strangers \
                 are a SYN flood",
            ])
            .avoid([
                "do not raise tcp_max_syn_backlog for this: with tcp_syncookies on, the backlog of listen() is the limit",
                "do not set tcp_syncookies to 2 outside of tests: it sends cookies always",
            ]),
    )
}

fn abort(namespace: &Namespace) -> Option<Finding> {
    let value = namespace.sysctl("ipv4/tcp_abort_on_overflow").filter(|value| *value != 0)?;
    let overflowed = namespace.total("TcpExt", "ListenOverflows").unwrap_or_default() > 0;
    let severity = if overflowed { Severity::Warning } else { Severity::Note };
    let sentence = format!("tcp_abort_on_overflow is {value}: clients are reset when an accept queue is full");
    Some(
        Finding::new(&ABORT, severity, sentence)
            .shown_by([namespace.set("ipv4/tcp_abort_on_overflow")])
            .shown_by(namespace.counted("TcpExt", "ListenOverflows"))
            .shown_by(namespace.counted("TcpExt", "EmbryonicRsts"))
            .to_do(["go back to the default, so that bursts pass: sysctl -w net.ipv4.tcp_abort_on_overflow=0"])
            .avoid(["do not use it to see overflows: ListenOverflows counts them"]),
    )
}

/// The limit is what its program hands to listen() if nobody tells it otherwise.
fn is_default(facts: &Facts, listener: &Listener) -> bool {
    let Some(Owner { comm, .. }) = facts.machine.owner(listener.inode) else { return false };
    DEFAULTS.iter().any(|(program, backlog, _)| is_program(comm, program) && *backlog == listener.limit)
}

fn low_backlog(facts: &Facts, namespace: &Namespace, listeners: &[&Listener]) -> Option<Finding> {
    let cap = namespace.sysctl("core/somaxconn").unwrap_or(4096);
    let pressed = |it: &Listener| it.drops.unwrap_or(0) > 0 || it.queue > 0 && it.queue * 2 >= it.limit;
    let low: Vec<&Listener> = listeners
        .iter()
        .copied()
        // One that is full is told already.
        .filter(|it| u64::from(it.limit) < cap && !it.is_full())
        .filter(|it| it.limit < TINY || is_default(facts, it) || it.limit <= LOW && pressed(it))
        .collect();
    let worst = low.iter().find(|it| pressed(it)).or(low.first())?;
    let severity = if pressed(worst) { Severity::Warning } else { Severity::Note };
    let sentence = match low.len() {
        1 => format!("the backlog of {} is low: {}", name(facts, worst), worst.limit),
        count => format!("{count} listeners have a low backlog, such as {}: {}", name(facts, worst), worst.limit),
    };
    Some(
        Finding::new(&LOW_BACKLOG, severity, sentence)
            .shown_by(low.iter().take(TOP).flat_map(|listener| queue(facts, listener)))
            .shown_by([namespace.set("core/somaxconn")])
            .to_do([raise(facts, namespace, worst)])
            .avoid(["do not raise somaxconn alone: the program's own number is the lower one"]),
    )
}

fn room(namespace: &Namespace, listeners: &[&Listener]) -> Finding {
    let sentence = match listeners.len() {
        0 => "nobody listens here".to_owned(),
        1 => "the one listener keeps up".to_owned(),
        2 => "both listeners keep up".to_owned(),
        count => format!("all {count} listeners keep up"),
    };
    let settings = ["core/somaxconn", "ipv4/tcp_syncookies", "ipv4/tcp_synack_retries", "ipv4/tcp_max_syn_backlog"];
    Finding::new(&ROOM, Severity::Fine, sentence)
        .shown_by(overflow_counters(namespace))
        .shown_by(settings.map(|name| namespace.set(name)))
}

#[cfg(test)]
mod tests;
