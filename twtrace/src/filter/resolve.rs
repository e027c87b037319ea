//! From names to numbers: cgroup paths to cgroup ids, namespace files to inode numbers, containers and units to either.

mod look;
mod names;

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use look::look;

use super::{
    few::Few,
    spec::{FilterSpec, NetnsSpec, Resolved, Tree},
    wrong::Wrong,
};
use crate::host::{
    Host, cgroup,
    containers::{self, Group, Lost},
    processes,
};

/// `NSFS_MAGIC` of include/uapi/linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;
/// `CLONE_NEWNET` of include/uapi/linux/sched.h: what NS_GET_NSTYPE says of a network namespace.
const CLONE_NEWNET: i32 = 0x4000_0000;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory of the cgroup v2 tree: its inode number, which is the cgroup's id.
    Cgroup(u64),
    /// A network namespace: its inode number.
    Netns(u64),
    /// A namespace of another type.
    OtherNs,
    /// Anything else.
    Other,
}

/// Looks names up, below a root and with eyes that tests can replace.
#[derive(Clone, Debug)]
pub struct Resolver {
    root: PathBuf,
    look: fn(&Path) -> io::Result<Place>,
}

impl Default for Resolver {
    /// This machine.
    fn default() -> Self {
        Self::new("/", look)
    }
}

impl Resolver {
    /// A resolver that takes every path to be below `root` and asks `look` what is there.
    pub fn new(root: impl Into<PathBuf>, look: fn(&Path) -> io::Result<Place>) -> Self {
        Self { root: root.into(), look }
    }

    /// Everything that a filter names.
    ///
    /// # Errors
    ///
    /// The [`Wrong`] about the first name that leads nowhere.
    pub fn resolve(&self, spec: &FilterSpec) -> Result<Resolved, Wrong> {
        let mut resolved = Resolved {
            cgroups: spec.cgroup.try_map(|path| self.cgroup(path))?,
            trees: spec.cgroup_tree.try_map(|path| self.tree(path))?,
            netns: spec.netns.try_map(|spec| self.netns(spec).map(|found| found.0))?,
            notes: Vec::new(),
        };
        let containers = spec.container.iter().map(|word| (Grouping::Container, word));
        let named: Vec<_> = containers.chain(spec.unit.iter().map(|word| (Grouping::Unit, word))).collect();
        if !named.is_empty() {
            self.groups(&named, &mut resolved)?;
        }
        Ok(resolved)
    }

    /// Containers and units. One whose network namespace holds nothing else is that namespace: then what no task has closed
    /// belongs to it too. All of them have to be such, and nothing else may be named that a cgroup or namespace is an
    /// alternative to; otherwise they are their cgroups, with all that is below.
    fn groups(&self, named: &[(Grouping, &String)], resolved: &mut Resolved) -> Result<(), Wrong> {
        let groups = named
            .iter()
            .map(|(noun, word)| Ok((*noun, *word, self.group(*noun, word)?)))
            .collect::<Result<Vec<_>, Wrong>>()?;
        let few = |error: super::few::TooMany| {
            Wrong::new("--cgroup-tree, --container, --unit", error.to_string(), "leave some out, or run twtrace twice")
        };
        let by_netns = groups.iter().all(|(.., group)| group.has_own_netns)
            && !resolved.wants_cgroups()
            && resolved.netns.is_empty();
        if by_netns {
            resolved.netns =
                Few::new(groups.iter().filter_map(|(.., group)| group.netns.first().copied())).map_err(few)?;
        }
        let mut trees = resolved.trees.to_vec();
        for (noun, word, group) in groups {
            let what = noun.given(word);
            resolved.notes.push(match &group.cgroup {
                _ if by_netns => {
                    let netns = group.netns.first().copied().unwrap_or_default();
                    format!("{what} is {}: filtering by its network namespace, {netns}", group.label)
                }
                Some(cgroup) => {
                    trees.push(self.tree(Path::new(cgroup.trim_start_matches('/')))?);
                    format!("{what} is {}: filtering by its cgroup and the cgroups below", group.label)
                }
                None => return Err(noun.without_cgroup(word, &group)),
            });
        }
        resolved.trees = Few::new(trees).map_err(few)?;
        Ok(())
    }

