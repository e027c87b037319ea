//! `twtrace run`.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::io::{Interest, unix::AsyncFd};
use twtrace_common::knob::{Filter, Linger};

use super::{
    forced,
    front::{self, Front},
    internal, no_tracer, note, trouble,
};
use crate::{
    bpf::{PEERS, Settings, Tables},
    cli::{
        EbpfLog, Run,
        exit::{Code, Complaint, Exit},
    },
    filter::resolve::Resolver,
    host::{Host, buckets::Watch, cgroup, netns, privilege::Privileges},
    model::{
        expression::{Expression, Primitive},
        report::{CapabilityReport, Start},
        wanted::Wanted,
    },
    plan::{Capability, Plan},
    reconcile::Scope,
    run::{Feed, Live, RunError, Sifter, Signals},
    show::human::{Many, Plain},
    sink::notes::remark,
    tracer::{Attempt, Tracer},
    traffic::demo::Demo,
};

/// Entries of the table of lives if nobody says: enough for the machine's own limit, bounded in memory (some 135 bytes each).
const MOST_LIVES: u32 = 1 << 18;
/// Fewer make no sense: the table is shared by all namespaces.
const LEAST_LIVES: u32 = 1 << 14;
/// Connections followed if nobody says (some 160 bytes each).
const CONNS: u32 = 1 << 16;

pub(super) fn run(host: &Host, verbose: u8, asked: &Run) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("tokio")?;
    runtime.block_on(trace(host, verbose, asked))
}

async fn trace(host: &Host, verbose: u8, asked: &Run) -> anyhow::Result<Exit> {
    let mut demo = if asked.demo {
        let failed = |error: std::io::Error| {
            let remedy = "the demo needs CONFIG_NET_NS and CAP_SYS_ADMIN; leave --demo out to trace this machine";
            trouble::refused("--demo", &error)
                .unwrap_or_else(|| Exit::error(Code::Unsupported, Complaint::new("--demo", error.to_string(), remedy)))
        };
        Some(Demo::new().map_err(failed)?)
    } else {
        None
    };
    // Before anything takes its time: whoever asks for the end gets one, with a summary.
    let mut signals = Signals::new().context("signals")?;
    let scope = demo.as_ref().map_or_else(|| Scope::own(host), |demo| Scope::other(host, Arc::clone(&demo.netns)));
    let Asked { settings, wanted, sifter } = settings(host, asked, &scope)?;
    let attempt =
        Attempt { host, btf: asked.hooks.btf.as_deref(), forced: forced(asked.hooks.backend), settings: &settings };
    let mut failures = Vec::new();
    let mut tracer = match Tracer::start(&attempt, &mut failures) {
        Ok(tracer) => tracer,
        Err(error) => return Err(no_tracer(&error, &failures, verbose).into()),
    };
    if verbose > 0 {
        remark(&super::logs(&failures));
    }
    if asked.ebpf_log != EbpfLog::Off {
        log_programs(&mut tracer, asked.ebpf_log)?;
    }
    let feed = if front::has_tables(asked) {
        let feed = Feed::new(host, wanted.clone());
        Some(feed.context("the thread that looks at sockets")?)
    } else {
        None
    };
    let buckets = if front::has_buckets(asked) {
        let watch = Watch::spawn(host.clone(), wanted.clone());
        Some(watch.context("the thread that looks at buckets")?)
    } else {
        None
    };
    let start = start(host, &tracer);
    let options = front::options(asked);
    let result = {
        // The terminal is given back at the end of this block, before anything else is said.
        let mut front = Front::open(asked, settings.own_netns, wanted, sifter)?;
        match Live::new(&mut tracer, &scope, start, asked.ring_size).map_err(RunError::from) {
            Ok(mut live) => {
                if let Some(feed) = feed {
                    live = live.with_feed(feed);
                }
                if let Some(watch) = buckets {
                    live = live.with_buckets(watch);
                }
                // Traffic begins between the first look at the kernel's counters and the first event.
                match demo.as_mut().map_or(Ok(()), Demo::begin) {
                    Ok(()) => crate::run::Run::new(live, &mut front.hub).run(&options, &mut signals).await,
                    Err(error) => Err(error.into()),
                }
            }
            Err(error) => Err(error),
        }
    };
    if let Some(demo) = &mut demo
        && let Err(error) = demo.end()
    {
        remark(&format!("twtrace: --demo: the traffic ended early: {error}; the events shown are real all the same\n"));
    }
    result.map_err(|error| match error {
        RunError::Output { to, source } => Exit::unwritten(&to, &source),
        RunError::Undelivered { to, lines, waited } => undelivered(&to, lines, waited),
        error => internal("run", &error),
    })?;
    Ok(Exit::answer(String::new()))
}

/// The end of a run whose reader stopped reading.
fn undelivered(to: &str, lines: u64, waited: Duration) -> Exit {
    let why = match waited.as_secs() {
        0 => format!("{} not delivered: the reader is too slow", Many(lines, "line")),
        seconds => format!("{} not delivered: nothing was read for {}", Many(lines, "line"), Many(seconds, "second")),
    };
    let remedy = "write to a file, skip events with --events or filters, or wait longer with --drain-for 1m";
    Exit::error(Code::Undelivered, Complaint::new(to, why, remedy))
}

/// What is asked for, by who compares it.
struct Asked {
    /// What the programs compare.
    settings: Settings,
    /// What is compared with sockets that are looked at.
    wanted: Wanted,
    /// What user space compares with what happens.
    sifter: Sifter,
}

