//! `twtrace __verifier`: what the verifier took for each program of a backend, for `cargo xtask vm`.

use serde::Serialize;

use super::no_tracer;
use crate::{
    bpf::{self, AttachError, Figures, Settings, Tables},
    cli::exit::Exit,
    host::Host,
    plan::{Asked, Backend, choose},
    tracer::TracerError,
};

/// Nothing is entered into them.
const TABLES: Tables = Tables { ring: 1 << 12, lives: 1, conns: 1 };

#[derive(Serialize)]
struct Line {
    backend: &'static str,
    #[serde(flatten)]
    figures: Figures,
}

pub(super) fn verifier(host: &Host, verbose: u8, backend: Backend) -> anyhow::Result<Exit> {
    let wrong = |error: TracerError| no_tracer(&error, &[], verbose);
    let kernel = bpf::gather(host, None).map_err(|error| wrong(error.into()))?;
    let plan = choose(&kernel.facts, &Asked::of(backend), &[]).map_err(|error| wrong(error.into()))?;
    // All that a run may ask for, but filters: one that is not set is nothing to the verifier.
    let settings = Settings { passive: 1, ..Settings::all(TABLES, 1) };
    let figures = bpf::figures(&kernel, &plan, &settings).map_err(|error| match error {
        AttachError::Hook(failure) => super::logs(&[*failure]),
        AttachError::Fatal(error) => error.to_string(),
    });
    let figures = figures.map_err(|error| Exit::error(crate::cli::exit::Code::Unsupported, error))?;
    let line = |figures| serde_json::to_string(&Line { backend: backend.name(), figures });
    let lines: Vec<String> = figures.into_iter().filter_map(|figures| line(figures).ok()).collect();
    Ok(Exit::answer(lines.join("\n") + "\n"))
}
