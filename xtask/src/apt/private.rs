//! apt with sources, lists and caches of its own: the machine's are neither read nor changed.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{exec, paths};

/// A private apt. Its lists, up to 60 MB that are out of date the next time, go away with it.
pub struct Private {
    state: PathBuf,
}

impl Private {
    /// An apt that knows these sources, paragraphs of a .sources file.
    pub fn new(sources: &str) -> Result<Self> {
        let state = paths::cache()?.join("apt");
        for dir in ["lists/partial", "cache/archives/partial"] {
            let dir = state.join(dir);
            fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        let write = |name: &str, text: &str| {
            let file = state.join(name);
            fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
        };
        write("private.sources", sources)?;
        let place = state.display();
        let mut options = format!(
            "Dir::Etc::sourcelist \"{place}/private.sources\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::State::Lists \"{place}/lists\";\nDir::Cache \"{place}/cache\";\n\
             Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n\
             APT::Architecture \"amd64\";\nAcquire::Languages \"none\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n"
        );
        if exec::is_root() {
            // apt's own user cannot write into the cache directory of root.
            options.push_str("APT::Sandbox::User \"root\";\n");
        }
        write("apt.conf", &options)?;
        Ok(Self { state })
    }

    /// One of apt's programs under this configuration.
    pub fn command(&self, tool: &str) -> Command {
        self.configured(Command::new(tool))
    }

    /// Puts a command of apt's under this configuration.
    pub fn configured(&self, mut command: Command) -> Command {
        command.arg("-c").arg(self.state.join("apt.conf"));
        command
    }

    /// Fetches the package lists.
    pub fn update(&self) -> Result<()> {
        if exec::which("apt-get").is_none() {
            bail!("packages are fetched by apt-get, and this machine has none");
        }
        // A suite that left the mirror fails the update, but the others are there all the same.
        if let Err(error) = exec::run(self.command("apt-get").args(["-q", "update"])) {
            eprintln!("xtask: warning: {error:#}");
        }
        Ok(())
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.state);
    }
}
