//! The pipe alone, as root: what one core decodes, aggregates and writes as JSON from a ring that is kept full, how the
//! loss grows past that, and what an event costs as tables grow. The records are real, the sockets are not: an eBPF
//! program makes them, run by BPF_PROG_RUN.
//!
//! `cargo bench -p twtrace --features extra --bench pipe -- [full] [loss] [growth] [hub] [--rounds=N] [--seconds=S]` prints JSON lines, which
//! `cargo xtask bench` makes tables of. It fails if a counter is not exact.

use std::{
    env,
    fs::File,
    io::{self, Write as _},
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};
use serde::Serialize;
use tokio::runtime::Runtime;
use twtrace::{
    bpf::{self, AttachError, Attached, Lives, Settings, Tables},
    decode::decode,
    host::{Host, clock, netns::Netns},
    model::{aggregate::Aggregates, happening::Happening},
    plan::Plan,
    run::{Hub, Outlet},
    show::Clock,
    sink::{
        BATCH_BYTES, JsonSink, Lines as _, Observer as _,
        writer::{Descriptor, QUEUE_BATCHES, Writer},
    },
    source::{Ring, Source as _},
};

/// The ring of a run that asks for no other, bytes.
const RING: u32 = 4 << 20;
/// A ring that takes a whole batch without waking anybody, bytes: a quarter of it is [`BATCH`].
const LARGE_RING: u32 = 64 << 20;
/// Births at a time where nothing runs beside.
const BATCH: u32 = 1 << 14;
/// More records than the usual ring takes, each of 144 bytes at least.
const FULL: u32 = RING / 144;
/// Births at a time where the reader runs beside: a millisecond's worth.
const SLICE: u32 = 512;
/// How often the ring is emptied, as in a run.
const DRAIN: Duration = Duration::from_millis(40);
/// How long a reader that has part of a core reads at most before others have it.
const TURN: Duration = Duration::from_millis(10);
/// Records taken at once, as in a run.
const AT_ONCE: usize = 8192;
/// What usually is alive, and the destinations that it goes to.
const USUAL: Lives = Lives { live: 100_000, destinations: 100 };
/// As many records as a CPU can make.
const BIRTHS: Lives = Lives { live: 0, ..USUAL };
/// What is offered to a reader that writes JSON, records a second; a CPU may make fewer.
const OFFERED: [u32; 6] = [100_000, 200_000, 400_000, 800_000, 1_600_000, 3_200_000];
/// How many live at once, and how many destinations they have, where the other is as usual.
const LIVE: [u32; 4] = [1000, 10_000, 100_000, 1_000_000];
const DESTINATIONS: [u32; 4] = [1, 100, 10_000, 100_000];
/// Batches that a point of growth is measured by.
const BATCHES: u32 = 8;

/// What becomes of a record.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum To {
    Nothing,
    Aggregates,
    Json,
    /// JSON again, by way of a run's hub and its writer.
    Hub,
}

/// The end of the pipe.
struct End {
    to: To,
    aggregates: Aggregates,
    json: JsonSink,
    hub: Hub,
    null: File,
    records: u64,
}

impl End {
    fn new(to: To) -> io::Result<Self> {
        let json = JsonSink::new(Clock { offset_ns: clock::wall_offset_ns().into() });
        let null = File::options().write(true).open("/dev/null")?;
        let writer = Writer::with_output(Descriptor::new(null.try_clone()?), QUEUE_BATCHES)?;
        let lines = Box::new(JsonSink::new(Clock { offset_ns: clock::wall_offset_ns().into() }));
        let hub = Hub::new(vec![Outlet::new("bench", lines, writer)]);
        Ok(Self { to, aggregates: Aggregates::default(), json, hub, null, records: 0 })
    }

    /// Takes what waits, and says how much that was.
    fn drain(&mut self, ring: &mut Ring) -> io::Result<usize> {
        let Self { to, aggregates, json, hub, .. } = self;
        let mut garbage = 0;
        let count = ring.drain(AT_ONCE, &mut |bytes| match (decode(bytes), &to) {
            (Err(_), _) => garbage += 1,
            (Ok(event), To::Nothing) => drop(std::hint::black_box(event)),
            (Ok(event), To::Aggregates) => aggregates.event(&event),
            (Ok(event), To::Json) => json.event(&event),
            (Ok(event), To::Hub) => hub.happened(&Happening::Event(event)),
        });
        if garbage > 0 {
            return Err(io::Error::other(format!("{garbage} records could not be decoded")));
        }
        self.hub.flush();
        if self.json.pending() > BATCH_BYTES {
            self.null.write_all(self.json.take(&self.aggregates).bytes())?;
        }
        self.records += count as u64;
        Ok(count)
    }

    fn drain_all(&mut self, ring: &mut Ring) -> io::Result<()> {
        while self.drain(ring)? > 0 {}
        Ok(())
    }
}

