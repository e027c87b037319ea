//! What a container is called, by its id: from the files that the runtimes keep.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{host::Host, model::cgroup::is_id};

/// The largest file that is read, bytes: an OCI bundle's config.json has some 20 KB.
const LARGEST: u64 = 16 << 20;
/// The most directories that are looked into, of users and of containerd's namespaces.
const MOST: usize = 256;

/// A container's names, the one to be shown first; empty if no runtime's file has it. `id`: 64 hexadecimal digits.
#[must_use]
pub fn names(host: &Host, id: &str) -> Vec<String> {
    if !is_id(id) {
        // That of lxc and systemd-nspawn is the name.
        return Vec::new();
    }
    let sources = [docker, bundles, storage, kubelet];
    sources.into_iter().map(|source| source(host, id)).find(|names| !names.is_empty()).unwrap_or_default()
}

/// Docker: `CONTAINERS/ID/config.v2.json`, `Name` with a slash before it (daemon/container, `ToDisk`).
fn docker(host: &Host, id: &str) -> Vec<String> {
    let configured = json(&host.path("etc/docker/daemon.json"))
        .and_then(|config| Some(config["data-root"].as_str().or_else(|| config["graph"].as_str())?.to_owned()));
    let fixed = ["var/lib/docker", "var/snap/docker/common/var-lib-docker"].map(str::to_owned);
    let roots = configured.into_iter().map(|path| path.trim_start_matches('/').to_owned()).chain(fixed);
    let roots = roots.map(|path| host.path(&path)).chain(homes(host).map(|home| home.join(".local/share/docker")));
    for root in roots {
        if let Some(config) = json(&root.join("containers").join(id).join("config.v2.json"))
            && let Some(name) = config["Name"].as_str()
        {
            return vec![name.trim_start_matches('/').to_owned()];
        }
    }
    Vec::new()
}

/// The OCI bundle of a running container, with the annotations that its runtime has written: containerd's
/// `STATE/io.containerd.runtime.v2.task/NAMESPACE/ID`, CRI-O's `RUNROOT/overlay-containers/ID/userdata`.
fn bundles(host: &Host, id: &str) -> Vec<String> {
    let states =
        ["run/containerd", "run/k3s/containerd", "run/k0s/containerd", "var/snap/microk8s/common/run/containerd"];
    let tasks = states.iter().flat_map(|state| entries(&host.path(&format!("{state}/io.containerd.runtime.v2.task"))));
    let crio = entries(&host.path("run/containers/storage")).map(|driver| driver.join(id).join("userdata"));
    for bundle in tasks.map(|namespace| namespace.join(id)).chain(crio) {
        if let Some(config) = json(&bundle.join("config.json")) {
            let names = annotated(&config["annotations"]);
            if !names.is_empty() {
                return names;
            }
        }
    }
    Vec::new()
}

/// The names in the annotations of containerd's CRI plug-in (internal/cri/annotations), of CRI-O (pkg/annotations) and of
/// nerdctl (pkg/labels).
fn annotated(of: &Value) -> Vec<String> {
    let text = |key: &str| of[key].as_str().filter(|text| !text.is_empty());
    for (namespace, pod, container, kind) in [
        (
            "io.kubernetes.cri.sandbox-namespace",
            "io.kubernetes.cri.sandbox-name",
            "io.kubernetes.cri.container-name",
            "io.kubernetes.cri.container-type",
        ),
        (
            "io.kubernetes.pod.namespace",
            "io.kubernetes.pod.name",
            "io.kubernetes.container.name",
            "io.kubernetes.cri-o.ContainerType",
        ),
    ] {
        if let (Some(namespace), Some(pod)) = (text(namespace), text(pod)) {
            // What holds a pod's namespaces is nobody's container.
            let container = text(container).filter(|_| text(kind) != Some("sandbox"));
            return pod_names(namespace, pod, container);
        }
    }
    text("nerdctl/name").map(str::to_owned).into_iter().collect()
}

