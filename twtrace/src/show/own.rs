//! What twtrace itself costs, in words for the eye.

use std::fmt::Write as _;

use super::human::Known;
use crate::model::own::{Own, Runs};

/// All but the programs, part by part.
#[must_use]
pub fn parts(own: &Own) -> Vec<String> {
    let digit = |number: Option<f64>, times: f64| Known(number.map(|number| format!("{:.1}", number * times)));
    let per_event = match own.bpf_ns_per_event() {
        Some(ns) => format!("{ns:.0} ns per event"),
        None => "no events".to_owned(),
    };
    vec![
        format!("eBPF programs {per_event}, {}% of a CPU", digit(own.bpf_share(), 100.0)),
        format!("{} events/s, {} lost", digit(own.events_per_s(), 1.0), own.lost),
        format!("ring at most {} of {} KiB used", Known(own.ring_used.map(|used| used >> 10)), own.ring_size >> 10),
        format!("twtrace {}% of a CPU", digit(own.cpu_share(), 100.0)),
        format!("{} MiB resident", Known(own.rss_bytes.map(|bytes| bytes >> 20))),
    ]
}

/// One line of it, for standard error.
pub fn line(own: &Own) -> String {
    let mut line = format!("twtrace: self: {}", parts(own).join(", "));
    for (i, Runs { name, runs, run_ns }) in own.programs.iter().enumerate() {
        let before = if i == 0 { "; " } else { ", " };
        // Memory takes whatever is written to it.
        let _ = write!(line, "{before}{name} {} ns x {runs}", run_ns / runs.max(&1));
    }
    line.push('\n');
    line
}
