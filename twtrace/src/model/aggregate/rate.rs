//! How fast a count grows: events per second since the last tick.

/// A count, and what it was a tick ago.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Since the start.
    pub count: u64,
    at_tick: u64,
    /// NaN before the second tick: an `Option` would be twice as large, and there may be 100,000 of these.
    per_s: f64,
}

impl Default for Rate {
    fn default() -> Self {
        Self { count: 0, at_tick: 0, per_s: f64::NAN }
    }
}

impl Rate {
    /// One more.
    pub fn add(&mut self) {
        self.count += 1;
    }

    /// Adds the count of a row that had to go; its rate is gone with it.
    pub fn fold(&mut self, gone: Self) {
        self.count += gone.count;
        self.at_tick += gone.count;
    }

    /// A tick: `seconds` since the last one.
    pub fn tick(&mut self, seconds: f64) {
        if seconds > 0.0 {
            self.per_s = thousandths(self.count.saturating_sub(self.at_tick) as f64 / seconds);
        }
        self.at_tick = self.count;
    }

    /// Per second, between the last two ticks; `None` before the second.
    #[must_use]
    pub fn per_s(&self) -> Option<f64> {
        (!self.per_s.is_nan()).then_some(self.per_s)
    }
}

/// For the eye: three digits behind the point.
pub(crate) fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
