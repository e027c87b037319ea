use super::{seen::LONGEST, *};
use crate::doctor::{
    checks::fixture::{Fixture, INUM, ids, number},
    places::{Place, Reach},
};

const FILE: &str = "/etc/sysctl.d/99-tuning.conf";

/// The one that is found on a machine; there is no other.
fn only(fixture: Fixture) -> Finding {
    let findings = check(&fixture.facts());
    assert_eq!(findings.len(), 1, "{findings:?}");
    findings.into_iter().next().unwrap()
}

/// The finding's id, how bad it is, and what it says.
fn told(fixture: Fixture) -> (String, Severity, String) {
    let Finding { id, severity, sentence, .. } = only(fixture);
    (id, severity, sentence)
}

fn line(key: &str, value: &str) -> Fixture {
    Fixture::quiet().line(FILE, 12, key, value)
}

#[test]
fn defaults_are_no_folklore() {
    assert_eq!(told(Fixture::quiet()).0, "folklore.none");
    let defaults = [
        ("net.ipv4.tcp_fin_timeout", "60"),
        ("net.ipv4.tcp_max_tw_buckets", "131072"),
        ("net.ipv4.tcp_max_tw_buckets", "2000000"),
        ("net.ipv4.tcp_rfc1337", "0"),
        ("net.ipv4.tcp_timestamps", "1"),
        ("net.ipv4.tcp_tw_reuse", "2"),
        ("net.ipv4.tcp_syncookies", "1"),
        ("net.ipv4.tcp_abort_on_overflow", "0"),
        ("net.core.somaxconn", "65535"),
        // No number: nothing is known.
        ("net.ipv4.tcp_fin_timeout", "fifteen"),
        // Not these.
        ("net.ipv4.conf.all.tcp_tw_recycle", "1"),
        ("tcp_tw_recycle", "1"),
    ];
    for (key, value) in defaults {
        let (id, severity, sentence) = told(line(key, value));
        assert_eq!((id.as_str(), severity), ("folklore.none", Severity::Fine), "{key} = {value}: {sentence}");
        assert!(sentence.contains("1 line of files"), "{sentence}");
    }
}

#[test]
fn what_is_set_now_is_found() {
    for (name, value, id, severity) in [
        ("ipv4/tcp_tw_recycle", 1, "folklore.tw-recycle", Severity::Warning),
        ("ipv4/tcp_fin_timeout", 15, "folklore.fin-timeout", Severity::Note),
        ("ipv4/tcp_max_tw_buckets", 131_071, "folklore.max-tw-buckets", Severity::Warning),
        ("ipv4/tcp_tw_timeout", 30, "folklore.tw-timeout", Severity::Note),
        ("ipv4/tcp_rfc1337", 1, "folklore.rfc1337", Severity::Note),
        ("ipv4/tcp_timestamps", 0, "folklore.timestamps", Severity::Warning),
        ("ipv4/tcp_syncookies", 0, "folklore.syncookies", Severity::Warning),
        // Told elsewhere.
        ("ipv4/tcp_tw_reuse", 1, "folklore.none", Severity::Fine),
        ("ipv4/tcp_abort_on_overflow", 1, "folklore.none", Severity::Fine),
        // There, and off or as ever.
        ("ipv4/tcp_tw_recycle", 0, "folklore.none", Severity::Fine),
        ("ipv4/tcp_tw_timeout", 60, "folklore.none", Severity::Fine),
    ] {
        let found = only(Fixture::quiet().sysctl(name, value));
        assert_eq!((found.id.as_str(), found.severity), (id, severity), "{name} = {value}");
        let is_about_the_namespace = id != "folklore.none";
        assert_eq!(found.netns, is_about_the_namespace.then_some(INUM), "{name} = {value}");
        assert_eq!(
            number(&found, name.trim_start_matches("ipv4/")).is_some(),
            is_about_the_namespace || name.contains("tw_reuse")
        );
    }
}

