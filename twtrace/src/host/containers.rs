//! Which containers and systemd units run here, and what they are called, without the socket of any daemon: /proc names the
//! cgroup of each process, the cgroup's path names the container's id, and the runtimes' own files name the id.

mod names;

pub use names::names;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

use super::Host;
use crate::model::cgroup;

/// The most processes that are looked at.
const MOST: usize = 1 << 17;
/// The fewest digits by which a container's id can be given.
const SHORTEST: usize = 4;

/// A container or a unit with a process in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// For the eye: `docker 0123456789ab (web)`, `system.slice/nginx.service`.
    pub label: String,
    /// Below the root of the cgroup v2 tree, as in /proc/PID/cgroup; what is below it belongs to it. `None`: it is in a tree
    /// of version 1 alone, or outside of what twtrace's own cgroup namespace shows.
    pub cgroup: Option<String>,
    /// The container's processes, the oldest first as far as their ids tell.
    pub pids: Vec<u32>,
    /// Network namespaces of its processes, that of the first process first; those that may not be read are missing.
    pub netns: Vec<u32>,
    /// The container's processes have one network namespace, and no other process is in it.
    pub has_own_netns: bool,
}

/// Why a word leads to no single group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Several would do: their labels.
    Ambiguous(Vec<String>),
    /// None would: the labels of all that there are.
    Missing(Vec<String>),
}

/// The container of this name, `POD/CONTAINER`, `NAMESPACE/POD/CONTAINER`, pod with one container, id, or beginning of an id
/// of at least 4 digits. A whole name goes before the beginning of an id.
///
/// # Errors
/// If there is no such container with a process in it, or more than one.
pub fn container(host: &Host, word: &str) -> Result<Group, Lost> {
    let groups = found(&processes(host), |path| {
        let found = cgroup::containers(path);
        found.iter().map(|found| (found.id.to_owned(), found.short(), found.top.to_owned())).collect()
    });
    let named: Vec<(Key, Group, Vec<String>)> = groups
        .into_iter()
        .map(|(key, mut group)| {
            let names = names(host, &key.0);
            if let Some(name) = names.first() {
                group.label = format!("{} ({name})", group.label);
            }
            (key, group, names)
        })
        .collect();
    let is_short = word.len() >= SHORTEST && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let prefix = word.to_ascii_lowercase();
    let by_name = |(key, _, names): &&(Key, Group, Vec<String>)| key.0 == word || names.iter().any(|name| name == word);
    let by_id =
        |(key, ..): &&(Key, Group, Vec<String>)| is_short && cgroup::is_id(&key.0) && key.0.starts_with(&prefix);
    let mut hits: Vec<&Group> = named.iter().filter(by_name).map(|(_, group, _)| group).collect();
    if hits.is_empty() {
        hits = named.iter().filter(by_id).map(|(_, group, _)| group).collect();
    }
    one(&hits, || named.iter().map(|(_, group, _)| group.label.clone()).collect())
}

/// The systemd unit of this name: `nginx.service`, `nginx`, or enough of the end of its cgroup's path to tell it from others
/// of the same name (`user@1000.service/app.slice/sync.service`).
///
/// # Errors
/// If there is no such unit with a process in it, or more than one.
pub fn unit(host: &Host, word: &str) -> Result<Group, Lost> {
    let word = word.trim_matches('/');
    let groups = found(&processes(host), |path| {
        cgroup::units(path)
            .map(|(name, top)| (name.to_owned(), top.trim_start_matches('/').to_owned(), top.to_owned()))
            .collect()
    });
    let is_it = |name: &str, top: &str, word: &str| {
        if word.contains('/') { top == word || top.ends_with(&format!("/{word}")) } else { name == word }
    };
    let hits = |word: &str| -> Vec<&Group> {
        groups.iter().filter(|((name, _), group)| is_it(name, &group.label, word)).map(|(_, group)| group).collect()
    };
    let mut found = hits(word);
    if found.is_empty() {
        found = hits(&format!("{word}.service"));
    }
    // Slices and scopes hold those that somebody is likely to mean, and there are many.
    let services = || groups.keys().map(|(name, _)| name.clone()).filter(|name| name.ends_with(".service")).collect();
    one(&found, services)
}

