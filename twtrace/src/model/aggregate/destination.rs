//! Destinations: what connect() has to find a free port for.

use std::net::IpAddr;

use serde::Serialize;

use super::{
    bounded::Fold,
    rate::{Rate, thousandths},
    recent::{Recent, WINDOW_NS},
    trend::{Forecast, Ticks, Trend},
};
use crate::model::{
    event::Connection,
    occupancy::{Held, Namespace},
    wanted::Wanted,
    words::words,
};

/// Where connections of this host lead: ports are used up for each by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DestinationKey {
    /// Inode number of the network namespace; 0: not known.
    pub netns: u32,
    /// Local address.
    pub laddr: IpAddr,
    /// Remote address.
    pub raddr: IpAddr,
    /// Remote port.
    pub rport: u16,
}

/// What happened towards a destination.
#[derive(Debug, Default)]
pub struct Destination {
    /// Minisocks alive.
    pub minisocks: i64,
    /// Births.
    pub born: Rate,
    /// Births refused.
    pub refused: u64,
    /// Connections that the peer closed first.
    pub passive: u64,
    /// connect() calls that found no port.
    pub no_port: u64,
    /// Minisocks whose connection had TCP timestamps, and those whose had not.
    pub timestamps: (u64, u64),
    /// Ports held by full sockets, at the last look.
    pub held: Held,
    /// connect() calls from a bound port that failed, for the same connection was there.
    pub no_port_bound: u32,
    connects: Recent,
    trend: Trend,
    /// A row that was evicted may have been this one.
    pub partial: bool,
}

impl Destination {
    /// A row that is new: nothing was held at the last tick, unless it was evicted.
    pub(super) fn new(partial: bool) -> Self {
        let trend = if partial { Trend::default() } else { Trend::from_nothing() };
        Self { partial, trend, ..Self::default() }
    }

    pub(super) fn born(&mut self, connection: &Connection) {
        self.minisocks += 1;
        self.born.add();
        self.ended(connection);
    }

    pub(super) fn refused(&mut self, connection: &Connection) {
        self.refused += 1;
        self.ended(connection);
    }

    fn ended(&mut self, connection: &Connection) {
        match connection.timestamps {
            Some(true) => self.timestamps.0 += 1,
            Some(false) => self.timestamps.1 += 1,
            None => {}
        }
        // One that was opened long ago tells nothing about connect() now.
        if let Some(ns) = connection.connect_ns
            && connection.conn_ns.is_some_and(|age| age <= WINDOW_NS)
        {
            self.connects.enter(ns);
        }
    }

    /// Minisocks and open connections.
    fn in_use(&self) -> u32 {
        let minisocks = u32::try_from(self.minisocks.max(0)).unwrap_or(u32::MAX);
        minisocks.saturating_add(self.held.established).saturating_add(self.held.other)
    }

    /// `is_over`: a window of connect() latencies is.
    pub(super) fn tick(&mut self, seconds: f64, is_over: bool) {
        self.born.tick(seconds);
        if is_over {
            self.connects.roll();
        }
        self.trend.tick(self.in_use(), self.born.count);
    }

    /// True if nothing is known of it that would be missed.
    pub(super) fn is_idle(&self) -> bool {
        let failed = self.refused + self.no_port + u64::from(self.no_port_bound);
        self.in_use() == 0 && self.born.count == 0 && self.passive == 0 && failed == 0
    }
}

impl Fold for Destination {
    /// Ports that are held now, latencies and trends are of this row alone: they cannot be added.
    fn fold(&mut self, gone: Self) {
        let Self { minisocks, born, refused, passive, no_port, timestamps, no_port_bound, .. } = gone;
        self.minisocks += minisocks;
        self.born.fold(born);
        self.refused += refused;
        self.passive += passive;
        self.no_port += no_port;
        self.no_port_bound = self.no_port_bound.saturating_add(no_port_bound);
        self.timestamps = (self.timestamps.0 + timestamps.0, self.timestamps.1 + timestamps.1);
    }
}

words! {
    /// Whether tcp_tw_reuse can help a destination.
    Reuse by word {
        /// Reuse is on for it, and the peer negotiates timestamps.
        On = "on";
        /// Reuse is off for it, and would help.
        Off = "off";
        /// The peer does not negotiate timestamps: it cannot.
        NoTimestamps = "no_timestamps";
    }
}

