//! Ticks that came due while the output had no room. A tick is worth most when it is new: all that have come due meanwhile
//! are one, told with the numbers of the moment at which there is room again. The others are counted.

/// Ticks that are due.
#[derive(Debug, Default)]
pub(super) struct Due {
    ticks: u64,
    tables: bool,
    skipped: u64,
}

impl Due {
    /// One more is due, with tables or without.
    pub fn come(&mut self, tables: bool) {
        self.ticks += 1;
        self.tables |= tables;
    }

    /// True if a tick is due.
    pub fn is_due(&self) -> bool {
        self.ticks > 0
    }

    /// What has to be told now: one tick, however many are due. `Some(true)`: with its tables.
    pub fn take(&mut self) -> Option<bool> {
        let others = self.ticks.checked_sub(1)?;
        self.skipped += others;
        self.ticks = 0;
        Some(std::mem::take(&mut self.tables))
    }

    /// Ticks that were never told, those that are due included.
    pub fn untold(&self) -> u64 {
        self.skipped + self.ticks
    }
}
