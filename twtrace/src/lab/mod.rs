//! Traffic of known fate, made in network namespaces of its own: for the self-test, the demo and the tests.

pub mod demo;
pub mod kill;
pub mod lives;
