//! States that are the machine's matter: sockets without a process, and memory.

use super::{
    MANY, NEAR,
    stories::{MEMORY, ORPHANS},
};
use crate::doctor::{
    facts::{Facts, Namespace},
    finding::{Evidence, Finding, Severity},
};

/// Sockets of no process, of the whole machine.
pub(super) fn orphans(facts: &Facts, namespace: &Namespace) -> Option<Finding> {
    let (orphans, limit) = (namespace.sockstat.as_ref()?.orphan, facts.machine.tcp.max_orphans?);
    if orphans < MANY || (orphans as f64) < limit as f64 * NEAR {
        return None;
    }
    let ends = if orphans >= limit { "the kernel resets more" } else { "past the limit the kernel resets them" };
    let sentence = format!("the machine has {orphans} orphaned TCP sockets, limit {limit}: {ends}");
    Some(
        Finding::new(&ORPHANS, Severity::Warning, sentence)
            .shown_by([
                Evidence::new("orphan", orphans, format!("of {limit}"), "/proc/net/sockstat TCP, of the machine"),
                Evidence::new("tcp_max_orphans", limit, "", "/proc/sys/net/ipv4/tcp_max_orphans"),
            ])
            .shown_by(namespace.counted("TcpExt", "TCPAbortOnMemory"))
            .to_do([
                "find out which peers do not acknowledge or do not close: the findings of states.* name them"
                    .to_owned(),
                namespace.step(
                    "net.ipv4.tcp_max_orphans",
                    orphans.max(limit).saturating_mul(2).checked_next_power_of_two().unwrap_or(limit),
                    "if memory allows: an orphan takes up to 64 kB",
                ),
            ])
            .avoid(["do not lower tcp_max_orphans: the kernel resets connections whose data is still under way"]),
    )
}

/// Memory of all TCP buffers of the machine.
pub(super) fn memory(facts: &Facts, namespace: &Namespace) -> Option<Finding> {
    let used = namespace.sockstat.as_ref().map(|sockstat| sockstat.mem_pages);
    let limits = facts.machine.tcp.mem_pages;
    let moved = |name| namespace.moved("TcpExt", name).unwrap_or_default();
    let total = |name| namespace.total("TcpExt", name).unwrap_or_default();
    let (pressures, aborts) = (moved("TCPMemoryPressures"), moved("TCPAbortOnMemory"));
    let over = |place: usize| used.zip(limits).filter(|(used, limits)| *used >= limits[place]);
    let (severity, sentence) = if let Some((used, [.., most])) = over(2) {
        let what = "TCP buffers of the machine take all the memory that they may";
        (Severity::Critical, format!("{what}: {used} of {most} pages; the kernel drops data and resets connections"))
    } else if aborts > 0 {
        let what = "connections were reset just now for want of memory or for too many orphans";
        (Severity::Warning, format!("{aborts} {what}"))
    } else if let Some((used, [_, pressure, most])) = over(1) {
        let what = "TCP buffers of the machine are under memory pressure";
        (Severity::Warning, format!("{what}: {used} pages, pressure from {pressure}, limit {most}"))
    } else if pressures > 0 {
        (Severity::Warning, format!("TCP came under memory pressure {pressures} times just now"))
    } else if total("TCPMemoryPressures") > 0 {
        let times = total("TCPMemoryPressures");
        (Severity::Note, format!("TCP has been under memory pressure {times} times since the namespace began, not now"))
    } else {
        return None;
    };
    let numbers = limits.map(|[low, pressure, most]| format!("{low} {pressure} {most}"));
    let finding = Finding::new(&MEMORY, severity, sentence)
        .shown_by([
            Evidence::new("mem", used, "pages", "/proc/net/sockstat TCP, of the machine"),
            Evidence::new("tcp_mem", numbers, "pages", "/proc/sys/net/ipv4/tcp_mem"),
        ])
        .shown_by(namespace.counted("TcpExt", "TCPMemoryPressures"))
        .shown_by([Evidence::new(
            "TCPMemoryPressuresChrono",
            namespace.total("TcpExt", "TCPMemoryPressuresChrono"),
            "ms since the namespace began",
            "/proc/net/netstat TcpExt",
        )])
        .shown_by(namespace.counted("TcpExt", "TCPAbortOnMemory"))
        .avoid(["do not raise tcp_rmem or tcp_wmem for this: larger buffers take more of the same memory"]);
    Some(if severity < Severity::Warning {
        finding
    } else {
        finding.to_do([
            format!(
                "find the sockets with full buffers: `{}`, Recv-Q and Send-Q; let their programs read, or close them",
                namespace.command("ss -tnpm")
            ),
            "if the machine has memory to spare, raise the three numbers of net.ipv4.tcp_mem on the host".to_owned(),
        ])
    })
}
