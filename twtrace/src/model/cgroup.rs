//! What the path of a cgroup tells of who lives in it.

use serde::{Deserialize, Serialize};

/// Where a cgroup is, and what its container is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Below the root of the cgroup tree, as in /proc/PID/cgroup.
    pub path: String,
    /// The container's name, if a runtime's files have it.
    pub name: Option<String>,
}

/// A container that a cgroup path goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Container<'a> {
    /// `docker`, `podman`, `containerd`, `cri-o`, `pod`, `lxc`, `machine`, or the name of the directory above.
    pub runtime: &'a str,
    /// 64 hexadecimal digits; of lxc and systemd-nspawn, the name.
    pub id: &'a str,
    /// The path as far as the container's own directory: what is below belongs to the container.
    pub top: &'a str,
}

impl Container<'_> {
    /// `docker 0123456789ab`.
    #[must_use]
    pub fn short(&self) -> String {
        let id = if is_id(self.id) { &self.id[..12] } else { self.id };
        format!("{} {id}", self.runtime)
    }
}

/// The containers that a cgroup path goes through, the outermost first.
///
/// Container runtimes name a scope after the container's id (`docker-ID.scope`, `cri-containerd-ID.scope`,
/// `crio-ID.scope`, `libpod-ID.scope`) or, with the cgroupfs driver, a directory (`/docker/ID`, `/kubepods/.../ID`,
/// `/machine/libpod-ID`); containerd with the wrong driver makes `SLICE:cri-containerd:ID`. `libpod-conmon-ID.scope` and
/// `crio-conmon-ID.scope` hold the monitor of a container, not the container.
#[must_use]
pub fn containers(path: &str) -> Vec<Container<'_>> {
    let (mut found, mut above, mut end) = (Vec::new(), None, 0);
    for part in path.split('/') {
        end += part.len();
        if let Some((runtime, id)) = container(part, above) {
            found.push(Container { runtime, id, top: &path[..end] });
        }
        if !part.is_empty() {
            above = Some(part);
        }
        end += 1;
    }
    found
}

/// Ends of the names of systemd units that have a cgroup.
const UNITS: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// The systemd units that a cgroup path goes through, the outermost first: name, and the path as far as the unit's own
/// directory. systemd puts `_` before names that the kernel would take for its own (`cg_escape`, src/basic/cgroup-util.c).
pub fn units(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut end = 0;
    path.split('/').filter_map(move |part| {
        end += part.len() + 1;
        let is_unit = UNITS.iter().any(|suffix| part.len() > suffix.len() && part.ends_with(suffix));
        is_unit.then(|| (part.strip_prefix('_').unwrap_or(part), &path[..end - 1]))
    })
}

/// The container or systemd unit that a cgroup path names; `None` if it names neither.
#[must_use]
pub fn unit(path: &str) -> Option<String> {
    let containers = containers(path);
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    // A process of a container may be in a cgroup of its own below it, and a service in one of its user's manager.
    while let Some(last) = parts.pop() {
        let is_here = |found: &&Container<'_>| is_id(found.id) && found.top.ends_with(last);
        if let Some(container) = containers.iter().rfind(is_here) {
            return Some(container.short());
        }
        if let Some(unit) = [".service", ".scope", ".socket", ".mount", ".swap"].iter().find(|end| last.ends_with(*end))
        {
            let is_manager = last.starts_with("user@") && *unit == ".service";
            return (!is_manager).then(|| last.to_owned());
        }
        if let Some(machine) = last.strip_prefix("lxc.payload.") {
            return Some(format!("lxc {machine}"));
        }
    }
    None
}

/// The innermost container that a cgroup path goes through: `docker 0123456789ab`; `None` if there is none.
#[must_use]
pub fn container_of(path: &str) -> Option<String> {
    containers(path).last().map(Container::short)
}

/// Runtime and id, from the name of a scope or of a directory below the runtime's.
fn container<'a>(part: &'a str, above: Option<&'a str>) -> Option<(&'a str, &'a str)> {
    if let Some(name) = part.strip_prefix("lxc.payload.") {
        return (!name.is_empty()).then_some(("lxc", name));
    }
    let name = part.strip_suffix(".scope").unwrap_or(part);
    if let Some(id) = name.len().checked_sub(ID).and_then(|at| name.get(at..)).filter(|id| is_id(id)) {
        let before = &name[..name.len() - ID];
        if before.is_empty() {
            let above = above.map_or("container", |above| if is_pod(above) { "pod" } else { runtime_name(above) });
            return Some((above, id));
        }
        let runtime = before.strip_suffix(['-', ':'])?.rsplit(':').next()?;
        return (!runtime.ends_with("conmon")).then(|| (runtime_name(runtime), id));
    }
    let machine = part.strip_prefix("machine-").and_then(|name| name.strip_suffix(".scope"));
    let machine = machine.or_else(|| part.strip_prefix("systemd-nspawn@")?.strip_suffix(".service"));
    machine.filter(|name| !name.is_empty()).map(|name| ("machine", name))
}

/// The kubelet's directory of one pod, of either driver: `podUID`, `kubepods-burstable-podUID.slice`.
fn is_pod(above: &str) -> bool {
    above.starts_with("pod") || above.starts_with("kubepods")
}

fn runtime_name(word: &str) -> &str {
    match word {
        "cri-containerd" => "containerd",
        "libpod" | "libpod-payload" | "libpod_parent" => "podman",
        "crio" => "cri-o",
        other => other,
    }
}

