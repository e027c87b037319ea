//! Whether this machine's kernel calls tracepoints at all times: judged without twtrace, by two counters of perf.
//!
//! On one virtual machine with 6.18 no tracepoint fires on a CPU whose current task belongs to the machine's own agent. Births
//! and ends go unseen there, whatever program listens, and no counter of the kernel says so (docs/decisions.md, 14).

use std::{
    fs, io,
    sync::{Mutex, PoisonError},
};

use perf_event::{
    Builder, Counter,
    events::{Event, Software, Tracepoint},
};
use twtrace::host::Host;

/// Two counters of one CPU.
struct Pair {
    switches: Counter,
    fired: Counter,
}

/// What may differ because the two are not read at one moment, and because CPUs come and go.
const TOLERANCE: u64 = 100;

/// Of all CPUs; none if they cannot be had.
static PAIRS: Mutex<Vec<Pair>> = Mutex::new(Vec::new());

/// Begins to count. Where that cannot be done, which is said, tracepoints are taken for sound.
pub fn begin() {
    match (0..Host::default().cpus()).map(Pair::of).collect() {
        Ok(pairs) => *PAIRS.lock().unwrap_or_else(PoisonError::into_inner) = pairs,
        Err(error) => crate::line(&format!("nobody counts whether tracepoints fire: {error}")),
    }
}

/// How many context switches since [`begin`] fired no `sched_switch`; `None`: none, as far as this can be told.
pub fn silent() -> Option<u64> {
    let mut pairs = PAIRS.lock().unwrap_or_else(PoisonError::into_inner);
    let missing: io::Result<u64> = pairs.iter_mut().map(Pair::missing).sum();
    missing.ok().filter(|missing| *missing > TOLERANCE)
}

impl Pair {
    fn of(cpu: u64) -> io::Result<Self> {
        let id = |tracing: &str| fs::read_to_string(format!("{tracing}/events/sched/sched_switch/id"));
        let id = id("/sys/kernel/tracing").or_else(|_| id("/sys/kernel/debug/tracing"))?;
        let switch = Tracepoint::with_id(id.trim().parse().map_err(io::Error::other)?);
        Ok(Self { switches: counter(cpu, Software::CONTEXT_SWITCHES)?, fired: counter(cpu, switch)? })
    }

    /// The tracepoint comes first in `__schedule`: it is read last, so that it is never behind.
    fn missing(&mut self) -> io::Result<u64> {
        let switches = self.switches.read()?;
        Ok(switches.saturating_sub(self.fired.read()?))
    }
}

fn counter(cpu: u64, event: impl Event) -> io::Result<Counter> {
    let cpu = usize::try_from(cpu).map_err(io::Error::other)?;
    let mut counter = Builder::new(event).any_pid().one_cpu(cpu).include_kernel().build()?;
    counter.enable()?;
    Ok(counter)
}
