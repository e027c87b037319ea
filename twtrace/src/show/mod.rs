//! How things are said to people, in text and on the screen alike: numbers, names, times, columns, sentences. And how what is
//! said is kept from steering a terminal.

pub mod clock;
pub mod columns;
pub mod escape;
pub mod human;
pub mod own;
pub mod trouble;
pub mod whose;

pub use clock::Clock;
