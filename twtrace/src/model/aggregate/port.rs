//! Service ports: where connections lead that this host opens, and where those arrive that it accepts.

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{
    Side,
    bounded::Fold,
    rate::{Rate, thousandths},
    times::Times,
};
use crate::model::event::{Cause, Connection};

/// Causes, and one place for those that are not known.
pub const CAUSES: usize = 1 + Cause::ALL.len();

/// The place of a cause in tables by cause.
#[must_use]
pub fn place(cause: Cause) -> usize {
    match cause {
        Cause::Unknown(_) => 0,
        known => usize::from(known.raw()).min(CAUSES - 1),
    }
}

/// The causes by their place.
pub fn causes() -> impl Iterator<Item = Cause> {
    std::iter::once(Cause::Unknown(0)).chain(Cause::ALL.iter().copied())
}

/// A service port of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortKey {
    /// Whether this host opened the connections or accepted them.
    pub side: Side,
    /// The remote port of connections that it opened, the local port of those that it accepted.
    pub port: u16,
}

/// What happened at a service port.
#[derive(Clone, Debug, Default)]
pub struct Port {
    /// Minisocks alive.
    pub live: i64,
    /// Births.
    pub born: Rate,
    /// Ends by cause, at [`place`].
    pub died: [u64; CAUSES],
    /// Births refused.
    pub refused: u64,
    /// Connections of known role that this side closed first, and those that the peer did.
    pub first: (u64, u64),
    /// Connections that the peer closed first are counted.
    counts_passive: bool,
    /// Lives by cause, at [`place`].
    pub lives: [Times; CAUSES],
    /// Age of the connection when its minisock was born, or refused.
    pub age: Times,
    /// A row that was evicted may have been this one: the counts may lack what it held.
    pub partial: bool,
}

impl Port {
    pub(super) fn new(partial: bool) -> Self {
        Self { partial, ..Self::default() }
    }

    pub(super) fn born(&mut self, connection: &Connection) {
        self.live += 1;
        self.born.add();
        self.closed(connection);
    }

    pub(super) fn refused(&mut self, connection: &Connection) {
        self.refused += 1;
        self.closed(connection);
    }

    fn closed(&mut self, connection: &Connection) {
        if let Some(ns) = connection.conn_ns {
            self.age.enter(ns);
            self.first.0 += 1;
        }
    }

    /// An end; the caller takes it off what is alive.
    pub(super) fn died(&mut self, cause: Cause, life_ns: Option<u64>) {
        self.died[place(cause)] += 1;
        if let Some(ns) = life_ns {
            self.lives[place(cause)].enter(ns);
        }
    }

    /// So many more connections were closed by the peer first.
    pub(super) fn passive(&mut self, closes: u64) {
        self.counts_passive = true;
        self.first.1 += closes;
    }

    /// What has happened since `then`, an earlier copy of this; what is alive stays. `None`: the counts are lower than they
    /// were, for the row was evicted and began anew.
    #[must_use]
    pub fn since(&self, then: &Self) -> Option<Self> {
        let mut since = self.clone();
        since.born.count = self.born.count.checked_sub(then.born.count)?;
        since.refused = self.refused.checked_sub(then.refused)?;
        since.first = (self.first.0.checked_sub(then.first.0)?, self.first.1.checked_sub(then.first.1)?);
        for (now, then) in since.died.iter_mut().zip(then.died) {
            *now = now.checked_sub(then)?;
        }
        for (now, then) in since.lives.iter_mut().zip(&then.lives) {
            now.take_off(then)?;
        }
        since.age.take_off(&then.age)?;
        Some(since)
    }

    /// All lives that were seen from birth to end.
    #[must_use]
    pub fn all_lives(&self) -> Times {
        let mut all = Times::default();
        self.lives.iter().for_each(|lives| all.add(lives));
        all
    }

    /// Ages of the minisocks that connect() took over.
    #[must_use]
    pub fn reused(&self) -> Times {
        let mut reused = self.lives[place(Cause::Reused)].clone();
        reused.add(&self.lives[place(Cause::ReusedBound)]);
        reused
    }
}

impl Fold for Port {
    fn fold(&mut self, gone: Self) {
        let Self { live, born, died, refused, first, counts_passive, lives, age, partial: _ } = gone;
        self.live += live;
        self.born.fold(born);
        self.refused += refused;
        self.first = (self.first.0 + first.0, self.first.1 + first.1);
        self.counts_passive |= counts_passive;
        self.died.iter_mut().zip(died).for_each(|(sum, count)| *sum += count);
        self.lives.iter_mut().zip(&lives).for_each(|(all, times)| all.add(times));
        self.age.add(&age);
    }
}

/// What a table shows of a service port: the JSON fields of `tick.by.ports`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortRow {
    /// Whether this host opened the connections or accepted them.
    pub role: Side,
    /// The port.
    pub port: u16,
    /// Minisocks alive now.
    pub live: u64,
    /// Births.
    pub born: u64,
    /// Births per second; `None` before there were two ticks.
    pub born_per_s: Option<f64>,
    /// Ends by cause.
    pub died: Died,
    /// Births refused.
    pub refused: u64,
    /// Share of connections that this side closed first; `None` if not counted, or none was seen from its start.
    pub closes_first: Option<f64>,
    /// Half of all lives were no longer, nanoseconds.
    pub life_p50_ns: Option<u64>,
    /// 99 % of all lives were no longer, nanoseconds.
    pub life_p99_ns: Option<u64>,
    /// Half of all connections were no older, nanoseconds.
    pub age_p50_ns: Option<u64>,
    /// 99 % of all connections were no older, nanoseconds.
    pub age_p99_ns: Option<u64>,
    /// Counts may lack what an evicted row held.
    pub partial: bool,
}

/// Ends by cause, at [`place`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Died(pub [u64; CAUSES]);

impl Died {
    /// Whatever the cause.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Ends of these causes.
    #[must_use]
    pub fn of(&self, causes: &[Cause]) -> u64 {
        causes.iter().map(|&cause| self.0[place(cause)]).sum()
    }
}

impl Serialize for Died {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(CAUSES))?;
        for (cause, count) in causes().zip(self.0) {
            map.serialize_entry(cause.word(), &count)?;
        }
        map.end()
    }
}

impl PortRow {
    /// The row of a service port.
    #[must_use]
    pub fn of(key: PortKey, port: &Port) -> Self {
        let lives = port.all_lives();
        let (ours, theirs) = port.first;
        Self {
            role: key.side,
            port: key.port,
            live: u64::try_from(port.live).unwrap_or(0),
            born: port.born.count,
            born_per_s: port.born.per_s(),
            died: Died(port.died),
            refused: port.refused,
            closes_first: port
                .counts_passive
                .then_some(ours + theirs)
                .filter(|&all| all > 0)
                .map(|all| thousandths(ours as f64 / all as f64)),
            life_p50_ns: lives.quantile(0.5),
            life_p99_ns: lives.quantile(0.99),
            age_p50_ns: port.age.quantile(0.5),
            age_p99_ns: port.age.quantile(0.99),
            partial: port.partial,
        }
    }
}
