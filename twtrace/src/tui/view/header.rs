//! The three lines of numbers on top of every tab.

use std::collections::BTreeMap;

use ratatui::{
    style::Style,
    text::{Line, Span},
};

use super::theme::Theme;
use crate::{sink::human::Known, tui::state::State};

/// Columns of the gauge of buckets.
const GAUGE: usize = 10;
/// Columns of the sparkline.
const SPARKLINE: usize = 20;

pub(super) fn lines<'a>(state: &State, theme: &Theme, width: u16) -> Vec<Line<'a>> {
    vec![about(state, theme, width), live(state, theme), flow(state, theme)]
}

fn about<'a>(state: &State, theme: &Theme, width: u16) -> Line<'a> {
    let mut by_backend: BTreeMap<&str, usize> = BTreeMap::new();
    let mut missing = Vec::new();
    let mut kernel = "?".to_owned();
    if let Some(start) = &state.start {
        kernel.clone_from(&start.kernel);
        for (name, capability) in &start.capabilities {
            match capability.backend {
                Some(backend) => *by_backend.entry(backend).or_default() += 1,
                None => missing.push(*name),
            }
        }
    }
    // The backend of most capabilities is the one to name.
    let backend = by_backend.into_iter().max_by_key(|(_, count)| *count).map_or("?", |(name, _)| name);
    let up = state.now_ns.saturating_sub(state.began_ns) / 1_000_000_000;
    let end = format!(" up {}:{:02}:{:02}", up / 3600, up / 60 % 60, up % 60);
    let mut text = format!("twtrace {} on {}, kernel {kernel}, {backend}", env!("CARGO_PKG_VERSION"), state.about.host);
    let room = usize::from(width).saturating_sub(end.len());
    if !missing.is_empty() {
        let names = format!(" (not offered: {})", missing.join(" "));
        // The notes name them, and say why.
        let fits = text.len() + names.len() <= room;
        text.push_str(&if fits { names } else { format!(", {} not offered", missing.len()) });
    }
    let text: String = text.chars().take(room).collect();
    let gap = room - text.chars().count();
    Line::from(vec![Span::styled(text, theme.heading), Span::raw(" ".repeat(gap)), Span::raw(end)])
}

/// Minisocks alive, and how full the namespace's buckets are.
fn live<'a>(state: &State, theme: &Theme) -> Line<'a> {
    let totals = &state.numbers.totals;
    let (time_wait, fin_wait2) = (state.numbers.live.time_wait.max(0), state.numbers.live.fin_wait2.max(0));
    // The counter knows nothing of filters.
    let (live, of) = if state.about.filtered {
        ((time_wait + fin_wait2).to_string(), format!(" of {}", Known(totals.live)))
    } else {
        (Known(totals.live).to_string(), String::new())
    };
    let mut spans = vec![
        Span::styled(format!("live {live}"), theme.heading),
        Span::raw(format!("{of} (time_wait {time_wait}, fin_wait2 {fin_wait2})  buckets ")),
    ];
    let used = state.numbers.reconcile.iter().find(|row| row.counter == SOCKSTAT_TW);
    let used = used.and_then(|row| u64::try_from(row.kernel).ok());
    let limit = state.aggregates.namespaces().get(&state.about.own_netns).and_then(|space| space.tw_limit);
    match used.zip(limit.filter(|&limit| limit > 0)) {
        Some((used, limit)) => {
            let share = used as f64 / limit as f64;
            spans.push(Span::styled(theme.bar(share, GAUGE), theme.fill(share)));
            spans.push(Span::raw(format!(" {used}/{limit}")));
        }
        None => spans.push(Span::raw("?")),
    }
    Line::from(spans)
}

/// The kernel's name for the minisocks of a namespace.
const SOCKSTAT_TW: &str = "sockstat.tw";

/// Rates, failures, and the kernel's word on them.
fn flow<'a>(state: &State, theme: &Theme) -> Line<'a> {
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
    if let Some(1..) = totals.no_bind {
        spans.insert(3, alarm("no bind", totals.no_bind, theme));
    }
    let apart: i64 = numbers.reconcile.iter().map(|row| row.diff.abs()).sum();
    spans.push(match numbers.reconcile.as_slice() {
        [] => Span::styled("kernel: ?  ", theme.quiet),
        _ if apart == 0 => Span::styled("kernel: diff 0  ", theme.good),
        // The notes say of what.
        _ => Span::styled(format!("kernel: DIFF {apart}!  "), theme.bad),
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