/// What a table shows of a destination: the JSON fields of `tick.by.destinations`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DestinationRow {
    /// Inode number of the network namespace.
    pub netns: Option<u32>,
    /// Local address.
    pub laddr: IpAddr,
    /// Remote address.
    pub raddr: IpAddr,
    /// Remote port.
    pub rport: u16,
    /// Ports held by minisocks.
    pub time_wait: u64,
    /// Ports held by established connections, at the last look; `None` if there was none, or a filter cannot be decided for
    /// them.
    pub established: Option<u32>,
    /// Ports held by sockets in other states, at the last look; `None` as before.
    pub other: Option<u32>,
    /// How long ago that look ended, milliseconds, as of the last interval; `None` as before.
    pub looked_ms_ago: Option<u64>,
    /// All of them; `None` as before.
    pub in_use: Option<u32>,
    /// Ports that connect() may choose from; `None` if not known.
    pub available: Option<u32>,
    /// Ports that are left; `None` if a filter leaves out some of those that are held.
    pub headroom: Option<u32>,
    /// Births.
    pub born: u64,
    /// Births per second; `None` before the first tick.
    pub born_per_s: Option<f64>,
    /// Connections per second that can go on for ever, each leaving its TIME_WAIT.
    pub limit_per_s: Option<f64>,
    /// Seconds until no port is left, at the present rate: 0 if none is left, null in JSON for never and for not known, which
    /// `forecast` tells apart.
    pub exhausted_in_s: Option<Forecast>,
    /// The forecast in a word: `full`, `filling` or `steady`; `None` if not known.
    pub forecast: Option<&'static str>,
    /// Births refused.
    pub refused: u64,
    /// Connections that the peer closed first; `None` if not counted.
    pub passive: Option<u64>,
    /// connect() calls that found no port.
    pub no_port: u64,
    /// connect() calls from a bound port that failed, for the same connection was there.
    pub no_port_bound: u64,
    /// Half of the connect() calls of the last seconds took no longer, nanoseconds.
    pub connect_p50_ns: Option<u64>,
    /// 99 % of them took no longer, nanoseconds.
    pub connect_p99_ns: Option<u64>,
    /// Minisocks whose connection had TCP timestamps.
    pub with_timestamps: u64,
    /// Minisocks whose connection had none.
    pub without_timestamps: u64,
    /// Whether tcp_tw_reuse can help; `None` if not known.
    pub reuse: Option<Reuse>,
    /// Counts may lack what an evicted row held, or minisocks whose role is not known where a filter asks for one.
    pub partial: bool,
}

/// What a row has to be seen with.
pub(super) struct Around<'a> {
    /// The namespace of the destination, if it was looked into.
    pub space: Option<&'a Namespace>,
    /// How long ago that was, milliseconds.
    pub looked_ms_ago: Option<u64>,
    /// When the last ticks were.
    pub ticks: &'a Ticks,
    /// How long a TIME_WAIT lasts, seconds.
    pub time_wait_s: f64,
    /// The filters of the run.
    pub wanted: &'a Wanted,
    /// Connections that the peer closed first are counted.
    pub counts_passive: bool,
}

impl DestinationRow {
    pub(super) fn of(key: DestinationKey, row: &Destination, around: &Around<'_>) -> Self {
        let &Around { space, looked_ms_ago, ticks, time_wait_s, wanted, counts_passive } = around;
        // Open connections are known by looking at them, if no filter asks for what a look does not show.
        let held = space.filter(|_| wanted.is_decided()).map(|_| row.held);
        let in_use = held.map(|_| row.in_use());
        let available = space.map(|space| space.available);
        let whole = available.zip(in_use).filter(|_| wanted.is_whole(key.rport));
        let headroom = whole.map(|(available, in_use)| available.saturating_sub(in_use));
        let open = row.held.established.saturating_add(row.held.other);
        let exhausted_in_s = match (headroom, whole) {
            (Some(0), _) => Some(Forecast::Exhausted),
            (_, Some((available, _))) => row.trend.forecast(ticks, available, open, time_wait_s),
            (_, None) => None,
        };
        let connects = row.connects.median_and_p99();
        Self {
            netns: (key.netns != 0).then_some(key.netns),
            laddr: key.laddr,
            raddr: key.raddr,
            rport: key.rport,
            time_wait: u64::try_from(row.minisocks).unwrap_or(0),
            established: held.map(|held| held.established),
            other: held.map(|held| held.other),
            looked_ms_ago: held.and(looked_ms_ago),
            in_use,
            available,
            headroom,
            born: row.born.count,
            born_per_s: row.born.per_s(),
            limit_per_s: available.map(|available| thousandths(f64::from(available) / time_wait_s)),
            exhausted_in_s,
            forecast: exhausted_in_s.map(Forecast::word),
            refused: row.refused,
            passive: counts_passive.then_some(row.passive),
            no_port: row.no_port,
            no_port_bound: row.no_port_bound.into(),
            connect_p50_ns: connects.map(|(p50, _)| p50),
            connect_p99_ns: connects.map(|(_, p99)| p99),
            with_timestamps: row.timestamps.0,
            without_timestamps: row.timestamps.1,
            reuse: reuse(&key, row, space),
            partial: row.partial || wanted.needs_role(),
        }
    }

    /// Share of the ports that is in use, 0 to 1; `None` if not all of those are known.
    #[must_use]
    pub fn fill(&self) -> Option<f64> {
        let available = self.available.filter(|&available| available > 0)?;
        Some(1.0 - f64::from(self.headroom?) / f64::from(available))
    }
}

/// By the last word on timestamps and the namespace's tcp_tw_reuse (`tcp_twsk_unique`: 2 is for loopback alone).
fn reuse(key: &DestinationKey, row: &Destination, space: Option<&Namespace>) -> Option<Reuse> {
    let (with, without) = row.timestamps;
    if with + without == 0 {
        return None;
    }
    if without > with {
        return Some(Reuse::NoTimestamps);
    }
    let loopback = key.laddr.is_loopback() || key.raddr.is_loopback();
    match space?.tw_reuse? {
        0 => Some(Reuse::Off),
        2 if !loopback => Some(Reuse::Off),
        _ => Some(Reuse::On),
    }
}
