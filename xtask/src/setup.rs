//! `cargo xtask setup`: finds or installs what builds the eBPF programs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{apt, ebpf_toolchain, ebpf_toolchain::Toolchain, exec, paths};

/// Works with the LLVM of the compilers that it has a feature for.
const BPF_LINKER: &str = "0.13.0";
/// The LLVM majors that this bpf-linker has a feature for.
const BPF_LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// The packages' names: Debian keeps a newer compiler for its browsers apart in its stable suites.
const COMPILERS: [[&str; 3]; 2] = [["rustc-web", "cargo-web", "rust-web-src"], ["rustc", "cargo", "rust-src"]];
/// The name of this way.
const DEBIAN: &str = "debian";
/// Where those packages put the compiler.
const BIN: &str = "/usr/bin";

pub fn verb() -> Result<ExitCode> {
    let toolchain = ensure()?;
    let linker = toolchain.bpf_linker_dir.join("bpf-linker");
    println!("eBPF toolchain ({}): {}, {}", toolchain.way, toolchain.rustc.display(), linker.display());
    Ok(ExitCode::SUCCESS)
}

/// The eBPF toolchain, made if there is none.
pub fn ensure() -> Result<Toolchain> {
    let target = paths::target()?;
    let file = target.join(ebpf_toolchain::FILE);
    if let Some(toolchain) = still_good(&file) {
        return Ok(toolchain);
    }
    let toolchain = Toolchain::of_rustup().or_else(|no_rustup| {
        eprintln!("xtask: {no_rustup}; trying Debian packages");
        debian(&target).map_err(|no_debian| neither(&no_rustup, &format!("{no_debian:#}")))
    })?;
    write(&file, &toolchain)?;
    Ok(toolchain)
}

/// The clippy that belongs to `toolchain`, installed if Debian has it apart.
pub fn clippy(toolchain: &Toolchain) -> Result<PathBuf> {
    if toolchain.way == DEBIAN {
        let package = if apt::installed(COMPILERS[0][0]).is_some() { "rust-web-clippy" } else { "rust-clippy" };
        apt::install(&[package])?;
    }
    let clippy = toolchain.cargo.with_file_name("cargo-clippy");
    if !clippy.is_file() {
        bail!("there is no {}; run: rustup component add clippy --toolchain nightly", clippy.display());
    }
    Ok(clippy)
}

/// What was recorded, unless a file of it vanished or the compiler was upgraded under its linker.
fn still_good(file: &Path) -> Option<Toolchain> {
    if !file.exists() {
        return None;
    }
    let good = ebpf_toolchain::recorded(file).and_then(|toolchain| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let same = text.lines().any(|line| line == made_with(&toolchain));
        if same { Ok(toolchain) } else { Err("another compiler or another bpf-linker is wanted now".to_owned()) }
    });
    good.inspect_err(|why| eprintln!("xtask: setting up the eBPF toolchain again: {why}")).ok()
}

/// The line that tells whether the toolchain is still the one that was set up.
fn made_with(toolchain: &Toolchain) -> String {
    let (release, llvm) = version(&toolchain.rustc).unwrap_or_default();
    let linker = if toolchain.way == DEBIAN { BPF_LINKER } else { "as found" };
    format!("MADE_WITH=rustc {release}, LLVM {llvm}, bpf-linker {linker}")
}

