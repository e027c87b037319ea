//! `cargo xtask run -- ARGS`: `twtrace run ARGS`, as root.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{build, exec};

#[derive(clap::Args)]
pub struct Args {
    /// Passed to `twtrace run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub fn verb(Args { args }: Args) -> Result<ExitCode> {
    let twtrace = build::release()?;
    let mut command = exec::as_root(&twtrace)
        .with_context(|| format!("tracing takes root and there is no sudo; run as root: {} run", twtrace.display()))?;
    command.arg("run").args(args);
    exec::echo(&command);
    // In place of this process: the terminal, the signals and the exit code are then twtrace's own.
    let error = command.exec();
    Err(error).with_context(|| format!("starting {}", twtrace.display()))
}
