//! Packages that are unpacked, not installed: a server would be set up and started, and only a test wants it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{available, candidate, update};
use crate::{exec, paths};

/// The files of `package`, below the user's cache directory. What it depends on is not fetched.
pub fn unpacked(package: &str) -> Result<PathBuf> {
    if !available() {
        bail!("{package} is fetched by apt-get, and this machine has none; install it by hand");
    }
    let dir = paths::cache()?.join("packages").join(package);
    let (tree, done) = (dir.join("tree"), dir.join("version"));
    let newest = candidate(package);
    if fs::read_to_string(&done).is_ok_and(|kept| newest.as_ref().is_none_or(|newest| *newest == kept)) {
        return Ok(tree);
    }
    // A machine that was just made has no package lists, or old ones.
    let deb = download(package, &dir).or_else(|_| {
        update();
        download(package, &dir)
    })?;
    exec::run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&tree))?;
    fs::remove_file(&deb).with_context(|| format!("removing {}", deb.display()))?;
    let version = candidate(package).unwrap_or_default();
    fs::write(&done, version).with_context(|| format!("writing {}", done.display()))?;
    Ok(tree)
}

/// Fetches `package` into `dir`, which holds nothing else then.
fn download(package: &str, dir: &Path) -> Result<PathBuf> {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let mut apt = Command::new("apt-get");
    if exec::is_root() {
        // apt's own user cannot write into the cache directory of root.
        apt.args(["-o", "APT::Sandbox::User=root"]);
    }
    exec::run(apt.args(["-q", "download", package]).current_dir(dir))?;
    let files = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut debs =
        files.flatten().map(|entry| entry.path()).filter(|file| file.extension().is_some_and(|e| e == "deb"));
    debs.next().with_context(|| format!("apt-get download left no package in {}", dir.display()))
}
