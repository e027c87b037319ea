//! `twtrace lab`: every scenario, held against the kernel.

use anyhow::Context as _;

use super::{forced, logs, no_tracer, trouble};
use crate::{
    cli::{
        Format, Lab as Asked,
        exit::{Code, Complaint, Exit, say},
    },
    host::Host,
    lab::{
        report::{self, Score},
        runner::{self, LabError},
        scenarios::{ALL, Scenario},
    },
};

/// What was asked for, of all scenarios.
fn chosen(asked: &Asked) -> Vec<&'static Scenario> {
    let wanted = |scenario: &&Scenario| {
        if asked.scenarios.is_empty() {
            !(asked.quick && scenario.slow)
        } else {
            asked.scenarios.contains(&scenario.name)
        }
    };
    ALL.iter().filter(wanted).collect()
}

pub(super) fn list(asked: &Asked) -> Exit {
    let scenarios = chosen(asked);
    Exit::answer(match asked.format {
        Format::Text => report::listed(&scenarios),
        Format::Json => scenarios.into_iter().map(report::json_listed).collect(),
    })
}

pub(super) fn lab(host: &Host, verbose: u8, asked: &Asked) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("tokio")?;
    // Registering the ring needs the runtime's reactor; the lab waits in threads of its own.
    let _guard = runtime.enter();
    let program = std::env::current_exe().context("twtrace's own file")?;
    let to_do = runner::Asked {
        host,
        btf: asked.hooks.btf.as_deref(),
        forced: forced(asked.hooks.backend),
        scenarios: chosen(asked),
        jobs: asked.jobs,
        connections: asked.connections,
        program,
    };
    let (mut failures, mut head) = (Vec::new(), Some(report::head()));
    let mut unwritten = None;
    let lab = runner::run(&to_do, &mut failures, &mut |ran| {
        let said = say(&match asked.format {
            Format::Text => head.take().unwrap_or_default() + &report::text(ran),
            Format::Json => report::json(ran),
        });
        // A reader that has gone away still gets the exit code.
        unwritten = unwritten.take().or(said.err());
    });
    let lab = lab.map_err(|error| match error {
        LabError::Tracer(error) => no_tracer(&error, &failures, verbose),
        LabError::Stage(error) => trouble::refused("lab", &error).unwrap_or_else(|| {
            let remedy = "the lab makes network namespaces: it needs CONFIG_NET_NS and CAP_SYS_ADMIN (user.max_net_namespaces is not 0)";
            Exit::error(Code::Unsupported, Complaint::new("lab", error.to_string(), remedy))
        }),
    })?;
    if let Some(exit) = unwritten {
        return Err(exit.into());
    }
    let kernel = host.kernel_release();
    let mut exit = Exit::answer(match asked.format {
        Format::Text => report::text_last(&lab, &kernel),
        Format::Json => report::json_last(&lab, &kernel),
    });
    if verbose > 0 {
        exit.stderr = logs(&failures);
    }
    if Score::of(&lab.ran).failed > 0 {
        exit.code = Code::Wrong;
    }
    Ok(exit)
}
