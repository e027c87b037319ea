//! What the backends cost that this machine's own kernel may not offer: in guests, beside tcplife in the same guest.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{
    cost::{self, Cost},
    load::Load,
    peers::{Peer, on_backend, refusal},
};
use crate::{
    exec,
    vm::{self, Programs, Ran, Role, grid::BACKENDS},
};

/// The oldest that has all backends, one in the middle and the newest.
const KERNELS: [&str; 3] = ["oldest", "6.12", "newest"];
/// Emulated processors make some hundred connections a second.
const CONNECTIONS: u64 = 2000;
const ROUNDS: usize = 3;
/// How long a guest may take.
const MINUTES: u64 = 15;
/// Where things are in the guest.
const TWTRACE: &str = "/twtrace";
const LOAD: &str = "/load";
const XTASK: &str = "/xtask";
const TCPLIFE: &str = "/tcplife";
/// Before the costs, on the guest's console.
const MARK: &str = "@cost ";

/// What was measured in one guest.
#[derive(Serialize, Deserialize)]
pub struct OfGuest {
    /// `uname -r`
    pub release: String,
    /// The guest's processors were emulated.
    pub emulated: bool,
    /// Births alone: tcplife first, then twtrace by backend.
    pub costs: Vec<Cost>,
}

impl OfGuest {
    /// eBPF nanoseconds of a backend as a part of tcplife's.
    pub fn of_tcplife(&self, backend: &str) -> Option<f64> {
        let cost = |name: &str| self.costs.iter().find(|cost| cost.peer == name).map(|cost| &cost.bpf_ns);
        Some(cost(&on_backend(backend))?.per(cost("tcplife")?).median())
    }
}

/// Boots the guests one after the other. A guest that comes to nothing is put to what is missing.
pub fn measure(missing: &mut Vec<(String, String)>) -> Vec<OfGuest> {
    let programs = vm::ready().and_then(|()| programs());
    let mut guests = Vec::new();
    for kernel in KERNELS.iter().filter_map(|name| Role::parse(name).ok()) {
        let measured = programs.as_ref().map_err(|error| format!("{error:#}"));
        match measured.and_then(|programs| of_guest(&kernel, programs).map_err(|error| format!("{error:#}"))) {
            Ok(guest) => guests.push(guest),
            Err(error) => missing.push((format!("the guest of {}", kernel.name()), error)),
        }
    }
    guests
}

fn of_guest(kernel: &Role, programs: &Programs) -> Result<OfGuest> {
    let Ran { release, emulated, console } = vm::run_in(kernel, programs, &format!("{XTASK} bench --inside"), MINUTES)?;
    let line = console.lines().find_map(|line| line.split_once(MARK).map(|(_, json)| json));
    let costs =
        line.with_context(|| format!("it said nothing: {}", console.lines().next_back().unwrap_or_default()))?;
    let costs = serde_json::Deserializer::from_str(costs).into_iter().next().context("it said nothing")?;
    Ok(OfGuest { release, emulated, costs: costs.context("reading what the guest said")? })
}

/// All that a guest needs.
fn programs() -> Result<Programs> {
    let built = vm::build_static(&["test", "--no-run", "--package", "twtrace", "--test", "e2e", "--bench", "load"])?;
    let xtask = vm::build_static(&["build", "--package", "xtask"])?;
    let mut more = vec![
        (TWTRACE.to_owned(), built("bin", "twtrace")?),
        (LOAD.to_owned(), built("bench", "load")?),
        (XTASK.to_owned(), xtask("bin", "xtask")?),
    ];
    Peer::tcplife()?;
    let tcplife = exec::which("tcplife").context("no tcplife")?;
    more.extend(libraries(&tcplife)?.into_iter().map(|file| (file.display().to_string(), file)));
    more.push((TCPLIFE.to_owned(), tcplife));
    Ok(Programs { init: built("test", "e2e")?, more })
}

/// The shared libraries of a program and their loader: `libz.so.1 => /lib/libz.so.1 (0x7f..)`, `/lib64/ld.so (0x7f..)`.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let said = exec::capture(Command::new("ldd").arg(program))?;
    let paths = said.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

/// The guest's part.
pub fn inside() -> Result<()> {
    let mut peers = vec![Peer::emulated("tcplife", &[TCPLIFE])];
    for backend in BACKENDS {
        match refusal(Path::new(TWTRACE), backend) {
            None => {
                let words = [TWTRACE, "run", "--format", "json", "--backend", backend];
                peers.push(Peer::emulated(&on_backend(backend), &words));
            }
            Some(reason) => println!("left out: {backend}: {reason}"),
        }
    }
    let mut load = Load::start(Path::new(LOAD))?;
    let costs = cost::births(&mut load, &peers, CONNECTIONS, ROUNDS)?;
    println!("{MARK}{}", serde_json::to_string(&costs).context("writing costs as JSON")?);
    Ok(())
}
