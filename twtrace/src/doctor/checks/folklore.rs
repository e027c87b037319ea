//! Which settings are folklore? What is set now, and what files set at boot, of the settings that articles tell people to
//! change.

mod linger0;
mod stories;

use std::path::Path;

use crate::{
    doctor::{
        facts::{Facts, Namespace},
        finding::{Evidence, Finding, Severity, Story},
    },
    host::sysctl_files::Setting,
};

pub use stories::STORIES;
use stories::{
    ABORT_ON_OVERFLOW, FIN_TIMEOUT, MAX_TW_BUCKETS, NONE, RFC1337, SYNCOOKIES, TIMESTAMPS, TW_RECYCLE, TW_REUSE,
    TW_TIMEOUT,
};

/// Lines that are shown.
const TOP: usize = 5;
/// The most characters of a value that are shown.
const LONGEST: usize = 40;

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
    .into_iter()
    .flatten()
    .collect();
    findings.extend(linger0::check(facts));
    if findings.is_empty() {
        findings.push(none(facts));
    }
    findings
}

/// What becomes of a line at boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It sets.
    Sets,
    /// A later line sets the same again.
    Overruled,
    /// Nobody reads its file.
    Unread,
}

/// A line about one sysctl.
#[derive(Clone, Copy, Debug)]
struct Line<'a> {
    setting: &'a Setting,
    fate: Fate,
}

impl Line<'_> {
    fn place(&self) -> String {
        format!("{}:{}", self.setting.file.display(), self.setting.line)
    }

    /// Without what makes it no better known.
    fn value(&self) -> String {
        self.setting.value.chars().take(LONGEST).collect()
    }

    fn number(&self) -> Option<u64> {
        self.setting.value.parse().ok()
    }

    /// What has to be said if it does not count.
    fn but(&self) -> &'static str {
        match self.fate {
            Fate::Sets => "",
            Fate::Overruled => ", and a later line sets it again",
            Fate::Unread => ", which systemd does not read",
        }
    }

    fn evidence(&self) -> Evidence {
        Evidence::new(&self.setting.key, self.value(), "", self.place() + self.but())
    }

    fn removal(&self) -> String {
        format!("remove the line {}", self.place())
    }
}

/// The lines about a sysctl of net.ipv4, in the order in which they are read.
fn lines<'a>(facts: &'a Facts, name: &str) -> Vec<Line<'a>> {
    let files = &facts.machine.files;
    let is_it = |setting: &&Setting| setting.key.strip_prefix("net.ipv4.") == Some(name);
    let is_unread = |setting: &Setting| files.systemd && setting.file == Path::new("/etc/sysctl.conf");
    let settings: Vec<&Setting> = files.settings.iter().filter(is_it).collect();
    let last_read = settings.iter().rposition(|setting| !is_unread(setting));
    let line = |(place, setting): (usize, &&'a Setting)| {
        // What only a line that nobody reads sets again stays.
        let is_last = last_read == Some(place) && settings.get(place + 1).is_some();
        let fate = match (is_unread(setting), setting.wins || is_last) {
            (true, _) => Fate::Unread,
            (false, true) => Fate::Sets,
            (false, false) => Fate::Overruled,
        };
        Line { setting, fate }
    };
    settings.iter().enumerate().map(line).collect()
}

/// A sysctl of net.ipv4 that is set, now or by files, to what somebody objects to.
struct Seen<'a> {
    name: &'static str,
    /// The namespace, and the value now.
    live: Option<(&'a Namespace, u64)>,
    /// The value now, whatever it is.
    shown: Option<Evidence>,
    /// Lines; those that count first.
    lines: Vec<Line<'a>>,
}

impl<'a> Seen<'a> {
    /// `None` if nothing is to be objected.
    fn of(facts: &'a Facts, name: &'static str, is_bad: impl Fn(u64) -> bool) -> Option<Self> {
        let first = facts.namespaces.first();
        let path = format!("ipv4/{name}");
        let live = first.and_then(|namespace| Some((namespace, namespace.sysctl(&path)?)));
        let mut lines = lines(facts, name);
        lines.retain(|line| line.number().is_some_and(&is_bad));
        lines.sort_by_key(|line| line.fate != Fate::Sets);
        let live = live.filter(|(_, value)| is_bad(*value));
        let shown = first.map(|namespace| namespace.set(&path));
        (live.is_some() || !lines.is_empty()).then_some(Self { name, live, shown, lines })
    }

    /// The beginning of a sentence.
    fn head(&self) -> String {
        let by = self.lines.first();
        match (self.live, by) {
            (Some((_, value)), Some(line)) if line.fate == Fate::Sets && line.number() == Some(value) => {
                format!("{} is {value}, set by {}", self.name, line.place())
            }
            (Some((_, value)), _) => format!("{} is {value}", self.name),
            (None, Some(line)) => format!("{} sets {} to {}{}", line.place(), self.name, line.value(), line.but()),
            (None, None) => self.name.to_owned(),
        }
    }

