//! JSON lines: one object per line, every field always there, `null` where the kernel did not say. Events are written by the
//! tables of [`fields`], which describe every line; a test holds the other lines against them.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{
    Batch, Lines, Observer,
    by::{By, Reporter},
    format::LineFormat,
    own::SelfStats,
};
use crate::{
    model::{
        aggregate::{Aggregates, rate::thousandths},
        buckets::Buckets,
        event::{Cause, Denial, Event, Kind, Refusal},
        fields,
        happening::{Lost, Tick},
        report::{Reconciled, Start, Summary, Totals},
        trouble::Trouble,
    },
    show::{Clock, clock::Stamp, escape},
};

/// Version of the lines: the field `v`. Adding a field keeps it; changing the meaning of one raises it.
pub const VERSION: u8 = 1;

/// For programs.
pub static FORMAT: LineFormat = LineFormat {
    word: "json",
    about: "JSON, one object per line (docs/events.md)",
    tells_ticks: true,
    open: |setting| Box::new(JsonSink { by: setting.by, ..JsonSink::new(setting.clock) }),
};

/// One line of JSON for everything.
pub struct JsonSink {
    clock: Clock,
    by: Option<Reporter>,
    lines: Vec<u8>,
}

impl JsonSink {
    /// A sink that reads times by this clock.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, by: None, lines: Vec::new() }
    }

    /// As [`JsonSink::new`], with tables in its `tick` lines.
    #[must_use]
    pub fn with_tables(clock: Clock, by: Reporter) -> Self {
        Self { by: Some(by), ..Self::new(clock) }
    }

    fn line(&mut self, kind: &'static str, mono_ns: u64, body: impl Serialize) {
        self.put(&Line { v: VERSION, kind, ts: Stamp(self.clock.wall(mono_ns)), mono_ns, body });
    }

    fn put(&mut self, line: &impl Serialize) {
        let begin = self.lines.len();
        match escape::to_writer(&mut self.lines, line) {
            Ok(()) => self.lines.push(b'\n'),
            // Memory takes whatever is written to it, and every key is a string, so this does not happen. Should it
            // ever, half a line is worse than none.
            Err(_) => self.lines.truncate(begin),
        }
    }
}

impl Observer for JsonSink {
    fn start(&mut self, mono_ns: u64, start: &Start) {
        self.line("start", mono_ns, start);
    }

    fn event(&mut self, event: &Event) {
        if let Some(table) = fields::Line::of(event.kind()) {
            self.put(&EventLine { at: self.clock.wall(event.mono_ns), table, event });
        }
    }

    fn lost(&mut self, mono_ns: u64, lost: &Lost) {
        let Lost { place, ref observer, count } = *lost;
        self.line("lost", mono_ns, LostLine { count, place: place.word(), observer: observer.as_deref() });
    }

    fn tick(&mut self, mono_ns: u64, tick: &Tick, tables: &Aggregates) {
        let (born_per_s, died_per_s) = (tick.born_per_s.map(thousandths), tick.died_per_s.map(thousandths));
        let by = self.by.as_ref().filter(|_| tick.report).map(|by| by.report(tables));
        let (counters, own) = (Counters::of(&tick.totals), tick.own.as_ref().map(SelfStats::of));
        let buckets = tick.buckets.as_ref();
        self.line("tick", mono_ns, TickLine { counters, born_per_s, died_per_s, buckets, by, own });
    }

    fn summary(&mut self, mono_ns: u64, summary: &Summary) {
        let &Summary { ref totals, ref reconcile, netns, realtime, duration_ns, .. } = summary;
        let (counters, exactness) = (Counters::of(totals), summary.exactness());
        let (exact, exactness) = (exactness.is_exact(), exactness.word());
        let line = SummaryLine { counters, reconcile, reconcile_netns: netns, exact, exactness, realtime, duration_ns };
        self.line("summary", mono_ns, line);
    }

    fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }
}

impl Lines for JsonSink {
    fn pending(&self) -> usize {
        self.lines.len()
    }

    fn take(&mut self, _: &Aggregates) -> Batch {
        Batch::drain(&mut self.lines)
    }

    /// Nothing: whoever asked for JSON gets all of it there.
    fn notes(&mut self) -> String {
        String::new()
    }
}

/// What every line begins with, and what it goes on with.
#[derive(Serialize)]
pub(crate) struct Line<B> {
    pub v: u8,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub ts: Stamp,
    pub mono_ns: u64,
    #[serde(flatten)]
    pub body: B,
}

/// An event, as the table of its line has it.
struct EventLine<'a> {
    at: Timestamp,
    table: &'static fields::Line,
    event: &'a Event,
}

