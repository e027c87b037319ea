//! What is worth knowing now: a sentence each, with its evidence. Pure.

use super::state::Numbers;
use crate::{
    model::{
        aggregate::{Aggregates, DestinationRow, destination::Reuse, trend::Forecast},
        event::{Denial, Refusal},
        report::Start,
    },
    sink::human::Many,
};

/// From this share of its ports on, connect() to a destination searches long before it finds one.
const SLOW: f64 = 0.5;
/// Destinations that get a note of their own.
const NAMED: usize = 8;
/// Births per second of which a note on reuse is worth its line.
const BUSY: f64 = 1.0;

/// How urgent a note is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Something fails now.
    Failing,
    /// Something is going to fail, or is slow.
    Warning,
    /// Good to know.
    Hint,
}

impl Urgency {
    /// The word before the note.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Failing => "FAIL",
            Self::Warning => "WARN",
            Self::Hint => "hint",
        }
    }
}

/// One note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How urgent it is.
    pub urgency: Urgency,
    /// A sentence with its evidence.
    pub text: String,
}

/// The notes, the most urgent first.
#[must_use]
pub fn advise(all: &Aggregates, numbers: &Numbers, start: Option<&Start>) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut say = |urgency, text| notes.push(Note { urgency, text });
    overflow(all, numbers, &mut say);
    destinations(all, &mut say);
    binds(numbers, &mut say);
    listeners(all, &mut say);
    denials(numbers, &mut say);
    losses(all, numbers, &mut say);
    for (name, capability) in start.iter().flat_map(|start| &start.capabilities) {
        if capability.backend.is_none() {
            let why = capability.reason.as_deref().unwrap_or("for a reason that was not kept");
            say(Urgency::Hint, format!("{name} is not watched: {why}."));
        }
    }
    notes.sort_by_key(|note| note.urgency);
    notes
}

fn overflow(all: &Aggregates, numbers: &Numbers, say: &mut impl FnMut(Urgency, String)) {
    let refused = numbers.totals.refused.as_deref().unwrap_or_default();
    for &(reason, count) in refused.iter().filter(|(_, count)| *count > 0) {
        let mut owners = all.process_rows();
        owners.sort_by_key(|row| std::cmp::Reverse(row.refused));
        let whose: Vec<_> = owners
            .iter()
            .filter(|row| row.refused > 0)
            .take(3)
            .map(|row| format!("{}/{} {}", row.who.pid, row.who.comm, row.refused))
            .collect();
        let whose = if whose.is_empty() { String::new() } else { format!(" ({})", whose.join(", ")) };
        let why = match reason {
            Refusal::Buckets => {
                "tcp_max_tw_buckets was reached, so connections end without TIME_WAIT; it costs memory to raise it, and \
                 nothing else"
            }
            _ => "the kernel had no memory for a minisock",
        };
        say(Urgency::Failing, format!("TIME_WAIT was refused to {}{whose}: {why}.", Many(count, "close")));
    }
}

fn binds(numbers: &Numbers, say: &mut impl FnMut(Urgency, String)) {
    if let Some(count @ 1..) = numbers.totals.no_bind {
        let text = format!(
            "{} failed with EADDRINUSE; the Events tab names each port and its holder. If TIME_WAIT holds the port, set \
             SO_REUSEADDR before bind(), in the server that ran before too.",
            Many(count, "bind() or listen() call"),
        );
        say(Urgency::Failing, text);
    }
}

