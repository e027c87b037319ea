use std::{fs::File, net::TcpListener, os::fd::AsFd};

use proptest::prelude::*;

use super::*;
use crate::host::recorded::Recorded;

const LONG: Duration = Duration::from_secs(3600);
/// Recorded on Linux 6.18, cut short.
const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
    Max processes             96365                96365                processes \n\
    Max open files            1024                 unlimited            files     \n\
    Max locked memory         8388608              8388608              bytes     \n";

/// A process with these descriptors, numbered from 0.
fn process(machine: Recorded, pid: u32, name: &str, links: &[&str]) -> Recorded {
    let machine = machine.file(&format!("proc/{pid}/comm"), format!("{name}\n"));
    links.iter().zip(0..).fold(machine, |machine, (link, fd)| machine.link(&format!("proc/{pid}/fd/{fd}"), link))
}

fn inode(file: &impl AsFd) -> u32 {
    u32::try_from(rustix::fs::fstat(file).unwrap().st_ino).unwrap()
}

#[test]
fn descriptors_are_counted_and_owners_found() {
    let machine = process(Recorded::new(), 10, "nginx", &["socket:[7]", "socket:[8]", "/dev/null"]);
    let machine = process(machine, 9, "nginx", &["socket:[7]"]);
    let machine = process(machine, 11, "many files", &["a", "b", "c", "pipe:[7]", "anon_inode:[eventpoll]"]);
    let machine = process(machine, 12, "kthread", &[])
        .file("proc/self/comm", "no pid\n")
        .file("proc/10/limits", LIMITS)
        .file("proc/sys/fs/nr_open", "1048576\n")
        .file("proc/sys/fs/file-nr", "377\t0\t2466170\n");
    let census = census(&machine.host(), &HashSet::from([7, 8, 9]), LONG);
    let told: Vec<_> =
        census.processes.iter().map(|p| (p.pid, p.comm.as_str(), p.descriptors, p.sockets, p.whole)).collect();
    let expected = [(10, "nginx", 3, 2, true), (9, "nginx", 1, 1, true), (11, "many files", 5, 0, true)];
    assert_eq!(told, expected);
    assert_eq!(census.owners, HashMap::from([(7, 9), (8, 10)]));
    let limits: Vec<_> = census.processes.iter().map(|p| (p.soft, p.hard)).collect();
    assert_eq!(limits, [(Some(Limit::Of(1024)), Some(Limit::Unlimited)), (None, None), (None, None)]);
    assert_eq!(census.nr_open, Some(1 << 20));
    assert_eq!(census.system, Some(SystemFiles { allocated: 377, limit: 2_466_170 }));
    // The process without a directory of descriptors is one that is gone.
    assert_eq!((census.unreadable, census.missed, census.cut), (0, 0, false));
}

#[test]
fn without_time_descriptors_are_only_counted() {
    let machine = process(Recorded::new(), 10, "nginx", &["socket:[7]", "socket:[8]"]);
    let census = census(&machine.host(), &HashSet::from([7]), Duration::ZERO);
    let told: Vec<_> = census.processes.iter().map(|p| (p.descriptors, p.sockets, p.whole)).collect();
    assert_eq!((told, census.owners.len(), census.cut), (vec![(2, 0, false)], 0, true));
}

#[test]
fn what_is_not_there_is_not_zero() {
    let nothing = census(&Host::at("/nonexistent"), &HashSet::new(), LONG);
    assert_eq!(nothing, Census::default());
    assert_eq!(comm(&Host::at("/nonexistent"), 1), None);
    let machine = Recorded::new().file("proc/1/fd", "no directory");
    let census = census(&machine.host(), &HashSet::new(), LONG);
    assert_eq!((census.processes.len(), census.unreadable), (0, 1));
}

#[test]
fn names_keep_their_white_space() {
    let machine = Recorded::new().file("proc/1/comm", " a\n \n");
    assert_eq!(comm(&machine.host(), 1).as_deref(), Some(" a\n "));
}

