//! `cargo xtask build`: the release binary.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{exec, paths, setup};

pub fn verb() -> Result<ExitCode> {
    println!("built {}", release()?.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the release binary and says where it is.
pub fn release() -> Result<PathBuf> {
    setup::ensure()?;
    exec::run(exec::cargo().args(["build", "--release", "--package", "twtrace"]))?;
    Ok(paths::target()?.join("release/twtrace"))
}
