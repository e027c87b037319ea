//! What twtrace prints, word for word. No root, no kernel, no clock, no terminal: the same everywhere.
//!
//! After a wanted change: `INSTA_UPDATE=always cargo test -p twtrace --test golden`, then read the difference in git.

mod again;
mod cli;
mod doctor;
mod fixture;
mod json;
mod stream;
mod text;
mod told;
mod tui;
