use proptest::prelude::*;

use super::*;
use crate::host::recorded::Recorded;

/// The key, the value and the number of each line that sets something, and whether it wins.
fn parse(text: &str) -> Vec<(String, String, usize, bool)> {
    let lines = lines(text).map(|line| (PathBuf::new(), line)).collect();
    settings(lines).into_iter().map(|set| (set.key, set.value, set.line, set.wins)).collect()
}

/// File, value and whether it wins, of each.
fn told(files: &SysctlFiles) -> Vec<(&str, &str, bool)> {
    files.settings.iter().map(|set| (set.file.to_str().unwrap(), set.value.as_str(), set.wins)).collect()
}

#[test]
fn lines_are_read() {
    let text = "# a comment\n ; another = 1\n\n  net.ipv4.ip_local_port_range =  1024   65000 \r\n\
        -net/ipv4/tcp_tw_reuse=1\n- kernel.x = a = b\nnot an assignment\n= 1\nkernel.core_pattern=\n";
    let expected = [
        ("net.ipv4.ip_local_port_range", "1024   65000", 4),
        ("net.ipv4.tcp_tw_reuse", "1", 5),
        ("kernel.x", "a = b", 6),
        ("kernel.core_pattern", "", 9),
    ];
    assert_eq!(parse(text), expected.map(|(key, value, line)| (key.to_owned(), value.to_owned(), line, true)));
}

#[test]
fn both_spellings_are_one_key() {
    for (written, key) in [
        ("net.ipv4.tcp_tw_reuse", "net.ipv4.tcp_tw_reuse"),
        ("net/ipv4/tcp_tw_reuse", "net.ipv4.tcp_tw_reuse"),
        ("/net//ipv4/tcp_tw_reuse/", "net.ipv4.tcp_tw_reuse"),
        // The examples of sysctl.d(5).
        ("net.ipv4.conf.enp3s0/200.forwarding", "net.ipv4.conf.enp3s0/200.forwarding"),
        ("net/ipv4/conf/enp3s0.200/forwarding", "net.ipv4.conf.enp3s0/200.forwarding"),
        ("net.ipv4.conf.*.rp_filter", "net.ipv4.conf.*.rp_filter"),
        ("", ""),
        ("/", ""),
    ] {
        assert_eq!(dotted(written), key, "{written}");
    }
}

#[test]
fn the_last_line_wins() {
    let wins = |text| parse(text).into_iter().map(|(.., wins)| wins).collect::<Vec<_>>();
    assert_eq!(wins("a.b=1\na/b=2\nc=3\na.b=1\n"), [false, false, true, true]);
    assert_eq!(wins("a.b=1\n-a.b\n"), [false], "it was taken back");
    assert_eq!(wins("-a.b\na.b=1\n"), [true]);
    assert_eq!(wins("a.*=1\na.b=2\n"), [true, true]);
}

#[test]
fn files_count_by_their_names_and_the_first_directory_hides_the_others() {
    let machine = Recorded::new()
        .file("usr/lib/sysctl.d/50-a.conf", "a=hidden\n")
        .file("run/sysctl.d/50-a.conf", "a=1\n")
        .file("etc/sysctl.d/90-b.conf", "a=2\n")
        .file("usr/local/lib/sysctl.d/10-c.conf", "a=0\n")
        .file("usr/lib/sysctl.d/60-d.conf", "a=masked\n")
        .link("etc/sysctl.d/60-d.conf", "/dev/null")
        .file("etc/sysctl.d/README", "a=3\n")
        .file("etc/sysctl.d/.hidden.conf", "a=3\n")
        .file("etc/sysctl.conf", "b=4\na=4\n");
    let files = read(&machine.host());
    let expected = [
        ("/usr/local/lib/sysctl.d/10-c.conf", "0", false),
        ("/run/sysctl.d/50-a.conf", "1", false),
        ("/etc/sysctl.d/90-b.conf", "2", false),
        ("/etc/sysctl.conf", "4", true),
        ("/etc/sysctl.conf", "4", true),
    ];
    assert_eq!(told(&files), expected);
    assert_eq!((files.settings.last().map(|set| set.line), files.unread, files.systemd), (Some(2), vec![], false));
}

