//! Where a run shows itself: lines, or the live view.

use std::io::{self, IsTerminal as _};

use tokio::sync::mpsc;

use super::internal;
use crate::{
    cli::{
        EbpfLog, Run, RunFormat,
        exit::{Code, Complaint, Exit},
    },
    host::clock,
    model::{aggregate::Aggregates, wanted::Wanted},
    pipeline::{Options, Shown},
    sink::{Clock, JsonSink, Sink, TextSink, by::Reporter},
    tui::{
        screen::Screen,
        state::{About, State},
        terminal::{self, Taken},
        update::Input,
    },
};

/// How often tables come in text if nobody says.
const TABLES_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

/// What a run is shown by.
pub(super) struct Front {
    /// The sink.
    pub sink: Box<dyn Sink>,
    /// The keyboard, if there is one.
    pub inputs: Option<mpsc::Receiver<Input>>,
    _terminal: Option<Taken>,
}

impl Front {
    /// Opens what was asked for, for a run with these filters. `own_netns`: whose counters are compared.
    pub fn open(asked: &Run, own_netns: u32, wanted: Wanted) -> Result<Self, Exit> {
        let clock = Clock { offset_ns: clock::wall_offset_ns().into() };
        let zone = jiff::tz::TimeZone::system();
        let aggregates = Aggregates::default().wanting(wanted);
        if format(asked) == RunFormat::Tui {
            return live_view(asked, clock, zone, own_netns, aggregates);
        }
        let reporter =
            (!asked.by.is_empty()).then(|| Reporter { aggregates, groups: asked.by.clone(), top: asked.top });
        let sink: Box<dyn Sink> = match (format(asked), reporter) {
            (RunFormat::Tui | RunFormat::Text, None) => Box::new(TextSink::new(clock, zone)),
            (RunFormat::Tui | RunFormat::Text, Some(by)) => Box::new(TextSink::with_tables(clock, zone, by)),
            (RunFormat::Json, None) => Box::new(JsonSink::new(clock)),
            (RunFormat::Json, Some(by)) => Box::new(JsonSink::with_tables(clock, by)),
        };
        Ok(Self { sink, inputs: None, _terminal: None })
    }
}

fn live_view(
    asked: &Run,
    clock: Clock,
    zone: jiff::tz::TimeZone,
    own_netns: u32,
    aggregates: Aggregates,
) -> Result<Front, Exit> {
    const REMEDY: &str = "run it on a terminal, or write --format text or --format json";
    let failed = |error: io::Error| Exit::error(Code::Usage, Complaint::new("--format tui", error.to_string(), REMEDY));
    if !io::stdout().is_terminal() {
        return Err(failed(io::Error::other("standard output is not a terminal")));
    }
    if asked.ebpf_log != EbpfLog::Off && io::stderr().is_terminal() {
        let remedy = "redirect standard error to a file (2>log), or write --format text";
        let why = "the log of the programs would overwrite the live view";
        return Err(Exit::error(Code::Usage, Complaint::new("--ebpf-log", why, remedy)));
    }
    let size = terminal::size().map_err(failed)?;
    let about = About {
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        own_netns,
        // The demo is shown alone.
        filtered: asked.demo || asked.filter != Default::default(),
        ascii: asked.ascii,
        // https://no-color.org: set and not empty.
        plain: std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()),
    };
    let mut state = State::new(about, clock, zone, asked.interval, size);
    state.aggregates = aggregates;
    state.shows_own = asked.self_stats;
    let sink = Box::new(Screen::new(state).map_err(|error| internal("the screen", &error))?);
    let terminal = Taken::take().map_err(failed)?;
    let inputs = terminal::inputs().map_err(|error| internal("the keyboard", &error))?;
    Ok(Front { sink, inputs: Some(inputs), _terminal: Some(terminal) })
}

/// The format that was asked for, or that fits the output.
fn format(asked: &Run) -> RunFormat {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let wants_tables = !asked.by.is_empty();
    let logs_here = asked.ebpf_log != EbpfLog::Off && io::stderr().is_terminal();
    asked.format.unwrap_or(if io::stdout().is_terminal() && !dumb && !wants_tables && !logs_here {
        RunFormat::Tui
    } else {
        RunFormat::Text
    })
}

/// True if the run shows how full the buckets are.
pub(super) fn has_buckets(asked: &Run) -> bool {
    has_tables(asked) || format(asked) == RunFormat::Json
}

/// True if the run shows tables of some kind.
pub(super) fn has_tables(asked: &Run) -> bool {
    !asked.by.is_empty() || format(asked) == RunFormat::Tui
}

/// How the run is told what to show, and how often.
pub(super) fn options(asked: &Run) -> Options {
    let (mut interval, mut tables_every) = (asked.interval, 1);
    if !asked.by.is_empty() {
        match format(asked) {
            // Text says nothing at a tick but its tables.
            RunFormat::Text => interval = asked.summary_every.unwrap_or(TABLES_EVERY),
            _ => {
                let every = asked.summary_every.unwrap_or(asked.interval).as_secs_f64();
                tables_every = (every / asked.interval.as_secs_f64()).round().max(1.0) as u32;
            }
        }
    }
    Options {
        duration: asked.duration,
        drain_for: asked.drain_for,
        interval,
        tables_every,
        self_stats: asked.self_stats,
        ring_size: asked.ring_size,
        shown: Shown { kinds: asked.filter.kinds.clone(), causes: asked.filter.causes.clone() },
    }
}
