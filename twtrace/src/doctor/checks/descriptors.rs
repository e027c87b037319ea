//! Do descriptors run out? Of a process, and of the machine. TIME_WAIT takes none.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{
    doctor::{
        facts::{Facts, Namespace},
        finding::{Evidence, Finding, Severity, Story},
        places::Place,
    },
    host::processes::{Census, Limit, Process},
};

/// Processes and users that are shown.
const TOP: usize = 5;
/// From this share of a limit on it is nearly reached.
const NEAR: f64 = 0.8;
/// A limit below this is a sandbox: it is there to be reached.
const SANDBOX: u64 = 32;

/// A process has few left.
pub const PROCESS: Story = Story {
    id: "descriptors.process",
    title: "A process has used up its descriptors, or nearly so",
    why: "Every open socket and file is a descriptor, and the soft RLIMIT_NOFILE limits the descriptors of a process. Past \
          the limit accept(), socket() and open() fail with EMFILE; connections wait in the accept queue until it overflows.",
    story: "The soft limit counts (`ulimit -n`, 1024 unless somebody raised it), at the moment a descriptor is made. It bounds \
            the descriptor's number, and the kernel hands out the lowest free number. A process may raise its soft limit to \
            its hard limit by itself; many servers do so when they start (nginx: worker_rlimit_nofile). A hard limit has to \
            be raised from outside, where the process is started, up to fs.nr_open.\n\n\
            A process that fails with EMFILE leaves the connection in the accept queue. epoll reports the connection again \
            at once: the process spins, or sleeps, and listen.queue-full follows.\n\n\
            Look at what the descriptors are before you raise a limit. Thousands of sockets in CLOSE-WAIT are connections \
            that the peer has closed and this process has not: a leak, for which no limit is high enough. Many in \
            ESTABLISHED are mostly right.\n\n\
            A socket in TIME_WAIT holds no descriptor: close() gave it back before TIME_WAIT began, and the minisock belongs \
            to no process. Processes with a limit below 32 are not judged: sandboxes set such limits so that nothing can be \
            opened. Threads with their own descriptors are not seen. With --netns only processes in that namespace are \
            judged.",
    holds: "a process has at least 80 % of its soft limit (warning), or all of it (critical); with --netns, one in that namespace",
    does_not: "a limit below 32, which is a sandbox's; with --netns, a process in another namespace; any number of TIME_WAITs",
    by_hand: &[
        "ls /proc/PID/fd | wc -l; grep 'open files' /proc/PID/limits",
        "ls -l /proc/PID/fd | awk '{print $NF}' | cut -d: -f1 | sort | uniq -c | sort -n     # what they are",
        "ss -tanp state close-wait     # who does not close",
    ],
    sources: &["fs/file.c: alloc_fd, get_unused_fd_flags", "net/socket.c: __sys_accept4", "getrlimit(2), accept(2)"],
};

/// The machine has few left.
pub const SYSTEM: Story = Story {
    id: "descriptors.system",
    title: "The machine's open files are at their limit, or nearly so",
    why: "Past fs.file-max only processes with CAP_SYS_ADMIN can open a file or a socket; for all others the calls fail with \
          ENFILE, in every namespace.",
    story: "fs.file-nr shows the number of open files and the limit of the whole machine: no namespace has its own. An open \
            file is what a descriptor leads to; descriptors that were duplicated, or inherited by fork(), share one. The \
            default of fs.file-max is a tenth of the memory, at 1 KiB each; systemd raises it to the maximum, so that only \
            the limits of processes are left. Where fs.file-max is low, somebody lowered it, or an old file of sysctl.d \
            did.\n\n\
            The kernel logs 'VFS: file-max limit N reached'.",
    holds: "open files of the machine reach 80 % of fs.file-max (warning), or all of it (critical), whatever --netns says",
    does_not: "one process at its own limit, which is descriptors.process",
    by_hand: &["cat /proc/sys/fs/file-nr     # open, 0, limit", "dmesg | grep file-max"],
    sources: &["fs/file_table.c: alloc_empty_file, files_maxfiles_init", "Documentation/admin-guide/sysctl/fs.rst"],
};

/// There are enough.
pub const ROOM: Story = Story {
    id: "descriptors.room",
    title: "Descriptors do not run out, and TIME_WAIT holds none",
    why: "A socket in TIME_WAIT has no descriptor: close() gave it back. What counts is each process's own number, compared \
          with its own limit.",
    story: "It is often said that TIME_WAITs use up descriptors, and that ulimit has to be raised for them. They do not: \
            the minisock that stays has no file, no inode and no process.\n\n\
            Linux has no limit on the descriptors of a user: RLIMIT_NOFILE holds for each process by itself, and \
            'nofile' in limits.conf only sets the limit that a user's processes begin with. The sums by user show who \
            holds many.",
    holds: "every process with a known limit has less than 80 % of it, and so has the machine",
    does_not: "no process with a known limit could be looked at: then nothing is said",
    by_hand: &["ss -s", "for p in /proc/[0-9]*; do echo $(ls $p/fd | wc -l) $(cat $p/comm); done | sort -n | tail"],
    sources: &["net/ipv4/inet_timewait_sock.c: inet_twsk_alloc", "fs/file.c: alloc_fd", "getrlimit(2)"],
};

