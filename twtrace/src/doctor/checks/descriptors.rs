//! Do descriptors run out? Of a process, and of the machine. TIME_WAIT takes none.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{
    doctor::{
        facts::Facts,
        finding::{Evidence, Finding, Severity, Story},
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
    why: "Every open socket and file is a descriptor, and a process may have as many as its soft RLIMIT_NOFILE. Past it \
          accept(), socket() and open() fail with EMFILE; connections wait in the accept queue until that overflows.",
    story: "The limit that counts is the soft one (`ulimit -n`, 1024 unless somebody raised it), read when a descriptor is \
            made: it bounds the descriptor's number, and the kernel hands out the lowest free one. A process may raise \
            it to its hard limit by itself; many servers do so when they start (nginx: worker_rlimit_nofile). Only a \
            hard limit has to be raised from outside, where the process is started, up to fs.nr_open.\n\n\
            A process that fails with EMFILE leaves the connection in the accept queue, and is told at once by epoll \
            that there is one: it spins, or sleeps, and listen.queue-full follows.\n\n\
            Before a limit is raised it is worth a look at what the descriptors are. Thousands of sockets in CLOSE-WAIT \
            are connections that the peer has closed and this process has not: a leak, for which no limit is high \
            enough. Many in ESTABLISHED are mostly right.\n\n\
            A socket in TIME_WAIT is no part of this: close() gave its descriptor back before TIME_WAIT began, and the \
            minisock belongs to no process. Processes with a limit below 32 are not judged: sandboxes set it so that \
            nothing can be opened. Threads that have descriptors of their own are not seen.",
    holds: "",
    does_not: "",
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
    why: "Past fs.file-max nobody without CAP_SYS_ADMIN can open a file or a socket: the calls fail with ENFILE.",
    story: "fs.file-nr tells how many open files there are, and the limit. An open file is what a descriptor leads to; \
            descriptors that were duplicated, or inherited by fork(), share one. The default of fs.file-max is a tenth \
            of the memory, at 1 KiB each; systemd raises it to the most that there is, so that only the limits of \
            processes are left. Where it is low, somebody has lowered it, or a file of sysctl.d from the time of \
            smaller machines has.\n\n\
            The kernel logs 'VFS: file-max limit N reached'.",
    holds: "",
    does_not: "",
    by_hand: &["cat /proc/sys/fs/file-nr     # open, 0, limit", "dmesg | grep file-max"],
    sources: &["fs/file_table.c: alloc_empty_file, files_maxfiles_init", "Documentation/admin-guide/sysctl/fs.rst"],
};

/// There are enough.
pub const ROOM: Story = Story {
    id: "descriptors.room",
    title: "Descriptors do not run out, and TIME_WAIT holds none",
    why: "A socket in TIME_WAIT has no descriptor: close() gave it back. What counts is each process's own number against \
          its own limit.",
    story: "It is often said that TIME_WAITs use up descriptors, and that ulimit has to be raised for them. They do not: \
            the minisock that stays has no file, no inode and no process.\n\n\
            Linux has no limit on the descriptors of a user: RLIMIT_NOFILE holds for each process by itself, and \
            'nofile' in limits.conf only says with which limit a user's processes begin. The sums by user are shown to \
            tell who has many.",
    holds: "",
    does_not: "",
    by_hand: &["ss -s", "for p in /proc/[0-9]*; do echo $(ls $p/fd | wc -l) $(cat $p/comm); done | sort -n | tail"],
    sources: &["net/ipv4/inet_timewait_sock.c: inet_twsk_alloc", "fs/file.c: alloc_fd", "getrlimit(2)"],
};

/// What this question can find.
pub const STORIES: &[Story] = &[PROCESS, SYSTEM, ROOM];

/// Judges.
#[must_use]
pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        [process(&facts.machine.census), system(&facts.machine.census)].into_iter().flatten().collect();
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

