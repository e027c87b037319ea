//! The columns of the tables by port, destination and owner, as data: the screen and the text report show the same.

use std::cmp::Ordering;

use unicode_width::UnicodeWidthStr as _;

use super::human::{Known, Plain, Span};
use crate::model::{
    aggregate::{CgroupName, DestinationRow, OwnerRow, PortRow, ProcessName, trend::Forecast},
    event::{Cause, Comm},
};

/// Where a column's values stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// One column of a table.
#[derive(Debug)]
pub struct Column<R> {
    /// Heading, and name for whoever sorts by it.
    pub title: &'static str,
    /// Characters that it takes at least.
    pub width: u16,
    /// Where its values stand.
    pub side: Side,
    /// Who goes first where there is no room for all: the highest; 0 stays.
    pub rank: u8,
    /// What it shows of a row.
    pub text: fn(&R) -> String,
    /// How rows stand to each other by it, the least first.
    pub order: fn(&R, &R) -> Ordering,
    /// The value as a share, 0 to 1, where a bar says more than a number.
    pub share: Option<fn(&R) -> Option<f64>>,
}

/// A row of a table.
pub trait Row: Sized + 'static {
    /// What the table is called.
    const NAME: &'static str;
    /// Columns of the table.
    const COLUMNS: &'static [Column<Self>];
    /// The column that it is sorted by, the largest first, until somebody asks for another.
    const SORTED_BY: usize;

    /// Sorts rows by a column. Equal rows keep the order of the first columns, so that a table does not jump.
    fn sort(rows: &mut [Self], column: usize, descending: bool) {
        let by = Self::COLUMNS.get(column).or(Self::COLUMNS.first());
        rows.sort_by(|a, b| {
            let order = by.map_or(Ordering::Equal, |column| (column.order)(a, b));
            let order = if descending { order.reverse() } else { order };
            Self::COLUMNS.iter().take(4).fold(order, |order, column| order.then_with(|| (column.order)(a, b)))
        });
    }
}

/// What a column shows, and how it sorts.
type Text<R> = fn(&R) -> String;
type Order<R> = fn(&R, &R) -> Ordering;

const fn words<R>(title: &'static str, width: u16, rank: u8, text: Text<R>, order: Order<R>) -> Column<R> {
    Column { title, width, side: Side::Left, rank, text, order, share: None }
}

const fn number<R>(title: &'static str, width: u16, rank: u8, text: Text<R>, order: Order<R>) -> Column<R> {
    Column { side: Side::Right, ..words(title, width, rank, text, order) }
}

