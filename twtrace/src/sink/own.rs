//! What twtrace itself costs, for the reader: the JSON field `self`, and the words for the eye.

use std::borrow::Cow;

use std::fmt::Write as _;

use serde::Serialize;

use super::human::Known;
use crate::model::{
    aggregate::rate::thousandths,
    own::{Own, Runs},
};

/// The JSON field `self`.
#[derive(Serialize)]
pub(super) struct SelfStats {
    interval_ns: u64,
    events: u64,
    events_per_s: Option<f64>,
    lost: u64,
    bpf_ns: Option<u64>,
    bpf_ns_per_event: Option<f64>,
    cpu_ns: u64,
    ring_used_bytes: Option<u64>,
    ring_bytes: u64,
    rss_bytes: Option<u64>,
    programs: Vec<Program>,
}

#[derive(Serialize)]
struct Program {
    name: Cow<'static, str>,
    runs: u64,
    run_ns: u64,
}

impl SelfStats {
    pub(super) fn of(own: &Own) -> Self {
        let program = |&Runs { ref name, runs, run_ns }: &Runs| Program { name: name.clone(), runs, run_ns };
        Self {
            interval_ns: own.interval_ns,
            events: own.events,
            events_per_s: own.events_per_s().map(thousandths),
            lost: own.lost,
            bpf_ns: own.bpf_ns,
            bpf_ns_per_event: own.bpf_ns_per_event().map(thousandths),
            cpu_ns: own.cpu_ns,
            ring_used_bytes: own.ring_used,
            ring_bytes: own.ring_size,
            rss_bytes: own.rss_bytes,
            programs: own.programs.iter().map(program).collect(),
        }
    }
}

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
pub(super) fn line(own: &Own) -> String {
    let mut line = format!("twtrace: self: {}", parts(own).join(", "));
    for (i, Runs { name, runs, run_ns }) in own.programs.iter().enumerate() {
        let before = if i == 0 { "; " } else { ", " };
        // Memory takes whatever is written to it.
        let _ = write!(line, "{before}{name} {} ns x {runs}", run_ns / runs.max(&1));
    }
    line.push('\n');
    line
}
