//! The live view: what `twtrace run` shows on a terminal. State, update and view apart: [`update`] changes the state and
//! returns effects, [`view`] draws it and changes nothing; neither waits, reads a clock or touches the terminal, which is
//! [`screen`]'s and [`terminal`]'s.

mod advice;
pub mod baseline;
pub mod keys;
pub mod listing;
pub mod log;
pub mod screen;
pub mod sieve;
pub mod state;
pub mod terminal;
pub mod update;
pub mod view;