/// A rate: three digits or so.
fn per_s(rate: Option<f64>) -> String {
    Known(rate.map(|rate| if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") })).to_string()
}

fn span(ns: Option<u64>) -> String {
    Known(ns.map(Span)).to_string()
}

fn percent(share: Option<f64>) -> String {
    Known(share.map(|share| format!("{:.0}%", share * 100.0))).to_string()
}

fn by_float(a: Option<f64>, b: Option<f64>) -> Ordering {
    a.unwrap_or(-1.0).total_cmp(&b.unwrap_or(-1.0))
}

/// Causes that have a column of their own; the rest share one.
const OTHER: [Cause; 7] =
    [Cause::ReusedBound, Cause::Reset, Cause::DataReset, Cause::Killed, Cause::Netns, Cause::Tproxy, Cause::Unknown(0)];

impl Row for PortRow {
    const NAME: &'static str = "ports";
    const SORTED_BY: usize = 2;
    const COLUMNS: &'static [Column<Self>] = &[
        words("ROLE", 6, 0, |row| row.role.word().to_owned(), |a, b| a.role.cmp(&b.role)),
        number("PORT", 5, 0, |row| row.port.to_string(), |a, b| a.port.cmp(&b.port)),
        number("LIVE", 7, 0, |row| partly(row.live, row.partial), |a, b| a.live.cmp(&b.live)),
        number("BORN/S", 7, 0, |row| per_s(row.born_per_s), |a, b| by_float(a.born_per_s, b.born_per_s)),
        number("BORN", 8, 5, |row| row.born.to_string(), |a, b| a.born.cmp(&b.born)),
        number("EXPIRED", 8, 3, |row| died(row, &[Cause::Expired]), |a, b| by_cause(a, b, &[Cause::Expired])),
        number("REUSED", 7, 3, |row| died(row, &[Cause::Reused]), |a, b| by_cause(a, b, &[Cause::Reused])),
        number("RECYCLED", 8, 4, |row| died(row, &[Cause::Recycled]), |a, b| by_cause(a, b, &[Cause::Recycled])),
        number("OTHER", 6, 6, |row| died(row, &OTHER), |a, b| by_cause(a, b, &OTHER)),
        number("REFUSED", 7, 2, |row| row.refused.to_string(), |a, b| a.refused.cmp(&b.refused)),
        number("FIRST", 5, 2, |row| percent(row.closes_first), |a, b| by_float(a.closes_first, b.closes_first)),
        number("LIFE P50", 9, 1, |row| span(row.life_p50_ns), |a, b| a.life_p50_ns.cmp(&b.life_p50_ns)),
        number("LIFE P99", 9, 3, |row| span(row.life_p99_ns), |a, b| a.life_p99_ns.cmp(&b.life_p99_ns)),
        number("AGE P50", 9, 1, |row| span(row.age_p50_ns), |a, b| a.age_p50_ns.cmp(&b.age_p50_ns)),
        number("AGE P99", 9, 4, |row| span(row.age_p99_ns), |a, b| a.age_p99_ns.cmp(&b.age_p99_ns)),
    ];
}

fn died(row: &PortRow, causes: &[Cause]) -> String {
    row.died.of(causes).to_string()
}

fn by_cause(a: &PortRow, b: &PortRow, causes: &[Cause]) -> Ordering {
    a.died.of(causes).cmp(&b.died.of(causes))
}

/// A count that may lack what an evicted row held.
fn partly(count: u64, partial: bool) -> String {
    if partial { format!("~{count}") } else { count.to_string() }
}

fn used(row: &DestinationRow) -> String {
    row.in_use.map_or_else(|| "?".to_owned(), |in_use| partly(in_use.into(), row.partial))
}

impl Row for DestinationRow {
    const NAME: &'static str = "destinations";
    const SORTED_BY: usize = 4;
    const COLUMNS: &'static [Column<Self>] = &[
        words("LADDR", 15, 5, |row| row.laddr.to_string(), |a, b| a.laddr.cmp(&b.laddr)),
        words("RADDR", 15, 0, |row| row.raddr.to_string(), |a, b| a.raddr.cmp(&b.raddr)),
        number("RPORT", 5, 0, |row| row.rport.to_string(), |a, b| a.rport.cmp(&b.rport)),
        number("USED", 6, 0, used, |a, b| a.in_use.cmp(&b.in_use)),
        Column {
            share: Some(Self::fill),
            ..number("FILL", 5, 1, |row| percent(row.fill()), |a, b| by_float(a.fill(), b.fill()))
        },
        number("FREE", 6, 2, |row| Known(row.headroom).to_string(), |a, b| a.headroom.cmp(&b.headroom)),
        number("EST", 5, 4, |row| Known(row.established).to_string(), |a, b| a.established.cmp(&b.established)),
        number("TW", 6, 3, |row| row.time_wait.to_string(), |a, b| a.time_wait.cmp(&b.time_wait)),
        number("OTHER", 5, 7, |row| Known(row.other).to_string(), |a, b| a.other.cmp(&b.other)),
        number("LOOKED", 6, 4, |row| ago(row.looked_ms_ago), |a, b| a.looked_ms_ago.cmp(&b.looked_ms_ago)),
        number("BORN/S", 7, 1, |row| per_s(row.born_per_s), |a, b| by_float(a.born_per_s, b.born_per_s)),
        number("LIMIT/S", 7, 4, |row| per_s(row.limit_per_s), |a, b| by_float(a.limit_per_s, b.limit_per_s)),
        number("FULL IN", 8, 0, |row| Known(row.exhausted_in_s.map(full_in)).to_string(), by_forecast),
        number("NO PORT", 7, 2, |row| row.no_port.to_string(), |a, b| a.no_port.cmp(&b.no_port)),
        number("CONN P50", 8, 3, |row| span(row.connect_p50_ns), |a, b| a.connect_p50_ns.cmp(&b.connect_p50_ns)),
        number("CONN P99", 8, 5, |row| span(row.connect_p99_ns), |a, b| a.connect_p99_ns.cmp(&b.connect_p99_ns)),
        words("REUSE", 5, 6, reuse, |a, b| reuse(a).cmp(&reuse(b))),
        number("PASSIVE", 7, 7, |row| Known(row.passive).to_string(), |a, b| a.passive.cmp(&b.passive)),
    ];
}

