//! From keys to a changed state, and to what somebody else has to do.

use std::time::Duration;

use super::{
    baseline::Baseline,
    keys::{Action, Key, action},
    listing::{Identity as _, Listing},
    sieve::Sieve,
    state::{Detail, Grouping, State, Tab},
    view,
};
use crate::{
    model::aggregate::{Aggregates, PortKey, Process},
    show::escape,
    sink::text,
};

/// What comes in from the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A key.
    Key(Key),
    /// The terminal has another size: columns, lines.
    Resize(u16, u16),
    /// The terminal is gone.
    Gone,
}

/// What a key asks of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// End the run.
    Quit,
    /// Suspend the process.
    Suspend,
    /// Put this into the clipboard.
    Copy(String),
    /// Write this table to a file: its name and its JSON.
    Write(&'static str, String),
    /// Tick this often from now on.
    Interval(Duration),
    /// Read this filter, and give it to [`filter`].
    Filter(String),
    /// Measure what twtrace itself costs, or no more.
    Measure(bool),
}

/// Intervals that + and - step through, milliseconds.
const INTERVALS_MS: [u64; 7] = [100, 250, 500, 1_000, 2_000, 5_000, 10_000];
/// Characters of a filter that may be typed.
const PROMPT: usize = 200;

/// Changes the state by what came in.
pub fn update(state: &mut State, input: Input, tables: &Aggregates) -> Option<Effect> {
    match input {
        Input::Gone => Some(Effect::Quit),
        Input::Resize(columns, lines) => {
            state.size = (columns, lines);
            None
        }
        Input::Key(Key::Control('c')) => Some(Effect::Quit),
        Input::Key(Key::Control('z')) => Some(Effect::Suspend),
        Input::Key(key) if state.prompt.is_some() => typed(state, key),
        Input::Key(key) => {
            state.message = None;
            act(state, action(key)?, tables)
        }
    }
}

/// What became of a filter.
pub fn filter(state: &mut State, read: Result<Sieve, String>, tables: &Aggregates) {
    match read {
        Ok(sieve) => {
            state.sieve = sieve;
            state.refresh(tables);
            state.select(0);
        }
        Err(why) => state.message = Some(why),
    }
}

/// A key while a filter is typed.
fn typed(state: &mut State, key: Key) -> Option<Effect> {
    let prompt = state.prompt.as_mut()?;
    match key {
        Key::Char(c) if prompt.chars().count() < PROMPT && !c.is_control() => prompt.push(c),
        Key::Backspace => {
            prompt.pop();
        }
        Key::Control('u') => prompt.clear(),
        Key::Escape => state.prompt = None,
        Key::Enter => return state.prompt.take().map(Effect::Filter),
        _ => {}
    }
    None
}

fn act(state: &mut State, action: Action, tables: &Aggregates) -> Option<Effect> {
    match action {
        Action::Quit => return Some(Effect::Quit),
        Action::Suspend => return Some(Effect::Suspend),
        Action::Help => state.help = if state.help.is_some() { None } else { Some(0) },
        Action::Tab(index) => tab(state, index, tables),
        Action::NextTab => tab(state, (state.tab.index() + 1) % Tab::ALL.len(), tables),
        Action::PreviousTab => tab(state, (state.tab.index() + Tab::ALL.len() - 1) % Tab::ALL.len(), tables),
        Action::Up => step(state, tables, |row, _, _| row.saturating_sub(1)),
        Action::Down => step(state, tables, |row, _, last| (row + 1).min(last)),
        Action::PageUp => step(state, tables, |row, page, _| row.saturating_sub(page)),
        Action::PageDown => step(state, tables, |row, page, last| (row + page).min(last)),
        Action::First => step(state, tables, |_, _, _| 0),
        Action::Last => step(state, tables, |_, _, last| last),
        Action::Open => open(state, tables),
        Action::Back => back(state, tables),
        Action::SortNext => {
            let columns = state.rows.as_ref().map_or(1, |rows| rows.heads().len());
            let next = (state.sorted_by() + 1) % columns;
            state.place_mut().sort = Some(next);
            state.sort();
        }
        Action::SortTurn => {
            state.place_mut().ascending ^= true;
            state.sort();
        }
        Action::Group => {
            state.grouping = match state.grouping {
                Grouping::Process => Grouping::Cgroup,
                Grouping::Cgroup => Grouping::Process,
            };
            if state.tab == Tab::Owners {
                state.detail = None;
                state.refresh(tables);
            }
        }
        Action::Filter => state.prompt = Some(state.sieve.words.clone()),
        Action::Pause => pause(state, tables),
        Action::Reset => {
            state.baseline = Baseline::of(tables);
            state.history.clear();
            state.refresh(tables);
            state.message = Some("counts are reset; live sockets stay".to_owned());
        }
        Action::Slower => return Some(interval(state, |now| INTERVALS_MS.into_iter().find(|&ms| ms > now))),
        Action::Faster => return Some(interval(state, |now| INTERVALS_MS.into_iter().rfind(|&ms| ms < now))),
        Action::Copy => return copy(state),
        Action::Write => return write(state),
        Action::Own => {
            state.shows_own ^= true;
            return Some(Effect::Measure(state.shows_own));
        }
    }
    None
}

