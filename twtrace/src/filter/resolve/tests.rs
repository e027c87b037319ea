use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::{filter::few::Few, host::Host};

/// A machine with both versions of cgroups.
fn fake(path: &Path) -> io::Result<Place> {
    match path.to_str() {
        Some("/r/sys/fs/cgroup/unified/a.slice" | "/r/sys/fs/cgroup/unified") => Ok(Place::Cgroup(77)),
        Some("/r/proc/self/ns/net") => Ok(Place::Netns(4_026_531_840)),
        Some("/r/run/netns/blue") => Ok(Place::Netns(4_026_532_000)),
        Some("/r/sys/fs/cgroup/a.slice") => Ok(Place::Other),
        _ => Err(ErrorKind::NotFound.into()),
    }
}

fn fakes() -> Resolver {
    Resolver::new("/r", fake)
}

#[test]
fn names_lead_to_numbers() {
    let cgroup = |path: &str| fakes().cgroup(path.as_ref()).map_err(|wrong| wrong.to_string());
    assert_eq!(cgroup("a.slice"), Ok(77));
    assert_eq!(cgroup("/sys/fs/cgroup/unified"), Ok(77));
    let netns = |spec| fakes().netns(&spec).map(|found| found.0).map_err(|wrong| wrong.to_string());
    assert_eq!(netns(NetnsSpec::Own), Ok(4_026_531_840));
    assert_eq!(netns(NetnsSpec::Inum(7)), Ok(7));
    assert_eq!(netns(NetnsSpec::Path("/run/netns/blue".into())), Ok(4_026_532_000));
}

#[test]
fn a_filter_is_resolved_whole_or_not_at_all() {
    let good = FilterSpec {
        cgroup: Few::new(["a.slice".into()]).unwrap_or_default(),
        netns: Few::new([NetnsSpec::Own, NetnsSpec::Inum(7)]).unwrap_or_default(),
        ..FilterSpec::default()
    };
    let resolved = fakes().resolve(&good).map(|found| (found.cgroups.to_vec(), found.netns.to_vec()));
    assert_eq!(resolved, Ok((vec![77], vec![4_026_531_840, 7])));
    let bad = FilterSpec { cgroup: Few::new(["gone".into()]).unwrap_or_default(), ..good };
    assert!(fakes().resolve(&bad).is_err());
}

