//! Other programs that the tests in a guest compare with: those of this machine, with the libraries that they load.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{apt, exec};

/// Programs, and Debian's packages with them. Both read the kernel by other ways than twtrace: ss by requests of its own to
/// sock_diag, nstat from /proc/net.
const TOOLS: [(&str, &str); 2] = [("ss", "iproute2"), ("nstat", "iproute2")];

/// Where each file of theirs belongs in the guest. What cannot be had is reported, and its tests are skipped and say so.
pub fn files() -> Vec<(String, PathBuf)> {
    let mut files = BTreeSet::new();
    for (program, package) in TOOLS {
        match of(program, package) {
            Ok(its) => files.extend(its),
            Err(error) => eprintln!("xtask: warning: no {program} in the guests: {error:#}"),
        }
    }
    files.into_iter().collect()
}

fn of(program: &str, package: &str) -> Result<Vec<(String, PathBuf)>> {
    apt::install_program(program, package)?;
    let file = exec::which(program).with_context(|| format!("no {program} on PATH"))?;
    let said = exec::probe(Command::new("ldd").arg(&file).env("LC_ALL", "C"));
    let said = said.with_context(|| format!("ldd cannot say what {} loads", file.display()))?;
    let libraries = libraries(&said).map(|library| (library.display().to_string(), library.to_owned()));
    Ok([(format!("/bin/{program}"), file)].into_iter().chain(libraries).collect())
}

/// The files in what ldd prints: `NAME => FILE (ADDRESS)`, and `FILE (ADDRESS)` for the loader. What the kernel maps by
/// itself is no file.
fn libraries(said: &str) -> impl Iterator<Item = &Path> {
    said.lines().filter_map(|line| {
        let line = line.rsplit_once(" (0x")?.0;
        let file = line.split_once(" => ").map_or(line, |(_, file)| file).trim();
        file.starts_with('/').then(|| Path::new(file))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_files() {
        let said = "\tlinux-vdso.so.1 (0x00007fa81ce5e000)\n\
                    \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007fa81cd20000)\n\
                    \tlibgone.so.1 => not found\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007fa81ce60000)\n";
        let found: Vec<_> = libraries(said).collect();
        assert_eq!(found, [Path::new("/lib/x86_64-linux-gnu/libm.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]);
        assert_eq!(libraries("\tstatically linked\n").count(), 0);
    }
}
