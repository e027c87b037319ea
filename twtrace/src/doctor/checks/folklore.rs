//! Which settings are folklore? What is set now, and what files set at boot, of the settings that articles tell people to
//! change.

mod linger0;
mod seen;
mod stories;

use crate::{
    doctor::{
        facts::{Facts, Namespace},
        finding::{Evidence, Finding, Severity, Story},
    },
    show::human::Many,
};

use seen::{Rule, TOP, files_of, lines};
pub use stories::STORIES;
use stories::{
    ABORT_ON_OVERFLOW, FIN_TIMEOUT, MAX_TW_BUCKETS, NONE, RFC1337, SYNCOOKIES, TIMESTAMPS, TW_RECYCLE, TW_REUSE,
    TW_TIMEOUT,
};

/// Judges.
#[must_use]
pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = [
        tw_recycle(facts),
        fin_timeout(facts),
        max_tw_buckets(facts),
        tw_timeout(facts),
        rfc1337(facts),
        timestamps(facts),
        tw_reuse(facts),
        syncookies(facts),
        abort_on_overflow(facts),
    ]
    .concat();
    findings.extend(linger0::check(facts));
    if findings.is_empty() {
        findings.push(none(facts));
    }
    findings
}

/// Lines about a sysctl that this kernel does not have. `None` if it has it, or if there are none.
fn dead(facts: &Facts, story: &Story, name: &str, otherwise: &str) -> Option<Finding> {
    let first = facts.namespaces.first();
    if first.is_some_and(|namespace| namespace.sysctl(&format!("ipv4/{name}")).is_some()) {
        return None;
    }
    // A pattern is about the sysctls that there are.
    let lines: Vec<_> = lines(facts, name).into_iter().filter(|line| !line.setting.is_pattern()).collect();
    let line = lines.iter().find(|line| line.sets()).or(lines.first())?;
    // Every kernel has timestamps: where these can be read, what cannot be read is not there.
    let is_known = first.is_some_and(|namespace| namespace.sysctl("ipv4/tcp_timestamps").is_some());
    let why = if is_known { "this kernel has no such setting" } else { otherwise };
    let sentence = format!("{} sets {name}{}: {why}, the line does nothing", line.place(), line.but());
    Some(
        Finding::new(story, Severity::Note, sentence)
            .shown_by(first.map(|namespace| namespace.set(&format!("ipv4/{name}"))))
            .shown_by(lines.iter().take(TOP).map(seen::Line::evidence))
            .to_do(lines.iter().take(TOP).map(seen::Line::removal)),
    )
}

fn tw_recycle(facts: &Facts) -> Vec<Finding> {
    let avoid = ["do not look for a successor: nothing replaces tcp_tw_recycle, and nothing needs to"];
    if let Some(finding) = dead(facts, &TW_RECYCLE, "tcp_tw_recycle", "kernels since 4.12 have no such setting") {
        return vec![finding.avoid(avoid)];
    }
    Rule::harmful(&TW_RECYCLE, "tcp_tw_recycle", 0)
        .findings(
            facts,
            |_, value| value != 0,
            |_| "this kernel still has it, and it refuses clients behind NAT".to_owned(),
        )
        .map(|finding| finding.avoid(avoid))
        .collect()
}

fn fin_timeout(facts: &Facts) -> Vec<Finding> {
    Rule::harmless(&FIN_TIMEOUT, "tcp_fin_timeout", 60)
        .findings(facts, |_, value| value != 60, |_| "that changes FIN_WAIT2, not TIME_WAIT".to_owned())
        .map(|finding| {
            finding.avoid(["do not lower tcp_fin_timeout to get fewer TIME_WAITs or free ports: it does neither"])
        })
        .collect()
}

/// The default of tcp_max_tw_buckets: half the slots of the hash of connections. Before 6.1 the kernel does not tell these;
/// there is one for every 128 KiB of memory, rounded up to a power of two, and MemTotal is a bit less than what was counted:
/// at least that many.
fn default_buckets(facts: &Facts, namespace: Option<&Namespace>) -> Option<(u64, &'static str)> {
    if let Some(slots) = namespace.and_then(|namespace| namespace.hash_slots) {
        return Some((slots / 2, "/proc/sys/net/ipv4/tcp_ehash_entries / 2"));
    }
    let slots = (facts.machine.memory? >> 17).clamp(1, 512 << 10).next_power_of_two();
    Some((slots / 2, "/proc/meminfo MemTotal / 256 KiB, or up to twice that"))
}

/// TIME_WAITs of a namespace that count against its limit.
fn buckets_used(namespace: Option<&Namespace>) -> u64 {
    namespace.and_then(|namespace| Some(namespace.sockstat.as_ref()?.tw)).unwrap_or_default()
}

fn max_tw_buckets(facts: &Facts) -> Vec<Finding> {
    let back = |namespace: Option<&Namespace>| match default_buckets(facts, namespace) {
        Some((default, _)) => default,
        None => buckets_used(namespace).saturating_mul(2),
    };
    let says = |namespace: Option<&Namespace>| {
        let than = match default_buckets(facts, namespace) {
            Some((default, _)) => format!("this machine's default is {default}"),
            None => format!("{} are in use", buckets_used(namespace)),
        };
        format!("{than}; sockets past the limit close without TIME_WAIT and its protection")
    };
    let is_bad = |namespace: Option<&Namespace>, value: i64| {
        // Without a default to compare with, what does not hold those that there are is too low in any case.
        let least = default_buckets(facts, namespace).map_or(buckets_used(namespace), |(default, _)| default);
        value < i64::try_from(least).unwrap_or(i64::MAX)
    };
    let complete = |finding: Finding| {
        let about = facts.namespaces.iter().find(|it| Some(it.inum) == finding.netns).or(facts.namespaces.first());
        let of_default = default_buckets(facts, about)
            .map(|(buckets, source)| Evidence::new("default of tcp_max_tw_buckets", buckets, "", source));
        let in_use = Evidence::new("tw", buckets_used(about), "minisocks", "/proc/net/sockstat TCP");
        let lost = about.map(|namespace| namespace.counted("TcpExt", "TCPTimeWaitOverflow"));
        finding
            .shown_by(of_default)
            .shown_by([in_use])
            .shown_by(lost.into_iter().flatten())
            .avoid(["do not lower tcp_max_tw_buckets to see fewer TIME_WAITs: each takes a quarter of a kilobyte and ends by itself"])
    };
    Rule::harmful(&MAX_TW_BUCKETS, "tcp_max_tw_buckets", 0)
        .default_of(&back)
        .findings(facts, is_bad, says)
        .map(complete)
        .collect()
}

