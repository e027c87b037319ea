//! Where the workspace, its target directory and the user's cache are.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};

use crate::exec;

/// The workspace root.
pub fn root() -> PathBuf {
    // `cargo run` says where the package is now; the compiled-in path serves a binary that was started by hand.
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let package = PathBuf::from(package);
    package.parent().map_or(package.clone(), Path::to_path_buf)
}

/// What cargo knows of the workspace.
pub fn metadata() -> Result<serde_json::Value> {
    let metadata = exec::probe(exec::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))
        .context("`cargo metadata` failed; run it by hand to see why")?;
    serde_json::from_str(&metadata).context("reading `cargo metadata`")
}

/// The target directory, wherever the environment or cargo's configuration put it.
pub fn target() -> Result<PathBuf> {
    let metadata = metadata()?;
    let target = metadata["target_directory"].as_str();
    target.map(PathBuf::from).ok_or_else(|| anyhow!("`cargo metadata` names no target_directory"))
}

/// What is fetched once for all clones: `$XDG_CACHE_HOME/twtrace`, or `~/.cache/twtrace`.
pub fn cache() -> Result<PathBuf> {
    let xdg = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || env::home_dir().map(|home| home.join(".cache"));
    let cache = xdg.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set; set one")?;
    Ok(cache.join("twtrace"))
}
