//! Where a run shows itself: lines, or the live view.

use std::{
    fs::File,
    io::{self, IsTerminal as _},
};

use anyhow::Context as _;

use crate::{
    cli::{
        Also, EbpfLog, Run, RunFormat,
        exit::{Code, Complaint, Exit},
    },
    host::clock,
    model::{aggregate::Aggregates, wanted::Wanted},
    run::{Hub, Options, Outlet, Sifter},
    show::Clock,
    sink::{
        Lines, Writer,
        by::Reporter,
        format::Setting,
        text,
        writer::{Descriptor, QUEUE_BATCHES},
    },
    tui::{
        screen::Screen,
        state::{About, State},
        terminal::{self, Taken},
    },
};

/// How often tables come in text if nobody says.
const TABLES_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

/// What a run is shown by.
pub(super) struct Front {
    /// Where all that happens goes.
    pub hub: Hub,
    _terminal: Option<Taken>,
}

impl Front {
    /// Opens what was asked for, for a run with these filters. `own_netns`: whose counters are compared.
    pub fn open(asked: &Run, own_netns: u32, wanted: Wanted, sifter: Sifter) -> anyhow::Result<Self> {
        let clock = Clock { offset_ns: clock::wall_offset_ns().into() };
        let zone = jiff::tz::TimeZone::system();
        let by = (!asked.by.is_empty()).then(|| Reporter { groups: asked.by.clone(), top: asked.top });
        let setting = Setting { clock, zone, by, is_whole: false };
        // Files first: if one cannot be opened, the terminal is left alone.
        let others = asked.also.iter().map(|also| other(also, &setting)).collect::<Result<Vec<_>, _>>()?;
        let (lines, terminal) = match format(asked) {
            RunFormat::Tui => {
                let (screen, terminal) = live_view(asked, setting, own_netns)?;
                (screen, Some(terminal))
            }
            RunFormat::Lines(format) => ((format.open)(setting), None),
        };
        let writer = Writer::stdout().context("standard output")?;
        let first = Outlet::new("standard output", lines, writer).remarking();
        let mut hub = Hub::new(std::iter::once(first).chain(others).collect()).sifting(sifter);
        if has_tables(asked) {
            hub = hub.with_tables(Aggregates::default().wanting(wanted));
        }
        Ok(Self { hub, _terminal: terminal })
    }
}

/// One more output.
fn other(also: &Also, setting: &Setting) -> anyhow::Result<Outlet> {
    let what = format!("--also {}", also.name());
    let failed = |error: io::Error| {
        let remedy = "name a file in a directory that exists and that twtrace may write to";
        Exit::error(Code::Usage, Complaint::new(&what, error.to_string(), remedy))
    };
    let file = File::create(&also.path).map_err(failed)?;
    let writer = Writer::with_output(Descriptor::new(file), QUEUE_BATCHES).map_err(failed)?;
    let lines = (also.format.open)(Setting { is_whole: true, ..setting.clone() });
    Ok(Outlet::new(also.name(), lines, writer))
}

fn live_view(asked: &Run, setting: Setting, own_netns: u32) -> anyhow::Result<(Box<dyn Lines>, Taken)> {
    const REMEDY: &str = "run it on a terminal, or write --format text or --format json";
    let failed = |error: io::Error| Exit::error(Code::Usage, Complaint::new("--format tui", error.to_string(), REMEDY));
    if !io::stdout().is_terminal() {
        return Err(failed(io::Error::other("standard output is not a terminal")).into());
    }
    if asked.ebpf_log != EbpfLog::Off && io::stderr().is_terminal() {
        let remedy = "redirect standard error to a file (2>log), or write --format text";
        let why = "the log of the programs would overwrite the live view";
        return Err(Exit::error(Code::Usage, Complaint::new("--ebpf-log", why, remedy)).into());
    }
    let size = terminal::size().map_err(failed)?;
    let about = About {
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        own_netns,
        // The demo is shown alone.
        filtered: asked.demo || asked.filter != Default::default() || !asked.expression.is_everything(),
        ascii: asked.ascii,
        // https://no-color.org: set and not empty.
        plain: std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()),
    };
    let mut state = State::new(about, setting.clock, setting.zone, asked.interval, size);
    state.shows_own = asked.self_stats;
    let terminal = Taken::take().map_err(failed)?;
    let inputs = terminal::inputs().context("the keyboard")?;
    let screen = Screen::new(state, inputs).context("the screen")?;
    Ok((Box::new(screen), terminal))
}

/// The format that was asked for, or that fits the output.
fn format(asked: &Run) -> RunFormat {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let wants_tables = !asked.by.is_empty();
    let logs_here = asked.ebpf_log != EbpfLog::Off && io::stderr().is_terminal();
    asked.format.unwrap_or(if io::stdout().is_terminal() && !dumb && !wants_tables && !logs_here {
        RunFormat::Tui
    } else {
        RunFormat::Lines(&text::FORMAT)
    })
}

/// True if the run shows how full the buckets are.
pub(super) fn has_buckets(asked: &Run) -> bool {
    has_tables(asked) || tells_ticks(asked)
}

/// True if one of the outputs writes the counters every interval.
fn tells_ticks(asked: &Run) -> bool {
    let tells = |format: RunFormat| matches!(format, RunFormat::Lines(format) if format.tells_ticks);
    tells(format(asked)) || asked.also.iter().any(|also| also.format.tells_ticks)
}

/// True if the run shows tables of some kind.
pub(super) fn has_tables(asked: &Run) -> bool {
    !asked.by.is_empty() || format(asked) == RunFormat::Tui
}

/// How the run is told what to show, and how often.
pub(super) fn options(asked: &Run) -> Options {
    let (mut interval, mut tables_every) = (asked.interval, 1);
    if !asked.by.is_empty() {
        if tells_ticks(asked) {
            let every = asked.summary_every.unwrap_or(asked.interval).as_secs_f64();
            tables_every = (every / asked.interval.as_secs_f64()).round().max(1.0) as u32;
        } else {
            // At a tick nothing is said but the tables.
            interval = asked.summary_every.unwrap_or(TABLES_EVERY);
        }
    }
    Options {
        duration: asked.duration,
        drain_for: asked.drain_for,
        interval,
        tables_every,
        self_stats: asked.self_stats,
    }
}
