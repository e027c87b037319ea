//! The table of connections that netfilter tracks, for NAT and stateful rules: a closed connection stays in it as well,
//! in a TIME_WAIT of the table's own.

pub mod nat;

use super::Host;

const STAT: &str = "proc/thread-self/net/stat/nf_conntrack";

/// The table, as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// Connections of the namespace.
    pub count: u64,
    /// The most connections; 0 means any number. There is one limit, and each namespace is held against it alone
    /// (__nf_conntrack_alloc of net/netfilter/nf_conntrack_core.c): it can be set in the initial namespace only.
    pub max: u64,
    /// Buckets of the one hash table that all namespaces share.
    pub buckets: Option<u64>,
    /// How long a TCP connection is kept after its last packet, by its state. Of the namespace.
    pub timeout_s: Timeouts,
    /// What went wrong, of the namespace since it was made; `None` if the kernel does not tell (no
    /// CONFIG_NF_CONNTRACK_PROCFS).
    pub stats: Option<Stats>,
}

/// Seconds, of the sysctls `net.netfilter.nf_conntrack_tcp_timeout_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// The side that closed last has confirmed it.
    pub time_wait: Option<u64>,
    /// One side has closed.
    pub fin_wait: Option<u64>,
    /// One side has closed, and that is confirmed.
    pub close_wait: Option<u64>,
    /// Both have closed.
    pub last_ack: Option<u64>,
    /// Reset.
    pub close: Option<u64>,
    /// Open.
    pub established: Option<u64>,
    /// Asked for.
    pub syn_sent: Option<u64>,
    /// Asked for and answered.
    pub syn_recv: Option<u64>,
}

/// Counts; each CPU's has 32 bits and wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets that were dropped: the first of a connection, for the table was full and no other could be forgotten, or
    /// memory was short; one that came second, with `insert_failed`; on some kernels those that are invalid, too.
    pub drop: u64,
    /// Connections that were forgotten before their time, for the table was full: never one that was open (assured).
    pub early_drop: u64,
    /// New connections that were not entered, and their packets dropped: another of the same addresses and ports was
    /// there already, as happens with NAT, or their bucket was too long.
    pub insert_failed: u64,
    /// Packets that fit no connection.
    pub invalid: u64,
    /// Lookups that began anew, for the table changed meanwhile.
    pub search_restart: Option<u64>,
    /// Failures of `insert_failed` whose bucket was too long. Told since Linux 5.15.
    pub chain_too_long: Option<u64>,
    /// Ports that NAT tried and found taken (nf_conntrack_tuple_taken). Before Linux 4.9 also every packet whose connection
    /// was found.
    pub found: Option<u64>,
}

impl Stats {
    /// First packets of connections that were dropped because another connection had the addresses and ports that NAT, or
    /// the sender, chose (nf_ct_resolve_clash of net/netfilter/nf_conntrack_core.c).
    ///
    /// Both `drop` and `insert_failed` move for each of them. `insert_failed` alone moves before Linux 5.6 also where the
    /// packet is not dropped, and `drop` alone where the table is full.
    #[must_use]
    pub fn clashes(&self) -> u64 {
        self.drop.min(self.insert_failed).saturating_sub(self.chain_too_long.unwrap_or(0))
    }

    /// How far each moved since then.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let moved = |now: Option<u64>, before: Option<u64>| Some(now?.saturating_sub(before?));
        Self {
            drop: self.drop.saturating_sub(before.drop),
            early_drop: self.early_drop.saturating_sub(before.early_drop),
            insert_failed: self.insert_failed.saturating_sub(before.insert_failed),
            invalid: self.invalid.saturating_sub(before.invalid),
            search_restart: moved(self.search_restart, before.search_restart),
            chain_too_long: moved(self.chain_too_long, before.chain_too_long),
            found: moved(self.found, before.found),
        }
    }
}

/// Reads the table of the calling thread's namespace. `None`: nf_conntrack is not loaded.
#[must_use]
pub fn read(host: &Host) -> Option<Conntrack> {
    // /proc/sys/net is the namespace of whoever opens the file.
    let sysctl = |name: &str| host.sysctl(&format!("net/netfilter/nf_conntrack_{name}"));
    let timeout = |state: &str| sysctl(&format!("tcp_timeout_{state}"));
    Some(Conntrack {
        count: sysctl("count")?,
        max: sysctl("max")?,
        buckets: sysctl("buckets"),
        timeout_s: Timeouts {
            time_wait: timeout("time_wait"),
            fin_wait: timeout("fin_wait"),
            close_wait: timeout("close_wait"),
            last_ack: timeout("last_ack"),
            close: timeout("close"),
            established: timeout("established"),
            syn_sent: timeout("syn_sent"),
            syn_recv: timeout("syn_recv"),
        },
        stats: counts(host),
    })
}

/// What went wrong so far in the calling thread's namespace; `None` if the kernel does not tell.
#[must_use]
pub fn counts(host: &Host) -> Option<Stats> {
    stats(&host.read(STAT).ok()?)
}

