//! Whose a sysctl is: a network namespace's, or the machine's. Of every key that a check or a step names.

/// Whose a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Each network namespace has a value of its own, and writes it.
    Namespace,
    /// One value for the machine. Other network namespaces do not show the file, show it read-only, or show this value.
    Machine,
}

/// Keys below `net.`; those that end with a dot stand for all below them.
///
/// Sources: net/ipv4/sysctl_net_ipv4.c (`ipv4_net_table` is registered for each namespace, `ipv4_table` once),
/// net/core/sysctl_net_core.c (`netns_core_table`, `net_core_table`), net/netfilter/nf_conntrack_standalone.c
/// (`nf_conntrack_standalone_init_sysctl`: `nf_conntrack_max`, `nf_conntrack_expect_max` and `nf_conntrack_buckets` are
/// read-only outside the initial namespace). `tcp_mem` is one array of the machine (net/ipv4/tcp.c), `tcp_max_orphans` one number.
const KEYS: [(&str, Scope); 63] = [
    ("core.somaxconn", Scope::Namespace),
    ("core.netdev_max_backlog", Scope::Machine),
    ("ipv4.ip_local_port_range", Scope::Namespace),
    ("ipv4.ip_local_port_step_width", Scope::Namespace),
    ("ipv4.ip_local_reserved_ports", Scope::Namespace),
    ("ipv4.ip_nonlocal_bind", Scope::Namespace),
    ("ipv4.ip_unprivileged_port_start", Scope::Namespace),
    ("ipv4.ping_group_range", Scope::Namespace),
    ("ipv4.tcp_abort_on_overflow", Scope::Namespace),
    ("ipv4.tcp_child_ehash_entries", Scope::Namespace),
    ("ipv4.tcp_congestion_control", Scope::Namespace),
    ("ipv4.tcp_fastopen", Scope::Namespace),
    ("ipv4.tcp_fin_timeout", Scope::Namespace),
    ("ipv4.tcp_keepalive_intvl", Scope::Namespace),
    ("ipv4.tcp_keepalive_probes", Scope::Namespace),
    ("ipv4.tcp_keepalive_time", Scope::Namespace),
    ("ipv4.tcp_max_orphans", Scope::Machine),
    ("ipv4.tcp_max_syn_backlog", Scope::Namespace),
    ("ipv4.tcp_max_tw_buckets", Scope::Namespace),
    ("ipv4.tcp_mem", Scope::Machine),
    ("ipv4.tcp_migrate_req", Scope::Namespace),
    ("ipv4.tcp_notsent_lowat", Scope::Namespace),
    ("ipv4.tcp_orphan_retries", Scope::Namespace),
    ("ipv4.tcp_retries1", Scope::Namespace),
    ("ipv4.tcp_retries2", Scope::Namespace),
    ("ipv4.tcp_rfc1337", Scope::Namespace),
    ("ipv4.tcp_rmem", Scope::Namespace),
    ("ipv4.tcp_sack", Scope::Namespace),
    ("ipv4.tcp_slow_start_after_idle", Scope::Namespace),
    ("ipv4.tcp_syn_linear_timeouts", Scope::Namespace),
    ("ipv4.tcp_syn_retries", Scope::Namespace),
    ("ipv4.tcp_synack_retries", Scope::Namespace),
    ("ipv4.tcp_syncookies", Scope::Namespace),
    ("ipv4.tcp_timestamps", Scope::Namespace),
    ("ipv4.tcp_tw_recycle", Scope::Namespace),
    ("ipv4.tcp_tw_reuse", Scope::Namespace),
    ("ipv4.tcp_tw_reuse_delay", Scope::Namespace),
    ("ipv4.tcp_tw_timeout", Scope::Namespace),
    ("ipv4.tcp_window_scaling", Scope::Namespace),
    ("ipv4.tcp_wmem", Scope::Namespace),
    ("ipv4.udp_mem", Scope::Machine),
    ("netfilter.nf_conntrack_acct", Scope::Namespace),
    ("netfilter.nf_conntrack_buckets", Scope::Machine),
    ("netfilter.nf_conntrack_expect_max", Scope::Machine),
    ("netfilter.nf_conntrack_generic_timeout", Scope::Namespace),
    ("netfilter.nf_conntrack_max", Scope::Machine),
    ("netfilter.nf_conntrack_tcp_be_liberal", Scope::Namespace),
    ("netfilter.nf_conntrack_tcp_loose", Scope::Namespace),
    ("netfilter.nf_conntrack_tcp_max_retrans", Scope::Namespace),
    ("netfilter.nf_conntrack_tcp_timeout_close", Scope::Namespace),
    ("netfilter.nf_conntrack_tcp_timeout_close_wait", Scope::Namespace),
    ("netfilter.nf_conntrack_tcp_timeout_established", Scope::Namespace),
    ("netfilter.nf_conntrack_tcp_timeout_fin_wait", Scope::Namespace),
    ("netfilter.nf_conntrack_tcp_timeout_last_ack", Scope::Namespace),
    ("netfilter.nf_conntrack_tcp_timeout_max_retrans", Scope::Namespace),
    ("netfilter.nf_conntrack_tcp_timeout_syn_recv", Scope::Namespace),
    ("netfilter.nf_conntrack_tcp_timeout_syn_sent", Scope::Namespace),
    ("netfilter.nf_conntrack_tcp_timeout_time_wait", Scope::Namespace),
    ("netfilter.nf_conntrack_tcp_timeout_unacknowledged", Scope::Namespace),
    ("netfilter.nf_conntrack_udp_timeout", Scope::Namespace),
    ("netfilter.nf_conntrack_udp_timeout_stream", Scope::Namespace),
    ("nf_conntrack_max", Scope::Machine),
    ("ipv4.conf.", Scope::Namespace),
];