#[test]
fn no_file_is_listed_twice() {
    let machine = Recorded::new()
        .file("usr/lib/sysctl.d/10-a.conf", "a=1\n")
        .link("lib", "usr/lib")
        .link("etc/sysctl.d/99-sysctl.conf", "../sysctl.conf")
        .file("etc/sysctl.d/99-tuning.conf", "a=3\n")
        .link("etc/sysctl.d/20-again.conf", "99-tuning.conf")
        .file("etc/sysctl.conf", "a=2\n")
        .file("run/systemd/system/x", "");
    let files = read(&machine.host());
    let expected = [
        ("/usr/lib/sysctl.d/10-a.conf", "1", false),
        ("/etc/sysctl.d/99-sysctl.conf", "2", false),
        ("/etc/sysctl.d/99-tuning.conf", "3", true),
    ];
    assert_eq!(told(&files), expected);
    assert!(files.unread.is_empty() && files.systemd);
}

#[test]
fn what_cannot_be_read_is_named() {
    let long = vec![b'#'; LONGEST as usize + 1];
    let machine = Recorded::new()
        .file("etc/sysctl.d/a.conf/x", "")
        .link("etc/sysctl.d/b.conf", "gone")
        .file("lib/sysctl.d/b.conf", "a=1\n")
        .file("etc/sysctl.d/c.conf", long)
        .link("etc/sysctl.d/d.conf", "/dev/zero")
        .file("etc/sysctl.d/e.conf", b"a=\xff\n")
        .file("run/sysctl.d", "");
    let files = read(&machine.host());
    assert_eq!(told(&files), [("/lib/sysctl.d/b.conf", "1", false), ("/etc/sysctl.d/e.conf", "\u{fffd}", true)]);
    let mut unread: Vec<_> = files.unread.iter().map(|(path, why)| (path.to_str().unwrap(), why.as_str())).collect();
    unread.sort_unstable();
    let expected = [
        ("/etc/sysctl.d/a.conf", "not a regular file"),
        ("/etc/sysctl.d/b.conf", "No such file or directory (os error 2)"),
        ("/etc/sysctl.d/c.conf", "longer than 1048576 bytes"),
        ("/etc/sysctl.d/d.conf", "not a regular file"),
        ("/run/sysctl.d", "Not a directory (os error 20)"),
    ];
    assert_eq!(unread, expected);
}

#[test]
fn this_machine_has_files() {
    let files = read(&Host::default());
    assert!(files.settings.iter().all(|set| set.file.is_file() && set.line > 0), "{files:?}");
    if files.settings.is_empty() {
        println!("skipped: nothing is set at boot here");
    }
}

#[test]
fn long_files_are_read() {
    let text: String = (0..1_000_000).map(|i| format!("a.b{}={i}\n", i % 500_000)).collect();
    let settings = parse(&text);
    assert_eq!(settings.len(), 1_000_000);
    assert_eq!(settings.iter().filter(|(.., wins)| *wins).count(), 500_000);
    assert_eq!(dotted(&"a/".repeat(1_000_000)).len(), 1_999_999);
}

proptest! {
    /// Total: any bytes are settings or none.
    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }

    /// Of each key that is set, one line wins or none; and a key is spelt in one way.
    #[test]
    fn one_line_wins(text in "([-#;]?[ab./*]{0,4} ?=? ?[0-9]{0,2}\n){0,12}", cut in 0usize..80) {
        for text in [text.as_str(), text.get(..cut).unwrap_or_default()] {
            let settings = parse(text);
            let mut won = HashSet::new();
            for (key, _, line, wins) in &settings {
                prop_assert!(!key.is_empty() && *line <= text.lines().count());
                prop_assert!(!wins || won.insert(key), "{key} twice");
            }
        }
    }

    /// Names with dots in them are told from names that dots separate.
    #[test]
    fn spellings_agree(names in prop::collection::vec("[a-z0-9]{1,3}(\\.[0-9]{1,2})?", 2..6)) {
        prop_assume!(!names[0].contains('.'));
        let path = names.join("/");
        let dots: Vec<_> = names.iter().map(|name| name.replace('.', "/")).collect();
        prop_assert_eq!(dotted(&path), dots.join("."));
        prop_assert_eq!(dotted(&dots.join(".")), dots.join("."));
    }
}
