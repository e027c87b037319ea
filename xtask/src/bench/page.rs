//! docs/overhead.md and its plots.

use std::{collections::BTreeMap, fmt::Write as _, fs, thread};

use anyhow::{Context as _, Result};

use super::{
    Report,
    cost::Cost,
    guest::OfGuest,
    memory::Memory,
    peers,
    pipe::Point,
    plot::{self, Series, grouped},
    sample::Sample,
    throughput::Cell,
};
use crate::paths;

const PAGE: &str = "docs/overhead.md";
const PLOTS: &str = "docs/overhead";

/// Goals: connections a second beside twtrace, as a part of those without; eBPF nanoseconds and CPU microseconds a
/// connection; bytes; records a second; growth.
const KEPT: f64 = 0.98;
const BPF_NS: f64 = 2500.0;
const JSON_US: f64 = 3.0;
const TUI_US: f64 = 1.0;
/// What a run of a program that does nothing takes, timing included.
const TIMING_NS: f64 = 50.0;
/// What tcplife took where these goals were set: they hold as shares of it on other machines.
const TCPLIFE_BPF_US: f64 = 21.0;
const TCPLIFE_US: f64 = 13.0;
const RESIDENT: (u64, u64) = (40_000_000, 150);
const AGGREGATED_PER_S: f64 = 5e6;
const JSON_PER_S: f64 = 1.5e6;
const GROWTH: f64 = 1.3;

/// What becomes of the records of the pipe.
const ENDS: [(&str, &str); 3] =
    [("nothing", "decoded"), ("aggregates", "decoded and aggregated"), ("json", "decoded and written as JSON")];

/// Writes them.
pub fn write(report: &Report) -> Result<()> {
    let root = paths::root();
    let dir = root.join(PLOTS);
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    for (axis, points) in &report.pipe.growth {
        let file = dir.join(format!("{axis}.svg"));
        fs::write(&file, growth_plot(axis, points)).with_context(|| format!("writing {}", file.display()))?;
    }
    let file = root.join(PAGE);
    fs::write(&file, page(report)).with_context(|| format!("writing {}", file.display()))?;
    println!("wrote {PAGE}");
    Ok(())
}

fn page(report: &Report) -> String {
    let mut text = String::from(
        "<!-- Written by `cargo xtask bench`. Do not edit. -->\n\n# Overhead\n\nWhat twtrace costs, compared with other tools under the same load: short connections over loopback \
         in a network namespace of their own. Both ends are on this machine, the client closes first, and \
         source addresses rotate so that ports never run out. The tools take turns; a number is the median, \
         with the minimum and the maximum in brackets.\n\n",
    );
    machine(&mut text, report);
    goals(&mut text, report);
    throughput(&mut text, report);
    costs(&mut text, report);
    guests(&mut text, &report.guests);
    memory(&mut text, &report.memory);
    pipe(&mut text, report);
    text
}

fn machine(text: &mut String, report: &Report) {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let line = |text: &str, key: &str| {
        let value =
            text.lines().find_map(|line| line.strip_prefix(key)?.split_once(':').map(|(_, value)| value.trim()));
        value.unwrap_or("?").to_owned()
    };
    let cpus = thread::available_parallelism().map_or(0, usize::from);
    let rows = [
        ("processor", format!("{} × {}", cpus, line(&read("/proc/cpuinfo"), "model name"))),
        ("memory", gigabytes(&line(&read("/proc/meminfo"), "MemTotal"))),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("compiler", peers::said("rustc", &["--version"]).unwrap_or_default()),
        ("peers", peers::versions().join(", ")),
        ("rounds", report.rounds.to_string()),
        ("load average at the end", read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ")),
    ];
    text.push_str("## The machine\n\n| | |\n|---|---|\n");
    for (key, value) in rows {
        let _ = writeln!(text, "| {key} | {value} |");
    }
    for (peer, reason) in &report.missing {
        let _ = writeln!(
            text,
            "| not measured: {peer} | {} |",
            reason.split(';').next().unwrap_or_default().replace('|', "/")
        );
    }
    text.push('\n');
}

/// `24684084 kB`
fn gigabytes(kib: &str) -> String {
    let kib = kib.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok());
    kib.map_or("?".to_owned(), |kib| format!("{:.1} GB", (kib * 1024) as f64 / 1e9))
}

