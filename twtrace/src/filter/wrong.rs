//! What is wrong with a filter.

use std::fmt;

/// A filter that cannot be: what was given, why that is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Wrong {
    /// What was given.
    pub what: String,
    /// Why that is wrong.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
    /// Privileges are missing; else the filter itself is wrong.
    pub is_denied: bool,
}

impl Wrong {
    /// A filter that is wrong in itself.
    pub fn new(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into(), remedy: remedy.into(), is_denied: false }
    }

    /// A filter whose names may not be looked up.
    pub fn denied(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { is_denied: true, ..Self::new(what, why, remedy) }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.what, self.why, self.remedy)
    }
}
