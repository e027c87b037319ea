use proptest::prelude::*;

use super::*;
use crate::host::recorded::Recorded;

fn arguments(line: &str) -> (Option<String>, Option<String>) {
    let Arguments { prefix, file } = Arguments::of(line.as_bytes());
    let text = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
    (text(prefix), text(file))
}

#[test]
fn arguments_are_those_of_nginx() {
    let some = |prefix: &str, file: &str| (Some(prefix.to_owned()), Some(file.to_owned()));
    for (line, expected) in [
        ("nginx: master process nginx -c /a/b.conf -p /x", some("/x", "/a/b.conf")),
        ("nginx\0-p\0x\0-qcconf\0", some("x", "conf")),
        ("nginx: master process /usr/sbin/nginx -g daemon off; master_process on;", (None, None)),
        ("nginx: master process nginx -g daemon off; -c c -tp p", some("p", "c")),
        ("nginx: worker process", (None, None)),
        ("nginx -c", (None, None)),
        ("", (None, None)),
    ] {
        assert_eq!(arguments(line), expected, "{line}");
    }
}

#[test]
fn defaults_are_found_in_the_binary() {
    let binary = b"\x7fELF\0nginx version: nginx/1.22.1\0configure arguments: --with-cc-opt='-O2 -fPIC' \
                   --prefix=/usr/share/nginx --conf-path=/etc/nginx/nginx.conf --with-debug\0nginx/9.9.9\0";
    let expected =
        Compiled { prefix: "/usr/share/nginx".into(), file: "/etc/nginx/nginx.conf".into(), version: Some([1, 22, 1]) };
    assert_eq!(Compiled::within(binary), expected);
    assert_eq!(Compiled::within(b"nothing"), Compiled::default());
    assert_eq!(version_of("openresty/1.25.3.1 (x)"), Some([1, 25, 3]));
    for other in ["Tengine/2.3.3", "nginx/x", "nginx/1.2", "nginx", "freenginx/1.27.0"] {
        assert_eq!(version_of(other), None, "{other}");
    }
}

#[test]
fn names_come_from_hosts() {
    let names = names("127.0.0.1 localhost\n::1 localhost ip6 # x y\n10.0.0.2\tapp app.local\nnonsense app\n");
    assert_eq!(names["app.local"], [IpAddr::from([10, 0, 0, 2])]);
    assert!(names["localhost"].contains(&IpAddr::from([127, 0, 0, 1])) && !names.contains_key("x"));
}

/// A machine on which process 7 is an nginx with this configuration, and 8 its worker.
fn machine(files: &[(&str, &str)]) -> Recorded {
    let mut recorded = Recorded::new()
        .file("proc/7/cmdline", "nginx: master process nginx -p /srv")
        .file("proc/7/exe", "configure arguments: --conf-path=conf/main\0nginx version: nginx/1.27.0\0")
        .file("proc/7/task/7/children", "8 9 ");
    for (pid, parent) in [(7, 1), (8, 7)] {
        recorded = recorded
            .file(&format!("proc/{pid}/comm"), "nginx\n")
            .file(&format!("proc/{pid}/status"), format!("Name:\tnginx\nPPid:\t{parent}\n"));
    }
    files.iter().fold(recorded, |recorded, (path, text)| recorded.file(&format!("proc/7/root/{path}"), text))
}

#[test]
fn includes_are_read_where_the_process_reads_them() {
    let machine = machine(&[
        ("srv/conf/main", "http { include sites/*.conf; include /etc/one; include none; }"),
        ("srv/conf/sites/b.conf", "server { location / { proxy_pass http://app; } }"),
        ("srv/conf/sites/a.conf", "upstream app { server 10.0.0.2:1; include more; }"),
        ("srv/conf/more", "keepalive 5;"),
        ("etc/one", "server { fastcgi_pass 10.0.0.3:2; }"),
    ]);
    let nginx = read(&machine.host(), 8).unwrap();
    assert_eq!((nginx.master, nginx.file.as_str(), nginx.version), (7, "/srv/conf/main", Some([1, 27, 0])));
    assert_eq!(nginx.workers, BTreeSet::from([8, 9]));
    assert!(nginx.has(7) && nginx.has(9) && !nginx.has(10));
    assert_eq!(nginx.config.upstreams[0].keepalive, Some(5));
    assert_eq!(nginx.config.passes.len(), 2);
    assert_eq!(nginx.unread.len(), 1, "{:?}", nginx.unread);
}

#[test]
fn nothing_is_read_for_ever() {
    let endless =
        machine(&[("srv/conf/main", "include main main; include fifo; include x; http { }"), ("srv/conf/x/y", "")]);
    let fifo = endless.host().path("proc/7/root/srv/conf/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    let nginx = read(&endless.host(), 7).unwrap();
    assert!(nginx.unread.iter().any(|it| it.contains("more than twtrace reads")), "{:?}", nginx.unread);
    assert!(nginx.unread.iter().any(|it| it.contains("fifo: ")) && nginx.unread.len() <= COMPLAINTS);
    // Without a file there is nothing to be told.
    let absent = machine(&[("srv/x", "")]);
    assert!(read(&absent.host(), 7).is_err() && read(&absent.host(), 99).is_err());
}

#[test]
fn links_stay_within_the_root_of_the_process() {
    let machine = machine(&[("srv/conf/main", "http { include site; }"), ("etc/site", "upstream a {}")])
        .link("proc/7/root/srv/conf/site", "/etc/site");
    let nginx = read(&machine.host(), 7).unwrap();
    assert_eq!(nginx.config.upstreams.len(), 1, "{:?}", nginx.unread);
}

proptest! {
    #[test]
    fn any_command_line_and_binary_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[ a-z-]{0,40}") {
        let _ = Arguments::of(&bytes);
        let _ = Arguments::of(text.as_bytes());
        let _ = Compiled::within(&bytes);
        let _ = Compiled::within(format!("configure arguments: {text}").as_bytes());
        let _ = names(&text);
    }
}
