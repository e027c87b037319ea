//! From facts to a running, tested, seeded tracer: plan, attach, self-test, and again with the next backend if one of
//! them fails.

use std::{collections::BTreeSet, io, path::Path};

use aya_log::EbpfLogger;
use twtrace_common::counter::Counters;

use crate::{
    audit::{self, Auditor},
    bpf::{self, AttachError, Attached, BpfError, Kernel, Settings, Skips},
    host::{
        Host, clock,
        netns::{self, Netns},
        release_memory,
    },
    model::{
        audit::Audit,
        event::{Event, Life},
        kernel::TwCounts,
        occupancy::Passive,
        own::Runs,
        report::Missed,
    },
    plan::{Asked, Backend, Capability, Failure, Plan, PlanError, Reason, choose},
    selftest,
    source::Ring,
};

/// The most events of others that are kept while the self-test runs: 32 MB, some 100,000, which is what a machine at its limit
/// makes in a second. More are lost, and counted.
const KEPT: usize = (32 << 20) / size_of::<Event>();

/// Why there is no tracer.
#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    /// This kernel cannot be watched, or not as forced.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Object, maps or BTF.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// The ring could not be put under tokio.
    #[error("the ring's descriptor: {0}")]
    Ring(#[source] io::Error),
}

/// A tracer that runs. Its programs stop when it is dropped.
pub struct Tracer {
    /// What serves which capability, and what spoke against the rest.
    pub plan: Plan,
    /// What the self-test saw: `passed`, or why it could not be made.
    pub self_test: String,
    /// What TcpExt TW means here; `None` if no self-test could tell.
    pub tw_counts: Option<TwCounts>,
    /// Minisocks that were there before, all namespaces; the error if they could not be listed. A few more may be counted: those
    /// that were found to be dead when they had been entered.
    pub seeded: Result<u64, String>,
    /// Seeded minisocks that the filters let through, if [`Settings::keep_seeds`] asked for them. A minisock is told here or
    /// by its birth, never by both.
    pub seeds: Vec<Life>,
    /// Network namespaces whose sockets could not be listed, at most: counted by process or name.
    pub namespaces_missed: usize,
    /// Namespaces whose sockets were listed, by inode number, and when that was done, nanoseconds of `CLOCK_MONOTONIC`.
    listed: (BTreeSet<u32>, u64),
    /// Events that came while the self-test ran.
    pub early: Vec<Event>,
    /// How many more came than could be kept.
    pub early_lost: u64,
    /// Fields that this kernel's BTF lacks.
    pub unknown_fields: Vec<&'static str>,
    /// Why it is not known how many events the kernel ran no program for; `None`: it is.
    pub misses_unknown: Option<&'static str>,
    /// The kernel is PREEMPT_RT.
    pub realtime: bool,
    /// Where records come from.
    pub ring: Ring,
    /// What looks at the kernel's minisocks; `None` if they could not be listed. Before `attached`: it ends first.
    auditor: Option<Auditor>,
    attached: Attached,
}

/// Facts that every attempt shares.
pub struct Attempt<'a> {
    /// The machine.
    pub host: &'a Host,
    /// Another BTF for the fields' offsets.
    pub btf: Option<&'a Path>,
    /// One backend alone.
    pub forced: Option<Backend>,
    /// What the programs are told.
    pub settings: &'a Settings,
}

impl Tracer {
    /// Finds a plan that works on this kernel. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If birth or death cannot be watched at all, with every reason. `failures` holds what was tried in any case.
    pub fn start(attempt: &Attempt<'_>, failures: &mut Vec<Failure>) -> Result<Self, TracerError> {
        let kernel = bpf::gather(attempt.host, attempt.btf)?;
        let asked = Asked { forced: attempt.forced, kinds: attempt.settings.filter.kinds };
        loop {
            let plan = choose(&kernel.facts, &asked, failures)?;
            match bpf::attach(&kernel, &plan, attempt.settings) {
                Ok(attached) => match Self::prove(attempt, &kernel, plan, attached)? {
                    Ok(tracer) => {
                        drop(kernel);
                        release_memory();
                        return Ok(tracer);
                    }
                    Err(wanting) => failures.push(wanting),
                },
                Err(AttachError::Hook(failure)) => failures.push(*failure),
                Err(AttachError::Fatal(error)) => return Err(error.into()),
            }
        }
    }

