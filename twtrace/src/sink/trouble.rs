//! What was lost or could not be known beside lost events: each counter in a sentence, with what to do about it.

use super::human::Many;

/// Every counter, and what it means at length: docs/events.md.
pub const NAMES: &[(&str, &str)] = &[
    (
        "lives_full",
        "Births that found the table of minisocks full. Their ends have no `id`, no `life_ns` and no closer.",
    ),
    (
        "conns_full",
        "Connections that found the table of connections full. Their minisocks have no opener, closer or age.",
    ),
    ("closing_full", "Closing sockets that found their table full. Their births may have no closer."),
    ("denied_full", "Denials of a connect() that found their table full. `reuse_denied` counts too few."),
    (
        "passive_full",
        "Connections that the peer closed first and that found their table full. `closes_first` is too high.",
    ),
    ("seeds_full", "Minisocks older than the run that could not be handed over. The tables lack them."),
    ("read_failed", "Reads of kernel memory that failed. Those fields are null."),
    ("stack_failed", "Kernel stacks that could not be taken. Those ends have no cause."),
    (
        "stale",
        "Births at the address of a minisock that never ended, as far as twtrace knows. The kernel gives an address to the next \
         minisock only when the one before is gone, so twtrace missed that end: `died` counts one too few. The former life \
         leaves `live` at this moment.",
    ),
    (
        "unseen_births",
        "Sockets that closed into a minisock whose birth no program saw, while the buckets were not full. `born` counts too few. \
         A look that finds such a minisock alive counts it under `unseen` as well.",
    ),
    (
        "missed_runs",
        "Events for which the kernel skipped an eBPF program, because the same program was running on that CPU, and no second \
         program made up for it.",
    ),
    (
        "unseen",
        "Minisocks whose birth no program saw: a look through the kernel's minisocks found them alive, or they ended first. \
         `born` counts too few. From the look on they are followed like any other.",
    ),
    (
        "unseen_ends",
        "Minisocks whose end no program saw: the table of minisocks still had them, a look did not meet them any more, and at \
         two moments the kernel had no such minisock. `died` counts too few. They leave `live` when they are counted. The \
         same end is counted either here or, if its address is born again before a look, under `stale`.",
    ),
    ("garbage", "Records that could not be decoded: a fault of twtrace's."),
    ("early_lost", "Events that came during the self-test and could not be kept."),
    ("sink_dropped", "Lines that were dropped because the output was read too slowly."),
];

/// The sentence of a counter of [`Totals::trouble`](crate::model::report::Totals::trouble), without its full stop.
#[must_use]
pub fn sentence(name: &str, count: u64) -> String {
    let (noun, what) = match name {
        "lives_full" => (
            "birth",
            "found the table of minisocks full, so their ends have no length of life; use a larger --max-lives",
        ),
        "conns_full" => (
            "connection",
            "found the table of connections full: opener, closer and age are unknown; use a larger --max-conns",
        ),
        "closing_full" => ("closing socket", "found their table full: their births may have no closer"),
        "denied_full" => ("denial", "of a connect() found their table full: reuse_denied counts too few"),
        "passive_full" => ("connection", "that the peer closed first found their table full: closes_first is too high"),
        "seeds_full" => ("older minisock", "could not be handed over: the tables lack them"),
        "read_failed" => ("read", "of kernel memory failed: those fields are unknown"),
        "stack_failed" => ("kernel stack", "could not be taken: those ends have no cause"),
        "stale" => ("birth", "came at an address whose former life never ended here: those ends were missed"),
        "unseen_births" => {
            ("socket", "closed into TIME_WAIT without a birth that any program saw: born and live count too few")
        }
        "missed_runs" => {
            ("event", "came while the same eBPF program ran on that CPU, and the kernel skipped the program for it")
        }
        "unseen" => ("minisock", "without a birth that any program saw, found later"),
        "unseen_ends" => ("minisock", "whose end no program saw, found later"),
        "garbage" => ("record", "could not be decoded; please report it"),
        "early_lost" => ("event", "came during the self-test and could not be kept; use filters"),
        "sink_dropped" => {
            ("line", "were dropped because the output was read too slowly; write to a file, or use filters")
        }
        _ => return format!("{name} is {count}: not everything could be seen"),
    };
    format!("{} {what} ({name})", Many(count, noun))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_sentence_that_stands_alone() {
        for &(name, _) in NAMES {
            let said = sentence(name, 12);
            assert!(said.starts_with("12 ") && said.ends_with(&format!("({name})")), "{said}");
        }
    }

    #[test]
    fn one_without_a_sentence_is_told_all_the_same() {
        assert_eq!(sentence("new", 3), "new is 3: not everything could be seen");
    }
}
