//! What twtrace itself costs: the JSON field `self`.

use std::borrow::Cow;

use serde::Serialize;

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
