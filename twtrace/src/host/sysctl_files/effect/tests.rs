use proptest::prelude::*;

use super::*;
use crate::host::sysctl_files::parse;

const KEY: &str = "net.ipv4.tcp_fin_timeout";

fn files(text: &str, systemd: bool) -> SysctlFiles {
    let settings = parse(text, Path::new("/etc/sysctl.d/60-site.conf")).collect();
    SysctlFiles { settings, systemd, ..SysctlFiles::default() }
}

/// The number that a loader leaves, if it sets any.
fn set(text: &str, systemd: bool) -> Option<i64> {
    let files = files(text, systemd);
    let lines = files.about(KEY);
    let sets: Vec<_> = lines.iter().filter(|line| line.fate == Fate::Sets).collect();
    assert!(sets.len() <= 1, "{lines:?}");
    sets.first().and_then(|line| line.number())
}

#[test]
fn a_line_sets_as_the_loaders_apply_it() {
    for (text, by_systemd, by_procps) in [
        ("net.ipv4.tcp_fin_timeout = 5", Some(5), Some(5)),
        ("net/ipv4/tcp_fin_timeout = 5", Some(5), Some(5)),
        ("-net.ipv4.tcp_fin_timeout = 5 # why", Some(5), Some(5)),
        // The last one.
        ("net.ipv4.tcp_fin_timeout=5\nnet/ipv4/tcp_fin_timeout=6", Some(6), Some(6)),
        // A pattern, the last of two, and one that matches something else.
        ("net.ipv4.tcp_f* = 5", Some(5), Some(5)),
        ("net.ipv4.tcp_?in_timeout = 5", Some(5), Some(5)),
        ("net.ipv4.tcp_[ef]in_timeout = 5", Some(5), Some(5)),
        ("net/*/tcp_fin_timeout = 5", Some(5), Some(5)),
        ("net.ipv4.tcp_f* = 5\nnet.ipv4.*_timeout = 6", Some(6), Some(6)),
        ("net.ipv4.tcp_t* = 5", None, None),
        ("net.*_fin_timeout = 5", None, None),
        ("net.ipv4.*.tcp_fin_timeout = 5", None, None),
        // What has no pattern goes first, wherever it stands.
        ("net.ipv4.tcp_fin_timeout = 5\nnet.ipv4.tcp_f* = 6", Some(5), Some(5)),
        ("net.ipv4.tcp_f* = 6\nnet.ipv4.tcp_fin_timeout = 5", Some(5), Some(5)),
        // Kept off.
        ("net.ipv4.tcp_f* = 5\n-net.ipv4.tcp_fin_timeout", None, None),
        ("-net.ipv4.tcp_fin_timeout\nnet.ipv4.tcp_f* = 5", None, None),
        // They differ: procps keeps patterns off by patterns, and never what is named.
        ("net.ipv4.tcp_f* = 5\n-net.ipv4.*_timeout", Some(5), None),
        ("net.ipv4.tcp_f* = 5\n-net.ipv4.tcp_f*", None, None),
        ("net.ipv4.tcp_fin_timeout = 5\n-net.ipv4.tcp_fin_timeout", None, Some(5)),
        ("-net.ipv4.tcp_fin_timeout\nnet.ipv4.tcp_fin_timeout = 5", Some(5), Some(5)),
        // The kernel refuses the last: procps has written the one before, systemd has not.
        ("net.ipv4.tcp_fin_timeout = 5\nnet.ipv4.tcp_fin_timeout = 5s", None, Some(5)),
        ("net.ipv4.tcp_f* = 5\nnet.ipv4.*_timeout = off", Some(5), Some(5)),
        // A pattern that got another value is written last; one that got the same stays where it was.
        ("net.ipv4.tcp_f* = 5\nnet.ipv4.*_timeout = 6\nnet.ipv4.tcp_f* = 7", Some(7), Some(7)),
        ("net.ipv4.tcp_f* = 5\nnet.ipv4.*_timeout = 6\nnet.ipv4.tcp_f* = 5", Some(6), Some(5)),
        ("# net.ipv4.tcp_fin_timeout = 5\n; net.ipv4.tcp_fin_timeout = 5", None, None),
        ("", None, None),
    ] {
        assert_eq!((set(text, true), set(text, false)), (by_systemd, by_procps), "{text}");
    }
}

#[test]
fn every_line_has_its_fate() {
    let text =
        "net.ipv4.tcp_f* = 5\nnet.ipv4.tcp_fin_timeout = 6\nnet.ipv4.tcp_fin_timeout = x\nnet.ipv4.tcp_sack = 1\n";
    let fates = |systemd| {
        let mut files = files(text, systemd);
        files.settings.extend(parse("net.ipv4.tcp_fin_timeout = 7", Path::new("/etc/sysctl.conf")));
        files.about(KEY).iter().map(|line| (line.setting.line, line.fate)).collect::<Vec<_>>()
    };
    let expected = [(1, Fate::Overruled), (2, Fate::Overruled), (3, Fate::Refused), (1, Fate::Unread)];
    assert_eq!(fates(true), expected);
    assert_eq!(fates(false), [(1, Fate::Overruled), (2, Fate::Overruled), (3, Fate::Refused), (1, Fate::Sets)]);
    let excluded = files("net.ipv4.tcp_f* = 5\n-net.ipv4.tcp_fin_timeout\n", true);
    assert_eq!(excluded.about(KEY).iter().map(|line| line.fate).collect::<Vec<_>>(), [Fate::Excluded]);
}

#[test]
fn names_with_dots_are_matched_as_paths() {
    let rp = "net.ipv4.conf.eth0/5.rp_filter";
    for (pattern, expected) in [
        ("net.ipv4.conf.*.rp_filter", true),
        ("net.ipv4.conf.eth0/*.rp_filter", true),
        ("net.ipv4.conf.*/*.rp_filter", true),
        ("net.ipv4.conf.eth0.*.rp_filter", false),
        ("net.ipv4.*.rp_filter", false),
    ] {
        assert_eq!(matches(pattern, rp, false), expected, "{pattern}");
    }
    assert!(matches("net.ipv4.*.rp_filter", rp, true));
    assert!(!matches("net.ipv4.\0*", rp, true) && !matches(&"*".repeat(LONGEST), rp, true));
}

proptest! {
    /// Of the lines about a sysctl at most one sets, and only one that the kernel takes.
    #[test]
    fn one_line_sets(
        lines in prop::collection::vec("-?net[./]ipv4[./]tcp_(fin_timeout|f\\*|\\*|[\\[a-z?*]{0,4})( ?= ?(0x)?[0-9a]{0,3} ?x?)?", 0..8),
        systemd: bool,
    ) {
        let files = files(&lines.join("\n"), systemd);
        let found = files.about(KEY);
        let sets: Vec<_> = found.iter().filter(|line| line.fate == Fate::Sets).collect();
        prop_assert!(sets.len() <= 1 && sets.iter().all(|line| line.number().is_some()), "{found:?}");
        prop_assert!(found.iter().all(|line| line.fate != Fate::Unread && line.setting.value.is_some()));
        prop_assert!(found.iter().all(|line| (line.fate == Fate::Refused) <= line.number().is_none()));
    }

    /// Total, and soon done.
    #[test]
    fn any_pattern_is_matched(pattern in "[*?a\\[\\].!^-]{0,40}", key in "[a.]{0,60}", all: bool) {
        let _ = matches(&pattern, &key, all);
    }
}
