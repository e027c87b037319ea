//! The load generator of `cargo xtask bench`: short connections over loopback, the client closes first. It also says what
//! the loaded eBPF programs, anybody's, have cost so far.
//!
//! It is asked on standard input, one JSON object a line, and answers each on standard output; it ends with its input:
//!
//! | ask | answer |
//! |---|---|
//! | `{"ask":"fresh"}` a new network namespace in place of the last | `{"netns":"/proc/7/ns/net"}` |
//! | `{"ask":"begin","connections":N,"per_s":N,"destinations":N}` connections in it, until told to end if there is no number; as fast as it goes if there is no rate | `{}` |
//! | `{"ask":"count"}` how many so far | `{"made":N,"live":N}` |
//! | `{"ask":"wait"}` until all are made | `{"made":N,"seconds":S,"cpu_s":S}` |
//! | `{"ask":"end"}` at once | `{"made":N,"seconds":S,"cpu_s":S}` |
//! | `{"ask":"stats","on":true}` the kernel measures all eBPF programs (BPF_ENABLE_STATS) | `{}` |
//! | `{"ask":"programs"}` what it has measured | `{"programs":[..]}` |

use std::{
    io::{self, BufRead as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use twtrace::{
    host::netns::Netns,
    traffic::{lives, oracle::minisocks},
};

/// How many addresses the connections come from in turn, each with all ports of the range below.
const SOURCES: u64 = 1024;
/// Sysctls of the namespace, below /proc/sys/net/ipv4: ports never run out, no minisock is refused and none is taken over.
const SYSCTLS: [(&str, &str); 3] =
    [("ip_local_port_range", "1024 65535"), ("tcp_max_tw_buckets", "4000000"), ("tcp_tw_reuse", "0")];
/// The first of the ports that are connected to, one a thread: below the range of the others.
const SERVICE: u16 = 900;
/// The first address that is connected to, and the first that is connected from.
const TO: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);
const FROM: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);

#[derive(Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
enum Ask {
    Fresh,
    Begin(Wanted),
    Count,
    Wait,
    End,
    Stats { on: bool },
    Programs,
}

/// Which connections.
#[derive(Clone, Copy, Deserialize)]
struct Wanted {
    connections: Option<u64>,
    per_s: Option<u32>,
    destinations: u32,
}

/// One loaded program.
#[derive(Serialize)]
struct Program {
    id: u32,
    name: String,
    run_ns: u64,
    runs: u64,
}

/// What all threads of a load share.
struct Shared {
    wanted: Wanted,
    begun: Instant,
    /// CPU time of this process then.
    cpu: Duration,
    /// Connections that a thread has taken on.
    next: AtomicU64,
    made: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    /// The number of the next connection, when its time has come; `None`: there is none.
    fn next(&self) -> Option<u64> {
        let n = self.next.fetch_add(1, Relaxed);
        if self.wanted.connections.is_some_and(|connections| n >= connections) {
            return None;
        }
        if let Some(per_s) = self.wanted.per_s {
            let due = Duration::from_secs_f64(n as f64 / f64::from(per_s.max(1)));
            thread::sleep(due.saturating_sub(self.begun.elapsed()));
        }
        (!self.stop.load(Relaxed)).then_some(n)
    }
}

/// Connections being made.
struct Running {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Running {
    fn begin(netns: &Arc<Netns>, wanted: Wanted) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            wanted,
            begun: Instant::now(),
            cpu: cpu_time(),
            next: AtomicU64::new(0),
            made: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let start = |index| {
            let (netns, shared) = (Arc::clone(netns), Arc::clone(&shared));
            let work = move || {
                netns.enter()?;
                make(&shared, SERVICE + index)
            };
            thread::Builder::new().name(format!("load-{index}")).spawn(work)
        };
        let threads = u16::try_from(thread::available_parallelism()?.get()).unwrap_or(u16::MAX).min(64);
        let threads = (0..threads).map(start).collect::<io::Result<_>>()?;
        Ok(Self { shared, threads })
    }

