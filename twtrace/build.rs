//! Builds the eBPF programs into `OUT_DIR/twtrace-ebpf.o`.
//!
//! aya-build would do, were every toolchain one of rustup's. Ours may be Debian's: `cargo xtask setup` recorded which.

#[path = "../xtask/src/ebpf_toolchain.rs"]
mod ebpf_toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use ebpf_toolchain::{FILE, TARGET, Toolchain};

fn main() -> ExitCode {
    let (root, target) = match places() {
        Ok(places) => places,
        Err(error) => return refuse(&error),
    };
    for input in ["twtrace-ebpf", "twtrace-common", "Cargo.toml", "Cargo.lock", "xtask/src/ebpf_toolchain.rs"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let file = target.join(FILE);
    if file.exists() {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    let toolchain = ebpf_toolchain::recorded(&file).or_else(|no_file| {
        Toolchain::of_rustup()
            .map_err(|no_rustup| format!("no eBPF toolchain ({no_file}; {no_rustup}); run: cargo xtask setup"))
    });
    match toolchain {
        Ok(toolchain) => build(&toolchain, &root, &target),
        Err(error) => refuse(&error),
    }
}

/// The workspace root, and the target directory that the outer build uses.
fn places() -> Result<(PathBuf, PathBuf), String> {
    let out = variable("OUT_DIR")?;
    let package = variable("CARGO_MANIFEST_DIR")?;
    let root = Path::new(&package).parent().ok_or("the package has no parent directory")?;
    // OUT_DIR is <target>[/<triple>]/<profile>/build/<package>/out: what xtask recorded is in one of its parents.
    let recorded = Path::new(&out).ancestors().find(|dir| dir.join(FILE).is_file());
    // Else rustup's toolchain may do, and this is where cargo's layout has the target directory.
    let assumed = Path::new(&out).ancestors().filter(|dir| dir.join("CACHEDIR.TAG").is_file()).last();
    let target = recorded.or(assumed).ok_or_else(|| format!("no target directory above {out}"))?;
    Ok((root.to_owned(), target.to_owned()))
}

fn build(toolchain: &Toolchain, root: &Path, target: &Path) -> ExitCode {
    let arch = match variable("CARGO_CFG_TARGET_ARCH") {
        Ok(arch) => arch,
        Err(error) => return refuse(&error),
    };
    // Every profile of the outer build shares this directory. It is not the outer target directory: cargo holds a lock on
    // that one, and would wait for itself (https://github.com/rust-lang/cargo/issues/6412).
    // With the feature it has one of its own, for the two objects have one name.
    let has_extra = env::var_os("CARGO_FEATURE_EXTRA").is_some();
    let inner = target.join(if has_extra { "ebpf/extra" } else { "ebpf/build" });
    let mut cargo = toolchain.command(&toolchain.cargo, &arch);
    cargo.args(["build", "--quiet", "--release", "--bins", "--target", TARGET, "-Z", "build-std=core"]);
    cargo.arg("--manifest-path").arg(root.join("twtrace-ebpf/Cargo.toml"));
    cargo.arg("--target-dir").arg(&inner);
    if has_extra {
        cargo.args(["--features", "extra"]);
    }
    let output = match cargo.output() {
        Ok(output) => output,
        Err(error) => return refuse(&format!("cannot start {}: {error}", toolchain.cargo.display())),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        // In full and as it is: cargo shows the standard error of a build script that failed.
        let line: Vec<_> =
            [cargo.get_program()].into_iter().chain(cargo.get_args()).map(|a| a.to_string_lossy()).collect();
        eprintln!("building the eBPF programs failed ({}): {}\n{said}", output.status, line.join(" "));
        return ExitCode::FAILURE;
    }
    for line in said.lines().filter(|line| !line.is_empty()) {
        println!("cargo::warning={line}");
    }
    let built = inner.join(TARGET).join("release/twtrace");
    let copied = variable("OUT_DIR").and_then(|out| {
        let object = Path::new(&out).join("twtrace-ebpf.o");
        fs::copy(&built, &object)
            .map_err(|error| format!("copying {} to {}: {error}", built.display(), object.display()))
    });
    copied.map_or_else(|error| refuse(&error), |_| ExitCode::SUCCESS)
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("cargo's variable {name}: {error}"))
}

/// One line that cargo shows as the error of this package, without the noise of a build script that failed.
fn refuse(error: &str) -> ExitCode {
    println!("cargo::error={error}");
    ExitCode::SUCCESS
}
