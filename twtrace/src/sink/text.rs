//! Columns for the eye, in the manner of the BCC tools.

use std::{fmt, io::Write};

use jiff::{Timestamp, tz::TimeZone};

use super::{Batch, Lines, Observer, by::Reporter, format::LineFormat, notes};
use crate::{
    model::{
        aggregate::Aggregates,
        event::{Closer, Detail, Event, Life, Tuple},
        happening::{Lost, Tick},
        holder::{HeldBy, Holder, Left},
        report::{Start, Summary},
    },
    show::{
        Clock,
        human::{Known, Name, Span, Timeout, Who},
        own,
    },
};

/// For people.
pub static FORMAT: LineFormat = LineFormat {
    word: "text",
    about: "Columns, one line for each event",
    tells_ticks: false,
    open: |setting| {
        let sink = TextSink { by: setting.by, ..TextSink::new(setting.clock, setting.zone) };
        Box::new(if setting.is_whole { sink.whole() } else { sink })
    },
};

/// How a column is laid out.
enum Side {
    Left,
    Right,
}

/// The columns: name, width, side. A longer value shifts the rest of its row; the last column ends where it ends.
const COLUMNS: [(&str, usize, Side); 11] = [
    ("TIME", 12, Side::Left),
    ("EVENT", 12, Side::Left),
    ("LADDR", 15, Side::Left),
    ("LPORT", 5, Side::Left),
    ("RADDR", 15, Side::Left),
    ("RPORT", 5, Side::Left),
    ("STATE", 9, Side::Left),
    ("CAUSE", 13, Side::Left),
    ("LIFE", 9, Side::Right),
    ("PID", 7, Side::Left),
    ("COMM", 0, Side::Left),
];

/// Lines of columns on the output; remarks and the summary go to [`Lines::notes`].
pub struct TextSink {
    clock: Clock,
    zone: TimeZone,
    lines: Vec<u8>,
    notes: String,
    has_header: bool,
    by: Option<Reporter>,
    /// What is for standard error elsewhere stands among the lines.
    is_whole: bool,
}

impl TextSink {
    /// A sink that shows times by this clock, as they are in this time zone.
    #[must_use]
    pub fn new(clock: Clock, zone: TimeZone) -> Self {
        Self { clock, zone, lines: Vec::new(), notes: String::new(), has_header: false, by: None, is_whole: false }
    }

    /// As [`TextSink::new`], with tables between the events.
    #[must_use]
    pub fn with_tables(clock: Clock, zone: TimeZone, by: Reporter) -> Self {
        Self { by: Some(by), ..Self::new(clock, zone) }
    }

    /// A sink for a file that is read later: the start, losses and the summary stand among its lines.
    #[must_use]
    pub fn whole(self) -> Self {
        Self { is_whole: true, ..self }
    }

    fn note(&mut self, note: &str) {
        if self.is_whole {
            self.lines.extend_from_slice(note.as_bytes());
        } else {
            self.notes.push_str(note);
        }
    }

    fn header(&mut self) {
        if !self.has_header {
            self.has_header = true;
            row(&mut self.lines, COLUMNS.each_ref().map(|(name, ..)| name as &dyn fmt::Display));
        }
    }
}

impl Observer for TextSink {
    fn start(&mut self, _: u64, start: &Start) {
        self.note(&notes::start(start));
        // Between tables a heading comes with the first event, and may have to come again.
        if self.by.is_none() {
            self.header();
        }
    }

    fn event(&mut self, event: &Event) {
        self.header();
        write_line(&mut self.lines, event, self.clock, &self.zone);
    }

    fn lost(&mut self, _: u64, lost: &Lost) {
        self.note(&notes::lost(lost));
    }

    /// The tables, if there are any: for the rest, what happened stands there already.
    fn tick(&mut self, mono_ns: u64, tick: &Tick, tables: &Aggregates) {
        if let Some(own) = &tick.own {
            self.note(&own::line(own));
        }
        if let Some(by) = self.by.as_ref().filter(|_| tick.report) {
            let at = WallClock { at: self.clock.wall(mono_ns), zone: &self.zone };
            self.lines.extend_from_slice(by.text(&at, tick, tables).as_bytes());
            self.has_header = false;
        }
    }

