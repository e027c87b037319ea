//! `twtrace lab` holds the tracer against the kernel: [`scenarios`] act on a [`stage`] and write down what must be said
//! ([`want`]), the [`runner`] collects what was said, the [`oracle`](crate::traffic::oracle) asks the kernel, and the [`judge`] compares.

pub mod alone;
pub mod judge;
pub mod report;
pub mod runner;
pub mod scenarios;
pub mod stage;
pub mod tally;
pub mod told;
pub mod want;
