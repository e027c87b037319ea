//! Colours and characters. Colour is never the only sign.

use ratatui::style::{Color, Modifier, Style};

use crate::tui::{advice::Urgency, state::About};

/// How things are drawn.
pub(super) struct Theme {
    /// Headings.
    pub heading: Style,
    /// The selected row, the present tab.
    pub selected: Style,
    /// What is of less interest.
    pub quiet: Style,
    /// What is wrong.
    pub bad: Style,
    /// What may go wrong.
    pub warning: Style,
    /// What is as it should be.
    pub good: Style,
    /// ASCII alone.
    pub ascii: bool,
}

impl Theme {
    /// As the user has it.
    pub fn of(about: &About) -> Self {
        let colour = |colour| if about.plain { Style::new() } else { Style::new().fg(colour) };
        Self {
            heading: Style::new().add_modifier(Modifier::BOLD),
            selected: Style::new().add_modifier(Modifier::REVERSED),
            quiet: colour(Color::DarkGray),
            bad: colour(Color::Red).add_modifier(Modifier::BOLD),
            warning: colour(Color::Yellow),
            good: colour(Color::Green),
            ascii: about.ascii,
        }
    }

    /// A note's word.
    pub fn urgency(&self, urgency: Urgency) -> Style {
        match urgency {
            Urgency::Failing => self.bad,
            Urgency::Warning => self.warning,
            Urgency::Hint => self.good,
        }
    }

    /// A share's colour: the fuller, the worse.
    pub fn fill(&self, share: f64) -> Style {
        match share {
            share if share > 0.8 => self.bad,
            share if share > 0.5 => self.warning,
            _ => self.good,
        }
    }

    /// A bar of `width` columns, `share` (0 to 1) of it full.
    pub fn bar(&self, share: f64, width: usize) -> String {
        let (full, empty) = if self.ascii { ("#", "-") } else { ("█", "░") };
        let filled = ((share.clamp(0.0, 1.0) * width as f64).round() as usize).min(width);
        full.repeat(filled) + &empty.repeat(width - filled)
    }

    /// The last `width` values as a line, the largest full.
    pub fn sparkline(&self, values: impl DoubleEndedIterator<Item = u64>, width: usize) -> String {
        const FINE: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        const ASCII: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];
        let steps = if self.ascii { ASCII } else { FINE };
        let mut shown: Vec<u64> = values.rev().take(width).collect();
        shown.reverse();
        let most = shown.iter().copied().max().unwrap_or(0).max(1);
        let step = |value: u64| steps[(value as f64 / most as f64 * 7.0).round() as usize % 8];
        shown.into_iter().map(|value| if value == 0 { ' ' } else { step(value) }).collect()
    }
}
