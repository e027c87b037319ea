//! What was made held against what was said: every life, field by field, and the kernel's counters against both. Pure, so
//! that a test can feed it a tracer that drops, doubles or renames.

mod kernel;

use std::{
    collections::{HashMap, HashSet},
    fmt::{self, Debug},
    net::IpAddr,
};

use super::{
    tally::Tally,
    want::{End, Is, Turn, Want, WantDenied, WantNoBind, WantNoPort, WantRefused},
};
use crate::{
    model::event::{Cause, Closer, Connection, Detail, Event, Kind, Role, Substate, Tuple},
    traffic::{oracle::Looks, who::Who},
};

/// Everything that a scenario did, and what it knows of it.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// Inode numbers of its namespaces; the kernel's counters are those of the first.
    pub netns: Vec<u32>,
    /// The lives, in the order of their births for equal tuples.
    pub wants: Vec<Want>,
    /// The minisocks that were not made, in order.
    pub refused: Vec<WantRefused>,
    /// The connect() calls that failed with EADDRNOTAVAIL, in order.
    pub no_port: Vec<WantNoPort>,
    /// The minisocks that stood in their way, in order.
    pub denied: Vec<WantDenied>,
    /// The bind() and listen() calls that failed with EADDRINUSE, in order.
    pub no_bind: Vec<WantNoBind>,
    /// How many denials there were cannot be known: none is asked for.
    pub denied_at_will: bool,
    /// What the sockets themselves said, against what they should have.
    pub own: Vec<Difference>,
    /// What else there is to say of it, for the reader.
    pub note: Option<String>,
    /// The kernel's word; `None`: the namespace is gone.
    pub looks: Option<Looks>,
    /// What happened later than this is not looked at, nanoseconds of `CLOCK_MONOTONIC`.
    pub until_ns: u64,
}

/// What a tracer can know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Knows {
    /// Turns are told when the minisock's timer is next touched, so not of minisocks that live on.
    pub turns_late: bool,
    /// connect() calls that fail are told.
    pub no_port: bool,
    /// What stood in their way is told.
    pub reuse_denied: bool,
    /// bind() and listen() calls that fail are told.
    pub no_bind: bool,
}

/// One thing that was compared.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// What.
    pub what: String,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub seen: String,
}

/// Most differences that are kept; the rest is counted.
const KEPT: usize = 12;

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How many comparisons were made.
    pub checks: usize,
    /// How many lives, refusals, failed calls and words of the sockets themselves there were to look at.
    pub subjects: usize,
    /// Lives that differ, the first few.
    pub differences: Vec<Difference>,
    /// How many differ.
    pub differ: usize,
    /// What was made, in numbers.
    pub expected: Tally,
    /// What was told, in numbers.
    pub seen: Tally,
    /// The shortest and the longest life that its timer ended, nanoseconds.
    pub expired_ns: Option<(u64, u64)>,
}

impl Verdict {
    /// True if something was looked at, and nothing differs.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.subjects > 0 && self.differ == 0
    }

    fn differs(&mut self, what: impl FnOnce() -> String, expected: impl fmt::Display, seen: impl fmt::Display) {
        self.checks += 1;
        self.differ += 1;
        if self.differences.len() < KEPT {
            let (expected, seen) = (expected.to_string(), seen.to_string());
            self.differences.push(Difference { what: what(), expected, seen });
        }
    }

    fn equal<T: PartialEq + Debug>(&mut self, what: impl FnOnce() -> String, expected: &T, seen: &T) {
        if expected == seen {
            self.checks += 1;
        } else {
            self.differs(what, format!("{expected:?}"), format!("{seen:?}"));
        }
    }

    fn is<T: PartialOrd + Debug>(&mut self, what: impl FnOnce() -> String, wanted: &Is<T>, told: Option<&T>) {
        if wanted.holds(told) {
            self.checks += usize::from(!wanted.is_anything());
        } else {
            self.differs(what, wanted, told.map_or_else(|| "not known".to_owned(), |told| format!("{told:?}")));
        }
    }
}

