//! The keys, as data: what a key does, and the help that says so.

/// A key that was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A key that writes something.
    Char(char),
    /// A key that writes something, with Control held.
    Control(char),
    /// Arrow up.
    Up,
    /// Arrow down.
    Down,
    /// Arrow left.
    Left,
    /// Arrow right.
    Right,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the first.
    Home,
    /// To the last.
    End,
    /// Return.
    Enter,
    /// Escape.
    Escape,
    /// Tab.
    Tab,
    /// Tab with Shift held.
    BackTab,
    /// Erase backwards.
    Backspace,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// End the run.
    Quit,
    /// Give the terminal back until `fg`.
    Suspend,
    /// Show the keys, or hide them.
    Help,
    /// Show a tab, by its number from 0.
    Tab(usize),
    /// The next tab.
    NextTab,
    /// The tab before.
    PreviousTab,
    /// A row up.
    Up,
    /// A row down.
    Down,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the first row.
    First,
    /// To the last row.
    Last,
    /// Look into the selected row.
    Open,
    /// Out of it again; drop what is being typed, then the filter.
    Back,
    /// Sort by the next column.
    SortNext,
    /// Turn the order around.
    SortTurn,
    /// Owners by process or by cgroup.
    Group,
    /// Type a filter.
    Filter,
    /// Hold the screen, or let it go on.
    Pause,
    /// Count anew.
    Reset,
    /// Ticks further apart.
    Slower,
    /// Ticks closer together.
    Faster,
    /// Copy the selected line.
    Copy,
    /// Write the table to a file.
    Write,
    /// Show what twtrace itself costs, or hide it.
    Own,
}

/// Keys that do the same, how the help calls them, and what it says that they do.
pub struct Binding {
    /// The keys.
    pub keys: &'static [Key],
    /// Name of the keys.
    pub name: &'static str,
    /// What they ask for.
    pub action: Action,
    /// What that does.
    pub does: &'static str,
}

const fn bind(keys: &'static [Key], name: &'static str, action: Action, does: &'static str) -> Binding {
    Binding { keys, name, action, does }
}

/// Every key of the tables. While a filter is typed, keys write.
pub const KEYS: &[Binding] = &[
    bind(&[Key::Char('q'), Key::Control('c')], "q, Ctrl-C", Action::Quit, "end the run"),
    bind(
        &[Key::Control('z')],
        "Ctrl-Z",
        Action::Suspend,
        "suspend; fg comes back, and events lost meanwhile are counted",
    ),
    bind(&[Key::Char('?'), Key::Char('h')], "?, h", Action::Help, "show or hide these keys"),
    bind(&[Key::Char('1')], "1", Action::Tab(0), "ports"),
    bind(&[Key::Char('2')], "2", Action::Tab(1), "destinations"),
    bind(&[Key::Char('3')], "3", Action::Tab(2), "owners"),
    bind(&[Key::Char('4')], "4", Action::Tab(3), "events"),
    bind(&[Key::Char('5')], "5", Action::Tab(4), "notes"),
    bind(&[Key::Tab, Key::Right], "Tab, right", Action::NextTab, "next tab"),
    bind(&[Key::BackTab, Key::Left], "Shift-Tab, left", Action::PreviousTab, "previous tab"),
    bind(&[Key::Up, Key::Char('k')], "up, k", Action::Up, "one row up"),
    bind(&[Key::Down, Key::Char('j')], "down, j", Action::Down, "one row down"),
    bind(&[Key::PageUp], "PageUp", Action::PageUp, "one page up"),
    bind(&[Key::PageDown], "PageDown", Action::PageDown, "one page down"),
    bind(&[Key::Home, Key::Char('g')], "g, Home", Action::First, "first row"),
    bind(&[Key::End, Key::Char('G')], "G, End", Action::Last, "last row; for events, follow the newest"),
    bind(&[Key::Enter], "Enter", Action::Open, "details of the row: histograms, fields, targets"),
    bind(&[Key::Escape], "Esc", Action::Back, "back; then clear the filter"),
    bind(&[Key::Char('s')], "s", Action::SortNext, "sort by the next column"),
    bind(&[Key::Char('S')], "S", Action::SortTurn, "reverse the order"),
    bind(&[Key::Char('o')], "o", Action::Group, "owners: by process or by cgroup"),
    bind(&[Key::Char('/')], "/", Action::Filter, "filter: dst port 443 and not cause expired"),
    bind(&[Key::Char(' '), Key::Char('p')], "space, p", Action::Pause, "hold or release the screen; counting goes on"),
    bind(&[Key::Char('r')], "r", Action::Reset, "reset the counts; live sockets stay"),
    bind(&[Key::Char('+'), Key::Char('=')], "+", Action::Slower, "longer refresh interval"),
    bind(&[Key::Char('-')], "-", Action::Faster, "shorter refresh interval"),
    bind(&[Key::Char('c')], "c", Action::Copy, "copy the selected line (OSC 52)"),
    bind(&[Key::Char('w')], "w", Action::Write, "write this table to a JSON file"),
    bind(&[Key::Char('i')], "i", Action::Own, "what twtrace costs (measured while shown), and cannot watch"),
];

/// What a key asks for.
#[must_use]
pub fn action(key: Key) -> Option<Action> {
    KEYS.iter().find(|binding| binding.keys.contains(&key)).map(|binding| binding.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_has_two_meanings() {
        let all: Vec<_> = KEYS.iter().flat_map(|binding| binding.keys).collect();
        for (i, key) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(key), "{key:?}");
        }
    }
}
