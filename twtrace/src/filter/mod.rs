//! Which events are wanted, in tcpdump's words and ours: `dst port 443 and not cause expired`. Pure.

pub mod expression;
mod parse;
mod subject;
#[cfg(test)]
pub(crate) mod tests;

pub use expression::Expression;
pub use parse::Wrong;
pub use subject::{Fact, Subject};
