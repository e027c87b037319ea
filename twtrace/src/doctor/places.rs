//! How a command acts in a network namespace, typed where the report is read. Pure: `gather` finds out what there is.

use std::fmt;

use crate::host::sysctl_scope::{Scope, safe_in_pods, scope};

/// How somebody who reads the report gets into a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Is there already.
    #[default]
    Here,
    /// By its name below /run/netns.
    Named(String),
    /// By a process in it.
    Process(u32),
    /// Only what is held open by a descriptor: a command cannot say.
    Unknown,
}

/// What runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// containerd by itself (nerdctl).
    Containerd,
    /// A pod of Kubernetes, whatever runs it.
    Kubernetes,
}

impl Runtime {
    /// The word of reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// A container, as far as the cgroup path of a process in it tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// What runs it.
    pub runtime: Runtime,
    /// The first 12 digits of its id, as `docker ps` and `crictl ps` show it.
    pub id: String,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.runtime.word(), self.id)
    }
}

/// Where a network namespace is, for who reads the report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// How to get there.
    pub reach: Reach,
    /// Name below /run/netns.
    pub name: Option<String>,
    /// A process in it that is not twtrace: its id and its name.
    pub process: Option<(u32, String)>,
    /// The container that it belongs to.
    pub container: Option<Container>,
    /// True of the initial namespace, the only one that shows `net.ipv4.tcp_max_orphans`; `None`: not looked.
    pub initial: Option<bool>,
    /// The reader is not in the initial namespace: what is the machine's has to be set elsewhere.
    pub host_is_elsewhere: bool,
}

impl Place {
    /// What comes before a command so that it acts there, with a blank behind it if there is something. `None`: there is no
    /// such prefix.
    #[must_use]
    pub fn prefix(&self) -> Option<String> {
        match &self.reach {
            Reach::Here => Some(String::new()),
            Reach::Named(name) => Some(format!("ip netns exec {} ", quoted(name))),
            Reach::Process(pid) => Some(format!("nsenter --net=/proc/{pid}/ns/net ")),
            Reach::Unknown => None,
        }
    }

    /// A command that acts in this namespace, of this inode number, typed where the report is read.
    #[must_use]
    pub fn command(&self, inum: u32, command: &str) -> String {
        match self.prefix() {
            Some(prefix) if prefix.is_empty() => command.to_owned(),
            // The prefix holds for the first command only.
            Some(prefix) if command.contains([';', '&', '>', '<', '$', '`']) => {
                format!("{prefix}sh -c {}", quoted(command))
            }
            Some(prefix) => prefix + command,
            None => format!("in network namespace {inum}: {command}"),
        }
    }

    /// The command that sets a sysctl: in this namespace if each has its own, else where the machine's is set.
    #[must_use]
    pub fn setting(&self, inum: u32, key: &str, value: &str) -> String {
        let value =
            if value.contains([' ', '\t']) && !value.contains('"') { format!("\"{value}\"") } else { value.to_owned() };
        let command = format!("{SET}{key}={value}");
        match scope(key) {
            Some(Scope::Machine) if self.host_is_elsewhere => {
                format!("on the host, in its initial network namespace: {command}")
            }
            Some(Scope::Machine) => command,
            Some(Scope::Namespace) | None => self.command(inum, &command),
        }
    }

    /// Where it is, in a few words, of what is known: `blue, docker 0123456789ab`; empty if nothing is.
    #[must_use]
    pub fn words(&self) -> String {
        let mut words: Vec<String> = self.name.iter().cloned().collect();
        words.extend(self.container.as_ref().map(Container::to_string));
        if words.is_empty()
            && self.reach != Reach::Here
            && let Some((pid, comm)) = &self.process
        {
            words.push(format!("process {pid} {comm}"));
        }
        words.join(", ")
    }