/// Maps and the producer, no hooks.
struct Pipe {
    attached: Attached,
    ring: Ring,
}

impl Pipe {
    fn open(ring: u32, lives: u32) -> io::Result<Self> {
        let kernel = bpf::gather(&Host::default(), None).map_err(io::Error::other)?;
        let plan = Plan::default();
        let settings = Settings::all(Tables { ring, lives, conns: 1 << 10 }, Netns::current()?.inum());
        let mut attached = bpf::attach(&kernel, &plan, &settings).map_err(|error| match error {
            AttachError::Hook(failure) => io::Error::other(failure.reason.to_string()),
            AttachError::Fatal(error) => io::Error::other(error),
        })?;
        attached.load_producer().map_err(io::Error::other)?;
        let ring = attached.take_ring().ok_or_else(|| io::Error::other("there is no ring"))?;
        Ok(Self { attached, ring: Ring::new(ring)? })
    }

    /// Nanoseconds of a birth and a death in the kernel.
    fn produce(attached: &Attached, lives: Lives, births: u32) -> io::Result<u64> {
        Ok(attached.produce(lives, births).map_err(io::Error::other)?.as_nanos() as u64)
    }

    /// Records seen and lost; an error unless each was emitted or lost, and each that was emitted was read.
    fn account(&self, end: &End) -> io::Result<(u64, u64)> {
        let counters = self.attached.counters().map_err(io::Error::other)?;
        let sum = |counts: &[u64]| counts.iter().sum::<u64>();
        let (seen, emitted, lost) = (sum(&counters.seen), sum(&counters.emitted), sum(&counters.lost));
        if seen != emitted + lost || emitted != end.records || counters.trouble.lives_full > 0 {
            let read = end.records;
            return Err(io::Error::other(format!(
                "not exact: seen {seen}, emitted {emitted}, lost {lost}, read {read}"
            )));
        }
        Ok((seen, lost))
    }
}

/// Keeps the calling thread on a CPU, counted from the last: the programs count per CPU. Where there is one alone, all
/// share it.
fn pin(nth: usize) -> io::Result<()> {
    let cpus = thread::available_parallelism()?.get();
    let mut set = CpuSet::new();
    set.set(cpus.saturating_sub(nth + 1));
    Ok(sched_setaffinity(None, &set)?)
}

/// CPU time of the calling thread.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn say(line: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    writeln!(out)
}

#[derive(Serialize)]
struct Full {
    part: &'static str,
    to: To,
    records: u64,
    lost: u64,
    cpu_s: f64,
    wall_s: f64,
    /// What a record costs the kernel where the ring is beyond its quarter, or has no room for it.
    kernel_ns: f64,
}

/// A ring that is full whenever its reader begins: filled past its brim, emptied, and again. Only the emptying is measured.
fn full(to: To, lasts: Duration) -> io::Result<()> {
    let mut pipe = Pipe::open(RING, USUAL.live + FULL)?;
    let mut end = End::new(to)?;
    let mut fill_and_empty = || {
        let kernel_ns = Pipe::produce(&pipe.attached, USUAL, FULL)?;
        let (begun, cpu) = (Instant::now(), cpu_time());
        end.drain_all(&mut pipe.ring)?;
        io::Result::Ok((begun.elapsed(), cpu_time() - cpu, end.records, kernel_ns))
    };
    // Until deaths come with the births, and rows and buffers have their size.
    let mut before = 0;
    for _ in 0..=USUAL.live / FULL + 1 {
        (_, _, before, _) = fill_and_empty()?;
    }
    let (mut cpu, mut wall, mut records, mut kernel) = (Duration::ZERO, Duration::ZERO, 0, Vec::new());
    let begun = Instant::now();
    // Filling takes longer than emptying.
    while begun.elapsed() < lasts {
        let (took, used, after, kernel_ns) = fill_and_empty()?;
        (wall, cpu, records) = (wall + took, cpu + used, after - before);
        kernel.push(kernel_ns as f64 / 2.0);
    }
    let (_, lost) = pipe.account(&end)?;
    kernel.sort_unstable_by(f64::total_cmp);
    let kernel_ns = kernel[kernel.len() / 2];
    say(&Full { part: "full", to, records, lost, cpu_s: cpu.as_secs_f64(), wall_s: wall.as_secs_f64(), kernel_ns })
}

#[derive(Serialize)]
struct Offered {
    part: &'static str,
    offered_per_s: f64,
    seen: u64,
    lost: u64,
}

