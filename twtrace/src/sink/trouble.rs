//! What was lost or could not be known beside lost events: each counter in a sentence, with what to do about it.

use super::human::Many;

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
        let names = [
            "lives_full",
            "conns_full",
            "closing_full",
            "denied_full",
            "passive_full",
            "seeds_full",
            "read_failed",
            "stack_failed",
            "stale",
            "unseen_births",
            "missed_runs",
            "unseen",
            "garbage",
            "early_lost",
            "sink_dropped",
        ];
        for name in names {
            let said = sentence(name, 12);
            assert!(said.starts_with("12 ") && said.ends_with(&format!("({name})")), "{said}");
        }
    }

    #[test]
    fn one_without_a_sentence_is_told_all_the_same() {
        assert_eq!(sentence("new", 3), "new is 3: not everything could be seen");
    }
}
