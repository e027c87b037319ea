//! Two looks at the kernel's counters, each taken while nothing moved.

use std::{io, sync::Arc, thread, time::Duration};

use twtrace_common::counter::Own;

use crate::{
    bpf::BpfError,
    host::{Host, HostError, netns::Netns},
    model::{
        kernel::KernelCounters,
        reconcile::{Bracket, Compared, Look, Rest, Suspicion, between, bracket, reconcile},
        report::Reconciled,
    },
    tracer::Tracer,
};

/// Tries to find a moment of rest.
const ATTEMPTS: usize = 60;
/// Tries in the middle of a run, where events wait meanwhile.
const BRIEFLY: usize = 3;
/// Between two readings that must agree: longer than an event needs from the kernel's counter to the programs'.
const GAP: Duration = Duration::from_millis(3);

/// The look that a run is compared with.
#[derive(Clone, Copy, Debug)]
pub struct First {
    /// Both sides.
    pub look: Look,
    /// How many events may have been counted by one of them only.
    pub under_way: u64,
}

/// The largest step of a counter between two readings.
fn moved(before: &Own, after: &Own) -> u64 {
    let Own { born, died, expired, taken, refused } = *before;
    let steps = [
        after.born.abs_diff(born),
        after.died.abs_diff(died),
        after.expired.abs_diff(expired),
        after.taken.abs_diff(taken),
        after.refused.abs_diff(refused),
    ];
    steps.into_iter().max().unwrap_or(0)
}

/// Events that the kernel may have counted and twtrace not yet: on each CPU one of a task, and one of the softirq on top.
fn in_flight(host: &Host) -> u64 {
    2 * host.cpus()
}

/// Whose counters are looked at.
#[derive(Clone, Debug)]
pub struct Scope {
    host: Host,
    netns: Option<Arc<Netns>>,
}

impl Scope {
    /// The namespace that twtrace is in.
    #[must_use]
    pub fn own(host: &Host) -> Self {
        Self { host: host.clone(), netns: None }
    }

    /// Another namespace.
    #[must_use]
    pub fn other(host: &Host, netns: Arc<Netns>) -> Self {
        Self { host: host.clone(), netns: Some(netns) }
    }

    /// The namespace's inode number.
    ///
    /// # Errors
    /// If /proc does not tell.
    pub fn inum(&self) -> io::Result<u32> {
        match &self.netns {
            Some(netns) => Ok(netns.inum()),
            None => Netns::current().map(|netns| netns.inum()),
        }
    }

    fn read(&self) -> Result<KernelCounters, HostError> {
        match &self.netns {
            None => KernelCounters::read(&self.host),
            Some(netns) => netns
                .run(|| KernelCounters::read(&self.host).map_err(io::Error::other))
                .map_err(|source| HostError::Read { path: self.host.path("proc/net/netstat"), source }),
        }
    }

    /// Reads both sides until neither has moved, or until that is hopeless.
    ///
    /// # Errors
    /// If one of the two cannot be read.
    pub fn look(&self, tracer: &Tracer) -> Result<(Look, Rest), LookError> {
        self.at_rest(tracer, ATTEMPTS)
    }

    /// As [`Scope::look`], and how far twtrace's own counters moved while both sides were read, if they never stood still.
    ///
    /// # Errors
    /// If one of the two cannot be read.
    pub fn first(&self, tracer: &Tracer) -> Result<First, LookError> {
        match self.look(tracer)? {
            (look, Rest::Still) => Ok(First { look, under_way: 0 }),
            (_, Rest::Moving) => {
                let before = tracer.counters()?.own;
                let kernel = self.read()?;
                let after = tracer.counters()?.own;
                let under_way = moved(&before, &after).saturating_add(in_flight(&self.host));
                Ok(First { look: Look { kernel, own: before }, under_way })
            }
        }
    }

    /// Stops the tracer. Compares what it counted, which moves no more, with the kernel's counters of before and after: at
    /// rest, if there is a moment of it beforehand.
    ///
    /// # Errors
    /// If one of the two cannot be read, or the tracer cannot be stopped.
    pub fn stop(&self, tracer: &mut Tracer, first: &First, refusal: bool) -> Result<Vec<Reconciled>, LookError> {
        let (last, rest) = self.look(tracer)?;
        let before = self.read()?;
        tracer.stop()?;
        let after = self.read()?;
        tracer.settle();
        let end = match rest {
            Rest::Still => {
                Bracket { before: last.kernel, after: last.kernel, own: last.own, under_way: first.under_way }
            }
            Rest::Moving => {
                let own = tracer.counters()?.own;
                Bracket { before, after, own, under_way: first.under_way.saturating_add(in_flight(&self.host)) }
            }
        };
        Ok(bracket(&first.look, &end, tracer.tw_counts, refusal))
    }

    fn at_rest(&self, tracer: &Tracer, attempts: usize) -> Result<(Look, Rest), LookError> {
        let take = || -> Result<Look, LookError> { Ok(Look { own: tracer.counters()?.own, kernel: self.read()? }) };
        let mut last = take()?;
        for _ in 0..attempts {
            thread::sleep(GAP);
            let now = take()?;
            if now == last {
                return Ok((now, Rest::Still));
            }
            last = now;
        }
        Ok((last, Rest::Moving))
    }

    /// Both sides while traffic goes on: twtrace's own counters are read before and after the kernel's, so what is under
    /// way is no difference; and if one is left, or was before, a moment of rest is looked for.
    ///
    /// # Errors
    /// If one of the two cannot be read.
    pub fn compare(
        &self,
        tracer: &Tracer,
        first: &Look,
        refusal: bool,
        suspicion: &mut Suspicion,
    ) -> Result<Compared, LookError> {
        let before = tracer.counters()?.own;
        let kernel = self.read()?;
        let after = tracer.counters()?.own;
        let rows = |own| reconcile(first, &Look { own, kernel }, tracer.tw_counts, refusal);
        let moving = between(rows(before), &rows(after));
        if !suspicion.is_open() && moving.iter().all(|row| row.diff == 0) {
            return Ok(suspicion.weigh(moving, Rest::Moving));
        }
        Ok(match self.at_rest(tracer, BRIEFLY)? {
            (look, Rest::Still) => suspicion.weigh(reconcile(first, &look, tracer.tw_counts, refusal), Rest::Still),
            (_, Rest::Moving) => suspicion.weigh(moving, Rest::Moving),
        })
    }
}

/// One of the two sides could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The kernel's.
    #[error(transparent)]
    Host(#[from] HostError),
    /// twtrace's.
    #[error(transparent)]
    Bpf(#[from] BpfError),
}