/// Names, then one line of hexadecimal numbers for each CPU (ct_cpu_seq_show of
/// net/netfilter/nf_conntrack_standalone.c).
fn stats(text: &str) -> Option<Stats> {
    let (names, rows) = text.split_once('\n')?;
    let sum = |name: &str| {
        let column = names.split_ascii_whitespace().position(|found| found == name)?;
        rows.lines().try_fold(0u64, |sum, row| {
            let value = u64::from_str_radix(row.split_ascii_whitespace().nth(column)?, 16).ok()?;
            Some(sum.saturating_add(value))
        })
    };
    // There is a CPU.
    if rows.is_empty() {
        return None;
    }
    Some(Stats {
        drop: sum("drop")?,
        early_drop: sum("early_drop")?,
        insert_failed: sum("insert_failed")?,
        invalid: sum("invalid")?,
        search_restart: sum("search_restart"),
        chain_too_long: sum("chainlength"),
        found: sum("found"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::recorded::Recorded;

    /// Recorded on Linux 6.18, the zeroes replaced.
    const NEW: &str = "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  \
         expect_new expect_create expect_delete search_restart\n\
         00000fce  00000000 00000000 00000000 00000004 00000000 00000000 00000001 00000000 000000c8 000001d8 00000002 \
         00000000  00000000 00000000 00000000 00000003\n\
         00000fce  00000000 00000000 00000000 00000004 00000000 00000000 00000000 00000000 000000a2 ffffffff 00000000 \
         00000000  00000000 00000000 00000000 00000001\n";
    /// The names of older kernels, cut short.
    const OLD: &str = "entries  searched found new invalid ignore delete delete_list insert insert_failed drop early_drop\n\
         00000005  0000000a 00000001 00000002 00000001 00000000 00000000 00000000 00000002 00000000 0000000b 00000000\n";

    #[test]
    fn columns_are_summed_by_name() {
        let expected = Stats {
            drop: 0x1_0000_01d7,
            early_drop: 2,
            insert_failed: 0x16a,
            invalid: 8,
            search_restart: Some(4),
            chain_too_long: Some(1),
            found: Some(0),
        };
        assert_eq!(stats(NEW), Some(expected));
        let old = Stats { drop: 11, invalid: 1, found: Some(1), ..Stats::default() };
        assert_eq!(stats(OLD), Some(old));
    }

    #[test]
    fn clashes_move_both_counters() {
        let stats = |drop, insert_failed, long| Stats { drop, insert_failed, chain_too_long: long, ..Stats::default() };
        for (drop, insert_failed, long, expected) in
            [(36, 36, Some(0), 36), (36, 36, None, 36), (100, 36, Some(6), 30), (2, 36, None, 2), (5, 5, Some(9), 0)]
        {
            assert_eq!(stats(drop, insert_failed, long).clashes(), expected, "{drop} {insert_failed} {long:?}");
        }
        let moved = stats(9, 9, Some(3)).since(&stats(4, 5, Some(1)));
        assert_eq!((moved.drop, moved.insert_failed, moved.chain_too_long, moved.found), (5, 4, Some(2), None));
    }

    #[test]
    fn what_is_not_told_is_not_zero() {
        for text in ["", "drop early_drop insert_failed invalid\n", "drop invalid\n1 2\n"] {
            assert_eq!(stats(text), None, "{text}");
        }
        let names = "drop early_drop insert_failed invalid\n";
        assert_eq!(stats(&format!("{names}1 2 3 4\n1 2 3\n")), None, "a line is cut short");
        assert_eq!(stats(&format!("{names}1 2 3 x\n")), None);
        assert_eq!(read(&Host::at("/nonexistent")), None);
    }

    #[test]
    fn the_table_is_read() {
        let sysctl = |name: &str| format!("proc/sys/net/netfilter/nf_conntrack_{name}");
        let machine = Recorded::new().file(&sysctl("count"), "7\n").file(&sysctl("max"), "262144\n");
        let bare = Conntrack { count: 7, max: 262_144, buckets: None, timeout_s: Timeouts::default(), stats: None };
        assert_eq!(read(&machine.host()), Some(bare));
        let machine =
            machine.file(&sysctl("buckets"), "65536\n").file(&sysctl("tcp_timeout_time_wait"), "120\n").file(STAT, NEW);
        let more = Conntrack {
            buckets: Some(65_536),
            timeout_s: Timeouts { time_wait: Some(120), ..Timeouts::default() },
            stats: stats(NEW),
            ..bare
        };
        assert_eq!(read(&machine.host()), Some(more));
    }

    #[test]
    fn this_machine_has_one() {
        let Some(table) = read(&Host::default()) else {
            println!("skipped: nf_conntrack is not loaded here");
            return;
        };
        assert!(table.timeout_s.time_wait.is_some() && table.timeout_s.established.is_some(), "{table:?}");
    }

    #[test]
    fn long_files_are_read() {
        let names = "drop early_drop insert_failed invalid\n";
        let rows = "1 2 3 4\n".repeat(1_000_000);
        let expected = Stats {
            drop: 1_000_000,
            early_drop: 2_000_000,
            insert_failed: 3_000_000,
            invalid: 4_000_000,
            ..Stats::default()
        };
        assert_eq!(stats(&format!("{names}{rows}")), Some(expected));
    }

    proptest! {
        /// Total: any bytes are counts or none.
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = stats(&String::from_utf8_lossy(&bytes));
            let _ = stats(&format!("drop early_drop insert_failed invalid\n{}", String::from_utf8_lossy(&bytes)));
        }

        #[test]
        fn any_numbers_are_summed(rows in prop::collection::vec(any::<[u64; 4]>(), 1..5)) {
            let lines: String = rows.iter().map(|[a, b, c, d]| format!("{a:08x}  {b:x} {c:x} {d:x}\n")).collect();
            let stats = stats(&format!("drop early_drop insert_failed invalid\n{lines}"));
            let drop = rows.iter().fold(0u64, |sum, row| sum.saturating_add(row[0]));
            prop_assert_eq!(stats.map(|stats| stats.drop), Some(drop));
        }

        /// A file that is cut short is none, or tells no more than the whole.
        #[test]
        fn cut_files_are_read(cut in 0..NEW.len()) {
            if let (Some(cut), Some(whole)) = (stats(&NEW[..cut]), stats(NEW)) {
                prop_assert!(cut.drop <= whole.drop && cut.invalid <= whole.invalid);
            }
        }
    }
}