/// A connection's side in its namespace.
type Key = (u32, Tuple);

/// One minisock as the tracer told it.
#[derive(Debug, Default)]
struct Told<'a> {
    born: Option<&'a Event>,
    turned: usize,
    rearmed: usize,
    died: Option<&'a Event>,
}

/// Judges a scenario by all that was told of its namespaces.
#[must_use]
pub fn judge(made: &Made, events: &[Event], knows: Knows) -> Verdict {
    let calls = made.no_port.len() + made.denied.len() + made.no_bind.len();
    let subjects = made.wants.len() + made.refused.len() + calls + made.own.len();
    let mut verdict = Verdict { subjects, ..Verdict::default() };
    let ours = |event: &&Event| {
        event.mono_ns <= made.until_ns && event.life.netns.is_some_and(|netns| made.netns.contains(&netns))
    };
    let events: Vec<&Event> = events.iter().filter(ours).collect();
    for own in &made.own {
        verdict.equal(|| own.what.clone(), &own.expected, &own.seen);
    }
    once(&events, &mut verdict);
    let told = lives(&events, &mut verdict);
    let matched = matched(made, &told, &mut verdict);
    for (want, told) in &matched {
        one(want, told, knows, &mut verdict);
    }
    others(made, &events, knows, &mut verdict);
    if let Some(looks) = &made.looks {
        kernel::kernel(made, looks, &events, knows, &mut verdict);
    }
    verdict.expected = Tally::made(made, knows);
    let expired = |event: &&Event| match event.detail {
        Detail::Died { cause: Cause::Expired, life_ns, .. } => life_ns,
        _ => None,
    };
    let lengths = || events.iter().filter_map(expired);
    verdict.expired_ns = lengths().min().zip(lengths().max());
    verdict.seen = Tally::told(&events, matched.iter().map(|(want, told)| (*want, told.turned)), made);
    verdict
}

/// Nothing may be told twice: a kind of event does not happen twice to a minisock in one nanosecond.
fn once(events: &[&Event], verdict: &mut Verdict) {
    let mut before = HashSet::new();
    for event in events {
        let reason = match event.detail {
            Detail::ReuseDenied { reason, .. } => Some(reason),
            _ => None,
        };
        if !before.insert((event.kind(), event.life.id, event.life.tuple, event.mono_ns, reason)) {
            verdict.differs(|| format!("times that this is told: {}", short(event)), 1, 2);
        }
    }
}

fn short(event: &Event) -> String {
    let tuple = event.life.tuple.map_or_else(|| "?".to_owned(), named);
    format!("{} of {tuple}", event.kind())
}

fn named(Tuple { laddr, lport, raddr, rport }: Tuple) -> String {
    let end = |addr: IpAddr, port| std::net::SocketAddr::new(addr, port);
    format!("{} > {}", end(laddr, lport), end(raddr, rport))
}

/// Puts the events of each minisock together, by id.
fn lives<'a>(events: &[&'a Event], verdict: &mut Verdict) -> HashMap<Key, Vec<Told<'a>>> {
    let mut told: HashMap<Key, Vec<Told<'a>>> = HashMap::new();
    let mut places: HashMap<u64, (Key, usize)> = HashMap::new();
    for event in events {
        if !matches!(event.kind(), Kind::Born | Kind::Turned | Kind::Rearmed | Kind::Died) {
            continue;
        }
        let (Some(netns), Some(tuple), Some(id)) = (event.life.netns, event.life.tuple, event.life.id) else {
            verdict.differs(|| format!("namespace, tuple and id: {}", short(event)), "known", "not known");
            continue;
        };
        let key = (netns, tuple);
        let is_birth = event.kind() == Kind::Born;
        let known = places.get(&id).copied();
        if is_birth || (known.is_none() && event.life.preexisting == Some(true)) {
            if known.is_some() {
                verdict.differs(|| format!("births of id {id}, {}", named(tuple)), 1, 2);
            }
            let lives = told.entry(key).or_default();
            places.insert(id, (key, lives.len()));
            lives.push(Told { born: is_birth.then_some(*event), ..Told::default() });
        }
        let Some(&(home, index)) = places.get(&id) else {
            verdict.differs(|| format!("what comes first: {}", short(event)), "its birth", event.kind());
            continue;
        };
        verdict.equal(|| format!("the tuple of id {id}"), &home, &key);
        let Some(life) = told.get_mut(&home).and_then(|lives| lives.get_mut(index)) else { continue };
        match event.kind() {
            Kind::Turned => life.turned += 1,
            Kind::Rearmed => life.rearmed += 1,
            Kind::Died if life.died.is_some() => verdict.differs(|| format!("ends of {}", named(tuple)), 1, 2),
            Kind::Died => life.died = Some(*event),
            _ => {}
        }
    }
    told
}