    /// Waits for the end, and answers what came of it.
    fn finish(self) -> io::Result<Value> {
        for thread in self.threads {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))?;
        }
        let seconds = self.shared.begun.elapsed().as_secs_f64();
        let cpu = cpu_time().saturating_sub(self.shared.cpu).as_secs_f64();
        Ok(json!({ "made": self.shared.made.load(Relaxed), "seconds": seconds, "cpu_s": cpu }))
    }
}

/// CPU time of this process, threads that have ended included.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// One thread's connections, to a service of its own.
fn make(shared: &Shared, port: u16) -> io::Result<()> {
    let listener = lives::listen((Ipv4Addr::UNSPECIFIED, port).into())?;
    let nth = |first: Ipv4Addr, n: u64| Ipv4Addr::from(u32::from(first) + n as u32);
    let destinations = u64::from(shared.wanted.destinations.max(1));
    while let Some(n) = shared.next() {
        let to = SocketAddr::from((nth(TO, n % destinations), port));
        let from = SocketAddr::from((nth(FROM, n % SOURCES), 0));
        let client = lives::dial(to, Some(from))?;
        let (server, _) = listener.accept()?;
        drop(client);
        drop(server);
        shared.made.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// The generator between two asks.
#[derive(Default)]
struct Generator {
    netns: Option<Arc<Netns>>,
    running: Option<Running>,
    stats: Option<OwnedFd>,
}

impl Generator {
    fn answer(&mut self, ask: Ask) -> io::Result<Value> {
        match ask {
            Ask::Fresh => self.fresh(),
            Ask::Begin(wanted) => {
                let netns = self.netns.as_ref().ok_or_else(|| io::Error::other("there is no namespace yet"))?;
                self.running = Some(Running::begin(netns, wanted)?);
                Ok(json!({}))
            }
            Ask::Count => {
                let made = self.running.as_ref().map_or(0, |running| running.shared.made.load(Relaxed));
                Ok(json!({ "made": made, "live": minisocks()? }))
            }
            Ask::Wait => self.running.take().map_or_else(|| Ok(json!({})), Running::finish),
            Ask::End => {
                let Some(running) = self.running.take() else { return Ok(json!({})) };
                running.shared.stop.store(true, Relaxed);
                running.finish()
            }
            Ask::Stats { on } => {
                self.stats = if on { Some(enable_stats(Stats::RunTime).map_err(io::Error::other)?) } else { None };
                Ok(json!({}))
            }
            Ask::Programs => {
                // One may go away while they are listed.
                let program = |info: aya::programs::ProgramInfo| Program {
                    id: info.id(),
                    name: info.name_as_str().unwrap_or("?").to_owned(),
                    run_ns: info.run_time().as_nanos() as u64,
                    runs: info.run_count(),
                };
                let programs: Vec<Program> = loaded_programs().filter_map(Result::ok).map(program).collect();
                Ok(json!({ "programs": programs }))
            }
        }
    }

    fn fresh(&mut self) -> io::Result<Value> {
        let netns = Netns::new()?;
        // This thread stands for the process: tracers look for sockets where processes are.
        netns.enter()?;
        SYSCTLS.iter().try_for_each(|(name, value)| lives::sysctl(name, value))?;
        self.netns = Some(Arc::new(netns));
        Ok(json!({ "netns": format!("/proc/{}/ns/net", std::process::id()) }))
    }
}

fn main() -> ExitCode {
    let mut generator = Generator::default();
    for line in io::stdin().lock().lines() {
        let answer = line.map_err(io::Error::other).and_then(|line| {
            let ask = serde_json::from_str(&line).map_err(io::Error::other)?;
            generator.answer(ask)
        });
        let answer = answer.unwrap_or_else(|error| json!({ "error": error.to_string() }));
        if writeln!(io::stdout(), "{answer}").is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
