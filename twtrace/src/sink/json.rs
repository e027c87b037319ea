//! JSON lines: one object per line, every field always there, `null` where the kernel did not say. fields.rs describes
//! each field; a test holds the two against each other.

use std::{borrow::Cow, net::IpAddr};

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
        event::{
            Call, Cause, Closer, Comm, Connection, Denial, Detail, Event, Kind, Life, Refusal, Role, Substate, Task,
        },
        happening::{Lost, Tick},
        holder::{HeldBy, Holder},
        report::{Reconciled, Start, Summary, Totals},
        trouble::Trouble,
    },
    show::{Clock, clock::Stamp, escape, human::plain},
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
        let line = Line { v: VERSION, kind, ts: Stamp(self.clock.wall(mono_ns)), mono_ns, body };
        let begin = self.lines.len();
        match escape::to_writer(&mut self.lines, &line) {
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
        let Event { mono_ns, ref life, ref detail, .. } = *event;
        let socket = Socket::of(life);
        let kind = event.kind().word();
        match *detail {
            Detail::Born { timeout_ms, connection } => {
                self.line(kind, mono_ns, Born { socket, birth: Birth::of(life, timeout_ms, connection) });
            }
            Detail::Turned { after_ns } => self.line(kind, mono_ns, Turned { socket, after_ns }),
            Detail::Rearmed { timeout_ms } => self.line(kind, mono_ns, Rearmed { socket, timeout_ms }),
            Detail::Died { cause, life_ns, taker } => {
                let Life { substate, preexisting, .. } = *life;
                let (taker, owner) = (Taker::of(taker), Owner::of(life));
                self.line(kind, mono_ns, Died { socket, substate, cause, life_ns, preexisting, taker, owner });
            }
            Detail::Refused { reason, used, limit, connection } => {
                let birth = Birth::of(life, None, connection);
                self.line(kind, mono_ns, Refused { socket, birth, reason, used, limit });
            }
            Detail::NoPort { took_ns, holder } => {
                let (owner, held) = (Owner::of(life), Held::of(holder));
                self.line(kind, mono_ns, NoPort { socket, owner, took_ns, held });
            }
            Detail::ReuseDenied { reason, count, took_ns } => {
                let owner = Owner::of(life);
                self.line(kind, mono_ns, ReuseDenied { socket, owner, took_ns, reason, count });
            }
            Detail::NoBind { call, holder } => {
                // There is no other end.
                let socket = Socket { raddr: None, rport: None, ..socket };
                let (owner, held) = (Owner::of(life), Held::of(holder));
                self.line(kind, mono_ns, NoBind { socket, owner, call, held });
            }
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

/// What every line about a minisock has.
#[derive(Serialize)]
struct Socket {
    id: Option<u64>,
    netns: Option<u32>,
    family: Option<u8>,
    laddr: Option<IpAddr>,
    lport: Option<u16>,
    raddr: Option<IpAddr>,
    rport: Option<u16>,
}

impl Socket {
    fn of(life: &Life) -> Self {
        let Life { id, netns, tuple, .. } = *life;
        Self {
            id,
            netns,
            family: tuple.map(|tuple| tuple.family()),
            laddr: tuple.map(|tuple| tuple.laddr),
            lport: tuple.and_then(|tuple| tuple.port()),
            raddr: tuple.map(|tuple| tuple.raddr),
            rport: tuple.map(|tuple| tuple.rport),
        }
    }
}

/// Whose connection it was, or was to be.
#[derive(Serialize)]
struct Owner {
    role: Option<Role>,
    pid: Option<u32>,
    comm: Option<Word>,
    cgroup_id: Option<u64>,
}

impl Owner {
    fn of(life: &Life) -> Self {
        let Life { role, closer, .. } = *life;
        let (pid, comm) = task(closer.map(|Closer { task, .. }| task));
        Self { role, pid, comm, cgroup_id: closer.map(|closer| closer.cgroup_id) }
    }
}

/// What births and refusals share.
#[derive(Serialize)]
struct Birth {
    substate: Option<Substate>,
    timeout_ms: Option<u32>,
    #[serde(flatten)]
    owner: Owner,
    opener_pid: Option<u32>,
    opener_comm: Option<Word>,
    conn_ns: Option<u64>,
    connect_ns: Option<u64>,
    timestamps: Option<bool>,
    bytes_in: Option<u64>,
    bytes_out: Option<u64>,
    srtt_us: Option<u32>,
    mark: Option<u32>,
}

impl Birth {
    fn of(life: &Life, timeout_ms: Option<u32>, connection: Connection) -> Self {
        let Connection { opener, conn_ns, connect_ns, timestamps, bytes_in, bytes_out, srtt_us, mark } = connection;
        let (opener_pid, opener_comm) = task(opener);
        Self {
            substate: life.substate,
            timeout_ms,
            owner: Owner::of(life),
            opener_pid,
            opener_comm,
            conn_ns,
            connect_ns,
            timestamps,
            bytes_in,
            bytes_out,
            srtt_us,
            mark,
        }
    }
}

#[derive(Serialize)]
struct Born {
    #[serde(flatten)]
    socket: Socket,
    #[serde(flatten)]
    birth: Birth,
}

#[derive(Serialize)]
struct Turned {
    #[serde(flatten)]
    socket: Socket,
    after_ns: Option<u64>,
}

#[derive(Serialize)]
struct Rearmed {
    #[serde(flatten)]
    socket: Socket,
    timeout_ms: Option<u32>,
}

#[derive(Serialize)]
struct Died {
    #[serde(flatten)]
    socket: Socket,
    substate: Option<Substate>,
    cause: Cause,
    life_ns: Option<u64>,
    preexisting: Option<bool>,
    #[serde(flatten)]
    taker: Taker,
    #[serde(flatten)]
    owner: Owner,
}

#[derive(Serialize)]
struct Taker {
    taker_pid: Option<u32>,
    taker_comm: Option<Word>,
}

impl Taker {
    fn of(taker: Option<Task>) -> Self {
        let (taker_pid, taker_comm) = task(taker);
        Self { taker_pid, taker_comm }
    }
}

#[derive(Serialize)]
struct Refused {
    #[serde(flatten)]
    socket: Socket,
    #[serde(flatten)]
    birth: Birth,
    reason: Refusal,
    used: Option<u32>,
    limit: Option<u32>,
}

#[derive(Serialize)]
struct NoPort {
    #[serde(flatten)]
    socket: Socket,
    #[serde(flatten)]
    owner: Owner,
    took_ns: Option<u64>,
    #[serde(flatten)]
    held: Held,
}

#[derive(Serialize)]
struct NoBind {
    #[serde(flatten)]
    socket: Socket,
    #[serde(flatten)]
    owner: Owner,
    call: Call,
    #[serde(flatten)]
    held: Held,
}

/// Who has the port.
#[derive(Serialize)]
struct Held {
    held_by: Option<HeldBy>,
    holder_pid: Option<u32>,
    holder_comm: Option<Word>,
    held_ms: Option<u64>,
    expires_in_ms: Option<u64>,
}

impl Held {
    fn of(holder: Option<Holder>) -> Self {
        let (holder_pid, holder_comm) = task(holder.and_then(|holder| holder.task));
        Self {
            held_by: holder.map(|holder| holder.by),
            holder_pid,
            holder_comm,
            held_ms: holder.and_then(|holder| holder.held_ms),
            expires_in_ms: holder.and_then(|holder| holder.expires_in_ms),
        }
    }
}

#[derive(Serialize)]
struct ReuseDenied {
    #[serde(flatten)]
    socket: Socket,
    #[serde(flatten)]
    owner: Owner,
    took_ns: Option<u64>,
    reason: Denial,
    count: u32,
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

/// A command name, copied only if it is no UTF-8.
struct Word(Comm);

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match plain(&self.0) {
            Some(name) => serializer.serialize_str(name),
            None => serializer.serialize_str(&self.0.name()),
        }
    }
}

fn task(task: Option<Task>) -> (Option<u32>, Option<Word>) {
    (task.map(|task| task.pid), task.map(|task| Word(task.comm)))
}

/// Every value of the field `type`, in the order of fields.rs.
#[must_use]
pub fn types() -> Vec<&'static str> {
    ["start"].into_iter().chain(Kind::ALL.iter().map(|kind| kind.word())).chain(["lost", "tick", "summary"]).collect()
}
