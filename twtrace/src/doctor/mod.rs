//! `twtrace doctor`: what is wrong with this machine's TIME_WAITs, and with what people blame on them; found in /proc,
//! /sys and sock_diag alone. It changes nothing.
//!
//! `gather` reads, `checks` judge what was read and touch nothing, `report` shows. Each kind of finding has a
//! [`finding::Story`], which is where its explanation and its page in docs/doctor.md come from.

pub mod checks;
pub mod facts;
pub mod finding;
pub mod gather;
pub mod places;
pub mod report;
pub mod severity;
pub mod table;
pub mod trace;