#[test]
fn lines_are_named() {
    for (key, value, id, severity) in [
        ("net.ipv4.tcp_tw_recycle", "1", "folklore.tw-recycle", Severity::Note),
        ("net.ipv4.tcp_tw_recycle", "0", "folklore.tw-recycle", Severity::Note),
        ("net.ipv4.tcp_fin_timeout", "15", "folklore.fin-timeout", Severity::Note),
        ("net.ipv4.tcp_max_tw_buckets", "5000", "folklore.max-tw-buckets", Severity::Warning),
        ("net.ipv4.tcp_tw_timeout", "5", "folklore.tw-timeout", Severity::Note),
        ("net.ipv4.tcp_rfc1337", "1", "folklore.rfc1337", Severity::Note),
        ("net.ipv4.tcp_timestamps", "0", "folklore.timestamps", Severity::Warning),
        ("net.ipv4.tcp_tw_reuse", "1", "folklore.tw-reuse-everywhere", Severity::Note),
        ("net.ipv4.tcp_syncookies", "0", "folklore.syncookies", Severity::Warning),
        ("net.ipv4.tcp_abort_on_overflow", "1", "folklore.abort-on-overflow", Severity::Warning),
    ] {
        let found = only(line(key, value));
        assert_eq!((found.id.as_str(), found.severity), (id, severity), "{key} = {value}");
        let place = format!("{FILE}:12");
        assert!(found.sentence.starts_with(&place), "{}", found.sentence);
        let evidence = found.evidence.iter().find(|evidence| evidence.name == key).unwrap();
        assert_eq!((evidence.source.as_str(), evidence.value.to_string().as_str()), (place.as_str(), value));
        assert_eq!(found.netns, None);
        if !matches!(id, "folklore.rfc1337" | "folklore.tw-reuse-everywhere") {
            assert_eq!(found.to_do, [format!("remove the line {place}")]);
        }
    }
}

#[test]
fn dead_lines_do_nothing() {
    let (_, _, sentence) = told(line("net.ipv4.tcp_tw_recycle", "1"));
    assert_eq!(
        sentence,
        format!("{FILE}:12 sets tcp_tw_recycle: this kernel has no such setting, the line does nothing")
    );
    // Where no sysctl can be read, it is not known what there is.
    let (_, _, sentence) = told(line("net.ipv4.tcp_tw_recycle", "1").sysctl("ipv4/tcp_timestamps", None));
    assert!(sentence.contains("kernels since 4.12 have no such setting"), "{sentence}");
    // A kernel that has it.
    let (_, severity, sentence) = told(line("net.ipv4.tcp_tw_recycle", "1").sysctl("ipv4/tcp_tw_recycle", 0));
    assert!(severity == Severity::Warning && sentence.contains("behind NAT"), "{sentence}");
    let found = told(line("net.ipv4.tcp_tw_recycle", "0").sysctl("ipv4/tcp_tw_recycle", 0));
    assert_eq!(found.0, "folklore.none");
}

#[test]
fn what_a_line_set_is_said_to_be_its_work() {
    let both = line("net.ipv4.tcp_fin_timeout", "15").sysctl("ipv4/tcp_fin_timeout", 15);
    let found = only(both);
    assert!(found.sentence.starts_with(&format!("tcp_fin_timeout is 15, set by {FILE}:12: ")), "{}", found.sentence);
    assert_eq!(
        found.to_do,
        [format!("remove the line {FILE}:12"), "sysctl -w net.ipv4.tcp_fin_timeout=60     # the default".to_owned()]
    );
    let other = line("net.ipv4.tcp_fin_timeout", "15").sysctl("ipv4/tcp_fin_timeout", 20);
    let head = format!("tcp_fin_timeout is 20 now, and {FILE}:12 sets 15 at boot: ");
    assert!(told(other).2.starts_with(&head));
    // The line is right, and the value is not what it says.
    let other = line("net.ipv4.tcp_timestamps", "1").sysctl("ipv4/tcp_timestamps", 0);
    assert!(told(other).2.starts_with(&format!("tcp_timestamps is 0 now, and {FILE}:12 sets 1 at boot: ")));
    // The line is wrong, and was not read yet.
    let (_, severity, sentence) = told(line("net.ipv4.tcp_timestamps", "0"));
    assert_eq!(severity, Severity::Warning);
    assert!(sentence.starts_with(&format!("{FILE}:12 sets tcp_timestamps to 0 (1 now): ")), "{sentence}");
}

#[test]
fn a_line_that_is_set_again_does_no_harm() {
    let overruled =
        line("net.ipv4.tcp_timestamps", "0").line("/etc/sysctl.d/99-z.conf", 1, "net.ipv4.tcp_timestamps", "1");
    let (id, severity, sentence) = told(overruled);
    assert_eq!((id.as_str(), severity), ("folklore.timestamps", Severity::Note));
    assert!(sentence.contains("sets it again"), "{sentence}");
    let again = line("net.ipv4.tcp_timestamps", "0").line("/etc/sysctl.d/99-z.conf", 3, "net.ipv4.tcp_timestamps", "0");
    let found = only(again);
    assert_eq!(found.severity, Severity::Warning);
    assert!(found.sentence.starts_with("/etc/sysctl.d/99-z.conf:3 sets"), "{}", found.sentence);
    assert_eq!(found.to_do.len(), 2);
}