/// How long ago the open connections were counted.
fn ago(ms: Option<u64>) -> String {
    let ago = |ms: u64| match ms / 1000 {
        seconds @ 0..600 => format!("{seconds}s"),
        seconds @ 600..36_000 => format!("{}m", seconds / 60),
        seconds => format!("{}h", (seconds / 3600).min(9999)),
    };
    Known(ms.map(ago)).to_string()
}

fn full_in(forecast: Forecast) -> String {
    match forecast {
        Forecast::Steady => "steady".to_owned(),
        Forecast::Exhausted => "FULL".to_owned(),
        Forecast::In(seconds) if seconds < 600.0 => format!("{seconds:.0}s"),
        Forecast::In(seconds) if seconds < 36_000.0 => format!("{:.0}m", seconds / 60.0),
        Forecast::In(seconds) => format!("{:.0}h", (seconds / 3600.0).min(9999.0)),
    }
}

/// The most urgent is the largest.
fn by_forecast(a: &DestinationRow, b: &DestinationRow) -> Ordering {
    let urgency = |row: &DestinationRow| match row.exhausted_in_s {
        None => -1.0,
        Some(Forecast::Steady) => 0.0,
        Some(Forecast::In(seconds)) => 1.0 / seconds.max(1e-9),
        Some(Forecast::Exhausted) => f64::INFINITY,
    };
    urgency(a).total_cmp(&urgency(b))
}

fn reuse(row: &DestinationRow) -> String {
    match row.reuse {
        None => "?".to_owned(),
        Some(crate::model::aggregate::destination::Reuse::NoTimestamps) => "no ts".to_owned(),
        Some(reuse) => reuse.word().to_owned(),
    }
}

macro_rules! owner_columns {
    ($($who:expr),+) => {
        &[
            $($who,)+
            number("BORN/S", 8, 0, |row| per_s(row.born_per_s), |a, b| by_float(a.born_per_s, b.born_per_s)),
            number("LIVE", 8, 0, |row| partly(row.live, row.partial), |a, b| a.live.cmp(&b.live)),
            number("BORN", 9, 1, |row| row.born.to_string(), |a, b| a.born.cmp(&b.born)),
            number("REFUSED", 8, 0, |row| row.refused.to_string(), |a, b| a.refused.cmp(&b.refused)),
            number("NO PORT", 8, 0, |row| row.no_port.to_string(), |a, b| a.no_port.cmp(&b.no_port)),
        ]
    };
}

impl Row for OwnerRow<ProcessName> {
    const NAME: &'static str = "processes";
    const SORTED_BY: usize = 3;
    const COLUMNS: &'static [Column<Self>] = owner_columns![
        number("PID", 7, 0, |row| row.who.pid.to_string(), |a, b| a.who.pid.cmp(&b.who.pid)),
        words("COMM", COMM_WIDTH, 0, |row| Plain(&row.who.comm).to_string(), |a, b| a.who.comm.cmp(&b.who.comm))
    ];
}

