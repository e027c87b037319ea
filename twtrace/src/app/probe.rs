//! `twtrace probe`: what this kernel offers, found out by doing it.

use std::fmt::Write as _;

use serde::Serialize;

use super::{forced, logs, no_tracer, run::capabilities};
use crate::{
    bpf::{Settings, Tables},
    cli::{Format, Probe, exit::Exit},
    host::{Host, netns::Netns},
    model::report::CapabilityReport,
    plan::Capability,
    sink::escape,
    tracer::{Attempt, Tracer},
};

/// Enough for the self-test and what happens beside it.
const TABLES: Tables = Tables { ring: 1 << 20, lives: 1 << 14, conns: 1 << 12 };

#[derive(Serialize)]
struct Report<'a> {
    v: u8,
    #[serde(rename = "type")]
    kind: &'static str,
    kernel: String,
    version: &'static str,
    capabilities: &'a std::collections::BTreeMap<&'static str, CapabilityReport>,
    self_test: &'a str,
    /// Pre-existing sockets can be listed; else why not.
    seeding: Option<&'a str>,
    /// Fields that this kernel does not have: they show as unknown.
    unknown_fields: &'a [&'static str],
}

pub(super) fn probe(host: &Host, verbose: u8, asked: &Probe) -> Result<Exit, Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Exit::error(crate::cli::exit::Code::Internal, error))?;
    // Registering the ring needs the runtime's reactor; nothing is waited for.
    let _guard = runtime.enter();
    let settings = Settings::all(TABLES, Netns::current().map_or(0, |netns| netns.inum()));
    let attempt =
        Attempt { host, btf: asked.hooks.btf.as_deref(), forced: forced(asked.hooks.backend), settings: &settings };
    let mut failures = Vec::new();
    let tracer = match Tracer::start(&attempt, &mut failures) {
        Ok(tracer) => tracer,
        Err(error) => return Err(no_tracer(&error, &failures, verbose)),
    };
    let capabilities = capabilities(&tracer.plan);
    let report = Report {
        v: 1,
        kind: "probe",
        kernel: host.kernel_release(),
        version: env!("CARGO_PKG_VERSION"),
        capabilities: &capabilities,
        self_test: &tracer.self_test,
        seeding: tracer.seeded.as_ref().err().map(String::as_str),
        unknown_fields: &tracer.unknown_fields,
    };
    let text = match asked.format {
        Format::Json => escape::to_string(&report).map_or_else(|error| error.to_string(), |line| line + "\n"),
        Format::Text => table(&report),
    };
    let mut exit = Exit::answer(text);
    if verbose > 0 {
        exit.stderr = logs(&failures);
    }
    Ok(exit)
}

/// The table for people: one line a capability, then what spoke against better backends.
fn table(report: &Report<'_>) -> String {
    let mut text = format!("twtrace {} on kernel {}\n\n", report.version, report.kernel);
    let _ = writeln!(text, "{:<12} {:<12} WHAT IT TELLS", "CAPABILITY", "BACKEND");
    for capability in Capability::ALL {
        let Some(found) = report.capabilities.get(capability.name()) else { continue };
        let backend = found.backend.unwrap_or("not offered");
        let _ = writeln!(text, "{:<12} {backend:<12} {}", capability.name(), capability.tells());
    }
    let _ = writeln!(text, "\nself-test    {}", report.self_test);
    let _ = writeln!(text, "seeding      {}", report.seeding.unwrap_or("sockets that were there before can be listed"));
    for field in report.unknown_fields {
        let _ = writeln!(text, "no field     {field}: shown as unknown");
    }
    let mut reasons: Vec<&str> = report.capabilities.values().filter_map(|found| found.reason.as_deref()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    if !reasons.is_empty() {
        text.push_str("\nWhy no better backend:\n");
    }
    for reason in reasons {
        let names: Vec<&str> = Capability::ALL
            .into_iter()
            .map(Capability::name)
            .filter(|name| report.capabilities.get(name).is_some_and(|found| found.reason.as_deref() == Some(reason)))
            .collect();
        let _ = writeln!(text, "  {}:", names.join(", "));
        for part in reason.split("; ") {
            let _ = writeln!(text, "    {part}");
        }
    }
    text
}
