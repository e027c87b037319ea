//! What the live view keeps in memory at 1,000,000 live minisocks towards 100,000 destinations, and what an event costs.
//!
//! `cargo bench -p twtrace --bench model`; it fails if the memory is not below its bound, or rows vanish uncounted.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    process::ExitCode,
    time::{Duration, Instant},
};

use twtrace::{
    model::{
        aggregate::Aggregates,
        event::{Cause, Closer, Comm, Connection, Detail, Event, Life, Role, Substate, Task, Tuple},
        happening::Tick,
        report::Totals,
    },
    show::Clock,
    tui::{
        keys::Key,
        state::{About, State},
        update::{self, Input},
    },
};

const LIVE: u64 = 1_000_000;
const DESTINATIONS: u64 = 100_000;
/// Most that the view may hold, bytes.
const BOUND: u64 = 220_000_000;

/// Resident memory of this process, bytes.
fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// The `n`th life: every destination in turn, ten times, from 3,000 processes.
fn life(n: u64) -> Life {
    let to = n % DESTINATIONS;
    let raddr = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + (to / 2) as u32));
    let mut comm = [0; 16];
    comm[..4].copy_from_slice(b"load");
    Life {
        id: Some(n),
        netns: Some(4_026_531_840),
        tuple: Some(Tuple {
            laddr: IpAddr::V4(Ipv4Addr::LOCALHOST),
            lport: 10_000 + (n / DESTINATIONS) as u16,
            raddr,
            // Two services of each address, of 800 in all.
            rport: 8000 + (to % 800) as u16,
        }),
        substate: Some(Substate::TimeWait),
        role: Some(Role::Client),
        closer: Some(Closer { task: Task { pid: 1000 + (n % 3000) as u32, comm: Comm(comm) }, cgroup_id: n % 50 }),
        preexisting: Some(false),
    }
}

fn born(n: u64) -> Event {
    let connection = Connection {
        opener: None,
        // From 1 ms to 10 s, and from 20 us to 50 ms: all of a histogram's reach.
        conn_ns: Some(1_000_000 + n * 7_919 % 10_000_000_000),
        connect_ns: Some(20_000 + n * 104_729 % 50_000_000),
        timestamps: Some(true),
        bytes_in: Some(0),
        bytes_out: Some(0),
        srtt_us: Some(1),
        mark: Some(0),
    };
    Event {
        mono_ns: n * 1000,
        life: life(n),
        detail: Detail::Born { timeout_ms: Some(60_000), connection },
        self_test: false,
    }
}

fn died(n: u64) -> Event {
    let cause = Cause::ALL[(n % 3) as usize];
    let detail = Detail::Died { cause, life_ns: Some(1_000_000 + n * 7_919 % 60_000_000_000), taker: None };
    Event { mono_ns: (LIVE + n) * 1000, life: life(n), detail, self_test: false }
}

/// What an event costs where all go to one place, nanoseconds.
fn one_destination() -> f64 {
    let mut all = Aggregates::default();
    let (birth, death) = (born(0), died(0));
    let begun = Instant::now();
    for _ in 0..LIVE / 2 {
        all.event(&birth);
        all.event(&death);
    }
    begun.elapsed().as_nanos() as f64 / LIVE as f64
}

fn tell(all: &mut Aggregates, state: &mut State, event: &Event) {
    all.event(event);
    state.event(event);
}

fn main() -> ExitCode {
    let about = About { host: "bench".to_owned(), own_netns: 1, filtered: false, ascii: false, plain: false };
    let clock = Clock { offset_ns: 0 };
    let before = resident();
    let mut state = State::new(about, clock, jiff::tz::TimeZone::UTC, Duration::from_secs(1), (200, 60));
    let mut all = Aggregates::default();
    update::update(&mut state, Input::Key(Key::Char('2')), &all);
    let begun = Instant::now();
    (0..LIVE).for_each(|n| tell(&mut all, &mut state, &born(n)));
    let births = begun.elapsed();
    let totals = Totals { live: Some(LIVE), ..Totals::default() };
    let tick = Tick { totals, report: true, ..Tick::default() };
    let begun = Instant::now();
    all.tick(1_000_000_000);
    state.tick(1_000_000_000, &tick, &all);
    let ticked = begun.elapsed();
    // Held, the log grows to its bound.
    update::update(&mut state, Input::Key(Key::Char('p')), &all);
    (0..LIVE / 2).for_each(|n| tell(&mut all, &mut state, &died(n)));
    let used = resident().saturating_sub(before);
    let (live, evicted) = (all.live().time_wait, all.evicted());
    let rows = all.destination_rows().len() as u64;
    println!("live after half of them ended  {live}");
    println!("destinations                   {rows}, evicted {}", evicted.destinations);
    println!("ports                          {}, evicted {}", all.port_rows().len(), evicted.ports);
    println!("memory                         {:.1} MB of {:.0} MB", used as f64 / 1e6, BOUND as f64 / 1e6);
    println!("an event, 100,000 destinations {:.0} ns", births.as_nanos() as f64 / LIVE as f64);
    println!("an event, one destination      {:.0} ns", one_destination());
    println!("a tick with all destinations   {:.1} ms", ticked.as_secs_f64() * 1e3);
    // The same again, with twice as many destinations as there is room for.
    for n in 0..LIVE / 2 {
        let mut event = born(n);
        if let Some(tuple) = &mut event.life.tuple {
            tuple.laddr = IpAddr::V4(Ipv4Addr::from(0x7f00_0002 + (n % 4) as u32));
        }
        tell(&mut all, &mut state, &event);
    }
    let (most, evicted) = (resident().saturating_sub(before), all.evicted().destinations);
    let rows = all.destination_rows().len() as u64;
    println!("with twice as many             {rows} destinations, evicted {evicted}, {:.1} MB", most as f64 / 1e6);
    let is_good = used < BOUND && most < BOUND && live == (LIVE / 2).cast_signed() && evicted >= DESTINATIONS;
    println!("{}", if is_good { "within its bounds" } else { "NOT within its bounds" });
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
