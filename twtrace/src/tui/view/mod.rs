//! The screen as a function of the state.

mod detail;
mod header;
mod own;
mod table;
mod theme;

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::{Clear, Paragraph},
};
use unicode_width::UnicodeWidthStr as _;

use super::{
    keys::KEYS,
    state::{State, Tab},
};
use crate::{model::aggregate::Aggregates, show::human::Plain, sink::text};
use theme::Theme;

/// The smallest terminal that holds the view.
const LEAST: (u16, u16) = (80, 24);
/// Lines above the content: three of numbers, one of tabs, one heading; and one below.
const AROUND: u16 = 6;

/// Rows that fit on a terminal of this many lines.
#[must_use]
pub fn page(lines: u16) -> usize {
    usize::from(lines.saturating_sub(AROUND)).max(1)
}

/// Lines of the help.
#[must_use]
pub fn help_lines() -> usize {
    KEYS.len()
}

/// Lines of what the selected row was opened for.
#[must_use]
pub fn detail_lines(state: &State, tables: &Aggregates) -> usize {
    detail::lines(state, tables, &Theme::of(&state.about)).len()
}

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, state: &State, tables: &Aggregates) {
    let area = frame.area();
    let theme = Theme::of(&state.about);
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!(
            "twtrace needs {}x{}; this terminal is {}x{}. Enlarge it, or run with --format text.",
            LEAST.0, LEAST.1, area.width, area.height
        );
        frame.render_widget(Paragraph::new(text).wrap(ratatui::widgets::Wrap { trim: true }), area);
        return;
    }
    let [top, tabs, heading, content, bottom] = rows(area);
    frame.render_widget(Paragraph::new(header::lines(state, tables, &theme, area.width)), top);
    frame.render_widget(Paragraph::new(tab_line(state, &theme)), tabs);
    let (head, lines) = body(state, tables, &theme, content);
    frame.render_widget(Paragraph::new(head).style(theme.heading), heading);
    frame.render_widget(Clear, content);
    frame.render_widget(Paragraph::new(lines), content);
    match &state.message {
        Some(message) if state.prompt.is_none() => {
            // A long answer takes the last lines of the content, until the next key.
            let lines = wrapped(&Plain(message).to_string(), area.width.into());
            let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).clamp(1, content.height);
            let over = Rect { y: area.y + area.height - height, height, ..bottom };
            frame.render_widget(Clear, over);
            let lines: Vec<_> = lines.into_iter().map(|line| Line::from(Span::styled(line, theme.warning))).collect();
            frame.render_widget(Paragraph::new(lines), over);
        }
        _ => frame.render_widget(Paragraph::new(footer(state, &theme)), bottom),
    }
}

/// Heading of the notes.
const NOTES: &str = "What needs attention now";

/// The areas: numbers, tabs, heading, content, footer.
fn rows(area: Rect) -> [Rect; 5] {
    let line = |y, height| Rect { x: area.x, y: area.y + y, width: area.width, height };
    [line(0, 3), line(3, 1), line(4, 1), line(5, area.height - AROUND), line(area.height - 1, 1)]
}

/// The heading and the lines of the content.
fn body<'a>(state: &'a State, tables: &Aggregates, theme: &Theme, area: Rect) -> (Line<'a>, Vec<Line<'a>>) {
    let page = usize::from(area.height);
    if let Some(from) = state.help {
        let lines = KEYS.iter().map(|key| Line::from(format!("  {:<16} {}", key.name, key.does)));
        return (Line::from("Keys (? or Esc hides this)"), lines.skip(from).take(page).collect());
    }
    if state.shows_own {
        return (Line::from(own::TITLE), own::lines(state).into_iter().take(page).collect());
    }
    if let Some((what, from)) = &state.detail {
        let lines = detail::lines(state, tables, theme).into_iter().skip(*from).take(page).collect();
        return (Line::from(detail::title(state, what)), lines);
    }
    match state.tab {
        Tab::Events => events(state, theme, page),
        Tab::Notes => notes(state, theme, area),
        _ => match state.rows.as_deref() {
            Some(rows) => table::lines(rows, state, theme, area),
            None => (Line::default(), Vec::new()),
        },
    }
}