fn destinations(all: &Aggregates, say: &mut impl FnMut(Urgency, String)) {
    let mut rows = all.destination_rows();
    rows.sort_by(|a, b| b.fill().unwrap_or(0.0).total_cmp(&a.fill().unwrap_or(0.0)).then(b.no_port.cmp(&a.no_port)));
    for row in rows.iter().filter(|row| row.no_port > 0).take(NAMED) {
        let text = format!(
            "{} to {} found no port: {} of {} are in use, {} of them by TIME_WAIT.",
            Many(row.no_port, "connect() call"),
            to(row),
            row.in_use,
            known(row.available),
            row.time_wait,
        );
        say(Urgency::Failing, text);
    }
    for row in rows.iter().filter(|row| row.no_port_bound > 0).take(NAMED) {
        let text = format!(
            "{} to {} failed with EADDRNOTAVAIL: the bound source port still holds the same connection, mostly as its own \
             TIME_WAIT. Do not bind a fixed source port, or enable net.ipv4.tcp_timestamps at both ends.",
            Many(row.no_port_bound.into(), "connect() call"),
            to(row),
        );
        say(Urgency::Failing, text);
    }
    for row in rows.iter().filter(|row| row.no_port == 0 && row.fill().is_some_and(|fill| fill > SLOW)).take(NAMED) {
        let when = match row.exhausted_in_s {
            Some(Forecast::In(seconds)) => format!("; at this rate none is left in {seconds:.0} s"),
            Some(Forecast::Steady) => "; it is steady".to_owned(),
            Some(Forecast::Exhausted) | None => String::new(),
        };
        let text = format!(
            "{} of {} ports to {} are in use ({:.0} %): connect() searches long past half of them, {} now at the \
             99th percentile{when}. {} a second can go on for ever.",
            row.in_use,
            known(row.available),
            to(row),
            row.fill().unwrap_or(0.0) * 100.0,
            row.connect_p99_ns.map_or("not known".to_owned(), |ns| format!("{} us", ns / 1000)),
            row.limit_per_s.map_or("?".to_owned(), |limit| format!("{limit:.0}")),
        );
        say(Urgency::Warning, text);
    }
    let no_timestamps = |row: &&DestinationRow| {
        row.reuse == Some(Reuse::NoTimestamps) && row.born_per_s.is_some_and(|rate| rate >= BUSY)
    };
    for row in rows.iter().filter(no_timestamps).take(NAMED) {
        let text = format!(
            "tcp_tw_reuse cannot help towards {}: {} of {} connections had no TCP timestamps.",
            to(row),
            row.without_timestamps,
            row.with_timestamps + row.without_timestamps,
        );
        say(Urgency::Hint, text);
    }
}

fn listeners(all: &Aggregates, say: &mut impl FnMut(Urgency, String)) {
    for (netns, space) in all.namespaces() {
        let inside: Vec<_> = space.listeners.range(space.range.clone()).collect();
        if inside.is_empty() {
            continue;
        }
        let named: Vec<_> = inside.iter().take(5).map(|port| port.to_string()).collect();
        let more = if inside.len() > named.len() { ", .." } else { "" };
        let text = format!(
            "In namespace {netns} somebody listens on {} of the ephemeral range {}-{} ({}{more}): no connect() can use \
             them, and a service that starts late may find its port taken. ip_local_reserved_ports keeps them free.",
            Many(inside.len() as u64, "port"),
            space.range.start(),
            space.range.end(),
            named.join(", "),
        );
        say(Urgency::Hint, text);
    }
}

fn denials(numbers: &Numbers, say: &mut impl FnMut(Urgency, String)) {
    let denied = numbers.totals.reuse_denied.as_deref().unwrap_or_default();
    for &(reason, count) in denied.iter().filter(|(_, count)| *count > 0) {
        let why = match reason {
            Denial::NoTimestamps => "they had no TCP timestamps, so no setting would have helped",
            Denial::TooYoung => "they were younger than tcp_tw_reuse asks for",
            Denial::Disabled => "tcp_tw_reuse does not allow it there",
            Denial::FinWait2 => "the peer has not closed yet",
            Denial::Unknown(_) => "for a reason that is not known",
        };
        say(Urgency::Warning, format!("{} failed beside TIME_WAITs in the way: {why}.", Many(count, "connect() call")));
    }
}

fn losses(all: &Aggregates, numbers: &Numbers, say: &mut impl FnMut(Urgency, String)) {
    let lost = numbers.totals.lost;
    if lost > 0 {
        let text = format!(
            "{} found the ring full and are missing from the tables; give a larger --ring-size, or filter.",
            Many(lost, "event")
        );
        say(Urgency::Warning, text);
    }
    for row in numbers.reconcile.iter().filter(|row| row.diff != 0) {
        let text = format!(
            "{} moved by {} in the kernel, and by {} as twtrace has it: {} apart.",
            row.counter, row.kernel, row.twtrace, row.diff
        );
        say(Urgency::Warning, text);
    }
    for (name, count) in &numbers.totals.trouble {
        say(
            Urgency::Warning,
            format!("{name} {count}: not everything could be seen; the counters may differ by that."),
        );
    }
    let evicted = all.evicted();
    let rows = evicted.ports + evicted.destinations + evicted.processes + evicted.cgroups;
    if rows > 0 {
        say(Urgency::Hint, format!("{rows} rows had to make room for others; what came back is marked with ~."));
    }
}

fn to(row: &DestinationRow) -> String {
    let raddr = match row.raddr {
        std::net::IpAddr::V6(v6) => format!("[{v6}]"),
        std::net::IpAddr::V4(v4) => v4.to_string(),
    };
    format!("{raddr}:{} from {}", row.rport, row.laddr)
}

fn known(value: Option<u32>) -> String {
    value.map_or_else(|| "?".to_owned(), |value| value.to_string())
}