/// Records at a steady rate, and a reader that has a quarter of a core: a whole one is not outrun by another that makes
/// the records.
fn loss(runtime: &Runtime, per_s: u32, lasts: Duration) -> io::Result<()> {
    let mut pipe = Pipe::open(RING, 1)?;
    let mut end = End::new(To::Json)?;
    let (stop, made) = (AtomicBool::new(false), AtomicU64::new(0));
    let Pipe { attached, ring } = &mut pipe;
    let attached = &*attached;
    let begun = Instant::now();
    thread::scope(|scope| {
        let producer = scope.spawn(|| {
            pin(0)?;
            while !stop.load(Relaxed) {
                let due = begun.elapsed().as_secs_f64() * f64::from(per_s);
                match due as u64 - made.load(Relaxed).min(due as u64) {
                    0 => thread::sleep(Duration::from_micros(100)),
                    behind => {
                        let births = (behind as u32).min(SLICE);
                        Pipe::produce(attached, BIRTHS, births)?;
                        made.fetch_add(births.into(), Relaxed);
                    }
                }
            }
            io::Result::Ok(())
        });
        let reading = runtime.block_on(async {
            let mut drain = tokio::time::interval(DRAIN);
            while begun.elapsed() < lasts {
                tokio::select! {
                    full = ring.filling() => full?,
                    _ = drain.tick() => {}
                }
                let drained = Instant::now();
                while drained.elapsed() < TURN && end.drain(ring)? > 0 {}
                tokio::time::sleep(3 * drained.elapsed()).await;
            }
            io::Result::Ok(())
        });
        stop.store(true, Relaxed);
        producer.join().unwrap_or_else(|_| Err(io::Error::other("the producer panicked")))?;
        reading
    })?;
    end.drain_all(&mut pipe.ring)?;
    let (seen, lost) = pipe.account(&end)?;
    say(&Offered { part: "loss", offered_per_s: seen as f64 / begun.elapsed().as_secs_f64(), seen, lost })
}

#[derive(Serialize)]
struct Growth {
    part: &'static str,
    axis: &'static str,
    at: u32,
    kernel_ns: f64,
    user_ns: f64,
}

/// What a record costs the kernel and the reader, with so many alive.
fn growth(axis: &'static str, at: u32, lives: Lives) -> io::Result<()> {
    let mut pipe = Pipe::open(LARGE_RING, lives.live + 2 * BATCH)?;
    let mut end = End::new(To::Aggregates)?;
    let mut batch = || {
        let kernel_ns = Pipe::produce(&pipe.attached, lives, BATCH)?;
        let (before, read) = (cpu_time(), end.records);
        end.drain_all(&mut pipe.ring)?;
        // A birth and a death are two records.
        let user_ns = (cpu_time() - before).as_nanos() as f64 / (end.records - read).max(1) as f64;
        io::Result::Ok((kernel_ns as f64 / 2.0, user_ns))
    };
    for _ in 0..=lives.live.max(lives.destinations) / BATCH + 1 {
        batch()?;
    }
    let mut costs = (0..BATCHES).map(|_| batch()).collect::<io::Result<Vec<_>>>()?;
    let middle = costs.len() / 2;
    costs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let kernel_ns = costs[middle].0;
    costs.sort_unstable_by(|a, b| a.1.total_cmp(&b.1));
    let user_ns = costs[middle].1;
    pipe.account(&end)?;
    say(&Growth { part: "growth", axis, at, kernel_ns, user_ns })
}

/// One round of what was asked for.
fn round(runtime: &Runtime, parts: &[&str], lasts: Duration) -> io::Result<()> {
    let wants = |part| parts.is_empty() || parts.contains(&part);
    pin(0)?;
    if wants("full") {
        [To::Nothing, To::Aggregates, To::Json].into_iter().try_for_each(|to| full(to, lasts))?;
    }
    // Only when asked for: it tells what the hub costs beside the JSON alone.
    if parts.contains(&"hub") {
        [To::Json, To::Hub].into_iter().try_for_each(|to| full(to, lasts))?;
    }
    if wants("loss") {
        pin(1)?;
        OFFERED.into_iter().try_for_each(|per_s| loss(runtime, per_s, lasts))?;
    }
    if wants("growth") {
        pin(0)?;
        LIVE.into_iter().try_for_each(|live| growth("live", live, Lives { live, ..USUAL }))?;
        DESTINATIONS
            .into_iter()
            .try_for_each(|destinations| growth("destinations", destinations, Lives { destinations, ..USUAL }))?;
    }
    Ok(())
}

fn bench() -> io::Result<()> {
    // The ring is registered with a reactor.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _guard = runtime.enter();
    let args: Vec<String> = env::args().skip(1).collect();
    let parts: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.starts_with('-')).collect();
    let number = |name: &str| args.iter().find_map(|arg| arg.strip_prefix(name)?.parse::<f64>().ok());
    let rounds = number("--rounds=").unwrap_or(1.0) as u32;
    let lasts = Duration::from_secs_f64(number("--seconds=").unwrap_or(1.0));
    (0..rounds).try_for_each(|_| round(&runtime, &parts, lasts))
}

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pipe: {error}");
            ExitCode::FAILURE
        }
    }
}
