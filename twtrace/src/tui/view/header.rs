//! The three lines of numbers on top of every tab.

use std::collections::BTreeMap;

use ratatui::{
    style::Style,
    text::{Line, Span},
};

use super::theme::Theme;
use crate::{
    model::{aggregate::Aggregates, watch::Backend},
    show::{
        human::{Known, Plain},
        whose,
    },
    tui::state::State,
};

/// Columns of the gauge of buckets.
const GAUGE: usize = 10;
/// Columns of the sparkline.
const SPARKLINE: usize = 20;

pub(super) fn lines<'a>(state: &State, tables: &Aggregates, theme: &Theme, width: u16) -> Vec<Line<'a>> {
    vec![about(state, theme, width), live(state, tables, theme, width), flow(state, tables, theme)]
}

fn about<'a>(state: &State, theme: &Theme, width: u16) -> Line<'a> {
    let mut by_backend: BTreeMap<Backend, usize> = BTreeMap::new();
    let mut kernel = "?".to_owned();
    if let Some(start) = &state.start {
        kernel.clone_from(&start.kernel);
        for capability in start.capabilities.values() {
            if let Some(backend) = capability.backend {
                *by_backend.entry(backend).or_default() += 1;
            }
        }
    }
    // The backend of most capabilities is the one to name.
    let backend = by_backend.into_iter().max_by_key(|(_, count)| *count).map_or("?", |(backend, _)| backend.name());
    let up = state.now_ns.saturating_sub(state.began_ns) / 1_000_000_000;
    let end = format!(" up {}:{:02}:{:02}", up / 3600, up / 60 % 60, up % 60);
    let host = Plain(&state.about.host);
    let text = format!("twtrace {} on {host}, kernel {kernel}, {backend}", env!("CARGO_PKG_VERSION"));
    let room = usize::from(width).saturating_sub(end.len());
    let text: String = text.chars().take(room).collect();
    let gap = room - text.chars().count();
    Line::from(vec![Span::styled(text, theme.heading), Span::raw(" ".repeat(gap)), Span::raw(end)])
}

/// From this width on, the states of the minisocks stand beside their number.
const WIDE: u16 = 110;

/// Minisocks alive, and how full the fullest buckets are.
fn live<'a>(state: &State, tables: &Aggregates, theme: &Theme, width: u16) -> Line<'a> {
    let numbers = &state.numbers;
    let (time_wait, fin_wait2) = (numbers.live.time_wait.max(0), numbers.live.fin_wait2.max(0));
    let buckets = numbers.buckets.as_ref();
    let states = if width >= WIDE { format!(" (time_wait {time_wait}, fin_wait2 {fin_wait2})") } else { String::new() };
    let live = format!("live {}", whose::live(tables, numbers.totals.live, buckets));
    let Some(buckets) = buckets else {
        return Line::from(vec![Span::styled(live, theme.heading), Span::raw(states + "  buckets ?")]);
    };
    let before = format!("{states}  {} ", whose::fullest(tables, buckets));
    let after = format!("{}/{}", buckets.used, buckets.limit);
    let mut spans = vec![Span::styled(live, theme.heading), Span::raw(before)];
    // Where there is no room for both, the number says more than the gauge.
    let taken: usize = spans.iter().map(Span::width).sum();
    if taken + GAUGE + 1 + after.len() <= usize::from(width) {
        spans.push(Span::styled(theme.bar(buckets.share(), GAUGE), theme.fill(buckets.share())));
        spans.push(Span::raw(" "));
    }
    spans.push(Span::raw(after));
    Line::from(spans)
}

/// Rates, failures, and the kernel's word on them.
fn flow<'a>(state: &State, tables: &Aggregates, theme: &Theme) -> Line<'a> {
    let numbers = &state.numbers;
    let totals = &numbers.totals;
    let rate = |rate: Option<f64>| Known(rate.map(|rate| format!("{rate:.1}"))).to_string();
    let refused = totals.all_refused();
    let mut spans = vec![
        Span::raw(format!("born {}/s died {}/s  ", rate(numbers.born_per_s), rate(numbers.died_per_s))),
        alarm("refused", refused, theme),
        alarm("no port", totals.no_port, theme),
        alarm("lost", Some(totals.lost), theme),
    ];
    if totals.missed.runs.is_none() {
        spans.push(alarm("missed", None, theme));
    }
    if let Some(1..) = totals.no_bind {
        spans.insert(3, alarm("no bind", totals.no_bind, theme));
    }
    let apart: i64 = numbers.reconcile.iter().map(|row| row.diff.abs()).sum();
    // The kernel's counters are those of one namespace, which may not be the one that is shown.
    let elsewhere = tables.wanted().one_namespace().is_some_and(|netns| netns != state.about.own_netns);
    let whose = if elsewhere { "kernel (own namespace)" } else { "kernel" };
    spans.push(match numbers.reconcile.as_slice() {
        [] => Span::styled(format!("{whose}: ?  "), theme.quiet),
        _ if apart == 0 && numbers.comparing => Span::styled(format!("{whose}: comparing  "), theme.quiet),
        _ if apart == 0 => Span::styled(format!("{whose}: diff 0  "), theme.good),
        // The notes say of what.
        _ => Span::styled(format!("{whose}: DIFF {apart}!  "), theme.bad),
    });
    let line = theme.sparkline(state.history.iter().copied(), SPARKLINE);
    spans.push(Span::styled(line, theme.quiet));
    Line::from(spans)
}

/// A count that should be 0: `!` and colour if it is not.
fn alarm<'a>(name: &str, count: Option<u64>, theme: &Theme) -> Span<'a> {
    match count {
        Some(0) => Span::styled(format!("{name} 0  "), Style::new()),
        Some(count) => Span::styled(format!("{name} {count}!  "), theme.bad),
        None => Span::styled(format!("{name} ?  "), theme.quiet),
    }
}