fn events<'a>(state: &State, theme: &Theme, page: usize) -> (Line<'a>, Vec<Line<'a>>) {
    let (len, selected) = (state.len(), state.selected());
    let from = first_shown(selected, len, page);
    let (heading, line): (String, text::LineOf) = if state.size.0 < text::WIDTH {
        (text::narrow_heading(), text::narrow_line)
    } else {
        (text::heading(), text::line)
    };
    let lines = state.shown_events().skip(from).take(page).enumerate().map(|(i, event)| {
        let line = Line::from(line(event, state.clock, &state.zone).trim_end().to_owned());
        if from + i == selected { line.style(theme.selected) } else { line }
    });
    let lines: Vec<_> = lines.collect();
    let lines = if lines.is_empty() { nothing(state, "no events yet") } else { lines };
    (Line::from(heading.trim_end().to_owned()), lines)
}

fn notes<'a>(state: &State, theme: &Theme, area: Rect) -> (Line<'a>, Vec<Line<'a>>) {
    let mut lines = Vec::new();
    let width = usize::from(area.width).saturating_sub(7);
    for (i, note) in state.notes.iter().enumerate() {
        for (n, part) in wrapped(&note.text, width).into_iter().enumerate() {
            let word = if n == 0 { note.urgency.word() } else { "" };
            let style = if i == state.selected() { theme.selected } else { theme.urgency(note.urgency) };
            lines.push((i, Line::from(vec![Span::styled(format!(" {word:<5}"), style), Span::raw(part)])));
        }
    }
    if lines.is_empty() {
        return (Line::from(NOTES), nothing(state, "nothing to report: ports are free, nothing was refused or lost"));
    }
    // The selected note is shown whole, if it can be.
    let last = lines.iter().rposition(|(i, _)| *i == state.selected()).unwrap_or(0);
    let from = (last + 1).saturating_sub(usize::from(area.height));
    let lines = lines.into_iter().map(|(_, line)| line).skip(from).take(usize::from(area.height)).collect();
    (Line::from(NOTES), lines)
}

/// In place of rows.
fn nothing<'a>(state: &State, why: &str) -> Vec<Line<'a>> {
    let why = if state.sieve.is_empty() {
        why.to_owned()
    } else {
        format!("nothing matches the filter {}", state.sieve.words)
    };
    vec![Line::default(), Line::from(format!("  {why}"))]
}

/// The first of `len` rows to be shown so that the selected one is.
fn first_shown(selected: usize, len: usize, page: usize) -> usize {
    (selected + 1).saturating_sub(page).min(len.saturating_sub(page))
}

fn tab_line<'a>(state: &State, theme: &Theme) -> Line<'a> {
    let mut spans = Vec::new();
    for (i, tab) in Tab::ALL.into_iter().enumerate() {
        let style = if tab == state.tab { theme.selected } else { theme.quiet };
        spans.push(Span::styled(format!(" {} {} ", i + 1, tab.title()), style));
        spans.push(Span::raw(" "));
    }
    if state.paused {
        spans.push(Span::styled("HELD ", theme.warning));
        let (waiting, not_kept) = (state.log.waiting(), state.log.not_kept());
        let lost = if not_kept > 0 { format!(", {not_kept} dropped") } else { String::new() };
        spans.push(Span::raw(format!("{waiting}/{} new{lost}", super::log::KEPT_HELD)));
    }
    Line::from(spans)
}

fn footer<'a>(state: &State, theme: &Theme) -> Line<'a> {
    if let Some(prompt) = &state.prompt {
        // The end of a long filter is where it is being typed.
        let room = usize::from(state.size.0).saturating_sub(10);
        let tail: String = prompt.chars().skip(prompt.chars().count().saturating_sub(room)).collect();
        return Line::from(vec![
            Span::styled("filter: ", theme.heading),
            Span::raw(tail),
            Span::styled(" ", theme.selected),
        ]);
    }
    let mut text = String::from("q quit  ? keys  Enter details  s sort  / filter  p hold");
    if state.about.filtered {
        text.push_str("  [filtered by the command line]");
    }
    let mut spans = Vec::new();
    if !state.sieve.is_empty() {
        let idle = state.rows.as_ref().map_or_else(Vec::new, |rows| state.sieve.idle(rows.name()));
        let idle =
            if idle.is_empty() { String::new() } else { format!(" (ignored in this table: {})", idle.join(" ")) };
        spans.push(Span::styled(format!("filter {}{idle}  ", state.sieve.words), theme.warning));
    }
    spans.push(Span::styled(text, theme.quiet));
    Line::from(spans)
}

/// Breaks a text at its spaces into lines of at most `width` columns.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() || line.width() + 1 + word.width() <= width => {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