/// What this question can find.
pub const STORIES: &[Story] = &[PROCESS, SYSTEM, ROOM];

/// Judges.
#[must_use]
pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = [process(facts), system(facts)].into_iter().flatten().collect();
    if findings.is_empty() {
        findings.extend(room(facts));
    }
    findings
}

/// The most descriptors that a process may have now.
fn limit(census: &Census, process: &Process) -> Option<u64> {
    match process.soft? {
        Limit::Of(limit) => Some(limit),
        Limit::Unlimited => census.nr_open,
    }
}

/// The processes that are judged: all, or those of the namespace that was asked for.
fn judged(facts: &Facts) -> impl Iterator<Item = &Process> {
    let only = facts.namespaces.first().filter(|_| facts.alone);
    let is_judged = move |process: &&Process| only.is_none_or(|namespace| namespace.inhabitants.contains(&process.pid));
    facts.machine.census.processes.iter().filter(is_judged)
}

/// The namespace that a process is in, if that was looked into.
fn home(facts: &Facts, pid: u32) -> Option<&Namespace> {
    facts.namespaces.iter().find(|namespace| namespace.inhabitants.contains(&pid))
}

/// Processes whose limit is known and meant seriously, the nearest to it first.
fn nearest(facts: &Facts) -> Vec<(&Process, u64)> {
    let limited = |process| Some((process, limit(&facts.machine.census, process)?));
    let mut processes: Vec<(&Process, u64)> =
        judged(facts).filter_map(limited).filter(|(_, limit)| *limit >= SANDBOX).collect();
    let share = |(process, limit): &(&Process, u64)| process.descriptors as f64 / *limit as f64;
    processes.sort_by(|a, b| share(b).total_cmp(&share(a)).then(a.0.pid.cmp(&b.0.pid)));
    processes
}

fn name(process: &Process) -> String {
    format!("{} ({})", process.comm, process.pid)
}

fn held(process: &Process, limit: u64) -> [Evidence; 2] {
    let (name, pid) = (name(process), process.pid);
    let sockets = process.whole.then_some(process.sockets);
    [
        Evidence::new(format!("descriptors of {name}"), process.descriptors, format!("of {limit}"), fds(pid)),
        Evidence::new(format!("of these sockets, of {name}"), sockets, "sockets", fds(pid)),
    ]
}

fn fds(pid: u32) -> String {
    format!("/proc/{pid}/fd")
}

fn hard(process: &Process) -> Evidence {
    let source = format!("/proc/{}/limits", process.pid);
    let name = format!("hard limit of {}", name(process));
    match process.hard {
        Some(Limit::Of(limit)) => Evidence::new(name, limit, "descriptors", source),
        Some(Limit::Unlimited) => Evidence::new(name, "unlimited", "", source),
        None => Evidence::new(name, None::<u64>, "descriptors", source),
    }
}

fn process(facts: &Facts) -> Option<Finding> {
    let mut near = nearest(facts);
    near.retain(|(process, limit)| process.descriptors as f64 >= *limit as f64 * NEAR);
    let (worst, most) = *near.first()?;
    let pid = worst.pid;
    let more = match near.len() {
        1 => String::new(),
        2 => "; another process is near its limit".to_owned(),
        count => format!("; {} other processes are near their limit", count - 1),
    };
    let numbers = format!("{} has {} descriptors, limit {most}", name(worst), worst.descriptors);
    let (severity, sentence) = if worst.descriptors >= most {
        (Severity::Critical, format!("{numbers}: accept() and open() fail with EMFILE{more}"))
    } else {
        (Severity::Warning, format!("{numbers}{more}"))
    };
    let home = home(facts, pid);
    let look = format!("ss -tanp | grep 'pid={pid},'");
    let look = home.map_or_else(|| look.clone(), |namespace| namespace.command(&look));
    let finding = Finding::new(&PROCESS, severity, sentence)
        .shown_by(near.iter().take(TOP).flat_map(|(process, limit)| held(process, *limit)))
        .shown_by([hard(worst)])
        .to_do([format!("{look} (its sockets: those in CLOSE-WAIT are a leak)"), raise(worst, most, home)])
        .avoid([
            "do not tune TIME_WAIT for this: a TIME_WAIT holds no descriptor",
            "do not raise fs.file-max for this: fs.file-max limits the machine, not the process",
            "do not raise the limit above 1024 for a program that uses select(): FD_SETSIZE is built in",
        ]);
    Some(Finding { netns: home.map(|namespace| namespace.inum), ..finding })
}