/// A sifter that finds cgroups on this machine.
fn sifter(host: &Host, asked: Expression, shown: Expression) -> Sifter {
    let sifter = Sifter::new(asked, shown);
    match cgroup::root(host) {
        Some(root) => sifter.finding(Box::new(move |id| {
            let path = cgroup::path_of(&root, id).ok()??;
            Some(root.join(path.trim_start_matches('/')))
        })),
        None => sifter,
    }
}

fn settings(host: &Host, asked: &Run, scope: &Scope) -> anyhow::Result<Asked> {
    let own_netns = scope.inum().context("the network namespace")?;
    let resolver = Resolver::default();
    let (spec, beside) = asked.filter.clone().take(asked.expression.clone());
    let resolved = resolver.resolve(&spec).map_err(Exit::from)?;
    let processes = resolver.processes(&spec).map_err(Exit::from)?;
    // What the programs cannot compare, and which events are shown where more of them are counted.
    let (beside, mut shown) = (resolver.names(beside).map_err(Exit::from)?, Expression::everything());
    let mut filters = spec.expression(&resolved).and(beside.clone());
    resolved.notes.iter().chain(&processes).for_each(|said| note(said));
    let mut filter = spec.knob(&resolved);
    let tables = front::has_tables(asked);
    if tables {
        // Tables count every event, whichever are shown.
        (filter.kinds, filter.causes) = (Filter::ALL.kinds, Filter::ALL.causes);
        shown = spec.shown();
    } else if !beside.is_everything() {
        // User space counts, whichever kinds are shown.
        (filter.kinds, shown) = (Filter::ALL.kinds, spec.shown());
    }
    if asked.demo && filter.netns_len == 0 {
        // Who asks for the demo wants to see the demo.
        filter.netns[0] = own_netns;
        filter.netns_len = 1;
        filters = filters.and(Expression::Is(Primitive::Netns(own_netns)));
    }
    let limit = host.sysctl("net/ipv4/tcp_max_tw_buckets").and_then(|limit| u32::try_from(limit).ok());
    let settings = Settings {
        filter,
        ports: spec.port_sets(),
        trees: resolved.trees.iter().map(|tree| tree.path.clone()).collect(),
        tables: Tables {
            ring: asked.ring_size,
            lives: asked.max_lives.unwrap_or_else(|| limit.unwrap_or(MOST_LIVES).clamp(LEAST_LIVES, MOST_LIVES)),
            conns: asked.max_conns.unwrap_or(CONNS),
        },
        own_netns,
        log_level: asked.ebpf_log as u8,
        passive: if tables { PEERS } else { 0 },
        keep_seeds: tables,
        linger: Linger::NEVER,
    };
    Ok(Asked { settings, wanted: Wanted::new(&filters), sifter: sifter(host, beside, shown) })
}

/// Shows what the programs log, on standard error.
fn log_programs(tracer: &mut Tracer, level: EbpfLog) -> anyhow::Result<()> {
    if log::set_logger(&ToStderr).is_ok() {
        log::set_max_level(level.level());
    }
    let logger = tracer.logger().context("--ebpf-log")?;
    // SAFETY: the logger owns its ring's descriptor, keeps it for life, and always returns the same one.
    let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut ring = registered.context("--ebpf-log")?;
    tokio::spawn(async move {
        while let Ok(mut guard) = ring.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
    Ok(())
}

/// One line a message, as all that goes to standard error.
struct ToStderr;

impl log::Log for ToStderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        remark(&format!(
            "twtrace: {}: {}\n",
            record.level().as_str().to_ascii_lowercase(),
            Plain(&record.args().to_string())
        ));
    }

    fn flush(&self) {}
}

/// The first line of the run.
fn start(host: &Host, tracer: &Tracer) -> Start {
    Start {
        kernel: host.kernel_release(),
        realtime: tracer.realtime,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: capabilities(&tracer.plan),
        seeded: tracer.seeded.as_ref().ok().copied(),
        namespaces_missed: tracer.namespaces_missed as u64,
        namespaces_missed_why: tracer
            .seeded
            .as_ref()
            .err()
            .cloned()
            .or_else(|| missed_why(host, tracer.namespaces_missed)),
        self_test: tracer.self_test.clone(),
    }
}

/// Why network namespaces could not be looked into: without CAP_SYS_PTRACE those of other users' processes cannot be opened
/// (`proc_ns_get_link`, fs/proc/namespaces.c), and /proc may hide the processes themselves.
fn missed_why(host: &Host, missed: usize) -> Option<String> {
    const REMEDY: &str = "add that capability, or run twtrace as root";
    if Privileges::read(host).sees_others() {
        return None;
    }
    if netns::hides_processes(host) {
        return Some(format!("CAP_SYS_PTRACE is missing, and /proc hides other users' processes (hidepid); {REMEDY}"));
    }
    let why = "CAP_SYS_PTRACE is missing, without which namespaces of other users' processes cannot be opened";
    (missed > 0).then(|| format!("{why}; {REMEDY}"))
}

/// Each capability with its backend, and what spoke against the others.
pub(super) fn capabilities(plan: &Plan) -> std::collections::BTreeMap<String, CapabilityReport> {
    let report = |capability: Capability| CapabilityReport {
        backend: plan.backend(capability),
        reason: plan.reasons(capability),
    };
    Capability::ALL.into_iter().map(|capability| (capability.name().to_owned(), report(capability))).collect()
}
