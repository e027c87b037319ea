//! What was lost or could not be known beside lost events: each counter in a sentence, with what to do about it.

use super::human::Many;
use crate::model::trouble::Trouble;

/// Every counter, and what it means at length: docs/events.md.
pub const NAMES: &[(Trouble, &str)] = &[
    (
        Trouble::LivesFull,
        "Births that found the table of minisocks full. Their ends have no `id`, no `life_ns` and no closer.",
    ),
    (
        Trouble::ConnsFull,
        "Connections that found the table of connections full. Their minisocks have no opener, closer or age.",
    ),
    (Trouble::ClosingFull, "Closing sockets that found their table full. Their births may have no closer."),
    (Trouble::DeniedFull, "Denials of a connect() that found their table full. `reuse_denied` counts too few."),
    (
        Trouble::PassiveEvicted,
        "Connections that the peer closed first and whose counts the kernel evicted before twtrace read them, because too many \
         peers closed first within a second. `closes_first` is too high, `passive` too low.",
    ),
    (Trouble::SeedsFull, "Minisocks older than the run that could not be handed over. The tables lack them."),
    (Trouble::ReadFailed, "Reads of kernel memory that failed. Those fields are null."),
    (Trouble::StackFailed, "Kernel stacks that could not be taken. Those ends have no cause."),
    (
        Trouble::Stale,
        "Births at the address of a minisock that never ended, as far as twtrace knows. The kernel gives an address to the next \
         minisock only when the one before is gone, so twtrace missed that end: `died` counts one too few. The former life \
         leaves `live` at this moment.",
    ),
    (
        Trouble::UnseenBirths,
        "Sockets that closed into a minisock whose birth no program saw, while the buckets were not full. `born` counts too few. \
         A look that finds such a minisock alive counts it under `unseen` as well.",
    ),
    (
        Trouble::MissedRuns,
        "Events for which the kernel skipped an eBPF program, because the same program was running on that CPU, and no second \
         program made up for it.",
    ),
    (
        Trouble::Unseen,
        "Minisocks whose birth no program saw: a look through the kernel's minisocks found them alive, or they ended first. \
         `born` counts too few. From the look on they are followed like any other.",
    ),
    (
        Trouble::UnseenEnds,
        "Minisocks whose end no program saw: the table of minisocks still had them, a look did not meet them any more, and at \
         two moments the kernel had no such minisock. `died` counts too few. They leave `live` when they are counted. The \
         same end is counted either here or, if its address is born again before a look, under `stale`.",
    ),
    (Trouble::Garbage, "Records that could not be decoded: a fault of twtrace's."),
    (Trouble::EarlyLost, "Events that came during the self-test and could not be kept."),
    (Trouble::SinkDropped, "Lines that were dropped because the output was read too slowly."),
];

/// The sentence of a counter of [`Totals::trouble`](crate::model::report::Totals::trouble), without its full stop.
#[must_use]
pub fn sentence(trouble: Trouble, count: u64) -> String {
    let (noun, what) = match trouble {
        Trouble::LivesFull => (
            "birth",
            "found the table of minisocks full, so their ends have no length of life; use a larger --max-lives",
        ),
        Trouble::ConnsFull => (
            "connection",
            "found the table of connections full: opener, closer and age are unknown; use a larger --max-conns",
        ),
        Trouble::ClosingFull => ("closing socket", "found their table full: their births may have no closer"),
        Trouble::DeniedFull => ("denial", "of a connect() found their table full: reuse_denied counts too few"),
        Trouble::PassiveEvicted => (
            "connection",
            "that the peer closed first lost their count, evicted unread: closes_first is too high, passive too low; use filters",
        ),
        Trouble::SeedsFull => ("older minisock", "could not be handed over: the tables lack them"),
        Trouble::ReadFailed => ("read", "of kernel memory failed: those fields are unknown"),
        Trouble::StackFailed => ("kernel stack", "could not be taken: those ends have no cause"),
        Trouble::Stale => ("birth", "came at an address whose former life never ended here: those ends were missed"),
        Trouble::UnseenBirths => {
            ("socket", "closed into TIME_WAIT without a birth that any program saw: born and live count too few")
        }
        Trouble::MissedRuns => {
            ("event", "came while the same eBPF program ran on that CPU, and the kernel skipped the program for it")
        }
        Trouble::Unseen => ("minisock", "without a birth that any program saw, found later"),
        Trouble::UnseenEnds => ("minisock", "whose end no program saw, found later"),
        Trouble::Garbage => ("record", "could not be decoded; please report it"),
        Trouble::EarlyLost => ("event", "came during the self-test and could not be kept; use filters"),
        Trouble::SinkDropped => {
            ("line", "were dropped because the output was read too slowly; write to a file, or use filters")
        }
    };
    format!("{} {what} ({trouble})", Many(count, noun))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_sentence_that_stands_alone() {
        assert!(NAMES.iter().map(|(name, _)| *name).eq(Trouble::ALL));
        for &(name, _) in NAMES {
            let said = sentence(name, 12);
            assert!(said.starts_with("12 ") && said.ends_with(&format!("({name})")), "{said}");
        }
    }
}
