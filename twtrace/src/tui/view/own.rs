//! What twtrace itself costs, and what it does not watch on this kernel.

use ratatui::text::Line;

use super::wrapped;
use crate::{model::own::Runs, plan::UNASKED, show::own::parts, sink::notes::lost_with, tui::state::State};

pub(super) const TITLE: &str = "What twtrace costs, since the last tick, and what it cannot watch (i hides this)";

pub(super) fn lines<'a>(state: &State) -> Vec<Line<'a>> {
    let mut lines = match &state.numbers.own {
        Some(own) => parts(own).into_iter().map(|part| Line::from(format!("  {part}"))).collect(),
        None => vec![Line::default(), Line::from("  The costs are known with the next tick.")],
    };
    lines.push(Line::default());
    lines.extend(missing(state));
    let Some(own) = &state.numbers.own else { return lines };
    lines.push(Line::default());
    lines.push(Line::from(format!("  {:<20} {:>10} {:>8} {:>8}", "PROGRAM", "RUNS", "NS/RUN", "SHARE")));
    let all = own.bpf_ns.unwrap_or(0).max(1);
    lines.extend(own.programs.iter().map(|&Runs { ref name, runs, run_ns }| {
        let share = run_ns as f64 * 100.0 / all as f64;
        Line::from(format!("  {name:<20} {runs:>10} {:>8} {share:>7.1}%", run_ns / runs.max(1)))
    }));
    lines
}

/// What is not watched, and why.
fn missing<'a>(state: &State) -> Vec<Line<'a>> {
    let Some(start) = &state.start else { return Vec::new() };
    let width = usize::from(state.size.0).saturating_sub(4);
    let mut lines = Vec::new();
    for (name, capability) in start.capabilities.iter().filter(|(_, capability)| capability.backend.is_none()) {
        let why = capability.reason.as_deref().unwrap_or("the reason is unknown");
        let text = match why {
            UNASKED => format!("{} is {why}.", lost_with(name)),
            why => format!("Not watched on this kernel: {}: {why}.", lost_with(name)),
        };
        for (i, part) in wrapped(&text, width).into_iter().enumerate() {
            lines.push(Line::from(format!("{}{part}", if i == 0 { "  " } else { "    " })));
        }
    }
    if lines.is_empty() {
        lines.push(Line::from("  Every capability has a backend on this kernel."));
    }
    lines
}
