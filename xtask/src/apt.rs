//! Debian packages of this machine.

mod private;
pub mod sources;
mod unpacked;

pub use self::{private::Private, unpacked::unpacked};

use std::{path::Path, process::Command, sync::Once};

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
    let once = |options: &[&str], apt: Command| {
        let mut apt = apt;
        apt.args(["-qq", "install", "--no-install-recommends", "--no-remove"]).args(options);
        apt.args(["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]).args(&missing);
        exec::run(apt.env("DEBIAN_FRONTEND", "noninteractive"))
    };
    let apt = || {
        exec::as_root("apt-get").with_context(|| {
            let packages = missing.join(" ");
            format!("installing {packages} takes root and there is no sudo; run as root: apt-get install {packages}")
        })
    };
    // A machine that was just made has old package lists, or none.
    if once(&[], apt()?).is_ok() {
        return Ok(());
    }
    update();
    let Err(refused) = once(&[], apt()?) else { return Ok(()) };
    // Something that was installed from the release's backports may break with what the release itself has.
    let Some((backports, private)) = with_backports()? else { return Err(refused) };
    private.update()?;
    once(&["-t", &backports], private.configured(apt()?))
}

/// The backports of this machine's release, and an apt that knows them beside the release.
fn with_backports() -> Result<Option<(String, Private)>> {
    let configured = sources::read(Path::new("/etc/apt"));
    let Some((main, release)) = sources::main(&configured).and_then(|main| Some((main, main.suites.first()?))) else {
        return Ok(None);
    };
    let backports = format!("{release}-backports");
    let mut list: Vec<_> = main.suites.iter().chain([&backports]).map(|suite| main.stanza(suite)).collect();
    if let Some(security) = sources::security(&configured) {
        list.extend(security.suites.iter().map(|suite| security.stanza(suite)));
    }
    Ok(Some((backports, Private::new(&list.join("\n"))?)))
}

/// Installs the libraries that `package` depends on, and not itself.
pub fn install_libraries(package: &str) -> Result<()> {
    let depends = || exec::probe(Command::new("apt-cache").args(["depends", package]).env("LC_ALL", "C"));
    // A machine that was just made has no package lists.
    let answer = depends().filter(|answer| answer.contains("Depends:")).or_else(|| {
        update();
        depends()
    });
    let answer = answer.with_context(|| format!("apt knows no package {package}"))?;
    let libraries: Vec<&str> = libraries(&answer).collect();
    install(&libraries)
}

/// Of what `apt-cache depends` prints, the libraries; of alternatives, which `|` joins to the next, the first.
fn libraries(depends: &str) -> impl Iterator<Item = &str> {
    let mut joined = false;
    depends.lines().filter_map(move |line| {
        let is_other = std::mem::replace(&mut joined, line.trim_start().starts_with('|'));
        let name = line.trim_start().trim_start_matches('|').strip_prefix("Depends: ")?;
        (!is_other && name.starts_with("lib")).then_some(name)
    })
}

/// Installs `package` if there is no `program`.
pub fn install_program(program: &str, package: &str) -> Result<()> {
    if exec::which(program).is_some() { Ok(()) } else { install(&[package]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_told_from_the_rest() {
        let depends = "haproxy\n  PreDepends: dpkg\n  Depends: libc6\n |Depends: libsystemd0\n  Depends: libelogind0\n  Depends: \
                       adduser\n  Suggests: libfoo\n";
        assert_eq!(libraries(depends).collect::<Vec<_>>(), ["libc6", "libsystemd0"]);
        assert_eq!(libraries("").count(), 0);
    }
}
