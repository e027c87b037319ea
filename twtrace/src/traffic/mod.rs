//! Traffic of known fate, made by hand: connections whose end is chosen, segments that no peer would send, processes that die.
//! For the self-test, the demo, the lab and the tests; nothing here knows the tracer.

pub mod demo;
pub mod diag;
pub mod hand;
pub mod lives;
pub mod oracle;
pub mod segment;
pub mod who;
