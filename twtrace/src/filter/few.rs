//! At most as many values as the eBPF programs compare.

use std::ops::Deref;

use twtrace_common::knob::FILTER_VALUES;

/// At most [`FILTER_VALUES`] values, in the order given, none twice: what one filter of the programs holds. The type is
/// the proof, so that nothing later has to cut a list short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Few<T>(Vec<T>);

/// More values than one filter holds: how many there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} values (limit {FILTER_VALUES})")]
pub struct TooMany(pub usize);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: PartialEq> Few<T> {
    /// The values without repetitions.
    ///
    /// # Errors
    ///
    /// [`TooMany`] if more than [`FILTER_VALUES`] different ones are left.
    pub fn new(values: impl IntoIterator<Item = T>) -> Result<Self, TooMany> {
        let mut few = Vec::new();
        for value in values {
            if !few.contains(&value) {
                few.push(value);
            }
        }
        if few.len() > FILTER_VALUES { Err(TooMany(few.len())) } else { Ok(Self(few)) }
    }
}

impl<T> Few<T> {
    /// What `f` makes of each value; one failure fails all.
    ///
    /// # Errors
    ///
    /// The first error of `f`.
    pub fn try_map<U, E>(&self, f: impl FnMut(&T) -> Result<U, E>) -> Result<Few<U>, E> {
        self.0.iter().map(f).collect::<Result<Vec<U>, E>>().map(Few)
    }

    /// Writes what `f` makes of each value to the front of `slots`, and says how many there are.
    pub(super) fn fill<U>(&self, slots: &mut [U; FILTER_VALUES], f: impl Fn(&T) -> U) -> u8 {
        let mut len = 0;
        for (slot, value) in slots.iter_mut().zip(&self.0) {
            *slot = f(value);
            len += 1;
        }
        len
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}