#[test]
fn command_lines_are_read() {
    let machine = Recorded::new()
        .file("proc/1/cmdline", "java\0-cp\0a.jar\0org.apache.catalina.startup.Bootstrap\0")
        .file("proc/2/cmdline", "")
        .file("proc/3/cmdline", "x".repeat(1 << 20));
    let host = machine.host();
    assert_eq!(command(&host, 1).as_deref(), Some("java -cp a.jar org.apache.catalina.startup.Bootstrap"));
    assert_eq!((command(&host, 2), command(&host, 4)), (None, None));
    assert_eq!(command(&host, 3).map(|line| line.len() as u64), Some(COMMAND));
}

#[test]
fn links_are_read() {
    assert_eq!(socket(b"socket:[4294967295]"), Some(u32::MAX));
    for wrong in [&b""[..], b"socket:[4294967296]", b"socket:[]", b"socket:[1", b"pipe:[1]", b"socket:[\xff]"] {
        assert_eq!(socket(wrong), None, "{wrong:?}");
    }
}

#[test]
fn numbers_are_read() {
    assert_eq!(limits_of("Max open files  x  7"), (None, Some(Limit::Of(7))));
    assert_eq!(limits_of("Max open files"), (None, None));
    assert_eq!(limits_of(""), (None, None));
    for wrong in ["", "1", "1 0", "1 0 x", "-1 0 1"] {
        assert_eq!(system_files(wrong), None, "{wrong}");
    }
}

#[test]
fn this_machine_tells_who_holds_a_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let files: Vec<_> = (0..100).map(|_| File::open("/dev/null").unwrap()).collect();
    let own = std::process::id();
    let inode = inode(&listener);
    let host = Host::default();
    let census = census(&host, &HashSet::from([inode]), LONG);
    assert_eq!(census.owners, HashMap::from([(inode, own)]));
    let process = census.processes.iter().find(|process| process.pid == own).unwrap();
    assert!(process.whole && process.sockets >= 1 && process.descriptors > files.len() as u64, "{process:?}");
    assert!(matches!(process.soft, Some(Limit::Of(soft)) if soft >= process.descriptors), "{process:?}");
    assert_eq!(process.uid, rustix::process::geteuid().as_raw());
    assert_eq!(Some(&process.comm), comm(&host, own).as_ref());
    assert!(census.nr_open.is_some() && census.system.is_some() && !census.cut);
}

#[test]
fn this_machine_counts_descriptors_without_time() {
    let files: Vec<_> = (0..100).map(|_| File::open("/dev/null").unwrap()).collect();
    let census = census(&Host::default(), &HashSet::new(), Duration::ZERO);
    let own = census.processes.iter().find(|process| process.pid == std::process::id()).unwrap();
    assert!(own.descriptors > files.len() as u64 && own.sockets == 0 && !own.whole && census.cut, "{own:?}");
}

#[test]
fn long_files_are_read() {
    let text = "Max open filez 1 2 files\n".repeat(1_000_000);
    assert_eq!(limits_of(&format!("{text}{LIMITS}")), limits_of(LIMITS));
    let wide = format!("Max open files{}", " 1".repeat(1_000_000));
    assert_eq!(limits_of(&wide), (Some(Limit::Of(1)), Some(Limit::Of(1))));
    assert!(system_files(&"1 ".repeat(1_000_000)).is_some());
}

proptest! {
    /// Total: any bytes are a socket, limits and numbers, or none.
    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = (socket(&bytes), system_files(&text), limits_of(&text), limits_of(&format!("Max open files{text}")));
    }

    #[test]
    fn any_socket_is_read(inode: u32, cut in 0usize..20) {
        let link = format!("socket:[{inode}]").into_bytes();
        prop_assert_eq!(socket(&link), Some(inode));
        if cut < link.len() {
            prop_assert_eq!(socket(&link[..cut]), None);
        }
    }

    #[test]
    fn cut_files_are_read(cut in 0..LIMITS.len()) {
        let (soft, hard) = limits_of(&LIMITS[..cut]);
        prop_assert!(matches!(soft, None | Some(Limit::Of(0..=1024))));
        prop_assert!(matches!(hard, None | Some(Limit::Unlimited)));
    }
}
