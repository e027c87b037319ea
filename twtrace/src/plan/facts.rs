//! What the plan rests on: read from the host beforehand, or recorded in a test.

use std::collections::{BTreeMap, BTreeSet};

use super::Misses;

/// Facts about one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Kernel functions in BTF, with their number of parameters; only those that some hook names.
    pub functions: BTreeMap<&'static str, usize>,
    /// Tracepoints that tp_btf can name; only those that some hook names.
    pub tracepoints: BTreeSet<&'static str>,
    /// The kprobe event source exists.
    pub kprobes: bool,
    /// Address of `tw_timer_handler` and place of `inet_twsk_deschedule_put` are known.
    pub addresses: bool,
    /// kallsyms exists and shows zeroes.
    pub addresses_hidden: bool,
    /// Whether the kernel counts what it skips.
    pub misses: Misses,
    /// Required fields that BTF lacks: no run is possible.
    pub missing_fields: Vec<&'static str>,
    /// Optional fields that BTF lacks.
    pub unknown_fields: Vec<&'static str>,
}

impl Facts {
    /// Which of the two hash dances this kernel has.
    #[must_use]
    pub fn dance(&self) -> &'static str {
        if self.functions.contains_key(super::HASHDANCE_SCHEDULE) {
            super::HASHDANCE_SCHEDULE
        } else {
            super::HASHDANCE
        }
    }
}

/// Kernel functions that hooks name.
pub(crate) const FUNCTIONS: [&str; 11] = [
    super::HASHDANCE_SCHEDULE,
    super::HASHDANCE,
    "inet_twsk_kill",
    "tw_timer_handler",
    "__inet_twsk_schedule",
    "inet_twsk_alloc",
    "tcp_time_wait",
    "inet_hash_connect",
    "inet6_hash_connect",
    "tcp_twsk_unique",
    "inet_csk_get_port",
];

/// Fields by which a denial's reason is told.
pub(super) const OF_A_DENIAL: [&str; 2] = ["tcp_timewait_sock.tw_ts_recent_stamp", "net.ipv4.sysctl_tcp_tw_reuse"];

/// The field by which the transition to CLOSE tells that connect() found no port.
pub(super) const OF_A_FAILED_CONNECT: &str = "sock.sk_txhash";

/// Tracepoints that hooks name.
pub(crate) const TRACEPOINTS: [&str; 4] = ["inet_sock_set_state", "timer_start", "timer_cancel", "timer_expire_entry"];