    fn host(&self) -> Host {
        Host::at(&self.root)
    }

    /// The one container or unit that a word names.
    fn group(&self, noun: Grouping, word: &str) -> Result<Group, Wrong> {
        /// The most that are listed.
        const LISTED: usize = 12;
        let found = match noun {
            Grouping::Container => containers::container(&self.host(), word),
            Grouping::Unit => containers::unit(&self.host(), word),
        };
        let listed = |labels: &[String]| {
            let more = labels.len().saturating_sub(LISTED);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            labels.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ") + &more
        };
        found.map_err(|lost| {
            let (why, remedy) = match (noun, lost) {
                (_, Lost::Ambiguous(labels)) => {
                    let more =
                        if noun == Grouping::Unit { "more of its path" } else { "more of its id, or POD/CONTAINER" };
                    (format!("{} match: {}", labels.len(), listed(&labels)), format!("write {more}"))
                }
                (Grouping::Container, Lost::Missing(labels)) if labels.is_empty() => (
                    "no container is running in sight of twtrace".to_owned(),
                    "write --netns /proc/PID/ns/net, or for run --cgroup-tree PATH".to_owned(),
                ),
                (Grouping::Container, Lost::Missing(labels)) => (
                    "no running container has this name or id".to_owned(),
                    format!(
                        "there are {}; or write --netns /proc/PID/ns/net, or for run --cgroup-tree PATH",
                        listed(&labels)
                    ),
                ),
                (Grouping::Unit, Lost::Missing(labels)) => (
                    "no unit of this name has a process".to_owned(),
                    match labels.is_empty() {
                        true => "write --netns /proc/PID/ns/net, or for run --cgroup-tree PATH".to_owned(),
                        false => {
                            format!(
                                "there are {}; or write --netns /proc/PID/ns/net, or for run --cgroup-tree PATH",
                                listed(&labels)
                            )
                        }
                    },
                ),
            };
            Wrong::new(noun.given(word), why, remedy)
        })
    }

    /// A cgroup, and what is below it at the moment.
    fn tree(&self, path: &Path) -> Result<Tree, Wrong> {
        let (path, own) = self.directory("--cgroup-tree", path)?;
        let mut ids = cgroup::subtree(&path);
        if !ids.contains(&own) {
            ids.push(own);
        }
        Ok(Tree { path, ids })
    }

    /// Checks that each process of the filter is there: no event comes from one that is not.
    ///
    /// # Errors
    ///
    /// The [`Wrong`] about the first that is not. Ids cannot be looked up outside of the initial pid namespace, in which
    /// the kernel counts them: there none is.
    pub fn processes(&self, spec: &FilterSpec) -> Result<Vec<String>, Wrong> {
        /// `PROC_PID_INIT_INO` of include/linux/proc_ns.h.
        const INITIAL: &str = "pid:[4026531836]";
        let own = fs::read_link(self.root.join("proc/self/ns/pid"));
        if spec.pid.is_empty() || own.is_ok_and(|link| link.as_os_str() != INITIAL) {
            return Ok(Vec::new());
        }
        spec.pid
            .iter()
            .map(|&pid| self.process(pid))
            .collect::<Result<Vec<_>, _>>()
            .map(|notes| notes.into_iter().flatten().collect())
    }

    fn process(&self, pid: u32) -> Result<Option<String>, Wrong> {
        let host = self.host();
        let port = u16::try_from(pid).ok().map(|port| format!("for the port write -P {port} (--port {port})"));
        let complain = |why: String, remedy: String| Wrong::new(format!("--pid {pid}"), why, remedy);
        let Ok(status) = host.read(&format!("proc/{pid}/status")) else {
            let why = format!("-p is a process id, and no process {pid} is there");
            return Err(complain(why, port.unwrap_or_else(|| "see ps -e for those that there are".to_owned())));
        };
        let field =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        match field("Tgid").and_then(|text| text.parse::<u32>().ok()) {
            Some(process) if process != pid => {
                let why = format!("{pid} is a thread of process {process}");
                return Err(complain(why, format!("write --pid {process}")));
            }
            _ => {}
        }
        // Whoever writes a number that is as good as only a port may have meant the port.
        let is_kernel_thread =
            fs::read(self.root.join(format!("proc/{pid}/cmdline"))).is_ok_and(|text| text.is_empty());
        let is_port_like = (2..1024).contains(&pid) || SERVICES.contains(&pid) || is_kernel_thread;
        let comm = field("Name").unwrap_or("?");
        Ok(port.filter(|_| is_port_like).map(|port| format!("--pid {pid} is the process {comm}; {port}")))
    }