#[test]
fn systemd_does_not_read_sysctl_conf() {
    let with = |systemd, fixture: Fixture| {
        let facts = fixture.machine(|machine| machine.files.systemd = systemd);
        let findings = check(&facts);
        assert_eq!(ids(&findings), ["folklore.timestamps"]);
        (findings[0].severity, findings[0].sentence.clone())
    };
    let conf = || Fixture::quiet().line("/etc/sysctl.conf", 3, "net.ipv4.tcp_timestamps", "0");
    assert_eq!(with(false, conf()).0, Severity::Warning);
    let (severity, sentence) = with(true, conf());
    assert!(severity == Severity::Note && sentence.contains("which systemd does not read"), "{sentence}");
    // What it would take back stays.
    let kept = || line("net.ipv4.tcp_timestamps", "0").line("/etc/sysctl.conf", 3, "net.ipv4.tcp_timestamps", "1");
    assert_eq!(with(false, kept()).0, Severity::Note);
    assert_eq!(with(true, kept()).0, Severity::Warning);
}

#[test]
fn lines_count_by_the_number_that_the_kernel_reads() {
    for (key, value, id, severity) in [
        ("net.ipv4.tcp_timestamps", "0   # saves bytes", "folklore.timestamps", Severity::Warning),
        ("net.ipv4.tcp_fin_timeout", "0xa", "folklore.fin-timeout", Severity::Note),
        ("net.ipv4.tcp_max_tw_buckets", "5000\t#enough", "folklore.max-tw-buckets", Severity::Warning),
        ("net.ipv4.tcp_max_tw_buckets", "-1", "folklore.max-tw-buckets", Severity::Warning),
        ("net.ipv4.tcp_syncookies", "0 ; never", "folklore.syncookies", Severity::Warning),
        ("net.ipv4.tcp_f*", "15", "folklore.fin-timeout", Severity::Note),
        ("net.ipv4.tcp_syncookie[a-z]", "00", "folklore.syncookies", Severity::Warning),
        // As ever, and what the kernel refuses.
        ("net.ipv4.tcp_fin_timeout", "074 # as ever", "folklore.none", Severity::Fine),
        ("net.ipv4.tcp_timestamps", "0#off", "folklore.none", Severity::Fine),
        ("net.ipv4.tcp_fin_timeout", "5s", "folklore.none", Severity::Fine),
        // A pattern is about the sysctls that there are.
        ("net.ipv4.tcp_tw_recycl?", "1", "folklore.none", Severity::Fine),
    ] {
        let found = only(line(key, value));
        assert_eq!((found.id.as_str(), found.severity), (id, severity), "{key} = {value}: {}", found.sentence);
    }
    let sentence = told(line("net.ipv4.tcp_f*", "0xf # quick")).2;
    let head = format!("{FILE}:12 sets tcp_fin_timeout to 15 (60 now) by the pattern net.ipv4.tcp_f*: ");
    assert!(sentence.starts_with(&head), "{sentence}");
}

#[test]
fn files_are_judged_where_they_are_read() {
    let with = |boots, initial| {
        let facts = line("net.ipv4.tcp_timestamps", "0").namespace(|namespace| {
            namespace.boots = boots;
            namespace.place.initial = initial;
            namespace.sysctls.insert("net/ipv4/tcp_timestamps", Some(0));
        });
        let [finding] = check(&facts).try_into().unwrap();
        finding.sentence
    };
    assert!(with(true, Some(true)).starts_with(&format!("tcp_timestamps is 0, set by {FILE}:12: ")));
    // Somebody else may have set it, and it is the same.
    assert!(with(true, Some(false)).starts_with(&format!("tcp_timestamps is 0, as in {FILE}:12: ")));
    assert!(with(false, Some(false)).starts_with("tcp_timestamps is 0: "));
    let elsewhere = line("net.ipv4.tcp_timestamps", "0").namespace(|namespace| namespace.boots = false);
    let [finding] = check(&elsewhere).try_into().unwrap();
    assert_eq!(finding.id, "folklore.none");
    assert!(finding.sentence.contains("other network namespaces, and were not judged"), "{}", finding.sentence);
}

