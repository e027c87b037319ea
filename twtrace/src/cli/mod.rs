//! What was asked: the command line, read into types that cannot be wrong.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use args::{DoctorArgs, HookArgs, LabArgs, ProbeArgs, Root, Verb};
use clap::{CommandFactory as _, FromArgMatches as _, ValueEnum};
use exit::{Complaint, Exit};
use list::List;
use value::Given;

use crate::{
    doctor::{checks, finding::Story},
    filter::{spec::NetnsSpec, word},
    lab::scenarios::Scenario,
};
pub use format::{Also, RunFormat};
pub use run::Run;

mod args;
pub mod exit;
mod filter;
mod format;
mod list;
mod run;
mod usage;
mod value;
mod words;

/// The command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cli {
    /// How many `-v` there were; from 1 on, show the verifier's log when a program does not load.
    pub verbose: u8,
    /// What the command line is in twtrace's own words, if it is in others.
    pub notes: Vec<String>,
    /// What to do.
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Trace.
    Run(Box<Run>),
    /// Show what the kernel offers.
    Probe(Probe),
    /// Hold the tracer against the kernel.
    Lab(Lab),
    /// Be a helper process of the lab.
    LabHand,
    /// Say what is wrong.
    Doctor(Doctor),
    /// Print a generated page, for `cargo xtask docs`.
    Page(Page),
    /// Print what the verifier took for the programs of a backend, for `cargo xtask vm`.
    Verifier(Backend),
}

/// A page that the program itself writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Page {
    /// docs/events.md
    Events,
    /// docs/doctor.md
    Doctor,
    /// docs/doctor.schema.json
    DoctorSchema,
}

/// How to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// With what.
    pub backend: Backend,
    /// The kernel's types, if not those of the running kernel.
    pub btf: Option<PathBuf>,
}

/// `twtrace probe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// How to show it.
    pub format: Format,
    /// How to watch.
    pub hooks: Hooks,
}

/// `twtrace doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doctor {
    /// How to show it.
    pub format: Format,
    /// The namespace to look into; `None`: all.
    pub netns: Option<NetnsSpec>,
    /// How often to look again; `None`: once.
    pub watch: Option<Duration>,
    /// What to explain.
    pub explain: Option<&'static Story>,
    /// A file of JSON lines.
    pub with_trace: Option<PathBuf>,
}

/// `twtrace lab`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lab {
    /// How to show it.
    pub format: Format,
    /// Show the scenarios only.
    pub list: bool,
    /// Names of the scenarios; empty: all.
    pub scenarios: Vec<&'static str>,
    /// Leave the slow ones out.
    pub quick: bool,
    /// How many at a time.
    pub jobs: usize,
    /// Connections of a storm.
    pub connections: usize,
    /// How to watch.
    pub hooks: Hooks,
}

/// How to show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people
    Text,
    /// JSON, one object per line
    Json,
}

/// With what to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The first of the others that works, for each capability
    Auto,
    /// BPF trampolines: the cheapest; x86-64 since 5.5, arm64 since 6.4
    Fentry,
    /// Kernel probes
    Kprobe,
    /// Tracepoints only: works where the kernel refuses both others
    Tracepoint,
}

impl Backend {
    /// The word of `--backend` and of the reports; `None` for `auto`.
    #[must_use]
    pub fn forced(self) -> Option<&'static str> {
        match self {
            Self::Auto => None,
            Self::Fentry => Some("fentry"),
            Self::Kprobe => Some("kprobe"),
            Self::Tracepoint => Some("tracepoint"),
        }
    }
}

/// From which level on the eBPF programs log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum EbpfLog {
    /// Not at all
    Off,
    /// What must not happen
    Error,
    /// What should not happen
    Warn,
    /// What happens rarely
    Info,
    /// What happens
    Debug,
    /// Everything
    Trace,
}

impl EbpfLog {
    /// The level in the terms of the crate `log`.
    #[must_use]
    pub fn level(self) -> log::LevelFilter {
        match self {
            Self::Off => log::LevelFilter::Off,
            Self::Error => log::LevelFilter::Error,
            Self::Warn => log::LevelFilter::Warn,
            Self::Info => log::LevelFilter::Info,
            Self::Debug => log::LevelFilter::Debug,
            Self::Trace => log::LevelFilter::Trace,
        }
    }
}

/// The command line of clap: for completions and manual pages.
#[must_use]
pub fn command() -> clap::Command {
    Root::command()
}

/// The filters of a run by their long options' names, and `events`: what the live view filters by.
#[must_use]
pub fn filter_names() -> Vec<&'static str> {
    /// Below which heading the help has them.
    const HEADING: &str = "Filters";
    static NAMES: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    let names = NAMES.get_or_init(|| {
        let root = Root::command();
        let run = root.find_subcommand("run");
        let filters = run.into_iter().flat_map(|run| run.get_arguments());
        let filters = filters.filter(|argument| argument.get_help_heading() == Some(HEADING));
        filters.filter_map(|argument| argument.get_long()).chain(["events"]).map(str::to_owned).collect()
    });
    names.iter().map(String::as_str).collect()
}