    /// A cgroup's id.
    ///
    /// # Errors
    ///
    /// The [`Wrong`] if the path leads to no cgroup.
    pub fn cgroup(&self, path: &Path) -> Result<u64, Wrong> {
        Ok(self.directory("--cgroup", path)?.1)
    }

    /// A cgroup's directory and id; `option`: whose value the path is.
    fn directory(&self, option: &str, path: &Path) -> Result<(PathBuf, u64), Wrong> {
        const REMEDY: &str = "name a directory below /sys/fs/cgroup, e.g. system.slice/nginx.service";
        let what = format!("{option} {}", path.display());
        let full = match path.strip_prefix("/") {
            Ok(below) => self.root.join(below),
            Err(_) => {
                let mut places = cgroup::MOUNTS.iter().map(|mount| self.root.join(mount).join(path));
                let found = places.find(|full| matches!((self.look)(full), Ok(Place::Cgroup(_))));
                found.unwrap_or_else(|| self.root.join(cgroup::MOUNTS[0]).join(path))
            }
        };
        match (self.look)(&full) {
            Ok(Place::Cgroup(id)) => Ok((full, id)),
            Ok(_) => {
                let why = format!("{} is not a directory of the cgroup v2 tree", full.display());
                Err(Wrong::new(what, why, REMEDY))
            }
            // /proc/PID/cgroup writes paths from the tree's own root.
            Err(error) if path.is_absolute() && error.kind() == ErrorKind::NotFound => {
                let remedy =
                    "leave out the first slash of a path from /proc/PID/cgroup: paths start below /sys/fs/cgroup";
                Err(failed(what, &full, &error, remedy))
            }
            Err(error) => Err(failed(what, &full, &error, REMEDY)),
        }
    }

    /// A network namespace's inode number, and a sentence on whose it is, where that was looked up.
    ///
    /// # Errors
    ///
    /// The [`Wrong`] if the name leads to no network namespace.
    pub fn netns(&self, spec: &NetnsSpec) -> Result<(u32, Option<String>), Wrong> {
        const REMEDY: &str = "name a file such as /run/netns/blue or /proc/PID/ns/net, an inode number, or self";
        let (what, full) = match spec {
            NetnsSpec::Inum(inum) => return Ok((*inum, None)),
            NetnsSpec::Container(word) => return self.netns_of_group(Grouping::Container, word),
            NetnsSpec::Unit(word) => return self.netns_of_group(Grouping::Unit, word),
            NetnsSpec::Pid(pid) => return self.netns_of_process(*pid),
            NetnsSpec::Own => ("--netns self".to_owned(), self.root.join("proc/self/ns/net")),
            NetnsSpec::Path(path) => {
                // A relative path is the user's own, from where he stands.
                let full = path.strip_prefix("/").map_or_else(|_| path.clone(), |below| self.root.join(below));
                (format!("--netns {}", path.display()), full)
            }
        };
        let why = match (self.look)(&full) {
            Ok(Place::Netns(inum)) => match u32::try_from(inum) {
                Ok(inum) => return Ok((inum, None)),
                Err(_) => format!("{} has the inode number {inum}, which is too large for a namespace", full.display()),
            },
            Ok(Place::OtherNs) => format!("{} is a namespace of another type", full.display()),
            Ok(_) => format!("{} is not a namespace", full.display()),
            Err(error) => {
                let remedy = match spec {
                    // What `ip netns` calls blue is a file of that name.
                    NetnsSpec::Path(name) if name.components().count() == 1 => {
                        &format!("write --netns /run/netns/{}", name.display())
                    }
                    _ => REMEDY,
                };
                return Err(failed(what, &full, &error, remedy));
            }
        };
        Err(Wrong::new(what, why, REMEDY))
    }

