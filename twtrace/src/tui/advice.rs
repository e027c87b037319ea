//! What is worth knowing now: a sentence each, with its evidence. Pure.

use super::{baseline::Baseline, state::Numbers};
use crate::{
    model::{
        aggregate::{Aggregates, DestinationRow, destination::Reuse, trend::Forecast},
        event::{Denial, Refusal},
    },
    show::{
        human::{Known, Many, Plain},
        trouble,
    },
};

/// From this share of its ports on, connect() to a destination searches long before it finds one.
const SLOW: f64 = 0.5;
/// From this share of its buckets on, a namespace gets a note.
const NEARLY_FULL: f64 = 0.8;
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

/// The notes, the most urgent first. What a kernel does not offer is no news: `twtrace probe` and key i have it.
#[must_use]
pub fn advise(all: &Aggregates, since: &Baseline, numbers: &Numbers) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut say = |urgency, text| notes.push(Note { urgency, text });
    overflow(all, since, numbers, &mut say);
    destinations(all, since, &mut say);
    binds(numbers, &mut say);
    listeners(all, &mut say);
    denials(numbers, &mut say);
    losses(all, numbers, &mut say);
    notes.sort_by_key(|note| note.urgency);
    notes
}

fn overflow(all: &Aggregates, since: &Baseline, numbers: &Numbers, say: &mut impl FnMut(Urgency, String)) {
    if let Some(buckets) = numbers.buckets.as_ref().filter(|buckets| buckets.share() >= NEARLY_FULL) {
        let text = format!(
            "tcp_max_tw_buckets of {} is {:.0} % full: {} of {}. Sockets that close beyond the limit get no TIME_WAIT.",
            buckets.whose(),
            (buckets.share() * 100.0).floor(),
            buckets.used,
            buckets.limit,
        );
        say(Urgency::Warning, text);
    }
    let refused = numbers.totals.refused.as_deref().unwrap_or_default();
    for &(reason, count) in refused.iter().filter(|(_, count)| *count > 0) {
        let mut owners = since.processes(all);
        owners.sort_by_key(|row| std::cmp::Reverse(row.refused));
        let whose: Vec<_> = owners
            .iter()
            .filter(|row| row.refused > 0)
            .take(3)
            .map(|row| format!("{} ({}): {}", Plain(&row.who.comm), row.who.pid, row.refused))
            .collect();
        let whose = if whose.is_empty() { String::new() } else { format!(" Closed by {}.", whose.join(", ")) };
        let why = match reason {
            Refusal::Buckets => "tcp_max_tw_buckets was full. A higher limit costs memory only.",
            Refusal::Memory => "the kernel had no memory for a TIME_WAIT socket.",
            Refusal::Unknown(_) => "the reason is unknown.",
        };
        say(Urgency::Failing, format!("{} closed without TIME_WAIT: {why}{whose}", Many(count, "socket")));
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

fn destinations(all: &Aggregates, since: &Baseline, say: &mut impl FnMut(Urgency, String)) {
    let mut rows = since.destinations(all);
    rows.sort_by(|a, b| b.fill().unwrap_or(0.0).total_cmp(&a.fill().unwrap_or(0.0)).then(b.no_port.cmp(&a.no_port)));
    for row in rows.iter().filter(|row| row.no_port > 0).take(NAMED) {
        let text = format!(
            "{} to {} found no free port: {} are in use, {} by TIME_WAIT.",
            Many(row.no_port, "connect() call"),
            to(row),
            ports(row.in_use, row.available),
            row.time_wait,
        );
        say(Urgency::Failing, text);
    }
    for row in rows.iter().filter(|row| row.no_port_bound > 0).take(NAMED) {
        let text = format!(
            "{} to {} failed with EADDRNOTAVAIL: the bound source port still holds the same connection, mostly as its own \
             TIME_WAIT. Do not bind a fixed source port, or enable net.ipv4.tcp_timestamps at both ends.",
            Many(row.no_port_bound, "connect() call"),
            to(row),
        );
        say(Urgency::Failing, text);
    }
    for row in rows.iter().filter(|row| row.no_port == 0 && row.fill().is_some_and(|fill| fill > SLOW)).take(NAMED) {
        let when = match row.exhausted_in_s {
            Some(Forecast::In(seconds)) => format!("None is left in {seconds:.0} s at this rate."),
            Some(Forecast::Steady) => "The number is steady.".to_owned(),
            Some(Forecast::Exhausted) => "None is left.".to_owned(),
            None => String::new(),
        };
        let text = format!(
            "{} to {} are in use ({:.0} %). {when} connect() takes {} at the 99th percentile; it searches longer above 50 \
             %. Sustainable: {} connections/s.",
            ports(row.in_use, row.available),
            to(row),
            row.fill().unwrap_or(0.0) * 100.0,
            row.connect_p99_ns.map_or("an unknown time".to_owned(), |ns| format!("{} us", ns / 1000)),
            Known(row.limit_per_s.map(|limit| format!("{limit:.1}"))),
        );
        say(Urgency::Warning, text.replace("  ", " "));
    }
    let no_timestamps = |row: &&DestinationRow| {
        row.reuse == Some(Reuse::NoTimestamps) && row.born_per_s.is_some_and(|rate| rate >= BUSY)
    };
    for row in rows.iter().filter(no_timestamps).take(NAMED) {
        let text = format!(
            "tcp_tw_reuse cannot help connections to {}: {} of {} had no TCP timestamps.",
            to(row),
            row.without_timestamps,
            row.with_timestamps + row.without_timestamps,
        );
        say(Urgency::Hint, text);
    }
}

fn listeners(all: &Aggregates, say: &mut impl FnMut(Urgency, String)) {
    for (netns, space) in all.namespaces() {
        let inside: Vec<_> =
            space.listeners.range(space.range.clone()).filter(|&&port| all.wanted().listener(port)).collect();
        if inside.is_empty() {
            continue;
        }
        let named: Vec<_> = inside.iter().take(5).map(|port| port.to_string()).collect();
        let more = if inside.len() > named.len() { ", .." } else { "" };
        let has = if inside.len() == 1 { "has a listener" } else { "have listeners" };
        let text = format!(
            "{} of ip_local_port_range {}-{} {has} ({}{more}) in namespace {netns}. While such a service is down, an \
             outgoing connection may take its port, and the service cannot start. Reserve it: ip_local_reserved_ports.",
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
            Denial::Disabled => "tcp_tw_reuse does not allow it for that destination",
            Denial::FinWait2 => "the peer has not closed its side yet",
            Denial::Unknown(_) => "the reason is unknown",
        };
        let calls = Many(count, "connect() call");
        say(Urgency::Warning, format!("{calls} failed and could not reuse the TIME_WAITs of that destination: {why}."));
    }
}

fn losses(all: &Aggregates, numbers: &Numbers, say: &mut impl FnMut(Urgency, String)) {
    let lost = numbers.totals.lost;
    if lost > 0 {
        let text = format!(
            "{} lost, because the ring was full: the tables lack them. Use a larger --ring-size, or filters.",
            Many(lost, "event")
        );
        say(Urgency::Warning, text);
    }
    for (observer, output) in &numbers.outputs {
        let lines = Many(output.lines, "line");
        let text = match output.is_over {
            false => format!("{observer} is read too slowly: {lines} lost, in that output alone."),
            true => format!("{observer} cannot be written any more: it lacks {lines}, and all that follow."),
        };
        say(Urgency::Warning, text);
    }
    for row in numbers.reconcile.iter().filter(|row| row.diff != 0) {
        let text = format!(
            "{}: the kernel counted {}, twtrace {}; the difference is {}.",
            row.counter, row.kernel, row.twtrace, row.diff
        );
        say(Urgency::Warning, text);
    }
    for (name, count) in &numbers.totals.trouble {
        say(Urgency::Warning, format!("{}.", trouble::sentence(*name, *count)));
    }
    let evicted = all.evicted();
    let rows = evicted.ports + evicted.destinations + evicted.processes + evicted.cgroups;
    if rows > 0 {
        let text = "evicted, the least recently used first, because a table was full; counts of rows that came back are \
                    marked ~.";
        say(Urgency::Hint, format!("{} {text}", Many(rows, "row")));
    }
}

/// How many ports of how many. A range that was narrowed does not free those that are held outside of it.
fn ports(in_use: Option<u32>, available: Option<u32>) -> String {
    match (in_use, available) {
        (Some(used), Some(of)) if used > of => {
            format!("{used} ports (ip_local_port_range now has {of} to choose from)")
        }
        (used, of) => format!("{} of {} ports", Known(used), Known(of)),
    }
}

fn to(row: &DestinationRow) -> String {
    let raddr = match row.raddr {
        std::net::IpAddr::V6(v6) => format!("[{v6}]"),
        std::net::IpAddr::V4(v4) => v4.to_string(),
    };
    format!("{raddr}:{} from {}", row.rport, row.laddr)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::model::{
        buckets::Buckets,
        expression::Expression,
        occupancy::{Namespace, Occupancy},
        wanted::Wanted,
    };

    fn notes(all: &Aggregates, numbers: &Numbers) -> Vec<String> {
        advise(all, &Baseline::default(), numbers)
            .into_iter()
            .map(|note| format!("{}: {}", note.urgency.word(), note.text))
            .collect()
    }

    fn used(used: u64) -> Numbers {
        let name = Some("blue".to_owned());
        let buckets = Some(Buckets { netns: 7, name, used, limit: 100, namespaces: 2 });
        Numbers { buckets, ..Numbers::default() }
    }

    #[test]
    fn buckets_are_told_before_they_are_full() {
        let all = Aggregates::default();
        assert!(notes(&all, &used(79)).is_empty());
        let said = notes(&all, &used(93));
        assert!(said[0].starts_with("WARN: tcp_max_tw_buckets of blue is 93 % full: 93 of 100."), "{said:?}");
        assert!(notes(&all, &Numbers::default()).is_empty(), "not known is not full");
    }

    #[test]
    fn ports_outside_of_a_narrowed_range_are_not_of_it() {
        assert_eq!(ports(Some(17), Some(28_232)), "17 of 28232 ports");
        assert_eq!(ports(Some(17), Some(1)), "17 ports (ip_local_port_range now has 1 to choose from)");
        assert_eq!(ports(None, Some(1)), "? of 1 ports");
    }

    /// Two namespaces, each with listeners inside its range.
    fn looked(filter: &Expression) -> Aggregates {
        let space = Namespace {
            range: 30_000..=30_199,
            available: 198,
            tw_limit: None,
            tw_reuse: None,
            listeners: [443, 30_150, 30_160].into(),
            held: HashMap::new(),
        };
        let mut all = Aggregates::default().wanting(Wanted::new(filter));
        all.begin(&Occupancy { namespaces: [(7, space.clone()), (8, space)].into(), ..Occupancy::default() });
        all
    }

    #[test]
    fn listeners_are_told_of_what_the_filters_let_through() {
        let numbers = Numbers::default();
        assert_eq!(notes(&looked(&Expression::everything()), &numbers).len(), 2);
        let one = notes(&looked(&Expression::read("netns 7").unwrap()), &numbers);
        assert!(one.len() == 1 && one[0].contains("(30150, 30160) in namespace 7"), "{one:?}");
        let port = notes(&looked(&Expression::read("src port 30160").unwrap()), &numbers);
        assert!(
            port[0].starts_with("hint: 1 port of ip_local_port_range 30000-30199 has a listener (30160)"),
            "{port:?}"
        );
        assert!(notes(&looked(&Expression::read("dst port 1").unwrap()), &numbers).is_empty());
    }
}