fn write(file: &Path, toolchain: &Toolchain) -> Result<()> {
    let Toolchain { cargo, rustc, bpf_linker_dir, bootstrap, way } = toolchain;
    let text = format!(
        "CARGO={}\nRUSTC={}\nBPF_LINKER_DIR={}\nBOOTSTRAP={}\nWAY={way}\n{}\n",
        cargo.display(),
        rustc.display(),
        bpf_linker_dir.display(),
        u8::from(*bootstrap),
        made_with(toolchain),
    );
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

/// Debian's compiler, and a bpf-linker built for its LLVM under the target directory.
fn debian(target: &Path) -> Result<Toolchain> {
    if !apt::available() {
        bail!("this machine has no apt-get");
    }
    let compiler = COMPILERS.iter().find(|names| fits(names));
    let compiler = compiler.or_else(|| {
        apt::update();
        COMPILERS.iter().find(|names| fits(names))
    });
    let Some(compiler) = compiler else {
        let found: Vec<_> = COMPILERS.iter().map(|[name, ..]| offer(name)).collect();
        bail!("apt offers no Rust {} or later ({})", env!("CARGO_PKG_RUST_VERSION"), found.join(", "));
    };
    apt::install(compiler)?;

    let rustc = Path::new(BIN).join("rustc");
    let (_, llvm) = version(&rustc).with_context(|| format!("{} names no LLVM version", rustc.display()))?;
    if !BPF_LINKER_LLVM.contains(&llvm) {
        bail!("{} has LLVM {llvm}, and bpf-linker {BPF_LINKER} is not made for it", rustc.display());
    }
    apt::install(&[&format!("llvm-{llvm}-dev")])?;

    let toolchain = Toolchain {
        cargo: Path::new(BIN).join("cargo"),
        rustc,
        bpf_linker_dir: target.join("ebpf/linker/bin"),
        bootstrap: true,
        way: DEBIAN.to_owned(),
    };
    install_linker(&toolchain, target, llvm)?;
    match toolchain.missing() {
        Some(gone) => bail!("all was installed, and still there is no {}", gone.display()),
        None => Ok(toolchain),
    }
}

fn install_linker(toolchain: &Toolchain, target: &Path, llvm: u32) -> Result<()> {
    let build = target.join("ebpf/linker-build");
    let mut cargo = Command::new(&toolchain.cargo);
    cargo.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"]);
    cargo.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
    cargo.arg("--root").arg(target.join("ebpf/linker")).arg("--target-dir").arg(&build);
    // Without the prefix llvm-sys looks for the distribution's default LLVM, and ends at a missing -lLLVM.
    cargo.env("RUSTC", &toolchain.rustc).env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
    exec::run(&mut cargo)?;
    // 300 MB that nothing needs again; that they could not be removed is no reason to stop.
    let _ = fs::remove_dir_all(build);
    Ok(())
}

/// True if apt has, or can have, a compiler of these names that is new enough for this workspace.
fn fits(names: &[&str; 3]) -> bool {
    let version = apt::candidate(names[0]);
    let all = names.iter().all(|name| apt::candidate(name).is_some());
    let wanted = minor(env!("CARGO_PKG_RUST_VERSION"));
    all && version.is_some_and(|version| minor(&version) >= wanted)
}

fn offer(package: &str) -> String {
    format!("{package}: {}", apt::candidate(package).as_deref().unwrap_or("none"))
}

/// `(1, 96)` of `1.96.0+dfsg1-1~deb12u2`.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The release and the LLVM major of a compiler.
fn version(rustc: &Path) -> Option<(String, u32)> {
    parse_version(&exec::probe(Command::new(rustc).arg("-vV").env_remove("RUSTUP_TOOLCHAIN"))?)
}

fn parse_version(verbose: &str) -> Option<(String, u32)> {
    let value = |key| verbose.lines().find_map(|line| line.strip_prefix(key));
    let llvm = value("LLVM version: ")?.split('.').next()?.parse().ok()?;
    Some((value("release: ")?.to_owned(), llvm))
}

fn neither(no_rustup: &str, no_debian: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "the eBPF programs need a compiler with core's sources and bpf-linker, and neither way gives them:
  rustup: {no_rustup}
     rustup toolchain install nightly --component rust-src && cargo install bpf-linker
  Debian: {no_debian}
     apt-get install {} llvm-NN-dev, with the LLVM of that rustc, from a suite that has Rust {} or later
Do one of the two, then: cargo xtask setup",
        COMPILERS[0].join(" "),
        env!("CARGO_PKG_RUST_VERSION"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told() {
        assert_eq!(minor("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(minor("1.95"), Some((1, 95)));
        assert!(minor("1.100.0") > minor("1.95"));
        assert_eq!(minor("none"), None);
    }

    #[test]
    fn the_llvm_is_the_compilers() {
        let verbose = "rustc 1.96.0 (ac68faa20 2026-05-25)\nhost: x\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(verbose), Some(("1.96.0".into(), 22)));
        assert_eq!(parse_version("rustc 1.96.0\n"), None);
    }
}