    /// Self-test and seeding. The inner error is a backend that did not pass.
    fn prove(
        attempt: &Attempt<'_>,
        kernel: &Kernel,
        plan: Plan,
        mut attached: Attached,
    ) -> Result<Result<Self, Failure>, TracerError> {
        let ring = attached.take_ring().ok_or(BpfError::Missing("map RING"))?;
        let mut ring = Ring::new(ring).map_err(TracerError::Ring)?;
        let (mut early, mut early_lost) = (Vec::new(), 0);
        let mut tw_counts = None;
        let self_test = match Netns::new().and_then(|netns| {
            attached.set_self_test(netns.inum()).map_err(io::Error::other)?;
            Ok((selftest::make(&netns)?, netns))
        }) {
            Ok((made, netns)) => {
                tw_counts = Some(made.tw_counts);
                let with_cause = plan.backend(Capability::Cause).is_some();
                let checked = selftest::check(&mut ring, &made, with_cause, &mut |event| {
                    if early.len() < KEPT {
                        early.push(event);
                    } else {
                        early_lost += 1;
                    }
                });
                // Nothing of it is alive any more, so its number may go to another namespace.
                attached.set_self_test(0)?;
                drop(netns);
                match checked {
                    Ok(()) => "passed".to_owned(),
                    Err(what) => {
                        let backend = plan.backend(Capability::Birth).unwrap_or(Backend::Tracepoint);
                        return Ok(Err(Failure { backend, hook: None, reason: Reason::SelfTest(what) }));
                    }
                }
            }
            Err(error) => {
                attached.set_self_test(0)?;
                format!("not possible: {error}")
            }
        };
        let (namespaces, missed) = netns::find(attempt.host);
        let (mut seeds, keep) = (Vec::new(), attempt.settings.keep_seeds);
        let mut each = |life| {
            if keep {
                seeds.push(life);
            }
        };
        let seeding = attached.looker(kernel).and_then(|mut looker| {
            let unreadable = audit::first(&mut looker, &namespaces, &mut each)?;
            let auditor = Auditor::spawn(attempt.host.clone(), looker)
                .map_err(|error| BpfError::Seed(format!("its thread: {error}")))?;
            Ok((unreadable, auditor))
        });
        let listed = (namespaces.keys().copied().collect(), clock::monotonic_ns());
        let (seeded, namespaces_missed, auditor) = match seeding {
            Ok((unreadable, auditor)) => (Ok(attached.counters()?.seeded), missed + unreadable, Some(auditor)),
            Err(error) => (Err(error.to_string()), 0, None),
        };
        Ok(Ok(Self {
            misses_unknown: kernel.facts.misses.unknown(&plan),
            realtime: attempt.host.is_realtime(),
            plan,
            self_test,
            tw_counts,
            seeded,
            seeds,
            namespaces_missed,
            listed,
            early,
            early_lost,
            unknown_fields: kernel.offsets.unknown(),
            ring,
            auditor,
            attached,
        }))
    }

