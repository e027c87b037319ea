//! How much memory there is.

use super::Host;

/// Bytes of memory of the machine that the kernel may use; `None` if /proc/meminfo does not tell.
#[must_use]
pub fn memory_bytes(host: &Host) -> Option<u64> {
    total(&host.read("proc/meminfo").ok()?)
}

/// `MemTotal:       24684084 kB`: 1024 bytes each.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_total_is_found() {
        assert_eq!(total("MemTotal:       24684084 kB\nMemFree:        23675400 kB\n"), Some(24_684_084 << 10));
        for text in ["", "MemTotal:", "MemTotal: 1", "MemTotal: x kB", "MemTotal: 18446744073709551615 kB"] {
            assert_eq!(total(text), None, "{text}");
        }
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(memory_bytes(&Host::default()).is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn long_files_are_read() {
        let text = "MemFree: 1 kB\n".repeat(1_000_000);
        assert_eq!(total(&format!("{text}MemTotal: 2 kB\n")), Some(2048));
    }

    proptest! {
        /// Total: any bytes are a number or none.
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..100), cut in 0usize..28) {
            let text = String::from_utf8_lossy(&bytes);
            let right = "MemTotal:       24684084 kB\n";
            let _ = (total(&text), total(&format!("MemTotal:{text}kB")), total(right.get(..cut).unwrap_or_default()));
        }
    }
}