/// Reads a command line, its first word the program's name. Ends nothing itself.
///
/// # Errors
///
/// The [`Exit`] to take: with the help or the version if that was asked for, else with a line on what is wrong.
pub fn parse<T: Into<OsString>>(args: impl IntoIterator<Item = T>) -> Result<Cli, Exit> {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let clap = command();
    let spoken = words::Spoken::new(&clap, &args);
    if let Some(exit) = spoken.asks_for_help(&clap) {
        return Err(exit);
    }
    spoken.check(&clap)?;
    let complain = |error: clap::Error| usage::exit(&error, &clap, &spoken);
    let root = clap
        .clone()
        .try_get_matches_from(&args)
        .and_then(|matches| Root::from_arg_matches(&matches))
        .map_err(complain)?;
    let notes = spoken.in_our_words(&clap).map(|line| format!("read as: {line}")).into_iter().collect();
    let command = match root.command {
        Verb::Run(args) => Command::Run(Box::new(Run::read(*args, |word| spoken.argument(word))?)),
        Verb::Lab(args) => Command::Lab(Lab::read(args)?),
        Verb::LabHand => Command::LabHand,
        Verb::Doctor(args) => Command::Doctor(Doctor::read(args)?),
        Verb::Page { page } => Command::Page(page),
        Verb::Verifier { backend } => Command::Verifier(backend),
        Verb::Probe(ProbeArgs { format, json, hooks }) => {
            Command::Probe(Probe { format: either(json, format), hooks: hooks.into() })
        }
    };
    Ok(Cli { verbose: root.verbose, notes, command })
}

/// `--json`, or what stands behind `--format`.
fn either(json: bool, format: Format) -> Format {
    if json { Format::Json } else { format }
}

/// The longest that anything is done only every so often.
const HOUR: Duration = Duration::from_secs(3600);

impl From<HookArgs> for Hooks {
    fn from(HookArgs { backend, btf }: HookArgs) -> Self {
        Self { backend, btf }
    }
}

impl Doctor {
    fn read(args: DoctorArgs) -> Result<Self, Complaint> {
        let story = |id: String| {
            checks::stories().find(|story| story.id == id).ok_or_else(|| {
                let ids = || checks::stories().map(|story| story.id);
                // Those of one question, if that is what was written.
                let mut near: Vec<&str> = ids().filter(|known| known.starts_with(&id)).collect();
                if near.is_empty() {
                    near.extend(ids());
                }
                let why = format!("unknown finding '{id}'");
                Complaint::new(format!("--explain {id}"), why, format!("write one of {}", near.join(", ")))
            })
        };
        let watch = |text: &String| Given { option: "--watch", text }.time(&(Duration::from_secs(1)..=HOUR), "5s");
        let list = |option, example, values| List { option, example, values };
        let mut netns = list("--netns", "/run/netns/blue", args.netns.as_slice()).words(word::netns)?;
        netns.extend(list("--pid", "4711", args.pid.as_slice()).words(|word| word::pid(word).map(NetnsSpec::Pid))?);
        let container = list("--container", "web", args.container.as_slice());
        netns.extend(container.words(|word| word::name(word).map(NetnsSpec::Container))?);
        let unit = list("--unit", "nginx.service", args.unit.as_slice());
        netns.extend(unit.words(|word| word::name(word).map(NetnsSpec::Unit))?);
        if netns.len() > 1 {
            let what = "--netns, --pid, --container or --unit";
            return Err(Complaint::new(what, format!("{} values (limit 1)", netns.len()), "run twtrace once for each"));
        }
        Ok(Self {
            format: either(args.json, args.format),
            netns: netns.pop(),
            watch: args.watch.as_ref().map(watch).transpose()?,
            explain: args.explain.map(story).transpose()?,
            with_trace: args.with_trace,
        })
    }
}

impl Lab {
    fn read(args: LabArgs) -> Result<Self, Complaint> {
        let name = |word: &str| {
            Scenario::find(word).map(|scenario| scenario.name).ok_or_else(|| {
                let what = format!("--scenario {word}");
                Complaint::new(what, format!("unknown scenario '{word}'"), "`twtrace lab --list` shows them all")
            })
        };
        let words = args.scenario.iter().flat_map(|list| list.split(','));
        Ok(Self {
            format: either(args.json, args.format),
            list: args.list,
            scenarios: words.map(name).collect::<Result<_, _>>()?,
            quick: args.quick,
            jobs: args.jobs.into(),
            connections: args.connections as usize,
            hooks: args.hooks.into(),
        })
    }
}
