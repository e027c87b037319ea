//! twtrace: which TCP sockets enter TIME_WAIT, who put them there, how long each one really stays, what ended it, and
//! what the kernel refused for lack of room.
//!
//! Data flows one way: host facts -> plan -> attach -> source -> decode -> model -> sinks.

pub mod app;
pub mod audit;
pub mod bpf;
pub mod cli;
pub mod decode;
pub mod doctor;
pub mod filter;
pub mod host;
pub mod lab;
pub mod model;
pub mod plan;
pub mod reconcile;
pub mod run;
pub mod selftest;
pub mod show;
pub mod sink;
pub mod source;
pub mod tracer;
pub mod traffic;
pub mod tui;