/// All that a container of a pod is called; `None`: what holds the pod's namespaces.
fn pod_names(namespace: &str, pod: &str, container: Option<&str>) -> Vec<String> {
    match container {
        Some(container) => vec![
            format!("{pod}/{container}"),
            format!("{namespace}/{pod}/{container}"),
            container.to_owned(),
            pod.to_owned(),
        ],
        None => vec![format!("{pod}/sandbox"), format!("{namespace}/{pod}/sandbox")],
    }
}

/// Podman, Buildah, CRI-O: `GRAPHROOT/DRIVER-containers/containers.json` and `volatile-containers.json` of containers/storage,
/// `names` by `id` (containers.go, `loadMounts`).
fn storage(host: &Host, id: &str) -> Vec<String> {
    let configured = host.read("etc/containers/storage.conf").ok().and_then(|text| graphroot(&text));
    let roots = configured.into_iter().chain(["var/lib/containers/storage".to_owned()]).map(|path| host.path(&path));
    let roots = roots.chain(homes(host).map(|home| home.join(".local/share/containers/storage")));
    let drivers = roots.flat_map(|root| entries(&root)).filter(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with("-containers"))
    });
    for driver in drivers {
        for file in ["containers.json", "volatile-containers.json"] {
            let Some(Value::Array(all)) = json(&driver.join(file)) else { continue };
            if let Some(found) = all.iter().find(|found| found["id"].as_str() == Some(id)) {
                let names = found["names"].as_array().into_iter().flatten();
                return names.filter_map(|name| name.as_str().map(str::to_owned)).collect();
            }
        }
    }
    Vec::new()
}

/// `graphroot = "/data/containers"` of storage.conf, without its first slash.
fn graphroot(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix("graphroot")?.trim_start().strip_prefix('='))?;
    let path = value.trim().trim_matches('"').trim_start_matches('/');
    (!path.is_empty()).then(|| path.to_owned())
}

/// The kubelet: `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`, whatever the runtime
/// (pkg/kubelet/kuberuntime/legacy.go, `logSymlink`). Names of pods and namespaces have no underscore.
fn kubelet(host: &Host, id: &str) -> Vec<String> {
    let end = format!("-{id}.log");
    let logs = fs::read_dir(host.path("var/log/containers")).into_iter().flatten();
    for entry in logs.flatten() {
        let name = entry.file_name();
        if let Some(words) = name.to_str().and_then(|name| name.strip_suffix(&end))
            && let [pod, namespace, container] = words.split('_').collect::<Vec<_>>()[..]
        {
            return pod_names(namespace, pod, Some(container));
        }
    }
    Vec::new()
}

/// Where users keep what is theirs.
fn homes(host: &Host) -> impl Iterator<Item = PathBuf> {
    std::iter::once(host.path("root")).chain(entries(&host.path("home")))
}

/// Directories, in the order of their names.
fn entries(of: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let mut found: Vec<PathBuf> = fs::read_dir(of).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort_unstable();
    found.into_iter().take(MOST)
}

fn json(path: &Path) -> Option<Value> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(LARGEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn storage_s_place_is_read_from_its_configuration() {
        let text = "[storage]\ndriver = \"overlay\"\n# graphroot = \"/no\"\ngraphroot = \"/data/c\"\n";
        assert_eq!(graphroot(text).as_deref(), Some("data/c"));
        assert_eq!(graphroot("[storage]\ngraphroot=\"\""), None);
        assert_eq!(graphroot(""), None);
    }

    proptest! {
        #[test]
        fn no_annotation_panics(keys in prop::collection::vec("io.kubernetes.(cri|pod|container).[a-z-]{0,16}", 0..6), value: String) {
            let of: serde_json::Map<String, Value> = keys.into_iter().map(|key| (key, value.clone().into())).collect();
            let _ = annotated(&of.into());
            let _ = (annotated(&Value::Null), graphroot(&value));
        }
    }
}
