//! Looks at how full the buckets of every network namespace are: two small files of each, in a thread of its own.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{
    Host,
    counters::Sockstat,
    netns::{self, Netns},
};
use crate::model::{buckets::Buckets, cgroup, wanted::Wanted};

/// How many times as long as a look took the thread rests after it: 0.4 % of a CPU.
const REST: u32 = 250;
/// How often the machine is searched for namespaces at most: each process has to be asked.
const SEARCH: Duration = Duration::from_secs(10);
/// How long whoever asks waits for a fresh answer: a look into some dozen namespaces takes less.
const PATIENCE: Duration = Duration::from_millis(5);

/// A thread that looks when it is asked. It ends soon after this is dropped.
#[derive(Debug)]
pub struct Watch(Arc<Desk>);

#[derive(Debug, Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_asked: bool,
    is_over: bool,
    answers: u64,
    last: Option<Buckets>,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Starts the thread, which looks once and then waits to be asked. `wanted`: of which namespaces.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn spawn(host: Host, wanted: Wanted) -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        desk.lock().is_asked = true;
        let of_thread = Arc::clone(&desk);
        thread::Builder::new().name("twtrace-buckets".to_owned()).spawn(move || work(&host, &wanted, &of_thread))?;
        Ok(Self(desk))
    }

    /// The fullest namespace now; where the thread still rests or there are very many namespaces, as of the last look.
    #[must_use]
    pub fn fullest(&self) -> Option<Buckets> {
        let mut state = self.0.lock();
        let before = state.answers;
        state.is_asked = true;
        self.0.changed.notify_all();
        let until = Instant::now() + PATIENCE;
        while state.answers == before
            && let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.last.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.changed.notify_all();
    }
}

