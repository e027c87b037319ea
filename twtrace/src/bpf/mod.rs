//! The only module that names aya: loads the chosen programs, attaches them, reads their maps.

mod attach;
mod counters;
mod globals;
mod passive;
mod produce;
mod seed;
#[cfg(test)]
mod stack;
mod stats;
mod verifier;

pub use attach::{AttachError, Attached, BpfError, Kernel, Settings, Tables, attach, gather};
pub use globals::Offsets;
pub use produce::Lives;
pub use stats::Timing;
pub use verifier::{Figures, figures};