/// The step that gives a process more.
fn raise(process: &Process, most: u64, home: Option<&Namespace>) -> String {
    let pid = process.pid;
    let wanted = most.saturating_mul(4);
    let (to, limits, why) = match process.hard {
        Some(Limit::Of(hard)) if hard <= most => {
            (wanted, format!("{wanted}:{wanted}"), "raises both its limits for now")
        }
        hard => {
            let to = if let Some(Limit::Of(hard)) = hard { hard.min(wanted) } else { wanted };
            (to, format!("{to}:"), "raises its soft limit for now; its hard limit allows that")
        }
    };
    let lasting = match home.and_then(|namespace| namespace.place.container.as_ref()) {
        Some(container) => format!("for good: --ulimit nofile={to}:{to} where container {container} is started"),
        None => format!("for good: LimitNOFILE={to} in its systemd unit, or in the program's own configuration"),
    };
    format!("prlimit --pid {pid} --nofile={limits} ({why}); {lasting}")
}

fn system(facts: &Facts) -> Option<Finding> {
    let census = &facts.machine.census;
    let system = census.system?;
    let (open, most) = (system.allocated, system.limit);
    if (open as f64) < most as f64 * NEAR {
        return None;
    }
    let numbers = format!("the machine (all its namespaces) has {open} open files, limit {most}");
    let (severity, sentence) = if open >= most {
        (Severity::Critical, format!("{numbers}: open() and accept() fail with ENFILE"))
    } else {
        (Severity::Warning, numbers)
    };
    let (key, value) = ("fs.file-max", most.saturating_mul(2));
    let first = facts.namespaces.first();
    let raise = first.map_or_else(|| Place::default().setting(0, key, &value.to_string()), |it| it.setting(key, value));
    Some(
        Finding::new(&SYSTEM, severity, sentence)
            .shown_by(files(census))
            .shown_by(users(census.processes.iter()))
            .to_do([
                "look first at who holds most of them, in the evidence: a leak fills any limit".to_owned(),
                format!("{raise}     # twice the limit now"),
            ])
            .avoid(["do not tune TIME_WAIT for this: a TIME_WAIT holds no open file"]),
    )
}

fn files(census: &Census) -> Option<Evidence> {
    let system = census.system?;
    Some(Evidence::new("open files", system.allocated, format!("of {}", system.limit), "/proc/sys/fs/file-nr"))
}

/// What the processes of each user hold together; the most first.
fn users<'a>(all: impl Iterator<Item = &'a Process>) -> Vec<Evidence> {
    let mut users: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for process in all {
        let (descriptors, processes) = users.entry(process.uid).or_default();
        *descriptors = descriptors.saturating_add(process.descriptors);
        *processes += 1;
    }
    let mut users: Vec<_> = users.into_iter().collect();
    users.sort_by_key(|(uid, (descriptors, _))| (Reverse(*descriptors), *uid));
    let told = |(uid, (descriptors, processes))| {
        let unit = format!("descriptors of {processes} processes");
        Evidence::new(format!("user {uid}"), descriptors, unit, "/proc/PID/fd; no limit holds for the sum")
    };
    users.into_iter().take(TOP).map(told).collect()
}

fn room(facts: &Facts) -> Option<Finding> {
    let census = &facts.machine.census;
    let near = nearest(facts);
    let (nearest, limit) = near.first()?;
    // Of the others not even the number is known.
    let of = if census.unreadable > 0 || census.missed > 0 { ", of those that could be looked at," } else { "" };
    let sentence = format!(
        "{} is the process nearest to its limit{of} with {} descriptors of {limit}; TIME_WAITs have none",
        name(nearest),
        nearest.descriptors
    );
    // They come with the most sockets first.
    let busiest = judged(facts).filter(|process| process.whole && process.sockets > 0).take(TOP);
    let sockets = busiest.map(|process| {
        let source = fds(process.pid);
        Evidence::new(format!("sockets of {}", name(process)), process.sockets, "sockets", source)
    });
    let time_waits = facts.namespaces.first().map(|namespace| {
        Evidence::new("TIME_WAITs, which hold none", namespace.sockets.time_wait, "minisocks", "sock_diag")
    });
    Some(
        Finding::new(&ROOM, Severity::Fine, sentence)
            .shown_by(held(nearest, *limit))
            .shown_by(sockets)
            .shown_by(users(judged(facts)))
            .shown_by(files(census))
            .shown_by(time_waits),
    )
}

#[cfg(test)]
mod tests;