/// Pairs each life that was made with one that was told, in order, and complains of what is left over.
fn matched<'m, 't, 'a>(
    made: &'m Made,
    told: &'t HashMap<Key, Vec<Told<'a>>>,
    verdict: &mut Verdict,
) -> Vec<(&'m Want, &'t Told<'a>)> {
    static NOTHING: Told<'static> = Told { born: None, turned: 0, rearmed: 0, died: None };
    let mut next: HashMap<Key, usize> = HashMap::new();
    let mut pairs = Vec::with_capacity(made.wants.len());
    for want in &made.wants {
        let key = (want.netns, want.tuple);
        if want.preexisting && want.end == End::Alive && !told.contains_key(&key) {
            pairs.push((want, &NOTHING));
            continue;
        }
        let index = next.entry(key).or_default();
        match told.get(&key).and_then(|lives| lives.get(*index)) {
            Some(life) => pairs.push((want, life)),
            None => verdict.differs(|| format!("lives of {}", named(want.tuple)), *index + 1, *index),
        }
        *index += 1;
    }
    for (key, lives) in told {
        let wanted = next.get(key).copied().unwrap_or(0);
        if lives.len() > wanted {
            verdict.differs(|| format!("lives of {}", named(key.1)), wanted, lives.len());
        }
    }
    pairs
}

fn one(want: &Want, told: &Told<'_>, knows: Knows, verdict: &mut Verdict) {
    let of = |what: &str| format!("{what} of {}", named(want.tuple));
    verdict.equal(|| of("births"), &usize::from(!want.preexisting), &usize::from(told.born.is_some()));
    if let Some(born) = told.born {
        let life = &born.life;
        verdict.is(|| of("substate at birth"), &want.born, life.substate.as_ref());
        verdict.is(|| of("role"), &want.role, life.role.as_ref());
        closer(&of, want, life.closer, verdict);
        if let Detail::Born { timeout_ms, connection } = &born.detail {
            verdict.is(|| of("opener"), &want.opener, connection.opener.map(Who::told).as_ref());
            verdict.is(|| of("age of the connection, ns,"), &want.conn_ns, connection.conn_ns.as_ref());
            connect(&of, want, connection, verdict);
            verdict.is(|| of("bytes in"), &want.bytes_in, connection.bytes_in.as_ref());
            verdict.is(|| of("bytes out"), &want.bytes_out, connection.bytes_out.as_ref());
            verdict.is(|| of("srtt, us,"), &want.srtt_us, connection.srtt_us.as_ref());
            verdict.is(|| of("timestamps"), &want.timestamps, connection.timestamps.as_ref());
            verdict.is(|| of("timeout, ms,"), &want.timeout_ms, timeout_ms.as_ref());
        }
    }
    let fin_wait2 = told.born.is_some_and(|born| born.life.substate == Some(Substate::FinWait2));
    let turns = usize::from(want.turn == Turn::IfFinWait2 && fin_wait2);
    if !(knows.turns_late && told.died.is_none() && told.turned == 0) {
        verdict.equal(|| of("turns"), &turns, &told.turned);
    }
    verdict.is(|| of("re-arms"), &want.rearmed, Some(&told.rearmed));
    match (&want.end, told.died.map(|died| (died, &died.detail))) {
        (
            End::Died { cause, life_ns, taker },
            Some((died, Detail::Died { cause: seen, life_ns: lived, taker: by })),
        ) => {
            verdict.equal(|| of("cause"), cause, seen);
            verdict.equal(|| of("preexisting"), &Some(want.preexisting), &died.life.preexisting);
            if want.preexisting {
                verdict.is(|| of("life, ns,"), &Is::Unknown, lived.as_ref());
            } else {
                verdict.equal(|| of("life"), &"known", &if lived.is_some() { "known" } else { "not known" });
                verdict.is(|| of("life, ns,"), life_ns, lived.as_ref());
                closer(&of, want, died.life.closer, verdict);
            }
            verdict.is(|| of("taker"), taker, by.map(Who::told).as_ref());
        }
        (wanted, seen) => {
            let word = |alive: bool| if alive { "alive" } else { "dead" };
            verdict.equal(|| of("end"), &word(*wanted == End::Alive), &word(seen.is_none()));
        }
    }
}

