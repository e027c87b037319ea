//! How bad is a loss? One rule for every check that counts what was dropped. Pure.
//!
//! What fails now is critical, and one drop in half a second is not: severity follows rate, share and duration. A check hands
//! over what was lost and what went well, between the two looks and since the namespace began, as a [`Loss`].

use super::{
    facts::Namespace,
    finding::{Evidence, Severity},
};

/// Fewer losses than this between two looks may be chance.
const FEW: u64 = 3;
/// Fewer losses than this since the namespace began are no habit.
const SOME: u64 = 10;
/// From this share of the attempts on a loss is an outage while it lasts.
const OUTAGE: f64 = 0.05;
/// Losses per second that are an outage whatever their share.
const FLOOD: f64 = 100.0;
/// Losses per second that are an outage where attempts are not counted.
const BLIND: f64 = 5.0;
/// From this share of the attempts on a loss is worth a warning while it lasts.
const FELT: f64 = 0.01;
/// From this share of all attempts on a loss is worth a warning after it has ended.
const LASTING: f64 = 0.1;

/// The rule in words, for the stories of findings that follow it.
macro_rules! rule {
    () => {
        "Severity follows rate, share and duration. Critical: at least 3 losses between the two looks that are 5 % of the \
         attempts or more (5 per second where attempts are not counted), or 100 losses per second, or any loss now when \
         at least 10 losses are 5 % of all attempts since the namespace began. Warning: at least 3 losses now, or 1 % \
         of the attempts; or none now, but at least 10 losses that are 10 % of all attempts since the namespace began. Note: \
         anything less."
    };
}
pub(crate) use rule;

/// What was lost, and what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Lost between the two looks.
    pub now: u64,
    /// Went well between the two looks; `None`: not counted.
    pub well_now: Option<u64>,
    /// Between the two looks, seconds.
    pub seconds: f64,
    /// Lost since the namespace began.
    pub total: u64,
    /// Went well since the namespace began; `None`: not counted.
    pub well: Option<u64>,
}

impl Loss {
    /// By a counter of what was lost and one of what went well, such as `("TcpExt", "ListenDrops")` and `("Tcp",
    /// "PassiveOpens")`. `None` if the first is not counted by this kernel.
    #[must_use]
    pub fn counted(namespace: &Namespace, lost: (&str, &str), well: (&str, &str)) -> Option<Self> {
        Some(Self {
            now: namespace.moved(lost.0, lost.1).unwrap_or_default(),
            well_now: namespace.moved(well.0, well.1),
            seconds: namespace.window.as_secs_f64(),
            total: namespace.total(lost.0, lost.1)?,
            well: namespace.total(well.0, well.1),
        })
    }

    /// How bad it is; [`Severity::Fine`] if nothing was ever lost. For a loss that lets no connection fail, such as a
    /// TIME_WAIT that is left out, take the lesser of this and [`Severity::Warning`].
    #[must_use]
    pub fn severity(&self) -> Severity {
        let share = self.share();
        let is_habit = |least: f64| self.total >= SOME && share.is_some_and(|share| share >= least);
        if self.total == 0 && self.now == 0 {
            return Severity::Fine;
        }
        if self.now == 0 {
            return if is_habit(LASTING) { Severity::Warning } else { Severity::Note };
        }
        let share_now = self.share_now();
        let is_outage = match share_now {
            Some(share) => share >= OUTAGE,
            None => self.per_s() >= BLIND,
        };
        if self.now >= FEW && is_outage || self.per_s() >= FLOOD || is_habit(OUTAGE) {
            Severity::Critical
        } else if self.now >= FEW || share_now.is_some_and(|share| share >= FELT) {
            Severity::Warning
        } else {
            Severity::Note
        }
    }

    /// Losses per second between the two looks; 0 if there was no time between them.
    #[must_use]
    pub fn per_s(&self) -> f64 {
        if self.seconds > 0.0 { self.now as f64 / self.seconds } else { 0.0 }
    }

    /// Of the attempts between the two looks, the share that was lost: 0 to 1. `None`: there were none, or they are not
    /// counted.
    #[must_use]
    pub fn share_now(&self) -> Option<f64> {
        share(self.now, self.well_now?)
    }

    /// Of all attempts since the namespace began, the share that was lost: 0 to 1. `None`: there were none, or they are not
    /// counted.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        share(self.total, self.well?)
    }

    /// The shares as evidence, in percent; `of`: what the attempts are, such as `SYNs and connections accepted`.
    #[must_use]
    pub fn shown(&self, of: &str) -> [Evidence; 2] {
        let percent = |share: Option<f64>| share.map(|share| share * 100.0);
        [
            Evidence::new("share lost", percent(self.share()), "%", format!("of {of} since the namespace began")),
            Evidence::new(
                "share lost now",
                percent(self.share_now()),
                "%",
                format!("of {of}, two looks {:.1} s apart", self.seconds),
            ),
        ]
    }
}

fn share(lost: u64, well: u64) -> Option<f64> {
    let attempts = lost.saturating_add(well);
    (attempts > 0).then(|| lost as f64 / attempts as f64)
}

#[cfg(test)]
mod tests;
