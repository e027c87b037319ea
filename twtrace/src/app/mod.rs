//! The commands: what was asked for becomes a tracer, a sink and a run.

mod doctor;
mod front;
mod lab;
mod probe;
mod run;
mod trouble;
mod verifier;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::{
    bpf::BpfError,
    cli::{
        Cli, Command, Page,
        exit::{Code, Complaint, Exit},
    },
    doctor::report,
    host::{Host, HostError, limits, privilege::Privileges},
    plan::{Backend, Failure, PlanError, Reason},
    show::human::Plain,
    sink::{events_doc, notes::remark, remarks},
    tracer::TracerError,
    traffic::hand,
};
use trouble::internal;

/// Carries a command out, says what there is to say, and hands back the exit code.
#[must_use]
pub fn main(cli: &Cli) -> ExitCode {
    let host = Host::default();
    if matches!(cli.command, Command::Run(_)) {
        remarks::aside();
    }
    cli.notes.iter().for_each(|said| note(said));
    limits::raise_descriptors();
    let result = match &cli.command {
        Command::Run(run) => privileged(&host).and_then(|()| run::run(&host, cli.verbose, run)),
        Command::Probe(probe) => privileged(&host).and_then(|()| probe::probe(&host, cli.verbose, probe)),
        Command::Lab(lab) if lab.list => Ok(lab::list(lab)),
        Command::Lab(lab) => privileged(&host).and_then(|()| lab::lab(&host, cli.verbose, lab)),
        Command::LabHand => lab_hand(),
        Command::Doctor(asked) => {
            trouble::has_proc(&host).map_err(Into::into).and_then(|()| doctor::doctor(&host, asked))
        }
        Command::Verifier(backend) => forced(*backend).map_or_else(
            || Err(anyhow::Error::msg("one backend has to be named").context("__verifier")),
            |backend| privileged(&host).and_then(|()| verifier::verifier(&host, cli.verbose, backend)),
        ),
        Command::Page(page) => Ok(Exit::answer(match page {
            Page::Events => events_doc::render(),
            Page::Doctor => report::page(),
            Page::DoctorSchema => report::schema(),
        })),
    };
    result.unwrap_or_else(ended).report()
}

/// The end of a command that went wrong: as it was decided on, or an error that nobody expected.
fn ended(error: anyhow::Error) -> Exit {
    error.downcast::<Exit>().unwrap_or_else(|error| {
        // What was being done, and what came of it.
        let cause = error.source().unwrap_or(error.as_ref());
        internal(&error.to_string(), cause)
    })
}

/// What is worth knowing before the command begins.
fn note(said: &str) {
    remark(&format!("twtrace: note: {}\n", Plain(said)));
}

/// A helper process of the lab.
fn lab_hand() -> anyhow::Result<Exit> {
    hand::serve().context("the lab's helper process")?;
    Ok(Exit::answer(String::new()))
}

/// Tracing needs privileges: better one line about all of them than the first refusal of many.
fn privileged(host: &Host) -> anyhow::Result<()> {
    trouble::has_proc(host)?;
    trouble::has_room(host)?;
    let missing = Privileges::read(host).missing();
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!("this process lacks {}", missing.join(", "));
    Err(Exit::error(Code::Privilege, Complaint::new("privileges", why, "run it as root, e.g. with sudo")).into())
}

/// The backend that the command line forces.
fn forced(backend: crate::cli::Backend) -> Option<Backend> {
    let word = backend.forced()?;
    Backend::ALL.into_iter().find(|backend| backend.name() == word)
}

/// Why there is no tracer, as the end of the process; with `-v` the verifier's logs go before.
fn no_tracer(error: &TracerError, failures: &[Failure], verbose: u8) -> Exit {
    let mut exit = match error {
        TracerError::Bpf(BpfError::Host(host_error @ HostError::Read { .. })) => {
            trouble::no_types(&Host::default(), host_error)
        }
        TracerError::Plan(PlanError::Fields(_)) | TracerError::Bpf(BpfError::Host(_)) => {
            let remedy = "twtrace needs a kernel with CONFIG_DEBUG_INFO_BTF=y (5.8 or later); if you have the kernel's BTF \
                          as a file, give it: --btf FILE";
            Exit::error(Code::Unsupported, Complaint::new("kernel types", error.to_string(), remedy))
        }
        TracerError::Plan(PlanError::Impossible { .. }) => {
            let remedy = "try --backend auto; `twtrace probe` shows what works here, -v the verifier's log";
            Exit::error(Code::Unsupported, Complaint::new("tracing", error.to_string(), remedy))
        }
        TracerError::Bpf(_) | TracerError::Ring(_) => trouble::refused("eBPF", error).unwrap_or_else(|| {
            let remedy = "run it again with -v; if it fails again, please report it with that output";
            Exit::error(Code::Internal, Complaint::new("eBPF", error.to_string(), remedy))
        }),
    };
    let logs = if verbose > 0 { logs(failures) } else { String::new() };
    exit.stderr.insert_str(0, &logs);
    exit
}

/// What the verifier said of the programs that it refused.
fn logs(failures: &[Failure]) -> String {
    let mut text = String::new();
    for failure in failures {
        let said = match &failure.reason {
            Reason::Refused { log, .. } if log.is_empty() => "(no verifier log)",
            Reason::Refused { log, .. } => log,
            _ => "",
        };
        text.push_str(&format!("{}: {}\n{said}\n", failure.backend, failure.reason));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_end_that_was_decided_on_is_carried_out_as_it_is() {
        let exit = Exit::error(Code::Usage, Complaint::new("--x", "it is odd", "leave it out"));
        assert_eq!(ended(anyhow::Error::from(exit.clone())), exit);
    }

    #[test]
    fn what_nobody_expected_says_what_was_being_done() {
        let odd: Result<(), _> = Err(io::Error::other("odd"));
        let exit = ended(odd.context("the report").unwrap_err());
        assert_eq!((exit.code, exit.stdout.as_str()), (Code::Internal, ""));
        assert!(exit.stderr.starts_with("twtrace: the report: odd; run it again"), "{}", exit.stderr);
        // What the machine refuses is said in its words, however deep it is.
        let refused: Result<(), _> = Err(io::Error::from_raw_os_error(libc::EMFILE));
        let exit = ended(refused.context("tokio").unwrap_err());
        assert!(exit.stderr.contains("tokio") && !exit.stderr.contains("please report"), "{}", exit.stderr);
    }
}