/// What connect() took, of a connection that was opened here: part of its age, and known. Of any other there is nothing.
fn connect(of: &dyn Fn(&str) -> String, want: &Want, told: &Connection, verdict: &mut Verdict) {
    let wanted = match want.role {
        Is::Exactly(Role::Client) => Is::Within(1..=told.conn_ns.unwrap_or(0)),
        Is::Exactly(_) | Is::Unknown => Is::Unknown,
        Is::Anything | Is::Within(_) => Is::Anything,
    };
    verdict.is(|| of("time that connect() took, ns,"), &wanted, told.connect_ns.as_ref());
}

fn closer(of: &dyn Fn(&str) -> String, want: &Want, closer: Option<Closer>, verdict: &mut Verdict) {
    verdict.is(|| of("closer"), &want.closer, closer.map(|closer| Who::told(closer.task)).as_ref());
    verdict.is(|| of("the closer's cgroup"), &want.cgroup, closer.map(|closer| closer.cgroup_id).as_ref());
}

/// Refusals, and calls that failed.
fn others(made: &Made, events: &[&Event], knows: Knows, verdict: &mut Verdict) {
    let of_kind = |kind: Kind| events.iter().copied().filter(move |event| event.kind() == kind);
    let refused: Vec<WantRefused> = of_kind(Kind::Refused).filter_map(WantRefused::told).collect();
    in_order("refusals", &made.refused, &refused, WantRefused::holds, verdict);
    if knows.no_port {
        let no_port: Vec<WantNoPort> = of_kind(Kind::NoPort).filter_map(WantNoPort::told).collect();
        in_order("connects that failed", &made.no_port, &no_port, WantNoPort::holds, verdict);
    }
    if knows.no_bind {
        let no_bind: Vec<WantNoBind> = of_kind(Kind::NoBind).filter_map(WantNoBind::told).collect();
        in_order("binds that failed", &made.no_bind, &no_bind, WantNoBind::holds, verdict);
    }
    if knows.reuse_denied && !made.denied_at_will {
        let denied: Vec<WantDenied> = of_kind(Kind::ReuseDenied).filter_map(WantDenied::told).collect();
        in_order("reuses denied", &made.denied, &denied, WantDenied::holds, verdict);
    }
}

fn in_order<T: Debug>(what: &str, wanted: &[T], told: &[T], holds: fn(&T, &T) -> bool, verdict: &mut Verdict) {
    verdict.equal(|| what.to_owned(), &wanted.len(), &told.len());
    for (index, (wanted, told)) in wanted.iter().zip(told).enumerate() {
        if holds(wanted, told) {
            verdict.checks += 1;
        } else {
            let (wanted, told) = (format!("{wanted:?}"), format!("{told:?}"));
            verdict.differs(|| format!("{what}, number {}", index + 1), wanted, told);
        }
    }
}

#[cfg(test)]
mod tests;
