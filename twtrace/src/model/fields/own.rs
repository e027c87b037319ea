//! The fields of `self`: what `--self-stats` adds to the ticks.

use super::{
    Field,
    Shape::{Integer, ListOf, Number, Text},
    always, maybe,
};

const NOT_TIMED: &str = "this kernel does not time programs (before 5.8)";

/// What twtrace itself costs. Runs are dearer while they are timed, by some 50 ns each.
pub(super) const SELF: &[Field] = &[
    always("interval_ns", Integer, "ns", "the time since the last tick, of which the rest tells"),
    always("events", Integer, "", "events found in the kernel"),
    maybe("events_per_s", Number, "1/s", "the same, in a second", "no time has passed"),
    always("lost", Integer, "", "events that found the ring full"),
    maybe("bpf_ns", Integer, "ns", "run time of all programs, all CPUs together", NOT_TIMED),
    maybe("bpf_ns_per_event", Number, "ns", "the same, an event", "no event, or not timed"),
    always("cpu_ns", Integer, "ns", "processor time of twtrace itself, all threads"),
    maybe("ring_used_bytes", Integer, "bytes", "the most that waited in the ring", "not known"),
    always("ring_bytes", Integer, "bytes", "size of the ring"),
    maybe("rss_bytes", Integer, "bytes", "resident memory of twtrace", "not read"),
    always("programs", ListOf(PROGRAM), "", "the programs that ran, the costliest first"),
];

const PROGRAM: &[Field] = &[
    always("name", Text, "", "name of the program"),
    always("runs", Integer, "", "how often it ran"),
    always("run_ns", Integer, "ns", "what that took"),
];
