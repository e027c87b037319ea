//! JSON lines: one object per line, every field always there, `null` where the kernel did not say. Events are written by the
//! tables of [`fields`], which describe every line; a test holds the other lines against them.

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
        event::{Event, Kind},
        fields::{self, Sums},
        happening::{Lost, Tick},
        report::{Reconciled, Start, Summary},
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
        let (counters, own) = (Sums(&tick.totals), tick.own.as_ref().map(SelfStats::of));
        let buckets = tick.buckets.as_ref();
        self.line("tick", mono_ns, TickLine { counters, born_per_s, died_per_s, buckets, by, own });
    }

    fn summary(&mut self, mono_ns: u64, summary: &Summary) {
        let &Summary { ref totals, ref reconcile, netns, realtime, duration_ns, .. } = summary;
        let (counters, exactness) = (Sums(totals), summary.exactness());
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
            if let Some(access) = field.of.event() {
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
    counters: Sums<'a>,
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
    counters: Sums<'a>,
    reconcile: &'a [Reconciled],
    reconcile_netns: u32,
    exact: Option<bool>,
    exactness: &'static str,
    realtime: bool,
    duration_ns: u64,
}

/// Every value of the field `type`, in the order of the tables.
#[must_use]
pub fn types() -> Vec<&'static str> {
    ["start"].into_iter().chain(Kind::ALL.iter().map(|kind| kind.word())).chain(["lost", "tick", "summary"]).collect()
}
