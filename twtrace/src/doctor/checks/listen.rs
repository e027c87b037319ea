//! Who listens, and overflows? The accept queue and the SYN queue of each listener.

mod programs;
mod stories;

use std::{cmp::Reverse, net::SocketAddr};

use crate::{
    doctor::{
        facts::{Facts, Namespace},
        finding::{Evidence, Finding, Severity},
        severity::Loss,
    },
    host::sockets::Listener,
    show::human::Many,
};

use programs::{Program, Unset};
pub use stories::STORIES;
use stories::{ABORT, LOW_BACKLOG, OVERFLOWS, QUEUE_FULL, ROOM, SYN_QUEUE};

/// Listeners that are shown.
const TOP: usize = 5;
/// Up to here a backlog is low: what SOMAXCONN was before 5.4.
const LOW: u32 = 128;
/// Up to here it is low for anybody.
const TINY: u32 = 16;
/// Up to here a backlog that nobody asked for is worth a word.
const MODEST: u32 = 1024;
/// Clients whose SYN is dropped try again after one second and after three: a queue that holds what came meanwhile spares
/// them the third.
const PATIENCE_S: f64 = 3.0;
/// What SOMAXCONN has been since 5.4.
const SOMAXCONN: u64 = 4096;

/// Judges.
#[must_use]
pub fn check(facts: &Facts, namespace: &Namespace) -> Vec<Finding> {
    let listeners = fullest(namespace);
    let syns = syn_queue(facts, namespace, &listeners);
    let mut findings: Vec<Finding> = [
        queue_full(facts, namespace, &listeners),
        overflows(facts, namespace, &listeners, syns.is_some()),
        syns,
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

/// Listeners whose queue is the nearest to its limit first.
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

/// The listener's name, and whose it is.
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

/// A backlog with room for what waits, and for what clients whose SYN is dropped send until their second retry; the number
/// is what somaxconn allows, if that is enough, for a longer queue costs nothing until it is used.
fn wanted(namespace: &Namespace, listener: &Listener, cap: u64) -> u64 {
    let overflows = namespace.per_s("TcpExt", "ListenOverflows").unwrap_or_default();
    // As a cast from f64 it is cut at the ends.
    let burst = (overflows * PATIENCE_S) as u64;
    let waiting = u64::from(listener.queue.max(listener.limit)) + 1;
    let needed = waiting.saturating_add(burst).min(1 << 30).next_power_of_two();
    needed.max(cap)
}

/// How to hand a higher number to listen(): lines to be copied, each with the reason behind it.
fn raise(facts: &Facts, namespace: &Namespace, listener: &Listener) -> Vec<String> {
    let cap = namespace.sysctl("core/somaxconn").unwrap_or(SOMAXCONN);
    let program = Program::of(&facts.machine, listener);
    let (place, limit) = (place(listener), listener.limit);
    let wanted = wanted(namespace, listener, cap);
    let mut steps = Vec::new();
    if wanted > cap {
        let why = format!("now {cap}; it caps every backlog");
        steps.push(namespace.step("net.core.somaxconn", wanted, why));
    }
    steps.push(match program.map(|program| (program, program.line(listener, wanted))) {
        Some((Program { title, unset: Unset::Setting(setting), .. }, Some(line))) => format!(
            "{line} ({title}): raises the backlog of {place} from {limit} to {wanted}; otherwise the backlog is {setting}; restart \
             {title} to apply the line"
        ),
        Some((Program { title, .. }, Some(line))) => format!(
            "{line} ({title}): raises the backlog of {place} from {limit} to {wanted}; restart {title} to apply the line"
        ),
        Some((Program { unset: Unset::Somaxconn, .. }, None)) => format!(
            "restart {}: written in Go, the program has no setting, and reads net.core.somaxconn when it begins to listen",
            name(facts, listener)
        ),
        _ => format!(
            "raise the backlog that the program hands to listen() at {} from {limit} to {wanted}, and restart it",
            name(facts, listener)
        ),
    });
    steps
}

fn queue_full(facts: &Facts, namespace: &Namespace, listeners: &[&Listener]) -> Option<Finding> {
    let full: Vec<&&Listener> = listeners.iter().filter(|listener| listener.is_full()).collect();
    let worst = full.first()?;
    let more = match full.len() {
        1 => String::new(),
        2 => "; another listener's queue is full too".to_owned(),
        count => format!("; the queues of {} other listeners are full too", count - 1),
    };
    let sentence = format!(
        "the accept queue of {} is full: {} waiting, limit {}{more}",
        name(facts, worst),
        Many(worst.queue.into(), "connection"),
        worst.limit
    );
    Some(
        Finding::new(&QUEUE_FULL, Severity::Critical, sentence)
            .shown_by(full.iter().take(TOP).flat_map(|listener| queue(facts, listener)))
            .shown_by(overflow_counters(namespace))
            .shown_by([namespace.set("core/somaxconn")])
            .to_do([format!(
                "find out why {} does not call accept(): CPU, threads, descriptors, or a backend that does not answer",
                name(facts, worst)
            )])
            .to_do(raise(facts, namespace, worst))
            .avoid(["do not set tcp_abort_on_overflow: it turns the delay into errors"]),
    )
}

/// Lost of all that listeners dropped, beside the connections that they accepted.
fn loss(namespace: &Namespace) -> Option<Loss> {
    Loss::counted(namespace, ("TcpExt", "ListenDrops"), ("Tcp", "PassiveOpens"))
}

/// `(87 % of the attempts)`, or nothing if attempts are not counted.
fn of_attempts(share: Option<f64>) -> String {
    share.map_or_else(String::new, |share| format!(", {:.0} % of the attempts", share * 100.0))
}

/// `told_of_syns`: the finding about SYN queues is made, and has its own drops.
fn overflows(facts: &Facts, namespace: &Namespace, listeners: &[&Listener], told_of_syns: bool) -> Option<Finding> {
    let total = namespace.total("TcpExt", "ListenOverflows").unwrap_or_default();
    let all = loss(namespace).unwrap_or(Loss { total, ..Loss::default() });
    // What a SYN queue dropped is told once.
    let syns = if told_of_syns { syn_loss(namespace) } else { Loss::default() };
    let (now, since) = (all.now.saturating_sub(syns.now), all.total.saturating_sub(syns.total));
    let loss = Loss { now, total: since, ..all };
    if total == 0 && loss.total == 0 {
        return None;
    }
    let sentence = if loss.now > 0 {
        format!(
            "listeners dropped {} (or last ACKs of handshakes) in {:.1} s{}",
            Many(loss.now, "SYN"),
            loss.seconds,
            of_attempts(loss.share_now())
        )
    } else {
        format!(
            "listeners have dropped {} (or last ACKs of handshakes) since the namespace began{}; no drop now",
            Many(loss.total, "SYN"),
            of_attempts(loss.share())
        )
    };
    let mut dropping: Vec<&&Listener> = listeners.iter().filter(|listener| listener.drops.unwrap_or(0) > 0).collect();
    dropping.sort_by_key(|listener| Reverse(listener.drops));
    let severity = loss.severity().max(Severity::Note);
    let finding = Finding::new(&OVERFLOWS, severity, sentence)
        .shown_by(overflow_counters(namespace))
        .shown_by(loss.shown("SYNs dropped and connections accepted"))
        .shown_by(dropping.iter().take(TOP).flat_map(|listener| queue(facts, listener)));
    if severity < Severity::Warning {
        return Some(finding);
    }
    let is_overflow = if loss.now > 0 {
        namespace.moved("TcpExt", "ListenOverflows").is_none_or(|count| count > 0)
    } else {
        total > 0
    };
    // The one that dropped may be gone by now.
    let steps = match dropping.first() {
        _ if !is_overflow => vec![
            namespace.command("nstat -az TcpExtTCPReqQFullDrop TcpExtPFMemallocDrop")
                + ": ListenOverflows stands still, so no accept queue was full; memory may be short (dmesg)",
        ],
        Some(worst) => {
            let first = format!("find out why {} does not call accept() often enough", name(facts, worst));
            std::iter::once(first).chain(raise(facts, namespace, worst)).collect()
        }
        None => vec![namespace.command("ss -lmtn") + ": the listener that drops has a number behind d in skmem"],
    };
    Some(finding.to_do(steps).avoid(["do not set tcp_abort_on_overflow: it turns the delay into errors"]))
}

/// SYNs that were dropped because a SYN queue was full and there were no cookies.
///
/// With tcp_syncookies 0 the kernel also drops SYNs of unknown peers once three quarters of tcp_max_syn_backlog are taken,
/// which moves ListenDrops alone (`tcp_conn_request` of net/ipv4/tcp_input.c).
fn syn_loss(namespace: &Namespace) -> Loss {
    let cookies_off = namespace.sysctl("ipv4/tcp_syncookies") == Some(0);
    let dropped = |get: &dyn Fn(&str) -> Option<u64>| {
        let counted = get("TCPReqQFullDrop").unwrap_or_default();
        let unexplained =
            get("ListenDrops").unwrap_or_default().saturating_sub(get("ListenOverflows").unwrap_or_default());
        if cookies_off { counted.max(unexplained) } else { counted }
    };
    let all = Loss::counted(namespace, ("TcpExt", "ListenDrops"), ("Tcp", "PassiveOpens")).unwrap_or_default();
    Loss {
        now: dropped(&|name| namespace.moved("TcpExt", name)),
        total: dropped(&|name| namespace.total("TcpExt", name)),
        seconds: namespace.window.as_secs_f64(),
        ..all
    }
}

fn syn_queue(facts: &Facts, namespace: &Namespace, listeners: &[&Listener]) -> Option<Finding> {
    let cookies = namespace.sysctl("ipv4/tcp_syncookies");
    let max_syn_backlog = namespace.sysctl("ipv4/tcp_max_syn_backlog");
    // Without cookies the last quarter of tcp_max_syn_backlog is kept for peers that are known.
    let others = max_syn_backlog.filter(|_| cookies == Some(0)).map_or(u64::MAX, |max| max - max / 4);
    let room = |it: &Listener| (u64::from(it.limit).min(others)).saturating_mul(it.sharing.max(1).into());
    let mut full: Vec<&&Listener> = listeners.iter().filter(|it| it.requests >= room(it).max(1)).collect();
    full.sort_by_key(|it| Reverse(it.requests));
    // With 2 every SYN gets a cookie, and is counted as if the queue were full.
    let sent =
        if cookies == Some(2) { 0 } else { namespace.moved("TcpExt", "TCPReqQFullDoCookies").unwrap_or_default() };
    let loss = syn_loss(namespace);
    if full.is_empty() && sent == 0 && loss.total == 0 {
        return None;
    }
    let is_now = !full.is_empty() || sent > 0;
    let severity = loss.severity().max(if is_now { Severity::Warning } else { Severity::Note });
    let dropped = match (loss.now, loss.total) {
        (0, 0) => String::new(),
        (0, total) => {
            format!("; {} dropped since the namespace began{}", Many(total, "SYN"), of_attempts(loss.share()))
        }
        (now, _) => {
            format!("; {} dropped in {:.1} s{}", Many(now, "SYN"), loss.seconds, of_attempts(loss.share_now()))
        }
    };
    let sentence = match full.first() {
        Some(worst) => format!(
            "the SYN queue of {} is full: {} unfinished, limit {}{dropped}",
            name(facts, worst),
            Many(worst.requests, "handshake"),
            room(worst)
        ),
        None if sent > 0 => {
            format!("a SYN queue was full just now: {} answered by a cookie{dropped}", Many(sent, "SYN"))
        }
        None if loss.now > 0 => format!("a SYN queue was full just now{dropped}"),
        None => format!("a SYN queue was full earlier{dropped}; no drop now"),
    };
    let settings = ["ipv4/tcp_syncookies", "ipv4/tcp_synack_retries", "ipv4/tcp_max_syn_backlog", "core/somaxconn"];
    let finding = Finding::new(&SYN_QUEUE, severity, sentence)
        .shown_by(full.iter().take(TOP).flat_map(|listener| queue(facts, listener)))
        .shown_by(cookie_counters(namespace))
        .shown_by(["ListenOverflows", "ListenDrops"].into_iter().flat_map(|name| namespace.counted("TcpExt", name)))
        .shown_by(settings.map(|name| namespace.set(name)));
    if severity < Severity::Warning {
        return Some(finding);
    }
    let mut steps = Vec::new();
    if cookies == Some(0) {
        let why = "the default; a full SYN queue then answers by cookies and drops no SYN";
        steps.push(namespace.step("net.ipv4.tcp_syncookies", 1, why));
    }
    let list = namespace.command("ss -Htan state syn-recv");
    steps.push(format!(
        "{list}: shows who sends the SYNs; many strangers are a SYN flood, few known peers do not get our SYN-ACKs"
    ));
    Some(finding.to_do(steps).avoid([
        "do not raise tcp_max_syn_backlog for this: with tcp_syncookies on, the backlog of listen() is the limit",
        "do not set tcp_syncookies to 2 outside of tests: every SYN then gets a cookie",
    ]))
}

fn abort(namespace: &Namespace) -> Option<Finding> {
    let value = namespace.sysctl("ipv4/tcp_abort_on_overflow").filter(|value| *value != 0)?;
    let overflowed = namespace.total("TcpExt", "ListenOverflows").unwrap_or_default() > 0;
    let severity = if overflowed { Severity::Warning } else { Severity::Note };
    let sentence =
        format!("tcp_abort_on_overflow is {value}: a full accept queue resets clients instead of letting them retry");
    Some(
        Finding::new(&ABORT, severity, sentence)
            .shown_by([namespace.set("ipv4/tcp_abort_on_overflow")])
            .shown_by(namespace.counted("TcpExt", "ListenOverflows"))
            .shown_by(namespace.counted("TcpExt", "EmbryonicRsts"))
            .to_do([namespace.step("net.ipv4.tcp_abort_on_overflow", 0, "the default; clients retry, and bursts pass")])
            .avoid(["do not use it to see overflows: ListenOverflows counts them"]),
    )
}

/// The limit is what its program hands to listen() if nobody tells it otherwise, and that is not much.
fn is_unset(facts: &Facts, listener: &Listener, cap: u64) -> bool {
    listener.limit <= MODEST
        && Program::of(&facts.machine, listener).is_some_and(|program| program.takes(listener.limit, cap))
}

fn low_backlog(facts: &Facts, namespace: &Namespace, listeners: &[&Listener]) -> Option<Finding> {
    let cap = namespace.sysctl("core/somaxconn").unwrap_or(SOMAXCONN);
    let pressed = |it: &Listener| it.drops.unwrap_or(0) > 0 || it.queue > 0 && it.queue.saturating_mul(2) >= it.limit;
    let low: Vec<&Listener> = listeners
        .iter()
        .copied()
        // One that is full is told already.
        .filter(|it| u64::from(it.limit) < cap && !it.is_full())
        .filter(|it| it.limit < TINY || is_unset(facts, it, cap) || it.limit <= LOW && pressed(it))
        .collect();
    let worst = low.iter().find(|it| pressed(it)).or(low.iter().min_by_key(|it| it.limit))?;
    let severity = if pressed(worst) { Severity::Warning } else { Severity::Note };
    let program = Program::of(&facts.machine, worst).filter(|program| program.takes(worst.limit, cap));
    let unset = program.map_or_else(String::new, |program| format!(", the default of {}", program.title));
    let sentence = match low.len() {
        1 => format!("the backlog of {} is low: {}{unset}", name(facts, worst), worst.limit),
        count => {
            format!("{count} listeners have a low backlog, such as {}: {}{unset}", name(facts, worst), worst.limit)
        }
    };
    Some(
        Finding::new(&LOW_BACKLOG, severity, sentence)
            .shown_by(low.iter().take(TOP).flat_map(|listener| queue(facts, listener)))
            .shown_by([namespace.set("core/somaxconn")])
            .to_do(raise(facts, namespace, worst))
            .avoid(["do not raise somaxconn alone: the program's own number is the lower one"]),
    )
}

fn room(namespace: &Namespace, listeners: &[&Listener]) -> Finding {
    let sentence = match listeners.len() {
        0 => "no TCP socket listens here".to_owned(),
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