    fn netns_of_group(&self, noun: Grouping, word: &str) -> Result<(u32, Option<String>), Wrong> {
        let group = self.group(noun, word)?;
        let (what, pid) = (noun.given(word), group.pids.first().copied().unwrap_or_default());
        let Some(&netns) = group.netns.first() else {
            let why = format!("the network namespace of {} (process {pid}) may not be read", group.label);
            let remedy = "run twtrace as root with CAP_SYS_PTRACE, or write --netns /run/netns/NAME";
            return Err(Wrong::denied(what, why, remedy));
        };
        let whose = match (group.has_own_netns, group.netns.len()) {
            (true, _) => String::new(),
            (false, 0 | 1) => ", which it shares with other processes".to_owned(),
            (false, many) => format!(", that of its first process; its processes have {many}"),
        };
        let same = format!("the same as --netns /proc/{pid}/ns/net");
        Ok((netns, Some(format!("{what} is {}: network namespace {netns}{whose}; {same}", group.label))))
    }

    fn netns_of_process(&self, pid: u32) -> Result<(u32, Option<String>), Wrong> {
        let what = format!("--pid {pid}");
        let path = self.root.join(format!("proc/{pid}/ns/net"));
        match (self.look)(&path) {
            Ok(Place::Netns(inum)) => {
                let comm = processes::comm(&self.host(), pid).unwrap_or_else(|| "?".to_owned());
                let whose = format!("{what} ({comm}) is in network namespace {inum}");
                let inum = u32::try_from(inum).map_err(|_| Wrong::new(what, whose.clone(), "write --netns"))?;
                Ok((inum, Some(format!("{whose}; the same as --netns /proc/{pid}/ns/net"))))
            }
            Err(error) if error.kind() == ErrorKind::NotFound && !self.root.join(format!("proc/{pid}")).exists() => {
                let why = format!("no process {pid} is there");
                Err(Wrong::new(what, why, "see ps -e for those that there are; for a port: twtrace run --port"))
            }
            Ok(_) => Err(Wrong::new(what, "its ns/net is not a network namespace", "write --netns")),
            Err(error) => Err(failed(what, &path, &error, "see ps -e for the processes that there are")),
        }
    }
}

/// Ports of services that are also ids of processes, on a machine that has not run long.
const SERVICES: [u32; 16] =
    [1433, 3000, 3306, 5000, 5432, 5672, 6379, 6443, 8000, 8080, 8081, 8443, 8888, 9000, 9090, 9200];

/// What a word names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grouping {
    Container,
    Unit,
}

impl Grouping {
    /// As it was written.
    fn given(self, word: &str) -> String {
        match self {
            Self::Container => format!("--container {word}"),
            Self::Unit => format!("--unit {word}"),
        }
    }

    /// About one that nothing tells from others.
    fn without_cgroup(self, word: &str, group: &Group) -> Wrong {
        let why = format!("{} is not in the cgroup v2 tree, and shares its network namespace", group.label);
        Wrong::new(self.given(word), why, "name its processes: --pid PID, or --comm NAME")
    }
}

/// What the kernel said when we looked.
fn failed(what: String, path: &Path, error: &io::Error, remedy: &str) -> Wrong {
    // Even root may not look at every process: a container's root lacks CAP_SYS_PTRACE, and a sandbox may forbid it.
    const DENIED: &str = "run twtrace as root with CAP_SYS_PTRACE, or name another file: --netns /run/netns/NAME";
    let why = format!("{}: {error}", path.display());
    match error.kind() {
        ErrorKind::PermissionDenied if what.starts_with("--cgroup") => Wrong::denied(what, why, "run twtrace as root"),
        ErrorKind::PermissionDenied => Wrong::denied(what, why, DENIED),
        _ => Wrong::new(what, why, remedy),
    }
}

#[cfg(test)]
mod tests;
