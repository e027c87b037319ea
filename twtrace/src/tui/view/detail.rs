//! What a row was opened for: histograms, fields, targets.

use ratatui::text::{Line, Span};

use super::theme::Theme;
use crate::{
    model::aggregate::{Aggregates, Port, Side, Target, port::causes, times::Times},
    show::human::{Known, Name, Span as Length},
    tui::state::{Detail, State},
};

/// Bars of one histogram.
const BARS: usize = 12;
/// Columns of the longest bar.
const LONGEST: usize = 40;

pub(super) fn title(state: &State, detail: &Detail) -> String {
    match detail {
        Detail::Histograms(key) => format!("Port {} ({}): histograms", key.port, key.side.word()),
        Detail::Fields(_) => format!("{}: all columns of the row", state.tab.title()),
        Detail::OfProcess(process) => {
            format!("Process {} ({}): destinations of its connections", Name(process.comm), process.pid)
        }
        Detail::OfCgroup(id) => format!("Cgroup {id}: destinations of its connections"),
    }
}

pub(super) fn lines<'a>(state: &State, tables: &Aggregates, theme: &Theme) -> Vec<Line<'a>> {
    match &state.detail {
        None => Vec::new(),
        Some((Detail::Histograms(key), _)) => match state.baseline.port(tables, key) {
            Some(port) => histograms(&port, theme),
            None => gone(),
        },
        Some((Detail::Fields(id), _)) => fields(state, id),
        Some((Detail::OfProcess(process), _)) => targets(state.baseline.targets_of_process(tables, process), theme),
        Some((Detail::OfCgroup(id), _)) => targets(state.baseline.targets_of_cgroup(tables, *id), theme),
    }
}

fn gone<'a>() -> Vec<Line<'a>> {
    vec![Line::default(), Line::from("  this row is gone")]
}

fn histograms<'a>(port: &Port, theme: &Theme) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    for (cause, times) in causes().zip(&port.lives) {
        if times.count() > 0 {
            histogram(&mut lines, &format!("length of TIME_WAITs that ended by {cause}"), times, theme);
        }
    }
    histogram(&mut lines, "age of connections when they closed", &port.age, theme);
    let reused = port.reused();
    if reused.count() > 0 {
        histogram(&mut lines, "age of TIME_WAITs that a connect() reused", &reused, theme);
    }
    lines
}

/// A heading with the quantiles, and a bar for each step of time.
fn histogram<'a>(lines: &mut Vec<Line<'a>>, name: &str, times: &Times, theme: &Theme) {
    if !lines.is_empty() {
        lines.push(Line::default());
    }
    let at = |share| Known(times.quantile(share).map(Length));
    let numbers = format!("  n {}  p50 {}  p99 {}  max {}", times.count(), at(0.5), at(0.99), at(1.0));
    lines.push(Line::from(vec![Span::styled(name.to_owned(), theme.heading), Span::raw(numbers)]));
    let bars = times.bars(BARS);
    let most = bars.iter().map(|bar| bar.count).max().unwrap_or(0).max(1);
    for bar in bars {
        let share = bar.count as f64 / most as f64;
        let drawn = theme.bar(share, LONGEST);
        let range = format!("{:>9} to {:>9}", Length(bar.from_ns).to_string(), Length(bar.to_ns).to_string());
        lines.push(Line::from(format!("  {range} {drawn} {}", bar.count)));
    }
}

fn fields<'a>(state: &State, id: &str) -> Vec<Line<'a>> {
    let Some(rows) = state.rows.as_deref() else { return gone() };
    let Some(row) = (0..rows.len()).find(|&row| rows.id(row).as_deref() == Some(id)) else { return gone() };
    let heads = rows.heads();
    heads.iter().enumerate().map(|(i, head)| Line::from(format!("  {:<9} {}", head.title, rows.text(row, i)))).collect()
}

fn targets<'a>(mut targets: Vec<(Target, u64)>, theme: &Theme) -> Vec<Line<'a>> {
    // The kernel's order of addresses means nothing: most first, then by port.
    targets.sort_by(|(a, n), (b, m)| m.cmp(n).then_with(|| a.port.cmp(&b.port)).then_with(|| a.raddr.cmp(&b.raddr)));
    let most = targets.first().map_or(1, |(_, count)| *count).max(1);
    let line = |(target, count): (Target, u64)| {
        let place = match (target.port.side, target.raddr) {
            (Side::Server, _) => format!("served at port {}", target.port.port),
            (Side::Client, Some(raddr)) => format!("to {raddr} port {}", target.port.port),
            (Side::Client, None) => format!("to port {}", target.port.port),
        };
        let bar = theme.bar(count as f64 / most as f64, LONGEST / 2);
        Line::from(format!("  {place:<50} {bar} {count}"))
    };
    if targets.is_empty() { gone() } else { targets.into_iter().map(line).collect() }
}