/// The longest name that the kernel keeps.
const COMM_WIDTH: u16 = size_of::<Comm>() as u16 - 1;

impl Row for OwnerRow<CgroupName> {
    const NAME: &'static str = "cgroups";
    const SORTED_BY: usize = 3;
    const COLUMNS: &'static [Column<Self>] = owner_columns![
        words("UNIT", 24, 0, unit, |a, b| a.who.unit.cmp(&b.who.unit)),
        words("CGROUP", 30, 2, cgroup, |a, b| a.who.path.cmp(&b.who.path))
    ];
}

/// `-` if the path names none, `?` if there is no path to ask. A container's name rather than its id.
fn unit(row: &OwnerRow<CgroupName>) -> String {
    if let Some(name) = &row.who.name {
        return name.clone();
    }
    let none = || row.who.path.as_ref().map_or("?", |_| "-").to_owned();
    row.who.unit.as_deref().map_or_else(none, |unit| Plain(unit).to_string())
}

fn cgroup(row: &OwnerRow<CgroupName>) -> String {
    row.who.path.as_deref().map_or_else(|| format!("? ({})", row.who.cgroup_id), |path| Plain(path).to_string())
}

/// The table as text: a heading, and one line a row, each column as wide as its widest value.
#[must_use]
pub fn table<R: Row>(rows: &[R]) -> String {
    let cells = rows.iter().map(|row| R::COLUMNS.iter().map(|column| (column.text)(row)).collect());
    let heading = R::COLUMNS.iter().map(|column| column.title.to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(heading).chain(cells).collect();
    let widest = |i: usize| lines.iter().filter_map(|line| Some(line.get(i)?.width())).max().unwrap_or(0);
    let widths: Vec<_> = (0..).zip(R::COLUMNS).map(|(i, column)| widest(i).max(column.width.into())).collect();
    let mut text = String::new();
    for line in &lines {
        for ((cell, column), &width) in line.iter().zip(R::COLUMNS).zip(&widths) {
            text.push_str(&padded(cell, width, column.side));
            text.push(' ');
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

/// A text in its place. One that is too long stays as it is.
#[must_use]
pub fn padded(text: &str, width: usize, side: Side) -> String {
    let gap = " ".repeat(width.saturating_sub(text.width()));
    match side {
        Side::Left => format!("{text}{gap}"),
        Side::Right => format!("{gap}{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_that_always_stay_fit_into_eighty() {
        fn least<R: Row>() -> u16 {
            R::COLUMNS.iter().filter(|column| column.rank == 0).map(|column| column.width + 1).sum()
        }
        let widths = [
            least::<PortRow>(),
            least::<DestinationRow>(),
            least::<OwnerRow<ProcessName>>(),
            least::<OwnerRow<CgroupName>>(),
        ];
        assert!(widths.iter().all(|&width| width <= 78), "{widths:?}");
    }

    #[test]
    fn titles_fit_their_columns() {
        fn check<R: Row>() {
            for column in R::COLUMNS {
                assert!(column.title.len() <= usize::from(column.width), "{} {}", R::NAME, column.title);
            }
            assert!(R::SORTED_BY < R::COLUMNS.len());
        }
        check::<PortRow>();
        check::<DestinationRow>();
        check::<OwnerRow<ProcessName>>();
        check::<OwnerRow<CgroupName>>();
    }

    #[test]
    fn time_left_is_told_in_its_unit() {
        for (forecast, wanted) in [
            (Forecast::Steady, "steady"),
            (Forecast::Exhausted, "FULL"),
            (Forecast::In(4.6), "5s"),
            (Forecast::In(599.4), "599s"),
            (Forecast::In(601.0), "10m"),
            (Forecast::In(40_000.0), "11h"),
            (Forecast::In(1e12), "9999h"),
        ] {
            assert_eq!(full_in(forecast), wanted);
        }
    }
}
