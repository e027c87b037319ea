//! twtrace: see the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    match twtrace::cli::parse(std::env::args_os()) {
        Ok(cli) => twtrace::app::main(&cli),
        Err(exit) => exit.report(),
    }
}