/// One number of a cost.
type Part = fn(&Cost) -> &Sample;

/// Each goal, and what was measured.
fn goals(text: &mut String, report: &Report) {
    text.push_str("## Goals\n\n| goal | measured | |\n|---|---|---|\n");
    let mut row = |goal: &str, measured: String, met: bool| {
        let _ = writeln!(text, "| {goal} | {measured} | {} |", if met { "met" } else { "**not met**" });
    };
    for name in ["twtrace tui", "twtrace json"] {
        let kept = fastest(report, name).zip(fastest(report, "nothing attached"));
        let kept = kept.map_or(f64::NAN, |(traced, free)| traced.per_s.per(&free.per_s).median());
        let goal = format!("{name}: at least {:.0} % of the untraced connections a second", KEPT * 100.0);
        row(&goal, format!("{:.1} %", kept * 100.0), kept >= KEPT);
    }
    let cost = |name: &str| report.costs.iter().find(|cost| cost.peer == name);
    let bpf = cost("twtrace json").map_or(f64::NAN, |cost| cost.bpf_ns.median());
    row(&format!("eBPF: at most {BPF_NS:.0} ns a connection"), format!("{bpf:.0} ns"), bpf <= BPF_NS);
    for (name, most) in [("twtrace json", JSON_US), ("twtrace tui", TUI_US)] {
        let user = cost(name).map_or(f64::NAN, |cost| cost.user_us.median());
        row(&format!("{name}: at most {most:.0} µs of CPU a connection"), format!("{user:.2} µs"), user <= most);
    }
    // The goals in nanoseconds were set beside these of tcplife's, on a machine that is not this one.
    let shares: [(&str, &str, f64, f64, Part); 3] = [
        ("eBPF", "twtrace json", BPF_NS / 1e3, TCPLIFE_BPF_US, |cost| &cost.bpf_ns),
        ("CPU of twtrace json", "twtrace json", JSON_US, TCPLIFE_US, |cost| &cost.user_us),
        ("CPU of twtrace tui", "twtrace tui", TUI_US, TCPLIFE_US, |cost| &cost.user_us),
    ];
    for (what, name, most, beside, part) in shares {
        let both = cost(name).zip(cost("tcplife"));
        let share = both.map_or(f64::NAN, |(own, peer)| part(own).median() / part(peer).median());
        let goal = format!("{what}: at most {:.2} of tcplife's ({most:.1} of {beside:.0} µs)", most / beside);
        row(&goal, format!("{share:.2}"), share <= most / beside);
    }
    for guest in &report.guests {
        let share = |backend| guest.of_tcplife(backend).unwrap_or(f64::NAN);
        let (most, fentry, tracepoint) = (BPF_NS / 1e3 / TCPLIFE_BPF_US, share("fentry"), share("tracepoint"));
        let goal =
            format!("eBPF of fentry, {}: at most {most:.2} of tcplife's, and less than tracepoint's", guest.release);
        row(&goal, format!("{fentry:.2}, tracepoint {tracepoint:.2}"), fentry <= most && fentry < tracepoint);
    }
    for Memory { peer, live, resident, .. } in &report.memory {
        let most = RESIDENT.0 + RESIDENT.1 * live;
        let goal = format!("{peer}: at most {} MB with {} live", most / 1_000_000, grouped(*live));
        row(&goal, format!("{:.1} MB", *resident as f64 / 1e6), *resident <= most);
    }
    for (to, least) in [("aggregates", AGGREGATED_PER_S), ("json", JSON_PER_S)] {
        let per_s = report.pipe.full.get(to).map_or(f64::NAN, |full| full.per_s.median());
        let goal = format!("one core, {to}: at least {:.1} million records a second", least / 1e6);
        row(&goal, format!("{:.2} million", per_s / 1e6), per_s >= least);
    }
    for axis in report.pipe.growth.keys() {
        let part = |of: fn(&Point) -> &Sample| report.pipe.grows(axis, of).unwrap_or(f64::NAN);
        let (kernel, user) = (part(|point| &point.kernel_ns), part(|point| &point.user_ns));
        let goal = format!("cost of an event by {axis}: within {GROWTH} times");
        row(&goal, format!("kernel {kernel:.2}, reader {user:.2}"), kernel.max(user) <= GROWTH);
    }
    text.push('\n');
    if let Some(cost) = cost("twtrace json") {
        let runs: f64 = cost.programs.values().map(|(_, runs)| runs.median()).sum();
        let _ = writeln!(
            text,
            "A connection is {runs:.0} runs of twtrace's programs (10 transitions of its two ends, each seen by two programs, \
             and its timers): about {:.1} µs of its eBPF time are the kernel's timing of these runs. Work done once a second, or once per walk through the kernel's sockets, costs more per connection \
         when connections are few. The rows of 100,000 destinations do not fit in the cache, and every event \
         touches another one.\n",
            runs * TIMING_NS / 1e3
        );
    }
}

