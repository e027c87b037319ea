//! What twtrace itself costs.

use ratatui::text::Line;

use crate::{model::own::Runs, sink::own::parts, tui::state::State};

pub(super) const TITLE: &str = "What twtrace itself costs, since the last tick (i hides it)";

pub(super) fn lines<'a>(state: &State) -> Vec<Line<'a>> {
    let Some(own) = &state.numbers.own else {
        return vec![Line::default(), Line::from("  known with the next tick")];
    };
    let mut lines: Vec<_> = parts(own).into_iter().map(|part| Line::from(format!("  {part}"))).collect();
    lines.push(Line::default());
    lines.push(Line::from(format!("  {:<20} {:>10} {:>8} {:>8}", "PROGRAM", "RUNS", "NS/RUN", "SHARE")));
    let all = own.bpf_ns.unwrap_or(0).max(1);
    lines.extend(own.programs.iter().map(|&Runs { name, runs, run_ns }| {
        let share = run_ns as f64 * 100.0 / all as f64;
        Line::from(format!("  {name:<20} {runs:>10} {:>8} {share:>7.1}%", run_ns / runs.max(1)))
    }));
    lines
}
