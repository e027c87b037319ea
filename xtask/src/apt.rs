//! Debian packages of this machine.

use std::{process::Command, sync::Once};

use anyhow::{Context as _, Result, bail};

use crate::exec;

/// True on a machine that has apt and dpkg.
pub fn available() -> bool {
    ["apt-get", "apt-cache", "dpkg-query"].iter().all(|tool| exec::which(tool).is_some())
}

/// The version of `package` that is installed.
pub fn installed(package: &str) -> Option<String> {
    let format = "--showformat=${db:Status-Status} ${Version}";
    let answer = exec::probe(Command::new("dpkg-query").args(["--show", format, package]))?;
    answer.strip_prefix("installed ").map(str::to_owned)
}

/// The version of `package` that apt would install, or has.
pub fn candidate(package: &str) -> Option<String> {
    let answer = exec::probe(Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C"))?;
    let candidate = answer.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (candidate != "(none)").then(|| candidate.to_owned())
}

/// Brings the package lists up to date, once per run.
pub fn update() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Some(mut update) = exec::as_root("apt-get")
            && let Err(error) = exec::run(update.args(["-qq", "update"]))
        {
            // One source of many may be down; what the others hold may do.
            eprintln!("xtask: warning: {error:#}; trying with the package lists that are there");
        }
    });
}

/// Installs those of `packages` that are not installed yet. Never removes one.
pub fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<_> = packages.iter().copied().filter(|package| installed(package).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !available() {
        bail!("{} must be installed, and this machine has no apt-get; install it by hand", missing.join(", "));
    }
    let once = || {
        let mut apt = exec::as_root("apt-get").with_context(|| {
            let packages = missing.join(" ");
            format!("installing {packages} takes root and there is no sudo; run as root: apt-get install {packages}")
        })?;
        apt.args(["-qq", "install", "--no-install-recommends", "--no-remove"]);
        apt.args(["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]).args(&missing);
        exec::run(apt.env("DEBIAN_FRONTEND", "noninteractive"))
    };
    // A machine that was just made has old package lists, or none.
    once().or_else(|_| {
        update();
        once()
    })
}

/// Installs `package` if there is no `program`.
pub fn install_program(program: &str, package: &str) -> Result<()> {
    if exec::which(program).is_some() { Ok(()) } else { install(&[package]) }
}