    fn summary(&mut self, _: u64, summary: &Summary) {
        self.note(&notes::summary(summary));
    }

    fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }
}

impl Lines for TextSink {
    fn tells_losses_aside(&self) -> bool {
        !self.is_whole
    }

    fn pending(&self) -> usize {
        self.lines.len()
    }

    fn take(&mut self, _: &Aggregates) -> Batch {
        Batch::drain(&mut self.lines)
    }

    fn notes(&mut self) -> String {
        std::mem::take(&mut self.notes)
    }
}

/// The line of an event, its end included.
#[must_use]
pub fn line(event: &Event, clock: Clock, zone: &TimeZone) -> String {
    let mut line = Vec::new();
    write_line(&mut line, event, clock, zone);
    String::from_utf8_lossy(&line).into_owned()
}

/// The heading above such lines.
#[must_use]
pub fn heading() -> String {
    let mut line = Vec::new();
    row(&mut line, COLUMNS.each_ref().map(|(name, ..)| name as &dyn fmt::Display));
    String::from_utf8_lossy(&line).into_owned()
}

/// Columns that [`line()`] needs with IPv4 addresses and a name.
pub const WIDTH: u16 = 118;
/// [`line()`] or [`narrow_line`].
pub type LineOf = fn(&Event, Clock, &TimeZone) -> String;

/// As [`line()`], in 80 columns: without the local address, the state and the process id.
#[must_use]
pub fn narrow_line(event: &Event, clock: Clock, zone: &TimeZone) -> String {
    let Event { mono_ns, life, detail, .. } = event;
    let tuple = life.tuple;
    let time = zone.to_datetime(clock.wall(*mono_ns)).time();
    let remote = match detail {
        Detail::NoBind { .. } => "-".to_owned(),
        _ => format!("{}:{}", Known(tuple.map(|tuple| tuple.raddr)), Known(tuple.map(|tuple| tuple.rport))),
    };
    format!(
        "{:02}:{:02}:{:02} {:<7} {:>5} {remote:<21} {:<12} {:>8} {}",
        time.hour(),
        time.minute(),
        time.second(),
        event.kind(),
        PortOf(tuple),
        CauseOf(detail),
        LifeOf(detail),
        CommOf(life.closer, detail, tuple),
    )
}

/// The heading above those.
#[must_use]
pub fn narrow_heading() -> String {
    let [time, kind, port, remote, cause, life] = ["TIME", "EVENT", "LPORT", "REMOTE", "CAUSE", "LIFE"];
    format!("{time:<8} {kind:<7} {port:>5} {remote:<21} {cause:<12} {life:>8} COMM")
}

fn write_line(lines: &mut Vec<u8>, event: &Event, clock: Clock, zone: &TimeZone) {
    let Event { mono_ns, life, detail, .. } = event;
    let at = WallClock { at: clock.wall(*mono_ns), zone };
    let tuple = life.tuple;
    let pid = Known(life.closer.map(|closer| closer.task.pid));
    row(
        lines,
        [
            &at,
            &event.kind(),
            &Known(tuple.map(|tuple| tuple.laddr)),
            &PortOf(tuple),
            &RemoteOf(detail, tuple.map(|tuple| tuple.raddr)),
            &RemoteOf(detail, tuple.map(|tuple| tuple.rport)),
            &StateOf(life, detail),
            &CauseOf(detail),
            &LifeOf(detail),
            &pid,
            &CommOf(life.closer, detail, tuple),
        ],
    );
}

/// Writes one line. Memory takes whatever is written to it, so there is no error to look at.
fn row(lines: &mut Vec<u8>, cells: [&dyn fmt::Display; COLUMNS.len()]) {
    let last = COLUMNS.len() - 1;
    for (i, ((_, width, side), cell)) in COLUMNS.iter().zip(cells).enumerate() {
        let _ = match side {
            _ if i == last => writeln!(lines, "{cell}"),
            Side::Left => write!(lines, "{cell:<width$} "),
            Side::Right => write!(lines, "{cell:>width$} "),
        };
    }
}

/// `HH:MM:SS.mmm`, local time, cut to the millisecond.
struct WallClock<'a> {
    at: Timestamp,
    zone: &'a TimeZone,
}