impl Serialize for EventLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("v", &VERSION)?;
        map.serialize_entry("type", self.table.kind)?;
        map.serialize_entry("ts", &Stamp(self.at))?;
        map.serialize_entry("mono_ns", &self.event.mono_ns)?;
        for field in self.table.fields() {
            if let Some(access) = field.of {
                map.serialize_entry(field.name, &(access.get)(self.event))?;
            }
        }
        map.end()
    }
}

#[derive(Serialize)]
struct LostLine<'a> {
    count: u64,
    #[serde(rename = "where")]
    place: &'static str,
    observer: Option<&'a str>,
}

#[derive(Serialize)]
struct TickLine<'a> {
    #[serde(flatten)]
    counters: Counters<'a>,
    born_per_s: Option<f64>,
    died_per_s: Option<f64>,
    buckets: Option<&'a Buckets>,
    by: Option<By>,
    #[serde(rename = "self")]
    own: Option<SelfStats>,
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    #[serde(flatten)]
    counters: Counters<'a>,
    reconcile: &'a [Reconciled],
    reconcile_netns: u32,
    exact: Option<bool>,
    exactness: &'static str,
    realtime: bool,
    duration_ns: u64,
}

/// The counters, as in `tick` and `summary`.
#[derive(Serialize)]
struct Counters<'a> {
    born_time_wait: u64,
    born_fin_wait2: u64,
    turned: Option<u64>,
    rearmed: Option<u64>,
    died: Counts<'a, Cause>,
    refused: Option<u64>,
    refused_by: Option<Counts<'a, Refusal>>,
    no_port: Option<u64>,
    no_port_bound: Option<u64>,
    reuse_denied: Option<u64>,
    reuse_denied_by: Option<Counts<'a, Denial>>,
    no_bind: Option<u64>,
    holders_unknown: u64,
    live: Option<u64>,
    looked_ms_ago: Option<u64>,
    seen: u64,
    emitted: u64,
    filtered: u64,
    lost: u64,
    ticks_skipped: u64,
    missed_runs: Option<u64>,
    #[serde(serialize_with = "as_map")]
    missed_runs_by: &'a [(Cow<'static, str>, u64)],
    #[serde(serialize_with = "as_map")]
    trouble: &'a [(Trouble, u64)],
}

impl<'a> Counters<'a> {
    fn of(totals: &'a Totals) -> Self {
        let (refused, denied) = (totals.refused.as_deref(), totals.reuse_denied.as_deref());
        Self {
            born_time_wait: totals.born_time_wait,
            born_fin_wait2: totals.born_fin_wait2,
            turned: totals.turned,
            rearmed: totals.rearmed,
            died: Counts { words: Cause::ALL, word: Cause::word, counts: &totals.died },
            refused: refused.map(|counts| counts.iter().map(|(_, count)| count).sum()),
            refused_by: refused.map(|counts| Counts { words: Refusal::ALL, word: Refusal::word, counts }),
            no_port: totals.no_port,
            no_port_bound: totals.no_port_bound,
            reuse_denied: denied.map(|counts| counts.iter().map(|(_, count)| count).sum()),
            reuse_denied_by: denied.map(|counts| Counts { words: Denial::ALL, word: Denial::word, counts }),
            no_bind: totals.no_bind,
            holders_unknown: totals.holders_unknown,
            live: totals.live,
            looked_ms_ago: totals.looked_ms_ago,
            seen: totals.seen,
            emitted: totals.emitted,
            filtered: totals.filtered,
            lost: totals.lost,
            ticks_skipped: totals.ticks_skipped,
            missed_runs: totals.missed.runs,
            missed_runs_by: &totals.missed.by,
            trouble: &totals.trouble,
        }
    }
}

/// Numbers by word: every word of the vocabulary, even with 0, and `?` for all that has none.
struct Counts<'a, T: 'static> {
    words: &'static [T],
    word: fn(T) -> &'static str,
    counts: &'a [(T, u64)],
}

impl<T: Copy> Serialize for Counts<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.words.len() + 1))?;
        for word in self.words.iter().map(|value| (self.word)(*value)).chain(["?"]) {
            let of_word = self.counts.iter().filter(|(value, _)| (self.word)(*value) == word);
            map.serialize_entry(word, &of_word.map(|(_, count)| count).sum::<u64>())?;
        }
        map.end()
    }
}

fn as_map<K: Serialize, S: Serializer>(counts: &[(K, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(counts.iter().map(|(key, count)| (key, count)))
}

/// Every value of the field `type`, in the order of the tables.
#[must_use]
pub fn types() -> Vec<&'static str> {
    ["start"].into_iter().chain(Kind::ALL.iter().map(|kind| kind.word())).chain(["lost", "tick", "summary"]).collect()
}
