//! What the path of a cgroup tells of who lives in it.

/// The container or systemd unit that a cgroup path names; `None` if it names neither.
///
/// Container runtimes name a scope after the container's id (`docker-ID.scope`, `cri-containerd-ID.scope`,
/// `crio-ID.scope`, `libpod-ID.scope`) or, with the cgroupfs driver, a directory (`/docker/ID`, `/kubepods/.../ID`).
#[must_use]
pub fn unit(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    // A process of a container may be in a cgroup of its own below it, and a service in one of its user's manager.
    while let Some(last) = parts.pop() {
        if let Some(container) = container(last, parts.last().copied()) {
            return Some(container);
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

/// The container that a cgroup path names, as [`unit`] does; `None` if it names none.
#[must_use]
pub fn container_of(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    while let Some(last) = parts.pop() {
        let payload = last.strip_prefix("lxc.payload.").map(|machine| format!("lxc {machine}"));
        if let Some(container) = container(last, parts.last().copied()).or(payload) {
            return Some(container);
        }
    }
    None
}

/// `docker 1a2b3c4d5e6f`, from the name of a scope or of a directory below the runtime's.
fn container(name: &str, above: Option<&str>) -> Option<String> {
    let short = |id: &str| is_id(id).then(|| id.chars().take(12).collect::<String>());
    if let Some(scope) = name.strip_suffix(".scope") {
        let (runtime, id) = scope.rsplit_once('-')?;
        return Some(format!("{} {}", runtime_name(runtime), short(id)?));
    }
    let id = short(name)?;
    let runtime = above.map_or("container", |above| if above.starts_with("pod") { "pod" } else { runtime_name(above) });
    Some(format!("{runtime} {id}"))
}

fn runtime_name(word: &str) -> &str {
    match word {
        "cri-containerd" => "containerd",
        "libpod" => "podman",
        "crio" => "cri-o",
        other => other,
    }
}

/// Ids of containers are 64 hexadecimal digits.
fn is_id(word: &str) -> bool {
    word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
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

    proptest! {
        #[test]
        fn no_path_panics(path: String) {
            let _ = unit(&path);
        }

        #[test]
        fn nearly_right_paths_do_not_panic(path in "(/|docker|-|\\.scope|pod|[0-9a-f]{64}|é){0,12}") {
            let _ = unit(&path);
        }
    }
}