/// Length of a container's id, hexadecimal digits.
const ID: usize = 64;

/// True for the whole id of a container.
#[must_use]
pub fn is_id(word: &str) -> bool {
    word.len() == ID && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_name_units_and_containers() {
        let id = "0123456789abcdef".repeat(4);
        for (path, wanted) in [
            ("system.slice/nginx.service".to_owned(), Some("nginx.service")),
            ("/system.slice/system-getty.slice/getty@tty1.service".to_owned(), Some("getty@tty1.service")),
            ("user.slice/user-0.slice/session-3.scope".to_owned(), Some("session-3.scope")),
            ("user.slice/user-1.slice/user@1.service/app.slice/app-foo.service/x".to_owned(), Some("app-foo.service")),
            ("user.slice/user-1.slice/user@1.service/init".to_owned(), None),
            (format!("system.slice/docker-{id}.scope"), Some("docker 0123456789ab")),
            (format!("machine.slice/libpod-{id}.scope/container"), Some("podman 0123456789ab")),
            (format!("kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"), Some("containerd 0123456789ab")),
            (format!("docker/{id}"), Some("docker 0123456789ab")),
            (format!("kubepods/besteffort/pod77/{id}"), Some("pod 0123456789ab")),
            ("lxc.payload.web/init.scope".to_owned(), Some("init.scope")),
            ("lxc.payload.web/x".to_owned(), Some("lxc web")),
            ("a/b".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(unit(&path).as_deref(), wanted, "{path}");
        }
    }

    #[test]
    fn every_runtime_s_containers_are_known_by_their_paths() {
        let id = "0123456789abcdef".repeat(4);
        let pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12_3.slice";
        for (path, runtime, below) in [
            (format!("/docker/{id}"), "docker", ""),
            (format!("/system.slice/docker-{id}.scope"), "docker", "/init.scope/a"),
            (format!("/machine.slice/libpod-{id}.scope"), "podman", "/container"),
            (format!("/libpod_parent/libpod-{id}"), "podman", ""),
            (format!("/user.slice/user-1.slice/user@1.service/user.slice/libpod-{id}.scope"), "podman", ""),
            (format!("{pod}/cri-containerd-{id}.scope"), "containerd", ""),
            (format!("{pod}/crio-{id}.scope"), "cri-o", ""),
            (format!("/kubepods/besteffort/pod12-3/{id}"), "pod", "/x.service"),
            (format!("/kubepods/besteffort/pod12-3/crio-{id}"), "cri-o", ""),
            (format!("/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{id}"), "containerd", ""),
            (format!("/system.slice/nerdctl-{id}.scope"), "nerdctl", ""),
            (format!("/ecs/task/{id}"), "task", ""),
        ] {
            let whole = format!("{path}{below}");
            let found = containers(&whole);
            assert_eq!(found, [Container { runtime, id: &id, top: &path }], "{whole}");
        }
        let machines = ["/lxc.payload.web/init.scope", "/machine.slice/machine-web.scope/payload"];
        for path in machines.into_iter().chain(["/machine.slice/systemd-nspawn@web.service/payload"]) {
            assert_eq!(containers(path).iter().map(|found| found.id).collect::<Vec<_>>(), ["web"], "{path}");
        }
    }

    #[test]
    fn monitors_shims_and_short_ids_are_no_containers() {
        let id = "0123456789abcdef".repeat(4);
        for path in [
            format!("/machine.slice/libpod-conmon-{id}.scope"),
            format!("/kubepods.slice/crio-conmon-{id}.scope"),
            "/system.slice/containerd.service".to_owned(),
            format!("/system.slice/docker-{}.scope", &id[..63]),
            format!("/system.slice/run-x{id}.scope"),
            format!("/a/{id}0"),
            "/user.slice/user-0.slice/session-3.scope".to_owned(),
            "/lxc.payload.".to_owned(),
        ] {
            assert!(containers(&path).is_empty(), "{path}: {:?}", containers(&path));
        }
    }

    #[test]
    fn a_container_in_a_container_is_two() {
        let (outer, inner) = ("a".repeat(64), "b".repeat(64));
        let path = format!("/docker/{outer}/docker/{inner}/x");
        let found: Vec<_> = containers(&path).iter().map(|found| (found.id.to_owned(), found.top.len())).collect();
        assert_eq!(found, [(outer, 72), (inner, 144)]);
        assert_eq!(unit(&path).as_deref(), Some("docker bbbbbbbbbbbb"));
    }

    #[test]
    fn units_are_known_with_their_directories() {
        let path = "/user.slice/user-1.slice/user@1.service/app.slice/_cpu.service/x";
        let found: Vec<_> = units(path).collect();
        assert_eq!(
            found.last(),
            Some(&("cpu.service", "/user.slice/user-1.slice/user@1.service/app.slice/_cpu.service"))
        );
        assert_eq!(found.len(), 5);
        assert_eq!(units("/.service/a.servic/b").count(), 0);
    }

    proptest! {
        #[test]
        fn no_path_panics(path: String) {
            let _ = (unit(&path), units(&path).count());
        }

        #[test]
        fn nearly_right_paths_do_not_panic(path in "(/|docker|-|\\.scope|pod|[0-9a-f]{64}|é){0,12}") {
            let _ = unit(&path);
            for found in containers(&path) {
                prop_assert!(path.starts_with(found.top) && found.top.contains(found.id));
                let _ = found.short();
            }
        }
    }
}
