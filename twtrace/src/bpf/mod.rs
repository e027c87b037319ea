//! The only module that names aya: loads the chosen programs, attaches them, reads their maps.

mod attach;
mod counters;
mod globals;
mod grace;
mod lives;
mod passive;
#[cfg(feature = "extra")]
mod produce;
mod seed;
#[cfg(test)]
mod stack;
mod stats;
mod sys;
#[cfg(feature = "extra")]
mod verdict;
mod verifier;

pub use attach::{AttachError, Attached, BpfError, Kernel, Settings, Tables, attach, gather};
pub use counters::Skips;
pub use globals::{Offsets, Slots};
pub use passive::PEERS;
#[cfg(feature = "extra")]
pub use produce::Lives;
pub use seed::{Ends, Looker};
pub use stats::Timing;
pub use verifier::{Figures, figures};
