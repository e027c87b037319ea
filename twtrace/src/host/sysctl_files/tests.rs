use proptest::prelude::*;

use super::*;
use crate::host::recorded::Recorded;

/// The key, the value and the number of each line.
fn told_lines(text: &str) -> Vec<(String, Option<String>, usize)> {
    parse(text, Path::new("")).map(|set| (set.key, set.value, set.line)).collect()
}

/// File and value of each.
fn told(files: &SysctlFiles) -> Vec<(&str, &str)> {
    files.settings.iter().map(|set| (set.file.to_str().unwrap(), set.value.as_deref().unwrap())).collect()
}

#[test]
fn lines_are_read() {
    let text = "# a comment\n ; another = 1\n\n  net.ipv4.ip_local_port_range =  1024   65000 \r\n\
        -net/ipv4/tcp_tw_reuse=1\n- kernel.x = a = b\nnot an assignment\n= 1\nkernel.core_pattern=\n\
        net.ipv4.tcp_syncookies = 0 ; never\r\n-net.ipv4.conf.all.x\na = 5\u{a0}";
    let expected = [
        ("net.ipv4.ip_local_port_range", Some("1024   65000"), 4),
        ("net.ipv4.tcp_tw_reuse", Some("1"), 5),
        ("kernel.x", Some("a = b"), 6),
        ("kernel.core_pattern", Some(""), 9),
        ("net.ipv4.tcp_syncookies", Some("0 ; never"), 10),
        ("net.ipv4.conf.all.x", None, 11),
        // No blank of the C locale.
        ("a", Some("5\u{a0}"), 12),
    ];
    let expected = expected.map(|(key, value, line)| (key.to_owned(), value.map(str::to_owned), line));
    assert_eq!(told_lines(text), expected);
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
        // Hidden files are procps's.
        ("/etc/sysctl.d/.hidden.conf", "3"),
        ("/usr/local/lib/sysctl.d/10-c.conf", "0"),
        ("/run/sysctl.d/50-a.conf", "1"),
        ("/etc/sysctl.d/90-b.conf", "2"),
        ("/etc/sysctl.conf", "4"),
        ("/etc/sysctl.conf", "4"),
    ];
    assert_eq!(told(&files), expected);
    assert_eq!((files.settings.last().map(|set| set.line), files.unread, files.systemd), (Some(2), vec![], false));
}

#[test]
fn no_file_is_listed_twice() {
    let machine = || {
        Recorded::new()
            .file("usr/lib/sysctl.d/10-a.conf", "a=1\n")
            .link("lib", "usr/lib")
            .link("etc/sysctl.d/99-sysctl.conf", "../sysctl.conf")
            .file("etc/sysctl.d/99-tuning.conf", "a=3\n")
            .link("etc/sysctl.d/20-again.conf", "99-tuning.conf")
            .file("etc/sysctl.d/.hidden.conf", "a=4\n")
            .file("etc/sysctl.conf", "a=2\n")
    };
    let by_systemd = machine().file("run/systemd/system/x", "");
    let files = read(&by_systemd.host());
    let expected = [
        ("/usr/lib/sysctl.d/10-a.conf", "1"),
        ("/etc/sysctl.d/99-sysctl.conf", "2"),
        ("/etc/sysctl.d/99-tuning.conf", "3"),
    ];
    assert_eq!(told(&files), expected);
    assert!(files.unread.is_empty() && files.systemd);
    let sets = |files: &SysctlFiles| {
        files.about("a").iter().find(|line| line.fate == Fate::Sets).map(|line| line.written().to_owned())
    };
    assert_eq!(sets(&files).as_deref(), Some("3"));
    // procps reads /etc/sysctl.conf last, whoever links to it.
    let by_procps = machine();
    let files = read(&by_procps.host());
    let expected = [
        ("/etc/sysctl.d/.hidden.conf", "4"),
        ("/usr/lib/sysctl.d/10-a.conf", "1"),
        ("/etc/sysctl.d/99-tuning.conf", "3"),
        ("/etc/sysctl.conf", "2"),
    ];
    assert_eq!(told(&files), expected);
    assert_eq!(sets(&files).as_deref(), Some("2"));
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
    assert_eq!(told(&files), [("/lib/sysctl.d/b.conf", "1"), ("/etc/sysctl.d/e.conf", "\u{fffd}")]);
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
    let text: String = (0..200_000).map(|i| format!("a.b{}={i}\n", i % 100_000)).collect();
    let settings: Vec<Setting> = parse(&text, Path::new("")).collect();
    assert_eq!(settings.len(), 200_000);
    let files = SysctlFiles { settings, ..SysctlFiles::default() };
    let values: Vec<(&str, Fate)> = files.about("a.b7").iter().map(|line| (line.written(), line.fate)).collect();
    assert_eq!(values, [("7", Fate::Overruled), ("100007", Fate::Sets)]);
    assert_eq!(dotted(&"a/".repeat(1_000_000)).len(), 1_999_999);
}

proptest! {
    /// Total: any bytes are settings or none.
    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = told_lines(&String::from_utf8_lossy(&bytes));
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