fn tab(state: &mut State, index: usize, tables: &Aggregates) {
    if let Some(&tab) = Tab::ALL.get(index) {
        (state.tab, state.detail, state.help) = (tab, None, None);
        state.refresh(tables);
    }
}

/// Moves the selection, or what is scrolled above it: from where it is, the page, and the last row.
fn step(state: &mut State, tables: &Aggregates, to: impl Fn(usize, usize, usize) -> usize) {
    let page = state.page();
    if let Some(line) = state.help {
        state.help = Some(to(line, page, view::help_lines().saturating_sub(page)));
    } else if let Some((_, line)) = state.detail {
        let last = view::detail_lines(state, tables).saturating_sub(page);
        if let Some((_, at)) = &mut state.detail {
            *at = to(line, page, last);
        }
    } else {
        let row = to(state.selected(), page, state.len().saturating_sub(1));
        state.select(row);
    }
}

fn open(state: &mut State, tables: &Aggregates) {
    let selected = state.selected();
    let Some(id) = state.rows.as_ref().and_then(|rows| rows.id(selected)) else { return };
    let detail = match (state.tab, state.grouping) {
        (Tab::Ports, _) => port_of(tables, &id).map(Detail::Histograms),
        (Tab::Owners, Grouping::Process) => process_of(tables, &id).map(Detail::OfProcess),
        (Tab::Owners, Grouping::Cgroup) => id.parse().ok().map(Detail::OfCgroup),
        _ => Some(Detail::Fields(id)),
    };
    state.detail = detail.map(|detail| (detail, 0));
}

fn port_of(tables: &Aggregates, id: &str) -> Option<PortKey> {
    let row = tables.port_rows().into_iter().find(|row| row.id() == id)?;
    Some(PortKey { side: row.role, port: row.port })
}

fn process_of(tables: &Aggregates, id: &str) -> Option<Process> {
    tables.processes().find(|process| process.id() == id)
}

fn back(state: &mut State, tables: &Aggregates) {
    if state.help.take().is_some() || state.detail.take().is_some() {
        return;
    }
    if !state.sieve.is_empty() {
        state.sieve = Sieve::default();
        state.refresh(tables);
    }
}

fn pause(state: &mut State, tables: &Aggregates) {
    state.paused ^= true;
    state.log.hold(state.paused);
    if !state.paused {
        state.refresh(tables);
    }
}

fn interval(state: &mut State, next: impl Fn(u64) -> Option<u64>) -> Effect {
    let now = u64::try_from(state.interval.as_millis()).unwrap_or(u64::MAX);
    state.interval = Duration::from_millis(next(now).unwrap_or(now));
    state.message = Some(format!("refresh interval: {:?}", state.interval));
    Effect::Interval(state.interval)
}

fn copy(state: &mut State) -> Option<Effect> {
    let selected = state.selected();
    let line = match state.tab {
        Tab::Events => state.shown_events().nth(selected).map(|event| text::line(event, state.clock, &state.zone)),
        Tab::Notes => state.notes.get(selected).map(|note| note.text.clone()),
        _ => state.rows.as_deref().filter(|rows| selected < rows.len()).map(|rows| cells(rows, selected)),
    }?;
    state.message = Some("copied".to_owned());
    Some(Effect::Copy(line.trim_end().to_owned()))
}

/// All columns of a row, those that have no room on the screen too.
fn cells(rows: &dyn Listing, row: usize) -> String {
    let cells: Vec<_> = (0..rows.heads().len()).map(|column| rows.text(row, column)).collect();
    cells.join(" ")
}

fn write(state: &mut State) -> Option<Effect> {
    let Some(rows) = &state.rows else {
        state.message = Some("only tables can be written; for events, run with --format json".to_owned());
        return None;
    };
    // Rows are numbers and words: none is refused.
    let mut text = escape::to_string(&rows.json()).unwrap_or_default();
    text.push('\n');
    Some(Effect::Write(rows.name(), text))
}
