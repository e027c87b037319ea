//! The counters of a run, as in `tick` and `summary`.

use serde::{Serialize, Serializer};

use super::{
    CAUSES, DENIALS, Field, NOT_WATCHED, Of,
    Shape::{Counts, Integer},
    always, maybe,
};
use crate::model::{
    event::{Cause, Denial, Refusal},
    report::Totals,
};

/// A counter's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sum<'a> {
    /// Not counted.
    Null,
    /// So many.
    Count(u64),
    /// So many of each, in order.
    ByWord(Vec<(&'a str, u64)>),
}

impl Serialize for Sum<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_none(),
            Self::Count(count) => serializer.serialize_u64(*count),
            Self::ByWord(counts) => serializer.collect_map(counts.iter().copied()),
        }
    }
}

/// Every counter.
pub const COUNTERS: &[Field] = &[
    always("born_time_wait", Integer, "", "TIME_WAIT minisocks born, after the filters").sum(|totals| count(totals.born_time_wait)),
    always("born_fin_wait2", Integer, "", "FIN_WAIT2 minisocks born, after the filters").sum(|totals| count(totals.born_fin_wait2)),
    maybe("turned", Integer, "", "FIN_WAIT2 minisocks that became TIME_WAIT, after the filters", NOT_WATCHED).sum(|totals| perhaps(totals.turned)),
    maybe("rearmed", Integer, "", "timers armed anew, after the filters", NOT_WATCHED).sum(|totals| perhaps(totals.rearmed)),
    always("died", Counts, CAUSES, "ends by cause, after the filters; every cause is listed, `?`: unknown").sum(|totals| by_word(Cause::ALL, Cause::word, &totals.died)),
    maybe("refused", Integer, "", "births refused, after the filters", NOT_WATCHED).sum(|totals| perhaps(totals.all_refused())),
    maybe("refused_by", Counts, "buckets memory", "refused, by reason; `?`: unknown", NOT_WATCHED).sum(|totals| perhaps_by_word(Refusal::ALL, Refusal::word, totals.refused.as_deref())),
    maybe("no_port", Integer, "", "connect() calls that failed with EADDRNOTAVAIL, after the filters", NOT_WATCHED).sum(|totals| perhaps(totals.no_port)),
    maybe("no_port_bound", Integer, "", "`no_port` events whose port was bound before connect()", NOT_WATCHED).sum(|totals| perhaps(totals.no_port_bound)),
    maybe("reuse_denied", Integer, "", "`reuse_denied` events, after the filters", NOT_WATCHED).sum(|totals| perhaps(totals.all_denied())),
    maybe("reuse_denied_by", Counts, DENIALS, "reuse_denied, by reason; `?`: unknown", NOT_WATCHED).sum(|totals| perhaps_by_word(Denial::ALL, Denial::word, totals.reuse_denied.as_deref())),
    maybe(
        "no_bind",
        Integer,
        "",
        "bind() and listen() calls that failed with EADDRINUSE, after the filters",
        NOT_WATCHED,
    ).sum(|totals| perhaps(totals.no_bind)),
    always("holders_unknown", Integer, "", "`no_port` and `no_bind` events whose port is taken by an unknown holder").sum(|totals| count(totals.holders_unknown)),
    maybe("live", Integer, "", "minisocks alive now, on the whole machine, without filters", "not known").sum(|totals| perhaps(totals.live)),
    maybe(
        "looked_ms_ago",
        Integer,
        "ms",
        "since the kernel's own minisocks were last looked through whole: as of then `unseen` and `unseen_ends` of `trouble` are \
         complete",
        "they could not be listed",
    ).sum(|totals| perhaps(totals.looked_ms_ago)),
    always("seen", Integer, "", "events found in the kernel: emitted + filtered + lost; in a tick, an expression that only user space can answer leaves out what waits in the ring").sum(|totals| count(totals.seen)),
    always("emitted", Integer, "", "events sent to twtrace, less those that the filters excluded there").sum(|totals| count(totals.emitted)),
    always("filtered", Integer, "", "events that the filters excluded").sum(|totals| count(totals.filtered)),
    always("lost", Integer, "", "events dropped because the ring was full").sum(|totals| count(totals.lost)),
    always("ticks_skipped", Integer, "", "ticks that were due but not written, because the output was read too slowly").sum(|totals| count(totals.ticks_skipped)),
    maybe(
        "missed_runs",
        Integer,
        "",
        "events for which the kernel ran no program, because a program was running on that CPU",
        "this kernel does not count them: see `misses` of `twtrace probe`",
    ).sum(|totals| perhaps(totals.missed.runs)),
    always("missed_runs_by", Counts, "", "the same by program, as far as they are counted; zero counts are omitted").sum(|totals| Sum::ByWord(totals.missed.by.iter().map(|(name, count)| (name.as_ref(), *count)).collect())),
    always("trouble", Counts, "", "other losses and unknowns, by name, see below; zero counts are omitted").sum(|totals| Sum::ByWord(totals.trouble.iter().map(|(name, count)| (name.word(), *count)).collect())),
];

/// The totals, field by field.
pub struct Sums<'a>(pub &'a Totals);

impl Serialize for Sums<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(COUNTERS.iter().filter_map(|field| match field.of {
            Of::Totals(get) => Some((field.name, get(self.0))),
            Of::Line | Of::Event(_) => None,
        }))
    }
}

fn count<'a>(count: u64) -> Sum<'a> {
    Sum::Count(count)
}

fn perhaps<'a>(count: Option<u64>) -> Sum<'a> {
    count.map_or(Sum::Null, Sum::Count)
}

/// Every word of the vocabulary, even with 0, and `?` for all that has none.
fn by_word<'a, T: Copy>(all: &[T], word: fn(T) -> &'static str, counts: &[(T, u64)]) -> Sum<'a> {
    let of = |name: &str| counts.iter().filter(|(value, _)| word(*value) == name).map(|(_, count)| count).sum();
    Sum::ByWord(all.iter().map(|value| word(*value)).chain(["?"]).map(|name| (name, of(name))).collect())
}

fn perhaps_by_word<'a, T: Copy>(all: &[T], word: fn(T) -> &'static str, counts: Option<&[(T, u64)]>) -> Sum<'a> {
    counts.map_or(Sum::Null, |counts| by_word(all, word, counts))
}