/// A machine for one test, and eyes for it: a directory below `sys/fs/cgroup` is a cgroup, a link `net:[N]` namespace N.
fn machine(name: &str, processes: &[(u32, &str, u32)]) -> (PathBuf, Resolver) {
    let root = std::env::temp_dir().join(format!("twtrace-resolve-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    for (pid, path, netns) in processes {
        let of = root.join(format!("proc/{pid}"));
        fs::create_dir_all(of.join("ns")).unwrap();
        fs::write(of.join("cgroup"), format!("0::{path}\n")).unwrap();
        fs::write(of.join("status"), format!("Name:\tp{pid}\nTgid:\t{}\nPid:\t{pid}\n", pid & !1)).unwrap();
        fs::write(of.join("cmdline"), if *pid == 2000 { "" } else { "x" }).unwrap();
        std::os::unix::fs::symlink(format!("net:[{netns}]"), of.join("ns/net")).unwrap();
        fs::create_dir_all(root.join(format!("sys/fs/cgroup{path}"))).unwrap();
    }
    let look = |path: &Path| {
        if let Ok(link) = fs::read_link(path) {
            let inum = link.to_str().and_then(|link| link.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok());
            return Ok(inum.map_or(Place::Other, Place::Netns));
        }
        Ok(Place::Cgroup(fs::metadata(path)?.ino()))
    };
    (root.clone(), Resolver::new(root, look))
}

fn asked(words: &str) -> FilterSpec {
    match crate::cli::parse(["twtrace", "run"].into_iter().chain(words.split_whitespace())).map(|cli| cli.command) {
        Ok(crate::cli::Command::Run(run)) => run.filter,
        other => unreachable!("{words}: {other:?}"),
    }
}

#[test]
fn a_container_is_its_namespace_if_that_holds_nothing_else_and_its_cgroup_if_not() {
    let [own, shared, twin] = ['a', 'b', 'c'].map(|digit| format!("/docker/{}", digit.to_string().repeat(64)));
    let processes =
        [(2, "/init.scope", 1), (10, &*own, 7), (20, &*shared, 1), (30, &*twin, 8), (32, "/a.slice/b.service", 8)];
    let (root, resolver) = machine("containers", &processes);
    let found = |words: &str| {
        let found = resolver.resolve(&asked(words)).unwrap();
        let trees = found.trees.iter().map(|tree| tree.path.strip_prefix(&root).unwrap().to_owned());
        (found.netns.to_vec(), trees.collect::<Vec<_>>(), found.notes.len())
    };
    let tree = |path: &str| PathBuf::from(format!("sys/fs/cgroup{path}"));
    assert_eq!(found("--container aaaa"), (vec![7], vec![], 1));
    assert_eq!(found("--container bbbb"), (vec![], vec![tree(&shared)], 1));
    assert_eq!(found("--unit b"), (vec![], vec![tree("/a.slice/b.service")], 1));
    // One kind of filter for all that are alternatives.
    assert_eq!(found("--container aaaa,cccc"), (vec![], vec![tree(&own), tree(&twin)], 2));
    assert_eq!(found("--container aaaa --netns 9"), (vec![9], vec![tree(&own)], 1));
    assert_eq!(found("--container aaaa --cgroup-tree a.slice"), (vec![], vec![tree("/a.slice"), tree(&own)], 1));
    // A tree knows what is below it.
    let below = resolver.resolve(&asked("--cgroup-tree a.slice")).unwrap();
    assert_eq!(below.trees[0].ids.len(), 2);
    // The doctor's: the namespace in either case, and whose it is.
    let netns = |spec| resolver.netns(&spec).map_err(|wrong| wrong.to_string());
    let (inum, said) = netns(NetnsSpec::Container("bbbb".to_owned())).unwrap();
    assert!(inum == 1 && said.is_some_and(|said| said.contains("shares") && said.contains("--netns /proc/20/ns/net")));
    assert_eq!(netns(NetnsSpec::Unit("b.service".to_owned())).map(|found| found.0), Ok(8));
    assert_eq!(netns(NetnsSpec::Pid(10)).map(|found| found.0), Ok(7));
    for spec in [NetnsSpec::Container("web".to_owned()), NetnsSpec::Unit("web".to_owned()), NetnsSpec::Pid(11)] {
        let said = netns(spec).unwrap_err();
        assert!(
            said.contains("docker aaaaaaaaaaaa") || said.contains("b.service") || said.contains("no process 11"),
            "{said}"
        );
    }
    fs::remove_dir_all(&root).unwrap();
}

#[test]
fn a_process_that_is_not_there_is_no_filter() {
    let (root, resolver) = machine("processes", &[(80, "/", 1), (2000, "/", 1), (70_000, "/", 1), (8081, "/", 1)]);
    let said = |words: &str| match resolver.processes(&asked(words)) {
        Ok(notes) => notes.join("\n"),
        Err(wrong) => wrong.to_string(),
    };
    assert!(said("--pid 81").contains("no process 81 is there; for the port write -P 81 (--port 81)"));
    assert!(said("--pid 70001").contains("no process 70001 is there"));
    assert!(!said("--pid 70001").contains("--port"), "no port has this number");
    assert!(said("--pid 8081").contains("a thread of process 8080; write --pid 8080"));
    // It may have been meant as a port: the note has both.
    assert!(said("--pid 80").contains("process p80; for the port write -P 80"));
    assert!(said("--pid 2000").contains("-P 2000"), "a kernel thread");
    assert_eq!((said("--pid 70000"), said("--port 80")), (String::new(), String::new()));
    fs::remove_dir_all(&root).unwrap();
}

#[test]
fn this_machine_has_namespaces_of_more_than_one_type() {
    assert!(matches!(look("/proc/self/ns/net".as_ref()), Ok(Place::Netns(1..))));
    assert!(matches!(look("/proc/self/ns/mnt".as_ref()), Ok(Place::OtherNs)));
    assert!(matches!(look("/proc/self/status".as_ref()), Ok(Place::Other)));
    assert!(look("/gone".as_ref()).is_err());
}

#[test]
fn this_machine_has_a_cgroup_tree() {
    match cgroup::root(&Host::default()) {
        Some(root) => assert!(matches!(look(&root), Ok(Place::Cgroup(1..)))),
        None => println!("skipped: no cgroup v2 tree here"),
    }
}
