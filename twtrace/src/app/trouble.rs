//! Errors that the machine makes: each errno in words that name the limit, and how much would do.

use std::{error::Error, io};

use crate::{
    cli::exit::{Code, Complaint, Exit},
    host::{Host, limits::Limits},
    sink::notes::remark,
};

/// Descriptors that tracing takes at most: maps, programs and their links, standard streams, the reactor, a few network
/// namespaces at a time. 60 were enough on the tracepoint backend; fentry has more programs.
const DESCRIPTORS: u64 = 96;
/// With fewer, not all programs can be loaded on any backend.
const FEWEST: u64 = 64;
/// What twtrace takes besides its tables at most, bytes: the kernel's types while they are read.
const BASE: u64 = 64 << 20;
/// What an entry of the table of minisocks and one of the table of connections take together, bytes.
const ENTRIES: u64 = 336;

/// An unexpected end: in the machine's words where it refuses something, else as what it is, a fault of twtrace's.
pub(super) fn internal(what: &str, error: &(dyn Error + 'static)) -> Exit {
    refused(what, error).unwrap_or_else(|| {
        complain(Code::Internal, what, error.to_string(), "run it again; if it fails again, please report it")
    })
}

/// The end if the machine refuses something for want of room or right; `None` if the error is of another kind.
pub(super) fn refused(what: &str, error: &(dyn Error + 'static)) -> Option<Exit> {
    let host = Host::default();
    let errno = errno(error)?;
    let (code, why, remedy) = words(errno, &Limits::read(&host), DESCRIPTORS)?;
    Some(complain(code, what, format!("{error}: {why}"), &remedy))
}

/// Before anything is tried: the end if there is no /proc, on which everything is built.
pub(super) fn has_proc(host: &Host) -> Result<(), Exit> {
    host.read("proc/self/status").map(drop).map_err(|error| {
        complain(
            Code::Unsupported,
            "/proc",
            format!("it is not mounted here ({error})"),
            "mount it: mount -t proc proc /proc",
        )
    })
}

/// An error where the descriptors cannot be enough for tracing. Little memory is only warned of: the kernel would kill
/// twtrace without a word.
pub(super) fn has_room(host: &Host) -> Result<(), Exit> {
    let limits = Limits::read(host);
    if let Some(limit) = limits.memory_bytes.filter(|&limit| limit < BASE) {
        remark(&little_memory(limit));
    }
    match limits.descriptors {
        Some(limit) if limit < FEWEST => {
            Err(complain(Code::Internal, "descriptors", too_few(Some(limit), DESCRIPTORS), &ulimit(DESCRIPTORS)))
        }
        _ => Ok(()),
    }
}

/// The end because the kernel's types cannot be read; `error` is about this file.
pub(super) fn no_types(host: &Host, error: &(dyn Error + 'static)) -> Exit {
    // The root of sysfs holds this directory on every kernel.
    if host.path("sys/kernel").exists() {
        let remedy = "twtrace needs a kernel with CONFIG_DEBUG_INFO_BTF=y (5.8 or later); if you have the kernel's BTF as a \
                      file, give it: --btf FILE";
        complain(Code::Unsupported, "kernel types", error.to_string(), remedy)
    } else {
        let why = format!("it is not mounted here ({error})");
        complain(
            Code::Unsupported,
            "/sys",
            why,
            "mount it: mount -t sysfs sysfs /sys; or give the kernel's BTF: --btf FILE",
        )
    }
}

fn little_memory(limit: u64) -> String {
    let (limit, base) = (limit >> 20, BASE >> 20);
    format!(
        "twtrace: memory: the limit of this cgroup is {limit} MB, and twtrace may take {base} MB while it starts: the kernel \
         may kill it; raise memory.max to {} MB\n",
        base * 2
    )
}

fn complain(code: Code, what: &str, why: String, remedy: &str) -> Exit {
    Exit::error(code, Complaint::new(what, why, remedy))
}

/// The errno at the bottom of an error.
fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        let found = match (error.downcast_ref::<io::Error>(), error.downcast_ref::<rustix::io::Errno>()) {
            (Some(error), _) => error.raw_os_error(),
            (_, Some(errno)) => Some(errno.raw_os_error()),
            (None, None) => None,
        };
        if found.is_some() {
            return found;
        }
        next = error.source();
    }
    None
}

/// Exit code, reason and remedy of an errno; `None` for those that say nothing of room or right. `needed`: descriptors.
fn words(errno: i32, limits: &Limits, needed: u64) -> Option<(Code, String, String)> {
    Some(match errno {
        libc::EMFILE => (Code::Internal, too_few(limits.descriptors, needed), ulimit(needed)),
        libc::ENFILE => (
            Code::Internal,
            "the machine has no descriptor left (fs.file-max)".to_owned(),
            "`twtrace doctor` names the processes that hold the most".to_owned(),
        ),
        libc::ENOMEM => memory(limits.memory_bytes),
        libc::ENOSPC => (
            Code::Internal,
            "no more network namespaces may be made".to_owned(),
            "raise user.max_net_namespaces; 0 forbids them".to_owned(),
        ),
        libc::EAGAIN => (
            Code::Internal,
            "this user or cgroup may start no more threads".to_owned(),
            "raise the limit: ulimit -u 4096, or pids.max of the cgroup (docker run --pids-limit)".to_owned(),
        ),
        libc::EPERM if limits.in_user_namespace => (
            Code::Privilege,
            "this process is in a user namespace, and eBPF needs the capabilities of the initial one".to_owned(),
            "run twtrace outside of it, as root of the machine (for a container: --privileged --userns=host)".to_owned(),
        ),
        libc::EPERM | libc::EACCES => (
            Code::Privilege,
            "the kernel refuses bpf() although the capabilities are there: a seccomp filter, lockdown or another security \
             module does, or, before 5.11, RLIMIT_MEMLOCK"
                .to_owned(),
            "run it outside of the container or with --privileged; on old kernels: ulimit -l unlimited".to_owned(),
        ),
        _ => return None,
    })
}

fn too_few(limit: Option<u64>, needed: u64) -> String {
    let limit = limit.map_or("too few".to_owned(), |limit| limit.to_string());
    format!("this process may have {limit} open files, and twtrace needs up to {needed}")
}

fn ulimit(needed: u64) -> String {
    format!("raise the limit: ulimit -n {}", needed.next_power_of_two().max(256))
}

/// The tables are what twtrace can do with less of.
fn memory(limit: Option<u64>) -> (Code, String, String) {
    let small = "smaller tables: --max-lives 8K --max-conns 8K --ring-size 256K";
    let Some(limit) = limit else {
        return (Code::Internal, "the machine has no memory for the tables".to_owned(), small.to_owned());
    };
    let (megabytes, base) = (limit >> 20, BASE >> 20);
    let why =
        format!("the memory limit of this cgroup is {megabytes} MB, of which twtrace takes {base} without its tables");
    let entries = limit.saturating_sub(BASE) / ENTRIES;
    let remedy = match entries.checked_ilog2() {
        Some(log) if log >= 10 => {
            let thousands = 1_u64 << (log.min(18) - 10);
            format!(
                "run it with smaller tables: --max-lives {thousands}K --max-conns {thousands}K --ring-size 256K; or raise \
                 the limit to {} MB",
                base * 2
            )
        }
        _ => format!("raise memory.max to {} MB", base * 2),
    };
    (Code::Internal, why, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(errno: i32, limits: &Limits) -> String {
        let (code, why, remedy) = words(errno, limits, 100).unwrap();
        format!("{code:?}: {why}; {remedy}")
    }

    #[test]
    fn each_limit_is_named_with_the_number_that_would_do() {
        let limits = Limits { descriptors: Some(40), memory_bytes: Some(70 << 20), in_user_namespace: false };
        assert!(said(libc::EMFILE, &limits).contains("may have 40 open files"));
        assert!(said(libc::EMFILE, &limits).ends_with("ulimit -n 256"));
        assert!(said(libc::ENOMEM, &limits).contains("is 70 MB"));
        assert!(
            said(libc::ENOMEM, &limits).contains("--max-lives 16K --max-conns 16K"),
            "{}",
            said(libc::ENOMEM, &limits)
        );
        let many = words(libc::EMFILE, &limits, 3_000).unwrap().2;
        assert!(many.ends_with("ulimit -n 4096"), "{many}");
    }

    #[test]
    fn below_what_twtrace_needs_itself_no_table_is_small_enough() {
        let limits = Limits { memory_bytes: Some(32 << 20), ..Limits::default() };
        assert!(said(libc::ENOMEM, &limits).ends_with("raise memory.max to 128 MB"));
        assert!(said(libc::ENOMEM, &Limits::default()).ends_with("--max-lives 8K --max-conns 8K --ring-size 256K"));
    }

    #[test]
    fn a_user_namespace_is_no_fault_of_twtrace_s() {
        let inside = Limits { in_user_namespace: true, ..Limits::default() };
        assert!(said(libc::EPERM, &inside).starts_with("Privilege: this process is in a user namespace"));
        assert!(said(libc::EPERM, &Limits::default()).contains("seccomp"));
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOSPC, libc::EAGAIN, libc::EPERM] {
            assert!(!said(errno, &inside).contains("report"), "{errno}");
        }
    }

    #[test]
    fn what_is_no_refusal_stays_what_it_is() {
        assert_eq!(words(libc::EINVAL, &Limits::default(), 0), None);
        assert_eq!(errno(&io::Error::other("no errno")), None);
        assert!(internal("x", &io::Error::other("odd")).stderr.contains("please report"));
    }

    #[test]
    fn the_errno_is_found_at_the_bottom() {
        use crate::{bpf::BpfError, host::HostError, run::RunError, tracer::TracerError};
        let io = || io::Error::from_raw_os_error(libc::ENOMEM);
        let file = HostError::Read { path: "/x".into(), source: io() };
        assert_eq!(errno(&RunError::from(BpfError::Host(file))), Some(libc::ENOMEM));
        assert_eq!(errno(&io::Error::from(rustix::io::Errno::NOMEM)), Some(libc::ENOMEM));
        assert_eq!(errno(&TracerError::Ring(io())), Some(libc::ENOMEM));
    }
}