    /// It is so now, or will be after the next boot.
    fn counts(&self) -> bool {
        self.live.is_some() || self.lines.iter().any(|line| line.fate == Fate::Sets)
    }

    /// The finding; one that does harm is a warning, as far as it counts.
    fn finding(&self, story: &Story, is_harmful: bool, says: &str) -> Finding {
        let severity = if is_harmful && self.counts() { Severity::Warning } else { Severity::Note };
        let finding = Finding::new(story, severity, format!("{}: {says}", self.head()))
            .shown_by(self.shown.clone())
            .shown_by(self.lines.iter().take(TOP).map(Line::evidence));
        Finding { netns: self.live.map(|(namespace, _)| namespace.inum), ..finding }
    }

    /// Steps back to the default.
    fn back(&self, default: u64) -> Vec<String> {
        let mut steps: Vec<String> = self.lines.iter().take(TOP).map(Line::removal).collect();
        steps.extend(self.live.map(|(namespace, _)| {
            format!("set it back: {}", namespace.setting(&format!("net.ipv4.{}", self.name), default))
        }));
        steps
    }
}

/// Lines about a sysctl that this kernel has not. `None` if it has it, or if there are none.
fn dead(facts: &Facts, story: &Story, name: &str, otherwise: &str) -> Option<Finding> {
    let first = facts.namespaces.first();
    if first.is_some_and(|namespace| namespace.sysctl(&format!("ipv4/{name}")).is_some()) {
        return None;
    }
    let lines = lines(facts, name);
    let line = lines.iter().find(|line| line.fate == Fate::Sets).or(lines.first())?;
    // Every kernel has timestamps: where these can be read, what cannot be read is not there.
    let is_known = first.is_some_and(|namespace| namespace.sysctl("ipv4/tcp_timestamps").is_some());
    let why = if is_known { "this kernel has no such setting" } else { otherwise };
    let sentence = format!("{} sets {name}{}: {why}, the line does nothing", line.place(), line.but());
    Some(
        Finding::new(story, Severity::Note, sentence)
            .shown_by(first.map(|namespace| namespace.set(&format!("ipv4/{name}"))))
            .shown_by(lines.iter().take(TOP).map(Line::evidence))
            .to_do(lines.iter().take(TOP).map(Line::removal)),
    )
}

fn tw_recycle(facts: &Facts) -> Option<Finding> {
    let avoid = ["do not look for another name of it: nothing stands in its place, and nothing has to"];
    if let Some(finding) = dead(facts, &TW_RECYCLE, "tcp_tw_recycle", "kernels since 4.12 have no such setting") {
        return Some(finding.avoid(avoid));
    }
    let seen = Seen::of(facts, "tcp_tw_recycle", |value| value != 0)?;
    Some(
        seen.finding(&TW_RECYCLE, true, "on this kernel it is there, and refuses clients behind NAT at random")
            .to_do(seen.back(0))
            .avoid(avoid),
    )
}

fn fin_timeout(facts: &Facts) -> Option<Finding> {
    let seen = Seen::of(facts, "tcp_fin_timeout", |value| value != 60)?;
    Some(
        seen.finding(&FIN_TIMEOUT, false, "that changes FIN_WAIT2, and no TIME_WAIT")
            .to_do(seen.back(60))
            .avoid(["do not expect fewer TIME_WAITs, or free ports, of a lower value"]),
    )
}

/// The default of tcp_max_tw_buckets: half the slots of the hash of connections. Before 6.1 the kernel does not tell these;
/// there is one for every 128 KiB of memory, rounded up to a power of two, and MemTotal is a bit less than what was counted:
/// at least that many.
fn default_buckets(facts: &Facts) -> Option<(u64, &'static str)> {
    if let Some(slots) = facts.namespaces.first().and_then(|namespace| namespace.hash_slots) {
        return Some((slots / 2, "/proc/sys/net/ipv4/tcp_ehash_entries / 2"));
    }
    let slots = (facts.machine.memory? >> 17).clamp(1, 512 << 10).next_power_of_two();
    Some((slots / 2, "/proc/meminfo MemTotal / 256 KiB, or up to twice that"))
}

