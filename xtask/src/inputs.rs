//! What the end-to-end tests of other kernels test, as one number: if it is the same, so is what they would find.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::paths;

/// Files and directories: what runs in the kernel, what loads it, reads it and judges it, the doctor, and the tests
/// themselves. The rest of twtrace (the command line, the output, the live view) is tested on this machine's kernel, and
/// by the short run on two others.
const INPUTS: [&str; 21] = [
    "Cargo.lock",
    "twtrace-common",
    "twtrace-ebpf",
    "twtrace/Cargo.toml",
    "twtrace/build.rs",
    "twtrace/src/audit.rs",
    "twtrace/src/bpf",
    "twtrace/src/decode",
    "twtrace/src/decode.rs",
    "twtrace/src/doctor",
    "twtrace/src/filter",
    "twtrace/src/host",
    "twtrace/src/lab",
    "twtrace/src/plan",
    "twtrace/src/reconcile.rs",
    "twtrace/src/run",
    "twtrace/src/selftest.rs",
    "twtrace/src/source",
    "twtrace/src/tracer.rs",
    "twtrace/src/traffic",
    "twtrace/tests/e2e",
];

/// Of all files, their names and what is in them; of Rust, without its comments.
pub fn hash() -> Result<String> {
    of(&paths::root(), &INPUTS)
}

fn of(root: &Path, inputs: &[&str]) -> Result<String> {
    let mut files = Vec::new();
    for input in inputs {
        let before = files.len();
        walk(root, Path::new(input), &mut files)?;
        if files.len() == before {
            bail!("{input} is empty; it is one of INPUTS in xtask/src/inputs.rs");
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let path = root.join(&file);
        let mut bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        if path.extension().is_some_and(|ending| ending == "rs") {
            bytes = without_comments(&bytes);
        }
        // Lengths, so that nothing can move from one into the next.
        let name = file.to_string_lossy();
        for part in [name.as_bytes(), &bytes] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    Ok(hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

/// Lines of Rust that are no comments: those run nowhere. A line of a string that begins as a comment does goes too.
fn without_comments(text: &[u8]) -> Vec<u8> {
    let is_comment = |line: &&[u8]| line.trim_ascii_start().starts_with(b"//");
    text.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_comment(line)).collect::<Vec<_>>().concat()
}

/// The files at or below `place`, without those that editors and tests leave behind.
fn walk(root: &Path, place: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let path = root.join(place);
    let remedy = || format!("reading {}; it is one of INPUTS in xtask/src/inputs.rs", path.display());
    if fs::metadata(&path).with_context(remedy)?.is_file() {
        files.push(place.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(&path).with_context(remedy)? {
        let name = entry.with_context(remedy)?.file_name();
        let shown = name.to_string_lossy();
        if !shown.starts_with('.') && !shown.ends_with('~') && !shown.ends_with(".snap.new") {
            walk(root, &place.join(&name), files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_them_are_there() {
        let hash = hash().unwrap_or_else(|error| format!("{error:#}"));
        assert!(hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
    }

    #[test]
    fn comments_run_nowhere() {
        let text = "//! Of a room.\n\n/// Of a thing.\nfn thing() {\n    // Why.\n    1 // of a line\n}\n";
        assert_eq!(without_comments(text.as_bytes()), b"\nfn thing() {\n    1 // of a line\n}\n");
    }

    #[test]
    fn whatever_changes_shows() {
        let root = std::env::temp_dir().join(format!("twtrace-inputs-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            let file = root.join(name);
            let made = fs::create_dir_all(file.parent().unwrap_or(&root)).and_then(|()| fs::write(&file, text));
            assert!(made.is_ok(), "{made:?}");
        };
        let hash = || of(&root, &["a", "b"]).ok();
        assert_eq!(hash(), None, "nothing is there");
        write("a/one", "1");
        write("b", "2");
        let first = hash();
        assert!(first.is_some());
        write("c", "not among them");
        write("a/.one.swp", "left behind");
        assert_eq!(hash(), first);
        let mut seen = vec![first.clone()];
        for (name, text) in [("a/one", "2"), ("a/two", "1"), ("b", "3"), ("a/deep/three", "")] {
            write(name, text);
            assert!(!seen.contains(&hash()), "{name}");
            seen.push(hash());
        }
        // The same bytes elsewhere.
        write("a/one", "12");
        write("b", "");
        let moved = hash();
        write("a/one", "1");
        write("b", "2");
        assert_ne!(hash(), moved);
        let _ = fs::remove_dir_all(&root);
        assert_eq!(hash(), None);
    }
}