    /// The programs' counters now.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn counters(&self) -> Result<Counters, BpfError> {
        self.attached.counters()
    }

    /// Connections that the peer closed first since the last call, by service and peer; none unless [`Settings::passive`] asked
    /// for them.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn passive(&mut self) -> Result<Vec<Passive>, BpfError> {
        self.attached.passive()
    }

    /// Passive closes whose counts the kernel evicted before [`Tracer::passive`] could read them.
    #[must_use]
    pub fn passive_evicted(&self) -> u64 {
        self.attached.passive_evicted()
    }

    /// Events that the kernel ran no program for so far. Once the programs are stopped it tells no more.
    ///
    /// # Errors
    /// If the map of counters cannot be read.
    pub fn missed(&self) -> Result<Missed, BpfError> {
        self.attached.missed()
    }

    /// Events that the kernel did not run a program for, program by program.
    ///
    /// # Errors
    /// If the map of counters cannot be read.
    pub fn skips(&self) -> Result<Vec<Skips>, BpfError> {
        self.attached.skips()
    }

    /// True if this end without a birth can only be of a minisock whose birth was missed: it was not there when its
    /// namespace was listed.
    #[must_use]
    pub fn is_missed_birth(&self, event: &Event) -> bool {
        let (namespaces, at_ns) = &self.listed;
        let listed = event.life.netns.is_some_and(|netns| namespaces.contains(&netns));
        self.seeded.is_ok() && listed && event.mono_ns > *at_ns
    }

    /// Asks for another look through the kernel's minisocks, unless one is under way, and never waits. What is found is followed
    /// from then on: births that were missed, for want of a hook that was called or of a namespace that could be found. What has
    /// ended unseen is taken out of the count.
    pub fn look(&self) {
        if let Some(auditor) = &self.auditor {
            auditor.ask();
        }
    }

    /// Asks for a look at once, in these namespaces and in all that can be found. Whoever asks goes on emptying the ring until
    /// [`Tracer::is_looking`] says no.
    pub fn look_now(&self, more: &[&Netns]) {
        if let Some(auditor) = &self.auditor {
            auditor.hurry(more.iter().filter_map(|netns| netns.try_clone().ok()).collect());
        }
    }

    /// True while a look that was asked for is under way.
    #[must_use]
    pub fn is_looking(&self) -> bool {
        self.auditor.as_ref().is_some_and(|auditor| !auditor.is_idle())
    }

    /// What looks have found; never waits.
    ///
    /// # Errors
    /// If the iterator or the counters cannot be read.
    pub fn looked(&self) -> Result<Audit, BpfError> {
        let (Some(auditor), Ok(at_start)) = (&self.auditor, &self.seeded) else { return Ok(Audit::default()) };
        let found = auditor.take().map_err(BpfError::Seed)?;
        // What the first look withdrew is no find of a later one.
        let unseen = self.counters()?.seeded.saturating_sub(*at_start);
        let later = found.withdrawn.saturating_sub(found.withdrawn_first);
        Ok(Audit {
            unseen: unseen.saturating_sub(later),
            unseen_ends: found.unseen_ends,
            withdrawn: found.withdrawn,
            found: found.lives,
            ended: found.ended,
            at_ns: found.ended_ns,
        })
    }

    /// A look at once, waited for: for whoever has nothing else to do.
    ///
    /// # Errors
    /// As [`Tracer::looked`].
    pub fn audit(&self, more: &[&Netns]) -> Result<Audit, BpfError> {
        self.look_now(more);
        self.auditor.as_ref().inspect(|auditor| auditor.wait());
        self.looked()
    }

    /// What each program has cost while somebody kept a [`Timing`](crate::bpf::Timing).
    #[must_use]
    pub fn runs(&self) -> Vec<Runs> {
        self.attached.runs()
    }

    /// Takes one program off its hook: for tests of what is said of events that no program saw.
    ///
    /// # Errors
    /// If it is not loaded.
    pub fn blind(&mut self, program: &'static str) -> Result<(), BpfError> {
        self.attached.blind(program)
    }

    /// Lets no program act any more, all of them at once. Those that run already end as usual: see [`Tracer::settle`].
    ///
    /// # Errors
    /// If the programs cannot be told.
    pub fn stop(&mut self) -> Result<(), BpfError> {
        self.attached.stop()
    }

    /// Waits, after a stop, until counters and ring stand still, some 10 ms. What is in them stays.
    pub fn settle(&self) {
        self.attached.settle();
    }

    /// Takes the programs off their hooks.
    pub fn detach(&mut self) {
        self.attached.detach();
    }

    /// The reading end of the programs' own log.
    ///
    /// # Errors
    /// If the object has none.
    pub fn logger(&mut self) -> Result<EbpfLogger<&'static dyn log::Log>, aya_log::Error> {
        self.attached.logger()
    }
}
