//! Recorded machines, one for each runtime.

use std::{os::unix::fs::symlink, path::PathBuf};

use super::*;

/// A machine made for one test.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("twtrace-containers-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        Self(root)
    }

    fn host(&self) -> Host {
        Host::at(&self.0)
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn process(&self, pid: u32, cgroup: &str, netns: u32) -> &Self {
        self.file(&format!("proc/{pid}/cgroup"), &format!("{cgroup}\n"));
        fs::create_dir_all(self.0.join(format!("proc/{pid}/ns"))).unwrap();
        symlink(format!("net:[{netns}]"), self.0.join(format!("proc/{pid}/ns/net"))).unwrap();
        self
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

const HOST: u32 = 4_026_531_840;

#[test]
fn docker_s_containers_by_name_and_id() {
    let machine = Machine::new("docker");
    let (web, db) = (id('a'), format!("ab{}", &id('c')[2..]));
    machine
        .process(1, "0::/init.scope", HOST)
        .process(70, &format!("0::/system.slice/docker-{web}.scope"), 7)
        .process(71, &format!("0::/system.slice/docker-{web}.scope/worker"), 7)
        .process(80, &format!("0::/system.slice/docker-{db}.scope"), HOST)
        .file(&format!("var/lib/docker/containers/{web}/config.v2.json"), r#"{"Name":"/web","State":{"Pid":70}}"#)
        .file("etc/docker/daemon.json", r#"{"data-root":"/data/docker"}"#)
        .file(&format!("data/docker/containers/{db}/config.v2.json"), r#"{"Name":"/db"}"#);
    let host = machine.host();
    let found = container(&host, "web").unwrap();
    let wanted = Group {
        label: "docker aaaaaaaaaaaa (web)".to_owned(),
        cgroup: Some(format!("/system.slice/docker-{web}.scope")),
        pids: vec![70, 71],
        netns: vec![7],
        has_own_netns: true,
    };
    assert_eq!(found, wanted);
    for word in [&web, "aaaa", "AAAAAAA"] {
        assert_eq!(container(&host, word).as_ref(), Ok(&wanted), "{word}");
    }
    // It shares the host's.
    let found = container(&host, "db").unwrap();
    assert_eq!((found.netns, found.has_own_netns), (vec![HOST], false));
    let all = ["docker aaaaaaaaaaaa (web)", "docker abcccccccccc (db)"].map(str::to_owned).to_vec();
    for word in ["we", "aaa", "abcd", "/web", "", "nginx"] {
        assert_eq!(container(&host, word), Err(Lost::Missing(all.clone())), "{word}");
    }
}

#[test]
fn an_id_that_two_begin_with_is_told_with_both() {
    let machine = Machine::new("twice");
    let (first, second) = (format!("abcd{}", &id('1')[4..]), format!("abcd{}", &id('2')[4..]));
    machine
        .process(5, &format!("0::/docker/{first}"), 7)
        .process(6, &format!("0::/docker/{second}"), 8)
        .file(&format!("var/lib/docker/containers/{second}/config.v2.json"), r#"{"Name":"/abcd"}"#);
    let host = machine.host();
    assert_eq!(container(&host, "abcd11").map(|found| found.pids), Ok(vec![5]));
    // A whole name goes first.
    assert_eq!(container(&host, "abcd").map(|found| found.pids), Ok(vec![6]));
    fs::remove_dir_all(machine.0.join("var")).unwrap();
    let Err(Lost::Ambiguous(labels)) = container(&host, "abcd") else { panic!("not ambiguous") };
    assert_eq!(labels, ["docker abcd11111111", "docker abcd22222222"]);
}

#[test]
fn podman_s_containers_are_named_by_its_storage() {
    let machine = Machine::new("podman");
    let (web, own) = (id('d'), id('e'));
    let user = "user.slice/user-1000.slice/user@1000.service/user.slice";
    machine
        .process(20, &format!("0::/machine.slice/libpod-{web}.scope/container"), 9)
        .process(19, &format!("0::/machine.slice/libpod-conmon-{web}.scope"), HOST)
        .process(30, &format!("0::/{user}/libpod-{own}.scope/container"), 10)
        .file(
            "var/lib/containers/storage/overlay-containers/containers.json",
            &format!(r#"[{{"id":"{}","names":["other"]}},{{"id":"{web}","names":["web"]}}]"#, id('f')),
        )
        .file(
            "home/ann/.local/share/containers/storage/overlay-containers/volatile-containers.json",
            &format!(r#"[{{"id":"{own}","names":["own"]}}]"#),
        );
    let host = machine.host();
    let found = container(&host, "web").unwrap();
    assert_eq!(found.label, "podman dddddddddddd (web)");
    // The monitor is outside, and its namespace is not the container's.
    assert_eq!((found.pids, found.has_own_netns), (vec![20], true));
    assert_eq!(found.cgroup, Some(format!("/machine.slice/libpod-{web}.scope")));
    assert_eq!(container(&host, "own").map(|found| found.pids), Ok(vec![30]));
    assert!(matches!(container(&host, "other"), Err(Lost::Missing(_))));
}

#[test]
fn kubernetes_containers_by_pod_and_name() {
    let machine = Machine::new("kubernetes");
    let (pause, app, side, crio, bare) = (id('1'), id('2'), id('3'), id('4'), id('5'));
    let slice = "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podx.slice";
    let annotations = |kind: &str, name: &str| {
        format!(
            r#"{{"annotations":{{"io.kubernetes.cri.container-type":"{kind}","io.kubernetes.cri.container-name":"{name}",
            "io.kubernetes.cri.sandbox-name":"shop-0","io.kubernetes.cri.sandbox-namespace":"prod"}}}}"#
        )
    };
    let task = "run/containerd/io.containerd.runtime.v2.task/k8s.io";
    machine
        .process(40, &format!("{slice}/cri-containerd-{pause}.scope"), 11)
        .process(41, &format!("{slice}/cri-containerd-{app}.scope"), 11)
        .process(42, &format!("{slice}/cri-containerd-{side}.scope"), 11)
        .file(&format!("{task}/{pause}/config.json"), &annotations("sandbox", ""))
        .file(&format!("{task}/{app}/config.json"), &annotations("container", "app"))
        .file(&format!("{task}/{side}/config.json"), &annotations("container", "proxy"))
        .process(50, &format!("{slice}/crio-{crio}.scope"), 12)
        .file(
            &format!("run/containers/storage/overlay-containers/{crio}/userdata/config.json"),
            r#"{"annotations":{"io.kubernetes.container.name":"db","io.kubernetes.pod.name":"db-0",
            "io.kubernetes.pod.namespace":"prod","io.kubernetes.cri-o.ContainerType":"container"}}"#,
        )
        .process(60, &format!("0::/kubepods/besteffort/pod7/{bare}"), 13)
        .file(&format!("var/log/containers/job-1_batch_run-{bare}.log"), "");
    let host = machine.host();
    for word in ["app", "shop-0/app", "prod/shop-0/app", "2222"] {
        let found = container(&host, word).unwrap();
        assert_eq!(found.label, "containerd 222222222222 (shop-0/app)", "{word}");
        // The pod's other containers are in the same namespace: it is not the container's alone.
        assert_eq!((found.netns, found.has_own_netns), (vec![11], false), "{word}");
    }
    let Err(Lost::Ambiguous(labels)) = container(&host, "shop-0") else { panic!("a pod of two") };
    assert_eq!(labels, ["containerd 222222222222 (shop-0/app)", "containerd 333333333333 (shop-0/proxy)"]);
    assert_eq!(container(&host, "db-0").map(|found| found.label), Ok("cri-o 444444444444 (db-0/db)".to_owned()));
    assert_eq!(
        container(&host, "batch/job-1/run").map(|found| found.label),
        Ok("pod 555555555555 (job-1/run)".to_owned())
    );
}

#[test]
fn a_container_in_a_tree_of_version_1_has_a_namespace_and_no_cgroup() {
    let machine = Machine::new("v1");
    let web = id('a');
    machine.process(9, &format!("5:cpu,cpuacct:/docker/{web}\n3:memory:/docker/{web}\n0::/"), 7);
    let found = container(&machine.host(), "aaaaaaaaaaaa").unwrap();
    assert_eq!((found.cgroup, found.pids, found.netns, found.has_own_netns), (None, vec![9], vec![7], true));
}

#[test]
fn units_by_name_and_by_the_end_of_their_paths() {
    let machine = Machine::new("units");
    machine
        .process(1, "0::/init.scope", HOST)
        .process(10, "0::/system.slice/nginx.service", HOST)
        .process(11, "0::/system.slice/nginx.service/workers", HOST)
        .process(12, "0::/system.slice/system-getty.slice/getty@tty1.service", HOST)
        .process(13, "0::/user.slice/user-1.slice/user@1.service/app.slice/sync.service", HOST)
        .process(14, "0::/user.slice/user-2.slice/user@2.service/app.slice/sync.service", 20);
    let host = machine.host();
    for word in ["nginx.service", "nginx", "system.slice/nginx.service", "/system.slice/nginx.service/"] {
        let found = unit(&host, word).unwrap();
        assert_eq!(found.cgroup.as_deref(), Some("/system.slice/nginx.service"), "{word}");
        assert_eq!((found.pids, found.has_own_netns), (vec![10, 11], false), "{word}");
    }
    assert_eq!(unit(&host, "system.slice").map(|found| found.pids), Ok(vec![10, 11, 12]));
    let Err(Lost::Ambiguous(labels)) = unit(&host, "sync") else { panic!("two of this name") };
    assert_eq!(labels.len(), 2);
    let found = unit(&host, "user@2.service/app.slice/sync.service").unwrap();
    assert_eq!((found.pids, found.has_own_netns), (vec![14], true));
    // What only ends with the word is another, and so is the path's middle.
    for word in ["x.service", "inx.service", "slice/nginx", "apache2", ""] {
        let Err(Lost::Missing(all)) = unit(&host, word) else { panic!("{word}") };
        assert!(all.contains(&"nginx.service".to_owned()) && !all.contains(&"system.slice".to_owned()), "{all:?}");
    }
}

#[test]
fn without_proc_there_is_nothing() {
    let host = Host::at("/nonexistent");
    assert_eq!(container(&host, "web"), Err(Lost::Missing(Vec::new())));
    assert_eq!(unit(&host, "web"), Err(Lost::Missing(Vec::new())));
    assert!(names(&host, &id('a')).is_empty() && names(&host, "../../etc/passwd").is_empty());
}