/// Those whose limit is known and meant seriously, the nearest to it first.
fn nearest(census: &Census) -> Vec<(&Process, u64)> {
    let limited = |process| Some((process, limit(census, process)?));
    let mut processes: Vec<(&Process, u64)> =
        census.processes.iter().filter_map(limited).filter(|(_, limit)| *limit >= SANDBOX).collect();
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

fn process(census: &Census) -> Option<Finding> {
    let mut near = nearest(census);
    near.retain(|(process, limit)| process.descriptors as f64 >= *limit as f64 * NEAR);
    let (worst, most) = *near.first()?;
    let pid = worst.pid;
    let more = match near.len() {
        1 => String::new(),
        2 => "; another process is near its limit".to_owned(),
        count => format!("; {} other processes are near their limit", count - 1),
    };
    let numbers = format!("{} has {} descriptors and may have {most}", name(worst), worst.descriptors);
    let (severity, sentence) = if worst.descriptors >= most {
        (Severity::Critical, format!("{numbers}: accept() and open() fail{more}"))
    } else {
        (Severity::Warning, format!("{numbers}{more}"))
    };
    let to = most.saturating_mul(4);
    let raise = match worst.hard {
        Some(Limit::Of(hard)) if hard <= most => format!(
            "raise both its limits, for now: prlimit --pid {pid} --nofile={to}:{to}; for good: LimitNOFILE={to} in its \
             systemd unit"
        ),
        hard => {
            let to = if let Some(Limit::Of(hard)) = hard { hard.min(to) } else { to };
            format!(
                "raise its soft limit, for now: prlimit --pid {pid} --nofile={to}: (its hard limit allows that); for good: \
                 in its own configuration, or LimitNOFILE= in its systemd unit"
            )
        }
    };
    Some(
        Finding::new(&PROCESS, severity, sentence)
            .shown_by(near.iter().take(TOP).flat_map(|(process, limit)| held(process, *limit)))
            .shown_by([hard(worst)])
            .to_do([
                format!(
                    "see what they are, and whether sockets in CLOSE-WAIT are among them: ss -tanp | grep pid={pid},"
                ),
                raise,
            ])
            .avoid([
                "do not tune TIME_WAIT for this: a TIME_WAIT holds no descriptor",
                "do not raise fs.file-max for this: it is the machine's limit, not the process's",
                "do not raise it past 1024 for a program that uses select(): FD_SETSIZE is built in",
            ]),
    )
}

fn system(census: &Census) -> Option<Finding> {
    let system = census.system?;
    let (open, most) = (system.allocated, system.limit);
    if (open as f64) < most as f64 * NEAR {
        return None;
    }
    let (severity, sentence) = if open >= most {
        (Severity::Critical, format!("the machine has {open} open files and may have {most}: open() and accept() fail"))
    } else {
        (Severity::Warning, format!("the machine has {open} open files and may have {most}"))
    };
    Some(
        Finding::new(&SYSTEM, severity, sentence)
            .shown_by(files(census))
            .shown_by(users(census))
            .to_do([
                "see who has most of them, below: a leak takes any limit".to_owned(),
                format!("raise the limit: sysctl -w fs.file-max={}", most.saturating_mul(2)),
            ])
            .avoid(["do not tune TIME_WAIT for this: a TIME_WAIT holds no open file"]),
    )
}

fn files(census: &Census) -> Option<Evidence> {
    let system = census.system?;
    Some(Evidence::new("open files", system.allocated, format!("of {}", system.limit), "/proc/sys/fs/file-nr"))
}

/// What the processes of each user hold together; the most first.
fn users(census: &Census) -> Vec<Evidence> {
    let mut users: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for process in &census.processes {
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
    let near = nearest(census);
    let (nearest, limit) = near.first()?;
    // Of the others not even the number is known.
    let of = if census.unreadable > 0 || census.missed > 0 { ", of those that could be looked at," } else { "" };
    let sentence = format!(
        "the process nearest to its limit{of} is {}: it has {} descriptors and may have {limit}; TIME_WAITs have none",
        name(nearest),
        nearest.descriptors
    );
    // They come with the most sockets first.
    let busiest = census.processes.iter().filter(|process| process.whole && process.sockets > 0).take(TOP);
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
            .shown_by(users(census))
            .shown_by(files(census))
            .shown_by(time_waits),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        doctor::{
            checks::fixture::{Fixture, ids},
            finding::Value,
        },
        host::processes::SystemFiles,
    };

    #[test]
    fn a_process_near_its_limit_is_found() {
        let at = |descriptors| check(&Fixture::quiet().process(7, "nginx", descriptors, 1024).facts());
        for (descriptors, expected, severity) in [
            (819, "descriptors.room", Severity::Fine),
            (820, "descriptors.process", Severity::Warning),
            (1023, "descriptors.process", Severity::Warning),
            (1024, "descriptors.process", Severity::Critical),
        ] {
            let findings = at(descriptors);
            assert_eq!((ids(&findings).as_slice(), findings[0].severity), ([expected].as_slice(), severity));
            assert!(findings[0].sentence.contains("nginx (7)"), "{findings:?}");
        }
    }

    #[test]
    fn the_worst_is_named() {
        let facts = Fixture::quiet()
            .process(1, "many", 60_000, 100_000)
            .process(2, "full", 64, 64)
            .process(3, "near", 63, 64)
            .facts();
        let findings = check(&facts);
        assert_eq!(ids(&findings), ["descriptors.process"]);
        let sentence =
            "full (2) has 64 descriptors and may have 64: accept() and open() fail; another process is near its limit";
        assert_eq!(findings[0].sentence, sentence);
        assert!(findings[0].to_do[1].contains("--nofile=256:"), "{findings:?}");
    }

    #[test]
    fn sandboxes_are_left_alone() {
        let facts = Fixture::quiet().process(1, "sandbox", 5, 0).process(2, "sh", 4, 1024).facts();
        assert_eq!(ids(&check(&facts)), ["descriptors.room"]);
    }

    #[test]
    fn no_limit_is_that_of_the_kernel() {
        let with = |nr_open| {
            let facts = Fixture::quiet().process(1, "db", 1000, 0).machine(|machine| {
                machine.census.processes[0].soft = Some(Limit::Unlimited);
                machine.census.nr_open = nr_open;
            });
            ids(&check(&facts)).join(" ")
        };
        assert_eq!(with(Some(1000)), "descriptors.process");
        assert_eq!(with(Some(1_048_576)), "descriptors.room");
        // Nothing is known of the only process there is.
        assert_eq!(with(None), "");
    }

    #[test]
    fn sockets_that_were_not_looked_at_are_not_zero() {
        for descriptors in [10, 1024] {
            let facts = Fixture::quiet().process(7, "other", descriptors, 1024).machine(|machine| {
                let process = &mut machine.census.processes[0];
                (process.whole, process.sockets) = (false, 0);
                machine.census.unreadable = 1;
            });
            let finding = &check(&facts)[0];
            let sockets: Vec<&Evidence> =
                finding.evidence.iter().filter(|evidence| evidence.unit == "sockets").collect();
            assert!(!sockets.is_empty() && sockets.iter().all(|it| it.value == Value::Unknown), "{finding:?}");
        }
    }

    #[test]
    fn the_machine_has_a_limit_too() {
        let with = |allocated| {
            let fixture = Fixture::quiet().process(1, "sh", 4, 1024);
            let system = Some(SystemFiles { allocated, limit: 1000 });
            check(&fixture.machine(|machine| machine.census.system = system))
        };
        assert_eq!(ids(&with(799)), ["descriptors.room"]);
        assert_eq!((ids(&with(800)), with(800)[0].severity), (vec!["descriptors.system"], Severity::Warning));
        assert_eq!((ids(&with(1000)), with(1000)[0].severity), (vec!["descriptors.system"], Severity::Critical));
    }

    #[test]
    fn users_are_summed() {
        let facts = Fixture::quiet().process(1, "a", 30, 1024).process(2, "b", 12, 1024).facts();
        let users = users(&facts.machine.census);
        assert_eq!((users[0].name.as_str(), &users[0].value), ("user 0", &Value::Count(42)));
    }
}
