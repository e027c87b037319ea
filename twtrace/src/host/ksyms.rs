//! Where the kernel's functions are: /proc/kallsyms.

use std::collections::HashMap;

use twtrace_common::knob::{Functions, Range};

use super::{Host, HostError};

/// Addresses of the functions that twtrace looks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelSymbols {
    ranges: HashMap<&'static str, Range>,
    /// kallsyms exists but shows zeroes: `kernel.kptr_restrict` or a missing CAP_SYSLOG.
    pub hidden: bool,
}

const WANTED: [&str; 15] = [
    "tw_timer_handler",
    "inet_twsk_deschedule_put",
    "inet_twsk_purge",
    "tcp_timewait_state_process",
    "tcp_v4_rcv",
    "tcp_v6_rcv",
    "tcp_abort",
    "nf_tproxy_handle_time_wait4",
    "nf_tproxy_handle_time_wait6",
    "tcp_done",
    "tcp_time_wait",
    "tcp_fin",
    "__tcp_close",
    "tcp_rcv_state_process",
    "tcp_keepalive_timer",
];

impl KernelSymbols {
    /// Reads kallsyms.
    ///
    /// # Errors
    /// If it cannot be read (no CONFIG_KALLSYMS, no /proc).
    pub fn read(host: &Host) -> Result<Self, HostError> {
        Ok(Self::parse(&host.read("proc/kallsyms")?))
    }

    /// Parses the text of kallsyms; lines that are none are passed over. A function ends where the next symbol begins.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut symbols: Vec<(u64, &str)> = text
            .lines()
            .filter_map(|line| {
                let mut words = line.split_ascii_whitespace();
                let address = u64::from_str_radix(words.next()?, 16).ok()?;
                let kind = words.next()?;
                // Data symbols would cut functions short only by being misplaced; text is t, T, w or W.
                matches!(kind, "t" | "T" | "w" | "W").then_some((address, words.next()?))
            })
            .collect();
        let hidden = !symbols.is_empty() && symbols.iter().all(|&(address, _)| address == 0);
        if hidden {
            return Self { ranges: HashMap::new(), hidden };
        }
        symbols.sort_unstable_by_key(|&(address, _)| address);
        let mut ranges = HashMap::new();
        for (index, &(start, name)) in symbols.iter().enumerate() {
            let Some(&wanted) = WANTED.iter().find(|&&wanted| wanted == name) else { continue };
            let end = symbols[index..].iter().map(|&(address, _)| address).find(|&address| address > start);
            ranges.insert(wanted, Range { start, end: end.unwrap_or(start.saturating_add(4096)) });
        }
        Self { ranges, hidden }
    }

    /// Where a function is, if it is known.
    #[must_use]
    pub fn range(&self, name: &str) -> Option<Range> {
        self.ranges.get(name).copied()
    }

    /// What the eBPF programs are told.
    #[must_use]
    pub fn functions(&self) -> Functions {
        let range = |name| self.range(name).unwrap_or_default();
        Functions {
            tw_timer_handler: range("tw_timer_handler").start,
            deschedule: range("inet_twsk_deschedule_put"),
            purge: range("inet_twsk_purge"),
            state_process: range("tcp_timewait_state_process"),
            v4_rcv: range("tcp_v4_rcv"),
            v6_rcv: range("tcp_v6_rcv"),
            abort: range("tcp_abort"),
            tproxy4: range("nf_tproxy_handle_time_wait4"),
            tproxy6: range("nf_tproxy_handle_time_wait6"),
            done: range("tcp_done"),
            time_wait: range("tcp_time_wait"),
            fin: range("tcp_fin"),
            close: range("__tcp_close"),
            rcv_state_process: range("tcp_rcv_state_process"),
            keepalive: range("tcp_keepalive_timer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_ends_where_the_next_symbol_begins() {
        let symbols = KernelSymbols::parse(
            "ffffffff81000200 T tcp_done\nffffffff81000100 t tw_timer_handler\nffffffff81000100 t alias\n\
             ffffffff81000180 d some_data\ngarbage\n\nffffffff81000300 T last\n",
        );
        assert_eq!(
            symbols.range("tw_timer_handler"),
            Some(Range { start: 0xffff_ffff_8100_0100, end: 0xffff_ffff_8100_0200 })
        );
        assert_eq!(symbols.functions().done.end, 0xffff_ffff_8100_0300);
        assert_eq!(symbols.functions().abort, Range::default());
        assert!(!symbols.hidden);
    }

    #[test]
    fn zeroes_mean_hidden() {
        let symbols = KernelSymbols::parse("0000000000000000 T tcp_done\n0000000000000000 t tw_timer_handler\n");
        assert!(symbols.hidden);
        assert_eq!(symbols.functions().tw_timer_handler, 0);
    }
}