fn one(hits: &[&Group], all: impl FnOnce() -> BTreeSet<String>) -> Result<Group, Lost> {
    match hits {
        [group] => Ok((*group).clone()),
        [] => Err(Lost::Missing(all().into_iter().collect())),
        many => {
            let labels: BTreeSet<String> = many.iter().map(|group| group.label.clone()).collect();
            Err(Lost::Ambiguous(labels.into_iter().collect()))
        }
    }
}

/// A process, and where it is.
#[derive(Debug)]
struct Process {
    pid: u32,
    /// In the cgroup v2 tree.
    path: Option<String>,
    /// In the trees of version 1, each once.
    others: BTreeSet<String>,
    netns: Option<u32>,
}

/// Every process. One that goes away meanwhile is missing.
fn processes(host: &Host) -> Vec<Process> {
    let pid = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse::<u32>().ok();
    let process = |pid: u32| {
        let text = host.read(&format!("proc/{pid}/cgroup")).ok()?;
        let mut process = Process { pid, path: None, others: BTreeSet::new(), netns: netns(host, pid) };
        for line in text.lines() {
            // `0::/system.slice/nginx.service`, `5:cpu,cpuacct:/docker/ID`.
            match line.splitn(3, ':').collect::<Vec<_>>()[..] {
                ["0", "", path] => process.path = Some(path.to_owned()),
                [_, _, path] => drop(process.others.insert(path.to_owned())),
                _ => {}
            }
        }
        Some(process)
    };
    let mut found: Vec<Process> =
        fs::read_dir(host.path("proc")).into_iter().flatten().filter_map(pid).take(MOST).filter_map(process).collect();
    found.sort_unstable_by_key(|process| process.pid);
    found
}

/// The inode number of a process's network namespace.
fn netns(host: &Host, pid: u32) -> Option<u32> {
    let link = fs::read_link(host.path(&format!("proc/{pid}/ns/net"))).ok()?;
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Name or id, and the cgroup of version 2, or of version 1 where it has no other.
type Key = (String, String);

/// What `split` makes of the paths of all processes: name, label and directory of each group.
fn found(processes: &[Process], split: impl Fn(&str) -> Vec<(String, String, String)>) -> BTreeMap<Key, Group> {
    let mut groups: BTreeMap<Key, Group> = BTreeMap::new();
    let mut enter = |process: &Process, (name, label, top): (String, String, String), is_v2: bool| {
        let new = || Group {
            label,
            cgroup: is_v2.then(|| top.clone()),
            pids: Vec::new(),
            netns: Vec::new(),
            has_own_netns: false,
        };
        let group = groups.entry((name, if is_v2 { top.clone() } else { String::new() })).or_insert_with(new);
        if group.pids.last() != Some(&process.pid) {
            group.pids.push(process.pid);
            if let Some(netns) = process.netns.filter(|netns| !group.netns.contains(netns)) {
                group.netns.push(netns);
            }
        }
    };
    for process in processes {
        let in_v2 = process.path.as_deref().map(&split).unwrap_or_default();
        let names: BTreeSet<String> = in_v2.iter().map(|(name, ..)| name.clone()).collect();
        in_v2.into_iter().for_each(|group| enter(process, group, true));
        let mut told = names;
        for group in process.others.iter().flat_map(|path| split(path)) {
            if told.insert(group.0.clone()) {
                enter(process, group, false);
            }
        }
    }
    for group in groups.values_mut() {
        // All of its processes could be asked, and nobody else is there.
        let is_ours = |process: &&Process| group.pids.binary_search(&process.pid).is_ok();
        let inside = |process: &&Process| process.netns.is_some() && process.netns == group.netns.first().copied();
        let (ours, there) = (processes.iter().filter(is_ours), processes.iter().filter(inside));
        let all_known = ours.clone().all(|process| process.netns.is_some());
        group.has_own_netns = group.netns.len() == 1 && all_known && there.count() == ours.count();
    }
    groups
}

#[cfg(test)]
mod tests;
