//! What this process takes of the machine.

use super::{Host, clock};

impl Host {
    /// Processor time of this process, all threads, nanoseconds.
    #[must_use]
    pub fn own_cpu_ns() -> u64 {
        clock::process_ns()
    }

    /// Memory of this process that is resident, bytes.
    #[must_use]
    pub fn own_rss(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.path("proc/self/statm")).ok()?;
        pages(&text)?.checked_mul(rustix::param::page_size() as u64)
    }
}

/// The second number of statm.
fn pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_number_is_what_is_resident() {
        assert_eq!(pages("4021 1312 980 700 0 900 0\n"), Some(1312));
        assert_eq!(pages("4021"), None);
    }

    #[test]
    fn this_process_takes_something() {
        let before = Host::own_cpu_ns();
        assert!(Host::default().own_rss() > Some(0));
        assert!(Host::own_cpu_ns() > before);
    }
}