fn max_tw_buckets(facts: &Facts) -> Option<Finding> {
    let default = default_buckets(facts);
    let used = facts.namespaces.first().and_then(|namespace| Some(namespace.sockstat.as_ref()?.tw)).unwrap_or_default();
    // Without a default to compare with, what does not hold those that there are is too low in any case.
    let least = default.map_or(used, |(default, _)| default);
    let seen = Seen::of(facts, "tcp_max_tw_buckets", |value| value < least)?;
    let than = match default {
        Some((default, _)) => format!("that is below this machine's default of {default}"),
        None => format!("{used} are in use"),
    };
    let says = format!("{than}, and what goes past it loses the protection of TIME_WAIT");
    let of_default =
        default.map(|(buckets, source)| Evidence::new("default of tcp_max_tw_buckets", buckets, "", source));
    let in_use = Evidence::new("tw", used, "minisocks", "/proc/net/sockstat TCP");
    let first = facts.namespaces.first();
    let lost = first.map(|namespace| namespace.counted("TcpExt", "TCPTimeWaitOverflow"));
    Some(
        seen.finding(&MAX_TW_BUCKETS, true, &says)
            .shown_by(of_default)
            .shown_by([in_use])
            .shown_by(lost.into_iter().flatten())
            .to_do(seen.back(default.map_or(used.saturating_mul(2), |(default, _)| default)))
            .avoid(["do not lower it to see fewer TIME_WAITs: each takes a quarter of a kilobyte and goes by itself"]),
    )
}

fn tw_timeout(facts: &Facts) -> Option<Finding> {
    if let Some(finding) = dead(facts, &TW_TIMEOUT, "tcp_tw_timeout", "only some vendors' kernels have this setting") {
        return Some(finding.avoid(["do not look for another setting: the length of TIME_WAIT is a constant"]));
    }
    let seen = Seen::of(facts, "tcp_tw_timeout", |value| value != 60)?;
    let says = "on this vendor's kernel that is really how many seconds a TIME_WAIT lasts";
    Some(
        seen.finding(&TW_TIMEOUT, false, says)
            .to_do(seen.back(60))
            .avoid(["do not carry it to other machines: Linux as such has no such setting"]),
    )
}

fn rfc1337(facts: &Facts) -> Option<Finding> {
    let seen = Seen::of(facts, "tcp_rfc1337", |value| value != 0)?;
    Some(
        seen.finding(
            &RFC1337,
            false,
            "TIME_WAITs ignore RSTs, the opposite of what the documentation says; it does no harm",
        )
        .avoid(["do not set it to 0 against assassination: 0 is what allows that"]),
    )
}

fn timestamps(facts: &Facts) -> Option<Finding> {
    let seen = Seen::of(facts, "tcp_timestamps", |value| value == 0)?;
    Some(
        seen.finding(&TIMESTAMPS, true, "no protection from old segments, and no tcp_tw_reuse")
            .to_do(seen.back(1))
            .avoid(["do not switch them off for speed: twelve bytes a segment are not felt"]),
    )
}

fn tw_reuse(facts: &Facts) -> Option<Finding> {
    let mut seen = Seen::of(facts, "tcp_tw_reuse", |value| value == 1)?;
    // What is set now is told by reuse.state.
    seen.live = None;
    if seen.lines.is_empty() {
        return None;
    }
    let finding =
        seen.finding(&TW_REUSE, false, "it lets connect() have old ports, and does nothing for TIME_WAITs as such");
    Some(finding.avoid(["do not set it for the sake of a server: only connect() asks for it"]))
}

fn syncookies(facts: &Facts) -> Option<Finding> {
    let seen = Seen::of(facts, "tcp_syncookies", |value| value == 0)?;
    Some(
        seen.finding(&SYNCOOKIES, true, "a full SYN queue refuses everybody")
            .to_do(seen.back(1))
            .avoid(["do not raise tcp_max_syn_backlog instead: cookies cost nothing until the queue is full"]),
    )
}

fn abort_on_overflow(facts: &Facts) -> Option<Finding> {
    let mut seen = Seen::of(facts, "tcp_abort_on_overflow", |value| value != 0)?;
    // What is set now is told by listen.abort-on-overflow.
    seen.live = None;
    if seen.lines.is_empty() {
        return None;
    }
    Some(
        seen.finding(&ABORT_ON_OVERFLOW, true, "bursts that would pass become errors at the clients")
            .to_do(seen.back(0))
            .avoid(["do not use it to see overflows: ListenOverflows counts them"]),
    )
}

fn none(facts: &Facts) -> Finding {
    let files = &facts.machine.files;
    let unread = if files.unread.is_empty() { "" } else { " that could be read" };
    let sentence = match files.settings.len() {
        0 => "none of the settings is folklore, and no file sets any at boot".to_owned(),
        count => format!("none of the settings is folklore, nor are the {count} lines{unread} that set some at boot"),
    };
    let names = [
        "ipv4/tcp_fin_timeout",
        "ipv4/tcp_max_tw_buckets",
        "ipv4/tcp_rfc1337",
        "ipv4/tcp_timestamps",
        "ipv4/tcp_tw_reuse",
        "ipv4/tcp_syncookies",
    ];
    let first = facts.namespaces.first();
    let aborts = first.map(|namespace| namespace.counted("TcpExt", "TCPAbortOnData"));
    Finding::new(&NONE, Severity::Fine, sentence)
        .shown_by(first.into_iter().flat_map(|namespace| names.map(|name| namespace.set(name))))
        .shown_by(aborts.into_iter().flatten())
}

#[cfg(test)]
mod tests;