#[test]
fn every_namespace_is_judged() {
    let with = |values: &[u64]| {
        let mut facts = Fixture::quiet().facts();
        for (place, value) in values.iter().enumerate() {
            let mut other = Namespace { inum: 7 + place as u32, ..facts.namespaces[0].clone() };
            other.place = Place { reach: Reach::Named(format!("n{place}")), ..Place::default() };
            other.place.name = Some(format!("n{place}"));
            other.sysctls.insert("net/ipv4/tcp_timestamps", Some(*value));
            other.sysctls.insert("net/ipv4/tcp_fin_timeout", Some(15));
            facts.namespaces.push(other);
        }
        check(&facts)
    };
    let [found] = with(&[1, 0]).try_into().unwrap();
    assert_eq!((found.id.as_str(), found.netns, found.severity), ("folklore.timestamps", Some(8), Severity::Warning));
    assert!(found.sentence.starts_with("tcp_timestamps is 0: "), "{}", found.sentence);
    assert_eq!(found.to_do, ["ip netns exec n1 sysctl -w net.ipv4.tcp_timestamps=1     # the default"]);
    // One finding for all that have the same value.
    let [found] = with(&[0; 7]).try_into().unwrap();
    let head = "tcp_timestamps is 0 in 7 network namespaces (7, n0; 8, n1; 9, n2; 10, n3; 11, n4; ...): ";
    assert!(found.sentence.starts_with(head), "{}", found.sentence);
    assert_eq!((found.to_do.len(), number(&found, "tcp_timestamps")), (5, Some(0.0)));
    // What does no harm is not told of others.
    assert_eq!(ids(&with(&[1, 1])), ["folklore.none"]);
}

#[test]
fn the_default_of_the_buckets_is_half_the_hash() {
    let with = |slots, memory, limit| {
        let mut facts = Fixture::quiet().sysctl("ipv4/tcp_max_tw_buckets", limit).facts();
        facts.namespaces[0].hash_slots = slots;
        facts.machine.memory = memory;
        ids(&check(&facts)) == ["folklore.max-tw-buckets"]
    };
    assert!(with(Some(4096), None, 2047) && !with(Some(4096), None, 2048));
    // Before 6.1: 4096 slots for 512 MB, of which not all are told of; never more than 524,288.
    let guest = Some(480 << 20);
    assert!(with(None, guest, 2047) && !with(None, guest, 2048));
    assert!(with(None, Some(1 << 40), 262_143) && !with(None, Some(1 << 40), 262_144));
    // Not known: only what is less than there are is too low.
    let unknown = |limit, used| {
        let mut facts = Fixture::quiet().sysctl("ipv4/tcp_max_tw_buckets", limit).facts();
        (facts.namespaces[0].hash_slots, facts.machine.memory) = (None, None);
        facts.namespaces[0].sockstat.as_mut().unwrap().tw = used;
        ids(&check(&facts)) == ["folklore.max-tw-buckets"]
    };
    assert!(unknown(100, 101) && !unknown(100, 100));
}

#[test]
fn resets_are_found_while_they_happen() {
    let with = |before, after, opened| {
        let fixture = Fixture::quiet().counter("TcpExt", "TCPAbortOnData", before, after);
        let found = only(fixture.counter("Tcp", "ActiveOpens", 0, opened));
        (found.id, found.severity)
    };
    let linger0 = |severity| ("folklore.linger0".to_owned(), severity);
    let none = ("folklore.none".to_owned(), Severity::Fine);
    assert_eq!(with(5, 55, 100), linger0(Severity::Warning));
    assert_eq!(with(5, 15, 100), linger0(Severity::Warning));
    assert_eq!(with(5, 14, 100), none);
    assert_eq!(with(5, 6, 1), linger0(Severity::Note));
    // Long ago.
    assert_eq!(with(5000, 5000, 0), none);
    // Unread data is another thing.
    assert_eq!(only(Fixture::quiet().counter("TcpExt", "TCPAbortOnClose", 0, 100)).id, "folklore.none");
}

#[test]
fn long_values_are_cut() {
    let found = only(line("net.ipv4.tcp_tw_recycle", &"9".repeat(1 << 20)));
    assert!(found.evidence.iter().all(|evidence| evidence.value.to_string().len() <= LONGEST), "{}", found.sentence);
}

#[test]
fn no_namespace_and_no_file_is_no_panic() {
    let findings = check(&Facts::default());
    assert_eq!(ids(&findings), ["folklore.none"]);
}