fn tw_timeout(facts: &Facts) -> Vec<Finding> {
    if let Some(finding) = dead(facts, &TW_TIMEOUT, "tcp_tw_timeout", "only some vendors' kernels have this setting") {
        return vec![finding.avoid(["do not look for another setting: the length of TIME_WAIT is a constant"])];
    }
    let says = |_: Option<&Namespace>| "on this vendor's kernel a TIME_WAIT really lasts that many seconds".to_owned();
    Rule::harmless(&TW_TIMEOUT, "tcp_tw_timeout", 60)
        .findings(facts, |_, value| value != 60, says)
        .map(|finding| finding.avoid(["do not copy the line to other machines: upstream Linux has no such setting"]))
        .collect()
}

fn rfc1337(facts: &Facts) -> Vec<Finding> {
    let says = |_: Option<&Namespace>| {
        "TIME_WAITs ignore RSTs, the opposite of what ip-sysctl.rst says; it does no harm".to_owned()
    };
    Rule::harmless(&RFC1337, "tcp_rfc1337", 0)
        .without_steps()
        .findings(facts, |_, value| value != 0, says)
        .map(|finding| {
            finding.avoid(["do not set tcp_rfc1337 to 0 against TIME_WAIT assassination: 0 is what allows it"])
        })
        .collect()
}

fn timestamps(facts: &Facts) -> Vec<Finding> {
    let says = |_: Option<&Namespace>| "no protection from old segments, and no tcp_tw_reuse".to_owned();
    Rule::harmful(&TIMESTAMPS, "tcp_timestamps", 1)
        .findings(facts, |_, value| value == 0, says)
        .map(|finding| finding.avoid(["do not switch timestamps off for speed: they cost twelve bytes a segment"]))
        .collect()
}

fn tw_reuse(facts: &Facts) -> Vec<Finding> {
    let says = |_: Option<&Namespace>| {
        "it lets connect() take old ports; TIME_WAITs become neither fewer nor shorter".to_owned()
    };
    // What is set now is reported by reuse.state.
    Rule::harmless(&TW_REUSE, "tcp_tw_reuse", 2)
        .at_boot()
        .without_steps()
        .findings(facts, |_, value| value == 1, says)
        .map(|finding| finding.avoid(["do not set tcp_tw_reuse for a server's sake: only connect() uses it"]))
        .collect()
}

fn syncookies(facts: &Facts) -> Vec<Finding> {
    let says = |_: Option<&Namespace>| "when a SYN queue is full, every new client is dropped".to_owned();
    Rule::harmful(&SYNCOOKIES, "tcp_syncookies", 1)
        .findings(facts, |_, value| value == 0, says)
        .map(|finding| {
            finding.avoid(["do not raise tcp_max_syn_backlog instead: cookies cost nothing until the queue is full"])
        })
        .collect()
}

fn abort_on_overflow(facts: &Facts) -> Vec<Finding> {
    let says = |_: Option<&Namespace>| "bursts that would pass become errors at the clients".to_owned();
    // What is set now is reported by listen.abort-on-overflow.
    Rule::harmful(&ABORT_ON_OVERFLOW, "tcp_abort_on_overflow", 0)
        .at_boot()
        .findings(facts, |_, value| value != 0, says)
        .map(|finding| finding.avoid(["do not use it to see overflows: ListenOverflows counts them"]))
        .collect()
}

fn none(facts: &Facts) -> Finding {
    let first = facts.namespaces.first();
    let sentence = match (files_of(facts), &facts.machine.files) {
        (None, _) => {
            "no folklore among the settings; files set sysctls at boot for other network namespaces, and were not judged"
                .to_owned()
        }
        (Some(_), files) if files.settings.is_empty() && !files.unread.is_empty() => {
            "no folklore among the settings; files that set sysctls at boot could not be read".to_owned()
        }
        (Some([]), _) => "no folklore among the settings, and no file sets any at boot".to_owned(),
        (Some(settings), files) => {
            let unread = if files.unread.is_empty() { "" } else { " that could be read" };
            let lines = Many(settings.len() as u64, "line");
            format!("no folklore among the settings, nor among {lines} of files{unread} that set sysctls at boot")
        }
    };
    let names = [
        "ipv4/tcp_fin_timeout",
        "ipv4/tcp_max_tw_buckets",
        "ipv4/tcp_rfc1337",
        "ipv4/tcp_timestamps",
        "ipv4/tcp_tw_reuse",
        "ipv4/tcp_syncookies",
    ];
    let aborts = first.map(|namespace| namespace.counted("TcpExt", "TCPAbortOnData"));
    Finding::new(&NONE, Severity::Fine, sentence)
        .shown_by(first.into_iter().flat_map(|namespace| names.map(|name| namespace.set(name))))
        .shown_by(aborts.into_iter().flatten())
}

#[cfg(test)]
mod tests;