/// Whose this sysctl is, by its key with dots (`net.ipv4.tcp_mem`); `None`: a key below `net.` that is not in the table. What
/// is not below `net.` is the machine's as far as network namespaces go.
#[must_use]
pub fn scope(key: &str) -> Option<Scope> {
    let Some(below) = key.strip_prefix("net.") else { return Some(Scope::Machine) };
    let is_it = |known: &str| known == below || known.ends_with('.') && below.starts_with(known);
    KEYS.iter().find(|(known, _)| is_it(known)).map(|(_, scope)| *scope)
}

/// Every key of the table by its full name, and whose it is.
pub fn known() -> impl Iterator<Item = (String, Scope)> {
    KEYS.iter().filter(|(key, _)| !key.ends_with('.')).map(|(key, scope)| (format!("net.{key}"), *scope))
}

/// A sysctl that a pod may set for itself without the kubelet's leave, and since which Kubernetes.
///
/// Source: pkg/kubelet/sysctl/safe_sysctls.go of Kubernetes 1.32; no version: in the list since sysctls are supported.
const SAFE_IN_PODS: [(&str, &str); 11] = [
    ("net.ipv4.ip_local_port_range", ""),
    ("net.ipv4.ip_local_reserved_ports", "1.27"),
    ("net.ipv4.ip_unprivileged_port_start", "1.22"),
    ("net.ipv4.ping_group_range", "1.18"),
    ("net.ipv4.tcp_fin_timeout", "1.29"),
    ("net.ipv4.tcp_keepalive_intvl", "1.29"),
    ("net.ipv4.tcp_keepalive_probes", "1.29"),
    ("net.ipv4.tcp_keepalive_time", "1.29"),
    ("net.ipv4.tcp_rmem", "1.32"),
    ("net.ipv4.tcp_syncookies", ""),
    ("net.ipv4.tcp_wmem", "1.32"),
];

/// Since which version of Kubernetes a pod may set this by itself (empty: always); `None`: the kubelet has to allow it
/// (`--allowed-unsafe-sysctls`).
#[must_use]
pub fn safe_in_pods(key: &str) -> Option<&'static str> {
    SAFE_IN_PODS.iter().find(|(known, _)| *known == key).map(|(_, since)| *since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::facts::SYSCTLS;

    #[test]
    fn every_key_is_there_once_and_known() {
        let mut keys: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), KEYS.len());
        for path in SYSCTLS {
            assert!(scope(&path.replace('/', ".")).is_some(), "{path} is judged, and nobody knows whose it is");
        }
    }

    #[test]
    fn keys_have_their_scope() {
        for (key, expected) in [
            ("net.ipv4.tcp_timestamps", Some(Scope::Namespace)),
            ("net.netfilter.nf_conntrack_tcp_timeout_time_wait", Some(Scope::Namespace)),
            ("net.ipv4.conf.all.rp_filter", Some(Scope::Namespace)),
            ("net.netfilter.nf_conntrack_max", Some(Scope::Machine)),
            ("net.ipv4.tcp_mem", Some(Scope::Machine)),
            ("fs.file-max", Some(Scope::Machine)),
            ("net.ipv4.tcp_no_such", None),
            ("net.ipv4.tcp_timestamps2", None),
            ("net.", None),
        ] {
            assert_eq!(scope(key), expected, "{key}");
        }
    }

    #[test]
    fn what_is_safe_in_pods_is_a_namespaces_own() {
        for (key, _) in SAFE_IN_PODS {
            assert_eq!(scope(key), Some(Scope::Namespace), "{key}");
        }
        assert_eq!(safe_in_pods("net.ipv4.tcp_syncookies"), Some(""));
        assert_eq!(safe_in_pods("net.ipv4.tcp_fin_timeout"), Some("1.29"));
        assert_eq!(safe_in_pods("net.ipv4.tcp_tw_reuse"), None);
    }
}