fn work(host: &Host, wanted: &Wanted, desk: &Desk) {
    let mut found = BTreeMap::new();
    let mut search_at = Instant::now();
    let Ok(own) = Netns::current() else { return };
    loop {
        let mut state = desk.lock();
        while !state.is_asked && !state.is_over {
            state = desk.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_over {
            return;
        }
        state.is_asked = false;
        drop(state);

        if search_at <= Instant::now() {
            let began = Instant::now();
            found = search(host, wanted, &own);
            search_at = Instant::now() + SEARCH.max(began.elapsed() * REST);
        }
        let began = Instant::now();
        let Ok(last) = look(host, &found, &own) else { return };
        let until = Instant::now() + began.elapsed() * REST;

        let mut state = desk.lock();
        (state.last, state.answers) = (last, state.answers.wrapping_add(1));
        desk.changed.notify_all();
        while !state.is_over
            && let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            state = desk.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Where a namespace was found. No file is kept open: a namespace lives as long as one is.
type Found = BTreeMap<u32, PathBuf>;

fn search(host: &Host, wanted: &Wanted, own: &Netns) -> Found {
    let mut found = netns::held(host);
    found.append(&mut netns::places(host));
    // A name says more than a process.
    found.append(&mut netns::named(host));
    found.entry(own.inum()).or_insert_with(|| host.path("proc/self/ns/net"));
    found.retain(|inum, _| wanted.netns(*inum));
    found
}

/// Reads both numbers of each namespace. One that is gone or cannot be entered is left out.
///
/// # Errors
/// If the thread could not come back: it would keep another namespace alive.
fn look(host: &Host, found: &Found, own: &Netns) -> io::Result<Option<Buckets>> {
    let mut all = Vec::with_capacity(found.len());
    let mut is_in = own.inum();
    for (&inum, path) in found {
        if inum != is_in {
            let netns = Netns::open(path.clone()).ok().filter(|netns| netns.inum() == inum);
            if netns.and_then(|netns| netns.enter().ok()).is_none() {
                continue;
            }
            is_in = inum;
        }
        let used = Sockstat::read(host).ok().map(|stat| stat.tw);
        all.extend(used.zip(host.sysctl("net/ipv4/tcp_max_tw_buckets")).map(|(used, limit)| (inum, used, limit)));
    }
    if is_in != own.inum() {
        own.enter()?;
    }
    Ok(Buckets::fullest(&all).map(|fullest| {
        let is_own = own.inum() == fullest.netns;
        let name = found.get(&fullest.netns).and_then(|path| name(host, path, is_own));
        Buckets { name, ..fullest }
    }))
}

/// What people call the namespace behind a file: the name under /run/netns, else the container or process in it.
fn name(host: &Host, path: &std::path::Path, is_own: bool) -> Option<String> {
    let below = path.strip_prefix(host.path("proc")).ok();
    let Some(pid) = below.map(|below| below.iter().next().unwrap_or_default().to_string_lossy().into_owned()) else {
        return path.file_name().map(|name| name.to_string_lossy().chars().filter(|c| !c.is_control()).collect());
    };
    if is_own {
        return Some("this namespace".to_owned());
    }
    if pid == "self" {
        return None;
    }
    let groups = host.read(&format!("proc/{pid}/cgroup")).unwrap_or_default();
    let container = groups.lines().find_map(|line| cgroup::container_of(line.splitn(3, ':').nth(2)?));
    let comm = || {
        let comm = fs::read(host.path(&format!("proc/{pid}/comm"))).ok()?;
        let comm: String = String::from_utf8_lossy(&comm).trim_end().chars().filter(|c| !c.is_control()).collect();
        Some(format!("pid {pid} ({comm})"))
    };
    container.or_else(comm)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str, files: &[(&str, &str)]) -> (PathBuf, Host) {
        let root = std::env::temp_dir().join(format!("twtrace-buckets-{name}-{}", std::process::id()));
        for (path, text) in files {
            let file = root.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let host = Host::at(&root);
        (root, host)
    }

    #[test]
    fn a_namespace_is_called_by_name_container_or_process() {
        let id = "0123456789abcdef".repeat(4);
        let (root, host) = machine(
            "names",
            &[
                ("proc/7/comm", "nginx\n"),
                ("proc/7/cgroup", "0::/system.slice/nginx.service\n"),
                ("proc/8/comm", "redis\n"),
                ("proc/8/cgroup", &format!("0::/system.slice/docker-{id}.scope\n")),
                ("proc/9/comm", "a\u{1b}[31m\n"),
            ],
        );
        let of = |path: &str, is_own| name(&host, &host.path(path), is_own);
        assert_eq!(of("run/netns/blue", false).as_deref(), Some("blue"));
        assert_eq!(of("run/netns/blue", true).as_deref(), Some("blue"), "a name is better than none");
        assert_eq!(of("proc/7/ns/net", false).as_deref(), Some("pid 7 (nginx)"), "a unit is no namespace");
        assert_eq!(of("proc/7/ns/net", true).as_deref(), Some("this namespace"));
        assert_eq!(of("proc/8/ns/net", false).as_deref(), Some("docker 0123456789ab"));
        assert_eq!(of("proc/9/ns/net", false).as_deref(), Some("pid 9 (a[31m)"), "nothing steers the terminal");
        assert_eq!(of("proc/self/fd/9", false), None);
        assert_eq!(of("proc/10/ns/net", false), None, "the process is gone");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn it_looks_once_it_is_made_and_ends_when_dropped() {
        let watch = Watch::spawn(Host::at("/nonexistent"), Wanted::default()).unwrap();
        assert_eq!(watch.fullest(), None);
        let desk = Arc::clone(&watch.0);
        drop(watch);
        let deadline = Instant::now() + Duration::from_secs(60);
        while Arc::strong_count(&desk) > 1 {
            assert!(Instant::now() < deadline, "the thread does not end");
            thread::yield_now();
        }
    }

    #[test]
    fn the_own_namespace_is_among_those_of_this_machine() {
        let host = Host::default();
        let own = Netns::current().unwrap();
        let found = search(&host, &Wanted::default(), &own);
        assert!(found.contains_key(&own.inum()), "{found:?}");
    }
}