/// A tool's cell at the highest pace.
fn fastest<'a>(report: &'a Report, peer: &str) -> Option<&'a Cell> {
    report.throughput.iter().find(|cell| cell.peer == peer && cell.pace.per_s.is_none())
}

fn throughput(text: &mut String, report: &Report) {
    text.push_str("## Throughput\n\nBirths only: no connection here is old enough to end.\n\n");
    let mut paces: Vec<_> = report.throughput.iter().map(|cell| cell.pace).collect();
    paces.dedup();
    paces.truncate(paces.iter().position(|pace| pace.per_s.is_none()).map_or(paces.len(), |last| last + 1));
    for pace in paces {
        let wanted = pace.per_s.map_or("As fast as it goes".to_owned(), |n| format!("{} a second", grouped(n.into())));
        let _ = writeln!(text, "### {wanted}: {} connections each\n", grouped(pace.connections));
        text.push_str("| tool | connections/s | of untraced | CPU of the load, µs | CPU of the tool, µs |\n");
        text.push_str("|---|---|---|---|---|\n");
        let cells: Vec<&Cell> = report.throughput.iter().filter(|cell| cell.pace == pace).collect();
        for Cell { peer, per_s, load_us, tool_us, .. } in &cells {
            let kept = cells.first().map(|free| per_s.per(&free.per_s)).unwrap_or_default();
            let _ = writeln!(text, "| {peer} | {per_s:.0} | {kept:.3} | {load_us:.1} | {tool_us:.2} |");
        }
        text.push('\n');
    }
}

fn costs(text: &mut String, report: &Report) {
    text.push_str(
        "## Kernel and user time\n\nCost per connection over its whole life: 3,000 connections a second for longer than a minute, so \
         that as many end as are born. kernel.bpf_stats_enabled measures the programs of each tool; it adds \
         about 50 ns to every run, which is what an empty program shows.\n\n| tool | eBPF, ns | CPU of the tool, µs |\n|---|---|---|\n",
    );
    for Cost { peer, bpf_ns, user_us, programs } in &report.costs {
        let bpf = if programs.is_empty() { "–".to_owned() } else { format!("{bpf_ns:.0}") };
        let _ = writeln!(text, "| {peer} | {bpf} | {user_us:.2} |");
    }
    text.push_str("\n### By program\n\n| tool | program | ns a connection | runs a connection |\n|---|---|---|---|\n");
    for Cost { peer, programs, .. } in &report.costs {
        for (name, (ns, runs)) in programs.iter().filter(|(_, (_, runs))| runs.median() > 0.0) {
            let _ = writeln!(text, "| {peer} | {name} | {ns:.0} | {:.1} |", runs.median());
        }
    }
    text.push('\n');
}

