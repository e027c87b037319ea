//! What a TIME_WAIT life is. Pure: no kernel, no clock, no output.

pub mod aggregate;
pub mod audit;
pub mod buckets;
pub mod cgroup;
pub mod event;
pub mod expression;
pub mod fields;
pub mod happening;
pub mod holder;
pub mod kernel;
pub mod name;
pub mod occupancy;
pub mod own;
pub mod reconcile;
pub mod report;
pub mod totals;
pub mod trouble;
pub mod wanted;
pub mod watch;
mod words;