impl fmt::Display for WallClock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.zone.to_datetime(self.at).time();
        write!(f, "{:02}:{:02}:{:02}.{:03}", time.hour(), time.minute(), time.second(), time.millisecond())
    }
}

/// The local port; `-` if a connect() or bind() found none.
struct PortOf(Option<Tuple>);

impl fmt::Display for PortOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.map(|tuple| tuple.port()) {
            Some(None) => f.pad("-"),
            port => Known(port.flatten()).fmt(f),
        }
    }
}

/// The remote address or port; `-` where there is no other end.
struct RemoteOf<'a, T>(&'a Detail, Option<T>);

impl<T: fmt::Display> fmt::Display for RemoteOf<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, &self.1) {
            (Detail::NoBind { .. }, _) => f.pad("-"),
            (_, value) => Known(value.as_ref()).fmt(f),
        }
    }
}

/// The minisock's state; `-` for what is about a call that failed.
struct StateOf<'a>(&'a Life, &'a Detail);

impl fmt::Display for StateOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Detail::NoPort { .. } | Detail::ReuseDenied { .. } | Detail::NoBind { .. } => f.pad("-"),
            _ => Known(self.0.substate).fmt(f),
        }
    }
}

/// Why it ended, why it was not to be had, or why it never was; `-` for what has no why.
struct CauseOf<'a>(&'a Detail);

impl fmt::Display for CauseOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Detail::Died { cause, .. } => cause.fmt(f),
            Detail::Refused { reason, .. } => reason.fmt(f),
            Detail::ReuseDenied { reason, .. } => reason.fmt(f),
            Detail::NoPort { holder: Some(holder), .. } => holder.by.fmt(f),
            Detail::NoBind { holder, .. } => Known(holder.map(|holder| holder.by)).fmt(f),
            Detail::Born { .. } | Detail::Turned { .. } | Detail::Rearmed { .. } | Detail::NoPort { .. } => f.pad("-"),
        }
    }
}

/// How long it lived; how long it was in FIN_WAIT2; in brackets, how long it is going to live.
struct LifeOf<'a>(&'a Detail);

impl fmt::Display for LifeOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.0 {
            Detail::Died { life_ns, .. } => Known(life_ns.map(Span)).fmt(f),
            Detail::Turned { after_ns } => Known(after_ns.map(Span)).fmt(f),
            Detail::Born { timeout_ms, .. } | Detail::Rearmed { timeout_ms } => Known(timeout_ms.map(Timeout)).fmt(f),
            Detail::Refused { .. } | Detail::NoPort { .. } | Detail::ReuseDenied { .. } | Detail::NoBind { .. } => {
                f.pad("-")
            }
        }
    }
}

/// The closer's name, and who took the tuple; the caller's, and how many minisocks it was denied or who has its port.
struct CommOf<'a>(Option<Closer>, &'a Detail, Option<Tuple>);

impl fmt::Display for CommOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Known(self.0.map(|closer| Name(closer.task.comm))).fmt(f)?;
        match *self.1 {
            Detail::Died { taker: Some(taker), .. } => write!(f, " by {}", Who(taker)),
            Detail::ReuseDenied { count, .. } => write!(f, " denied {count}"),
            Detail::NoPort { holder, .. } => match (self.2.and_then(|tuple| tuple.port()), holder) {
                // The same two ends: it can only be its own.
                (Some(_), Some(Holder { by: HeldBy::TimeWait, expires_in_ms, .. })) => {
                    write!(f, " bound port held by its own TIME_WAIT{}", Left(expires_in_ms))
                }
                (Some(_), Some(holder)) => write!(f, " bound port {holder}"),
                (Some(_), None) => f.write_str(" bound port is taken"),
                (None, _) => Ok(()),
            },
            Detail::NoBind { call, holder } => {
                write!(f, " {call}()")?;
                match (self.2.map(|tuple| tuple.lport), holder) {
                    (Some(0), _) => f.write_str(" no port left"),
                    (Some(_), Some(holder)) => write!(f, " port {holder}"),
                    (Some(_), None) => f.write_str(" port is taken"),
                    (None, _) => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
