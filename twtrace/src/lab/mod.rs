//! Traffic of known fate, in network namespaces of its own: for the self-test, the demo and `twtrace lab`.
//!
//! `twtrace lab` holds the tracer against the kernel: [`scenarios`] act on a [`stage`] and write down what must be said
//! ([`want`]), the [`runner`] collects what was said, the [`oracle`] asks the kernel, and the [`judge`] compares.

pub mod alone;
pub mod demo;
pub mod diag;
pub mod hand;
pub mod judge;
pub mod lives;
pub mod oracle;
pub mod report;
pub mod runner;
pub mod scenarios;
pub mod segment;
pub mod stage;
pub mod tally;
pub mod told;
pub mod want;
