//! Which events are wanted? Filters, typed; looked up on this machine; and turned into what the eBPF programs compare. An
//! expression says the same in tcpdump's words. Knows nothing of the command line, whose options are read in [`crate::cli`].

pub mod few;
pub mod lower;
pub mod ports;
pub mod resolve;
pub mod spec;
pub mod split;
pub mod word;
pub mod wrong;