fn guests(text: &mut String, guests: &[OfGuest]) {
    text.push_str(
        "### Other backends, in guests\n\nBirths only, at full speed. Times on emulated processors mean nothing by themselves; compare the \
         share of tcplife's cost in the same guest.\n\n\
         | kernel | tool | eBPF, of tcplife's | CPU of the tool, of tcplife's |\n|---|---|---|---|\n",
    );
    for OfGuest { release, emulated, costs } in guests {
        let Some(tcplife) = costs.first() else { continue };
        let how = if *emulated { ", emulated" } else { "" };
        for Cost { peer, bpf_ns, user_us, .. } in costs {
            let (bpf, user) = (bpf_ns.per(&tcplife.bpf_ns), user_us.per(&tcplife.user_us));
            let _ = writeln!(text, "| {release}{how} | {peer} | {bpf:.2} | {user:.2} |");
        }
    }
    text.push('\n');
}

fn memory(text: &mut String, memory: &[Memory]) {
    text.push_str(
        "## Memory\n\nTables for 1,100,000 lives; the kernel's are allocated at the start, and left out of what is resident \
         where twtrace has them mapped. A TIME_WAIT lasts a minute: \
         where fewer live at once than were wanted, the machine cannot make more in a minute.\n\n\
         | form | live sockets | resident, MB | maps in the kernel, MB |\n|---|---|---|---|\n",
    );
    for Memory { peer, live, resident, maps } in memory {
        let (resident, maps) = (*resident as f64 / 1e6, *maps as f64 / 1e6);
        let _ = writeln!(text, "| {peer} | {} | {resident:.1} | {maps:.1} |", grouped(*live));
    }
    text.push('\n');
}

fn pipe(text: &mut String, report: &Report) {
    text.push_str(
        "## The pipe alone\n\nReal records through the real ring, made by an eBPF program that BPF_PROG_RUN runs. The 4 MiB ring \
         is filled past its capacity, drained by one core, and so on. Every record is accounted for: seen = \
         emitted + lost, and every emitted record was read.\n\n\
         | records are | million a second of CPU time | a record in the kernel, ring nearly full, ns |\n|---|---|---|\n",
    );
    let millions = |sample: &Sample| sample.per_each(1e6);
    for (to, what) in ENDS {
        let Some(full) = report.pipe.full.get(to) else { continue };
        let _ = writeln!(text, "| {what} | {:.2} | {:.0} |", millions(&full.per_s), full.kernel_ns);
    }
    text.push_str("\n### Loss\n\nRecords at a steady rate, with a reader that writes JSON on a quarter of a core.\n\n");
    text.push_str("| offered, records/s | lost |\n|---|---|\n");
    for loss in &report.pipe.loss {
        let _ = writeln!(text, "| {} | {:.2} % |", grouped(loss.offered_per_s as u64), loss.lost * 100.0);
    }
    for (axis, points) in &report.pipe.growth {
        let _ = writeln!(text, "\n## Growth by {axis}\n\n![cost of a record](overhead/{axis}.svg)\n");
        let _ = writeln!(text, "| {axis} | kernel, ns a record | reader, ns a record |\n|---|---|---|");
        for (at, Point { kernel_ns, user_ns }) in points {
            let _ = writeln!(text, "| {} | {kernel_ns:.0} | {user_ns:.0} |", grouped((*at).into()));
        }
    }
}

fn growth_plot(axis: &str, points: &BTreeMap<u32, Point>) -> String {
    let line =
        |of: fn(&Point) -> &Sample| points.iter().map(|(at, point)| (f64::from(*at), of(point).median())).collect();
    let series = [
        Series { name: "eBPF, a record", points: line(|point| &point.kernel_ns) },
        Series { name: "reader, a record", points: line(|point| &point.user_ns) },
    ];
    let x = if axis == "live" { "live sockets" } else { axis };
    plot::svg(&format!("Cost of a record by {x}"), x, "ns", &series)
}
