//! `twtrace doctor`: look, judge, say.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::Context as _;

use super::note;
use crate::{
    cli::{
        Doctor as Asked, Format,
        exit::{Code, Complaint, Exit, Reader, say},
    },
    doctor::{
        checks,
        facts::{Facts, Trace},
        finding::{Finding, Severity},
        gather::{Gatherer, WINDOW, Where},
        report::{self, Report, Style},
        trace,
    },
    filter::{resolve::Resolver, spec::NetnsSpec},
    host::{Host, clock},
    show::clock::Clock,
};

/// The widest that text is wrapped at, and what is taken where nobody knows.
const WIDEST: usize = 110;

pub(super) fn doctor(host: &Host, asked: &Asked) -> anyhow::Result<Exit> {
    // Whatever the trace says, it is read first: a wrong file is told at once.
    let trace = asked.with_trace.as_deref().map(read_trace).transpose()?;
    let place = match &asked.netns {
        Some(spec) => {
            let (netns, whose) = Resolver::default().netns(spec).map_err(Exit::from)?;
            whose.iter().for_each(|said| note(said));
            Where::One(netns)
        }
        None => Where::Everywhere,
    };
    let mut gatherer = Gatherer::new(host, place);
    let mut window = WINDOW;
    loop {
        let mut facts = gatherer.look(window).map_err(|error| unseen(asked.netns.as_ref(), &error))?;
        facts.trace.clone_from(&trace);
        let findings = checks::examine(&facts);
        let exit = match asked.explain {
            Some(story) => Exit::answer(report::explain(story, &findings, style())),
            None => told(asked.format, &facts, findings)?,
        };
        let Some(watch) = asked.watch else { return Ok(exit) };
        // A blank line between two reports for the eye.
        let end = if asked.format == Format::Text { "\n" } else { "" };
        if say(&(exit.stdout.clone() + end))? == Reader::Gone {
            return Ok(Exit { stdout: String::new(), ..exit });
        }
        thread::sleep(watch);
        // The counters of the last look are old enough.
        window = Duration::ZERO;
    }
}

/// The report, and the exit code of its verdict.
fn told(format: Format, facts: &Facts, findings: Vec<Finding>) -> anyhow::Result<Exit> {
    let mono_ns = clock::monotonic_ns();
    let wall = Clock { offset_ns: clock::wall_offset_ns().into() }.wall(mono_ns);
    let report = Report::new(facts, findings, format!("{wall:.9}"), mono_ns);
    let mut exit = Exit::answer(match format {
        Format::Json => report.json().context("the report")? + "\n",
        Format::Text => report::text(&report, style()),
    });
    exit.code = match report.verdict.severity {
        Severity::Fine | Severity::Note => Code::Success,
        Severity::Warning => Code::Wrong,
        Severity::Critical => Code::Critical,
    };
    Ok(exit)
}

/// As wide as the terminal, and with colours if it is one and nobody objects (no-color.org).
fn style() -> Style {
    let is_terminal = io::stdout().is_terminal();
    let columns = crossterm::terminal::size().ok().map(|(columns, _)| usize::from(columns)).filter(|_| is_terminal);
    let objects = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Style { width: columns.unwrap_or(WIDEST).min(WIDEST), colour: is_terminal && !objects }
}

fn read_trace(path: &Path) -> Result<Trace, Exit> {
    let complain = |why: String| {
        let what = format!("--with-trace {}", path.display());
        let remedy = "write one: twtrace run --format json --events born --duration 1m > trace.json";
        Exit::from(Complaint::new(what, why, remedy))
    };
    let trace = trace::read(path).map_err(|error| complain(error.to_string()))?;
    if trace.births == 0 {
        return Err(complain(format!("no line of it is a birth, {} are none of twtrace's", trace.strange)));
    }
    Ok(trace)
}

/// The namespace that was asked for cannot be looked into.
fn unseen(netns: Option<&NetnsSpec>, error: &io::Error) -> Exit {
    let what = match netns {
        Some(NetnsSpec::Inum(inum)) => format!("--netns {inum}"),
        Some(NetnsSpec::Path(path)) => format!("--netns {}", path.display()),
        Some(NetnsSpec::Pid(pid)) => format!("--pid {pid}"),
        Some(NetnsSpec::Container(word)) => format!("--container {word}"),
        Some(NetnsSpec::Unit(word)) => format!("--unit {word}"),
        Some(NetnsSpec::Own) | None => "this network namespace".to_owned(),
    };
    let (code, remedy) = match error.kind() {
        io::ErrorKind::PermissionDenied => (Code::Privilege, "run twtrace as root"),
        io::ErrorKind::NotFound if netns.is_some() => (Code::Usage, "see lsns -t net for those that there are"),
        _ => (Code::Unsupported, "twtrace needs /proc, and a kernel with CONFIG_INET_DIAG (module tcp_diag)"),
    };
    Exit::error(code, Complaint::new(what, error.to_string(), remedy))
}
