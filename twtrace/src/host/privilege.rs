//! What this process may do.

use super::Host;

/// CAP_NET_ADMIN, bit of include/uapi/linux/capability.h.
const NET_ADMIN: u8 = 12;
/// CAP_SYS_PTRACE.
const SYS_PTRACE: u8 = 19;
/// CAP_SYS_ADMIN.
const SYS_ADMIN: u8 = 21;
/// CAP_SYSLOG.
const SYSLOG: u8 = 34;
/// CAP_PERFMON.
const PERFMON: u8 = 38;
/// CAP_BPF.
const BPF: u8 = 39;

/// The effective capabilities of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Privileges(u64);

impl Privileges {
    /// Reads CapEff of /proc/self/status; none if that cannot be read.
    #[must_use]
    pub fn read(host: &Host) -> Self {
        Self::parse(&host.read("proc/self/status").unwrap_or_default())
    }

    /// Parses the text of a status file.
    #[must_use]
    pub fn parse(status: &str) -> Self {
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        Self(mask.unwrap_or(0))
    }

    fn has(self, bit: u8) -> bool {
        self.0 & (1 << bit) != 0
    }

    /// True if files below /proc/PID of other users' processes can be opened (`ptrace_may_access`).
    #[must_use]
    pub fn sees_others(self) -> bool {
        self.has(SYS_PTRACE)
    }

    /// The capabilities that are missing to load tracing programs and read kernel addresses, in the kernel's words;
    /// empty if all is there. CAP_SYS_ADMIN stands for all but CAP_NET_ADMIN.
    #[must_use]
    pub fn missing(self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if !self.has(SYS_ADMIN) {
            for (bit, name) in [(BPF, "CAP_BPF"), (PERFMON, "CAP_PERFMON"), (SYSLOG, "CAP_SYSLOG")] {
                if !self.has(bit) {
                    missing.push(name);
                }
            }
            // Network namespaces of others are entered to list their sockets, and one is made for the self-test.
            missing.push("CAP_SYS_ADMIN");
        }
        if !self.has(NET_ADMIN) {
            missing.push("CAP_NET_ADMIN");
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_misses_nothing() {
        assert_eq!(Privileges::parse("Name:\tx\nCapEff:\t000001ffffffffff\n").missing(), Vec::<&str>::new());
    }

    #[test]
    fn other_users_processes_are_a_capability_of_their_own() {
        assert!(Privileges::parse("CapEff:\t000001ffffffffff\n").sees_others());
        // CAP_BPF, CAP_PERFMON, CAP_SYSLOG, CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW.
        let listed = Privileges::parse("CapEff:\t000000c400203000\n");
        assert_eq!((listed.missing(), listed.sees_others()), (Vec::new(), false));
        assert!(Privileges::parse("CapEff:\t0000000000080000\n").sees_others());
    }

    #[test]
    fn a_user_misses_all() {
        let missing = Privileges::parse("CapEff:\t0000000000000000\n").missing();
        assert_eq!(missing, ["CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_NET_ADMIN"]);
    }

    #[test]
    fn garbage_is_no_privilege() {
        assert_eq!(Privileges::parse("CapEff: zz"), Privileges(0));
        assert_eq!(Privileges::parse(""), Privileges(0));
    }
}
