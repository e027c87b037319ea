//! Which cargo, rustc and bpf-linker build the eBPF programs.
//!
//! xtask finds or makes this toolchain; twtrace/build.rs includes this file by `#[path]` and uses it. So: std only, and
//! nothing here that only one of the two needs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What `cargo xtask setup` leaves under the target directory.
pub const FILE: &str = "ebpf/toolchain.env";

/// The compiler's target.
pub const TARGET: &str = "bpfel-unknown-none";

/// A toolchain that can build for [`TARGET`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// The cargo itself, not rustup's proxy.
    pub cargo: PathBuf,
    /// The rustc that belongs to it.
    pub rustc: PathBuf,
    /// The directory that holds bpf-linker.
    pub bpf_linker_dir: PathBuf,
    /// A stable compiler, that has to be told to accept `-Z build-std`.
    pub bootstrap: bool,
    /// How it was come by: `rustup` or `debian`.
    pub way: String,
}

impl Toolchain {
    /// Reads the `KEY=VALUE` lines of [`FILE`]. Unknown keys are for others.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value = |key: &str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once('='));
            let pair = pairs.find(|(name, _)| *name == key);
            pair.map(|(_, value)| value.to_owned()).ok_or_else(|| format!("it has no {key}="))
        };
        Ok(Self {
            cargo: value("CARGO")?.into(),
            rustc: value("RUSTC")?.into(),
            bpf_linker_dir: value("BPF_LINKER_DIR")?.into(),
            bootstrap: value("BOOTSTRAP")? == "1",
            way: value("WAY")?,
        })
    }

    /// The file that is no longer there, if any.
    pub fn missing(&self) -> Option<PathBuf> {
        let files = [self.cargo.clone(), self.rustc.clone(), self.bpf_linker_dir.join("bpf-linker")];
        files.into_iter().find(|file| !file.is_file())
    }

    /// A nightly of rustup with the sources of core, and the bpf-linker on PATH; or what of it is missing.
    pub fn of_rustup() -> Result<Self, String> {
        let rustup = |args: &[&str]| {
            // The question must not install what it asks for.
            let output = Command::new("rustup").args(args).env("RUSTUP_AUTO_INSTALL", "0").output();
            let output = output.map_err(|_| "there is no rustup".to_owned())?;
            let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if output.status.success() { Ok(answer) } else { Err(format!("`rustup {}` failed", args.join(" "))) }
        };
        let listed = rustup(&["toolchain", "list"])?;
        let mut reason = "rustup has no nightly toolchain".to_owned();
        for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
            if !name.starts_with("nightly") {
                continue;
            }
            let rustc = PathBuf::from(rustup(&["which", "--toolchain", name, "rustc"])?);
            let sysroot = rustc.ancestors().nth(2).unwrap_or(Path::new("/"));
            if !sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file() {
                reason = format!("rustup's {name} has no rust-src");
                continue;
            }
            let path = env::var_os("PATH").unwrap_or_default();
            let linker = env::split_paths(&path).find(|dir| dir.join("bpf-linker").is_file());
            return Ok(Self {
                cargo: rustup(&["which", "--toolchain", name, "cargo"])?.into(),
                rustc,
                bpf_linker_dir: linker
                    .ok_or_else(|| format!("rustup's {name} will do, but bpf-linker is not on PATH"))?,
                bootstrap: false,
                way: "rustup".to_owned(),
            });
        }
        Err(reason)
    }

    /// `program` of this toolchain, set to build the eBPF crate for the architecture `arch`, and free of what the outer
    /// cargo, clippy or rustup put into the environment: an inherited RUSTC or RUSTC_WORKSPACE_WRAPPER would be used in
    /// place of our compiler, an inherited RUSTFLAGS be applied to the wrong target.
    pub fn command(&self, program: &Path, arch: &str) -> Command {
        let mut command = Command::new(program);
        for (key, _) in env::vars_os() {
            if key.to_str().is_some_and(belongs_to_outer_build) {
                command.env_remove(key);
            }
        }
        command.env("CARGO", &self.cargo).env("RUSTC", &self.rustc);
        if self.bootstrap {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        // What aya-build passes too: the pt_regs layout to compile for, and the line tables and types of the BTF.
        let flags = format!("--cfg=bpf_target_arch=\"{arch}\" -Cdebuginfo=2 -Clink-arg=--btf");
        command.env("RUSTFLAGS", flags);
        let path = env::var_os("PATH").unwrap_or_default();
        let dirs = [self.bpf_linker_dir.clone()].into_iter().chain(env::split_paths(&path));
        if let Ok(path) = env::join_paths(dirs) {
            command.env("PATH", path);
        }
        command
    }
}

/// The toolchain that `cargo xtask setup` recorded in `file`.
pub fn recorded(file: &Path) -> Result<Toolchain, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let toolchain = Toolchain::parse(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    match toolchain.missing() {
        Some(gone) => Err(format!("{} names {}, which is gone", file.display(), gone.display())),
        None => Ok(toolchain),
    }
}

/// True for what an outer build sets for itself. Where crates come from, and the job server, are shared.
fn belongs_to_outer_build(key: &str) -> bool {
    const SHARED: [&str; 8] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    const OUTER: [&str; 6] = ["CARGO", "CLIPPY_", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"];
    const BUILD_SCRIPT: [&str; 6] = ["DEBUG", "HOST", "OPT_LEVEL", "OUT_DIR", "PROFILE", "TARGET"];
    let starts = |prefix: &&str| key.starts_with(prefix);
    BUILD_SCRIPT.contains(&key) || (OUTER.iter().any(starts) && !SHARED.iter().any(starts))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "CARGO=/usr/bin/cargo\nRUSTC=/usr/bin/rustc\nBPF_LINKER_DIR=/t/bin\nBOOTSTRAP=1\nWAY=debian\nX=y\n";

    #[test]
    fn the_file_is_read() {
        let expected = Toolchain {
            cargo: "/usr/bin/cargo".into(),
            rustc: "/usr/bin/rustc".into(),
            bpf_linker_dir: "/t/bin".into(),
            bootstrap: true,
            way: "debian".into(),
        };
        assert_eq!(Toolchain::parse(TEXT), Ok(expected));
        assert_eq!(Toolchain::parse("CARGO=/usr/bin/cargo\n"), Err("it has no RUSTC=".into()));
    }

    #[test]
    fn the_outer_build_stays_outside() {
        for key in
            ["RUSTC", "RUSTC_WORKSPACE_WRAPPER", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "OUT_DIR", "CARGO"]
        {
            assert!(belongs_to_outer_build(key), "{key}");
        }
        for key in ["CARGO_HOME", "CARGO_MAKEFLAGS", "CARGO_NET_OFFLINE", "PATH", "HOME", "HOSTNAME", "RUST_BACKTRACE"]
        {
            assert!(!belongs_to_outer_build(key), "{key}");
        }
    }
}
