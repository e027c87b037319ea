//! What counting 500,000 TIME_WAIT sockets costs, beside `ss`; as root, in a namespace of its own.
//!
//! `cargo bench -p twtrace --bench diag`; it fails if a count is not the kernel's, or if `ss` is faster.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use twtrace::{
    host::{
        diag::{self, Detail, StateFlags},
        netns::Netns,
    },
    traffic::{lives, oracle::minisocks},
};

const WANTED: usize = 500_000;
/// How long they are made at most: the first ends after 60 s, and is to be counted before.
const MAKING: Duration = Duration::from_secs(35);
/// The ports of each source address.
const PORTS: RangeInclusive<u16> = 1024..=65_535;
/// The first of the ports that are connected to.
const SERVICE: u16 = 900;
const ROUNDS: usize = 7;
/// Most that ours may take, as a part of what `ss` takes.
const BOUND: f64 = 1.0;
const TWTRACE: &str = env!("CARGO_BIN_EXE_twtrace");

/// Makes a thread's share of minisocks, from addresses that are its own.
fn make(thread: usize, threads: usize) -> io::Result<()> {
    let listener = lives::listen((Ipv4Addr::LOCALHOST, SERVICE + thread as u16).into())?;
    let first = u32::from(Ipv4Addr::new(127, 0, 0, 2));
    let addresses = (thread as u32..).step_by(threads).map(|n| Ipv4Addr::from(first + n));
    let sources = addresses.flat_map(|address| PORTS.map(move |port| SocketAddr::from((address, port))));
    let begun = Instant::now();
    for source in sources.take(WANTED / threads).take_while(|_| begun.elapsed() < MAKING) {
        let pair = lives::connect(&listener, Some(source))?;
        drop(pair.client);
        drop(pair.server);
    }
    Ok(())
}

/// The kernel's own count, once the last segments are through.
fn settled() -> io::Result<u64> {
    let mut last = minisocks()?;
    for _ in 0..50 {
        thread::sleep(Duration::from_millis(100));
        let now = minisocks()?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(last)
}

fn by_ss() -> io::Result<u64> {
    let output = Command::new("sh").args(["-c", "ss -Htan state time-wait | wc -l"]).output()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().map_err(io::Error::other)
}

fn by_dump() -> io::Result<u64> {
    diag::dump(&StateFlags::TIME_WAIT, Detail::Header, || 0, |count, entry| *count += u64::from(entry.minisock))
}

fn by_doctor() -> io::Result<()> {
    Command::new(TWTRACE).args(["doctor", "--format", "json"]).stdout(Stdio::null()).status().map(drop)
}

/// This binary may be older than its doctor.
fn has_doctor() -> io::Result<bool> {
    let mut help = Command::new(TWTRACE);
    Ok(help.args(["doctor", "--help"]).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success())
}

/// Counts, and compares with the kernel's counter.
fn count(how: &str, by: impl FnOnce() -> io::Result<u64>) -> io::Result<Duration> {
    let before = minisocks()?;
    let begun = Instant::now();
    let count = by()?;
    let took = begun.elapsed();
    let after = minisocks()?;
    // One that ends while they are listed may hide its neighbour.
    let least = after.saturating_sub(before.saturating_sub(after));
    if (least..=before).contains(&count) {
        return Ok(took);
    }
    Err(io::Error::other(format!("{how} counts {count}, the kernel {before} before it and {after} after it")))
}

/// Prints the median and the spread, and returns the median in milliseconds.
fn median(what: &str, mut took: Vec<Duration>) -> f64 {
    took.sort_unstable();
    let millis = |index: usize| took[index].as_secs_f64() * 1e3;
    let median = millis(took.len() / 2);
    println!("{what:32} {median:.0} ms  ({:.0} .. {:.0})", millis(0), millis(took.len() - 1));
    median
}

fn bench() -> io::Result<bool> {
    let netns = Netns::new()?;
    netns.run(|| lives::sysctl("tcp_max_tw_buckets", "1000000"))?;
    let threads = thread::available_parallelism()?.get();
    let begun = Instant::now();
    thread::scope(|scope| {
        let netns = &netns;
        let making: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || netns.run(|| make(thread, threads)))).collect();
        making.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a panic"))))
    })?;
    let made = netns.run(settled)?;
    println!("TIME_WAIT sockets               {made} of {WANTED}, made in {:.1} s", begun.elapsed().as_secs_f64());
    let has_doctor = has_doctor()?;
    let [mut ss, mut ours, mut doctor] = [const { Vec::new() }; 3];
    netns.run(|| {
        for _ in 0..ROUNDS {
            ss.push(count("ss", by_ss)?);
            ours.push(count("the dump", by_dump)?);
            if has_doctor {
                let begun = Instant::now();
                by_doctor()?;
                doctor.push(begun.elapsed());
            }
        }
        println!("at the end of {ROUNDS} rounds          {}", minisocks()?);
        Ok(())
    })?;
    let (ss, ours) = (median("ss -Htan state time-wait | wc -l", ss), median("host::diag::dump", ours));
    if has_doctor {
        median("twtrace doctor --format json", doctor);
    } else {
        println!("twtrace doctor                  left out: this binary has none");
    }
    let ratio = ours / ss;
    println!("the dump takes {ratio:.2} of what ss takes");
    Ok(ratio <= BOUND)
}

fn main() -> ExitCode {
    match bench() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}