    /// The step behind steps that set something in a container: where its own configuration has it.
    #[must_use]
    pub fn lasting(&self, steps: &[String]) -> Option<String> {
        let container = self.container.as_ref()?;
        let mut settings: Vec<(&str, &str)> = Vec::new();
        for (key, value) in steps.iter().flat_map(|step| set_by(step)) {
            if scope(key) != Some(Scope::Machine) && !settings.iter().any(|(known, _)| *known == key) {
                settings.push((key, value));
            }
        }
        if settings.is_empty() {
            return None;
        }
        let id = &container.id;
        let options =
            || settings.iter().map(|(key, value)| format!("--sysctl {key}={value}")).collect::<Vec<_>>().join(" ");
        let lost = "a value set from outside is lost when the container restarts";
        Some(match container.runtime {
            Runtime::Docker => format!("docker run {} ... for container {id} (Compose: sysctls:); {lost}", options()),
            Runtime::Podman => format!("podman run {} ... for container {id} (Quadlet: Sysctl=); {lost}", options()),
            Runtime::Containerd => format!("nerdctl run {} ... for container {id}; {lost}", options()),
            Runtime::Kubernetes => pod(&settings),
        })
    }
}

/// What stands in a pod.
fn pod(settings: &[(&str, &str)]) -> String {
    let mut lines = Vec::new();
    let mut notes = Vec::new();
    for (key, value) in settings {
        lines.push(format!("{{name: {key}, value: \"{}\"}}", value.trim_matches('"')));
        notes.push(match safe_in_pods(key) {
            Some("") => format!("{key} is a safe sysctl"),
            Some(since) => format!("{key} is a safe sysctl since Kubernetes {since}"),
            None => format!(
                "{key} is an unsafe sysctl: the kubelet of the node needs --allowed-unsafe-sysctls={key}, else the pod is rejected"
            ),
        });
    }
    format!(
        "securityContext.sysctls of the pod: [{}]; {}; a value set from outside is lost when the pod restarts",
        lines.join(", "),
        notes.join("; ")
    )
}

/// What sets a sysctl.
const SET: &str = "sysctl -w ";

/// The sysctls that a step sets, with their values: [`Place::setting`] wrote them.
fn set_by(step: &str) -> impl Iterator<Item = (&str, &str)> {
    step.split(SET).skip(1).filter_map(|rest| {
        let (key, rest) = rest.split_once('=')?;
        let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
        let value = match rest.strip_prefix('"') {
            Some(quoted) => &rest[..quoted.find('"')? + 2],
            None => rest.split(char::is_whitespace).next()?.trim_end_matches([',', ';', ':', '.', ')']),
        };
        (is_key && !value.is_empty()).then_some((key, value))
    })
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "._-+:@/".contains(c));
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// The container of a process, of the text of /proc/PID/cgroup; `None` if it is in none, or of a runtime that is not known.
#[must_use]
pub fn container(cgroup: &str) -> Option<Container> {
    cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find_map(of_path)
}

/// The container of one cgroup path. The innermost container counts.
fn of_path(path: &str) -> Option<Container> {
    let parts: Vec<&str> = path.split('/').collect();
    let in_pod = parts.iter().any(|part| part.starts_with("kubepods"));
    let found = |(place, part): (usize, &&str)| {
        let before = place.checked_sub(1).map_or("", |before| parts[before]);
        let name = part.strip_suffix(".scope").unwrap_or(part);
        let (prefix, id) = name.rsplit_once(['-', ':']).unwrap_or(("", name));
        let is_id = id.len() >= 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let runtime = match prefix.rsplit(':').next().unwrap_or(prefix) {
            _ if !is_id => return None,
            // What watches a container, outside of it.
            "libpod-conmon" | "crio-conmon" => return None,
            _ if in_pod => Runtime::Kubernetes,
            "docker" => Runtime::Docker,
            "libpod" | "libpod-payload" => Runtime::Podman,
            "nerdctl" | "cri-containerd" => Runtime::Containerd,
            "crio" => Runtime::Kubernetes,
            "" if before == "docker" => Runtime::Docker,
            "" if before == "default" => Runtime::Containerd,
            _ => return None,
        };
        Some(Container { runtime, id: id.chars().take(12).collect() })
    };
    parts.iter().enumerate().rev().find_map(found)
}

#[cfg(test)]
mod tests;
