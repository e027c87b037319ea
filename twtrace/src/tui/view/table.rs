//! A table: the columns that fit, the selected row, bars beside shares.

use ratatui::{
    layout::Rect,
    text::{Line, Span},
};
use unicode_width::UnicodeWidthStr as _;

use super::{first_shown, nothing, theme::Theme};
use crate::{
    show::columns::padded,
    tui::{
        listing::{Head, Listing},
        state::State,
    },
};

/// Columns of a bar beside a share.
const BAR: u16 = 10;

pub(super) fn lines<'a>(rows: &dyn Listing, state: &State, theme: &Theme, area: Rect) -> (Line<'a>, Vec<Line<'a>>) {
    let heads = rows.heads();
    let (selected, page) = (state.selected(), usize::from(area.height));
    let from = first_shown(selected, rows.len(), page);
    let shown = from..rows.len().min(from + page);
    let columns = Columns::fit(&heads, rows, shown.clone(), area.width);
    let head = columns.head(&heads, state);
    if rows.is_empty() {
        return (head, nothing(state, "no connections yet"));
    }
    let lines = shown.map(|row| {
        let line = columns.row(&heads, rows, row, theme);
        if row == selected { line.style(theme.selected) } else { line }
    });
    (head, lines.collect())
}

/// The columns that are shown, each with its width.
struct Columns(Vec<(usize, u16)>);

impl Columns {
    /// Leaves out the columns of the highest rank until the rest fits.
    fn fit(heads: &[Head], rows: &dyn Listing, shown: std::ops::Range<usize>, width: u16) -> Self {
        let widest = |column: usize| {
            let longest = shown.clone().map(|row| rows.text(row, column).width()).max().unwrap_or(0);
            u16::try_from(longest).unwrap_or(u16::MAX).max(heads[column].width)
        };
        let mut columns: Vec<_> = (0..heads.len())
            .map(|column| (column, widest(column).saturating_add(if heads[column].has_bar { BAR + 1 } else { 0 })))
            .collect();
        let total =
            |columns: &[(usize, u16)]| columns.iter().fold(0_u16, |sum, (_, width)| sum.saturating_add(width + 1));
        while total(&columns) > width {
            let least = columns.iter().map(|(column, _)| heads[*column].rank).max().filter(|rank| *rank > 0);
            let Some(last) = columns.iter().rposition(|(column, _)| Some(heads[*column].rank) == least) else { break };
            columns.remove(last);
        }
        Self(columns)
    }

    fn head<'a>(&self, heads: &[Head], state: &State) -> Line<'a> {
        let sorted = state.sorted_by();
        let mark = match (state.place().ascending, state.about.ascii) {
            (false, false) => '▼',
            (true, false) => '▲',
            (false, true) => 'v',
            (true, true) => '^',
        };
        let mut text = String::new();
        for &(column, width) in &self.0 {
            let head = &heads[column];
            let title = if column == sorted { format!("{}{mark}", head.title) } else { head.title.to_owned() };
            text.push_str(&padded(&title, width.into(), head.side));
            text.push(' ');
        }
        if !self.0.iter().any(|(column, _)| *column == sorted)
            && let Some(head) = heads.get(sorted)
        {
            text.push_str(&format!("({}{mark})", head.title));
        }
        Line::from(text)
    }

    fn row<'a>(&self, heads: &[Head], rows: &dyn Listing, row: usize, theme: &Theme) -> Line<'a> {
        let mut spans = Vec::with_capacity(self.0.len() + 1);
        for &(column, width) in &self.0 {
            let (head, text) = (&heads[column], rows.text(row, column));
            if head.has_bar {
                let share = rows.share(row, column);
                let bar = share.map_or_else(|| " ".repeat(BAR.into()), |share| theme.bar(share, BAR.into()));
                spans.push(Span::styled(bar, theme.fill(share.unwrap_or(0.0))));
                spans.push(Span::raw(padded(&text, (width - BAR).into(), head.side) + " "));
            } else {
                spans.push(Span::raw(padded(&text, width.into(), head.side) + " "));
            }
        }
        Line::from(spans)
    }
}
