//! From a kernel's packages to its image and the modules that the tests need, in the order to load them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::fetch::Kernel;
use crate::{apt, exec};

/// What the tests use of the network, and cloud kernels have as modules.
const MODULES: [&str; 8] =
    ["veth", "sch_netem", "inet_diag", "tcp_diag", "dummy", "tun", "nf_conntrack", "nf_conntrack_netlink"];

/// How modules are compressed, and what undoes it: (extension, program, package).
const COMPRESSIONS: [(&str, &str, &str); 3] =
    [("xz", "xz", "xz-utils"), ("zst", "zstd", "zstd"), ("gz", "gzip", "gzip")];

/// A kernel that can be booted.
#[derive(Debug)]
pub struct Bootable {
    /// The image.
    pub vmlinuz: PathBuf,
    /// Modules, in the order to load them: (name, file).
    pub modules: Vec<(String, PathBuf)>,
}

/// Unpacks `kernel` into `dir`, unless that was done before.
pub fn unpack(kernel: &Kernel, dir: &Path) -> Result<Bootable> {
    let packages = &kernel.packages;
    if packages.is_empty() {
        bail!("the packages of kernel {} could not be fetched; apt's messages above say why", kernel.series);
    }
    let stamp = format!("{packages:?} {MODULES:?}");
    let done = dir.join("done");
    if fs::read_to_string(&done).is_ok_and(|text| text == stamp) {
        return bootable(dir);
    }
    let _ = fs::remove_dir_all(dir);
    let tree = dir.join("tree");
    fs::create_dir_all(&tree).with_context(|| format!("creating {}", tree.display()))?;
    for package in packages {
        exec::run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&tree))?;
    }
    let mut files = Vec::new();
    walk(&tree, &mut files)?;
    let image = files.iter().find(|file| name_of(file).starts_with("vmlinuz"));
    let image = image.with_context(|| format!("no vmlinuz in {packages:?}"))?;
    fs::rename(image, dir.join("vmlinuz")).context("moving the kernel image")?;
    modules(&files, &dir.join("modules"))?;
    fs::remove_dir_all(&tree).with_context(|| format!("removing {}", tree.display()))?;
    fs::write(&done, stamp).with_context(|| format!("writing {}", done.display()))?;
    bootable(dir)
}

fn bootable(dir: &Path) -> Result<Bootable> {
    let mut files = Vec::new();
    walk(&dir.join("modules"), &mut files)?;
    files.sort();
    let modules = files.into_iter().map(|file| (name_of(&file).to_owned(), file)).collect();
    Ok(Bootable { vmlinuz: dir.join("vmlinuz"), modules })
}

/// Copies the wanted modules and what they depend on to `to`, decompressed, as `NN-name.ko`.
fn modules(files: &[PathBuf], to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    let all: BTreeMap<String, &PathBuf> =
        files.iter().filter_map(|file| Some((module_name(name_of(file))?, file))).collect();
    // Dependencies are known only after decompression: round by round, until nothing new is named.
    let mut depends: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut wanted: Vec<String> = MODULES.map(str::to_owned).to_vec();
    while !wanted.is_empty() {
        let round: Vec<(String, &PathBuf)> =
            wanted.drain(..).filter_map(|name| all.get(&name).map(|file| (name, *file))).collect();
        for (extension, program, package) in COMPRESSIONS {
            let packed = || round.iter().filter(|(_, file)| file.extension().is_some_and(|e| e == extension));
            if packed().next().is_some() {
                apt::install_program(program, package)?;
                exec::run(Command::new(program).arg("-dfq").args(packed().map(|(_, file)| file)))?;
            }
        }
        for (name, file) in round {
            let plain = plain(file);
            let bytes = fs::read(&plain).with_context(|| format!("reading {}", plain.display()))?;
            let needs = depends_of(&bytes);
            fs::rename(&plain, to.join(&name)).with_context(|| format!("moving {}", plain.display()))?;
            wanted.extend(needs.iter().cloned());
            depends.insert(name, needs);
        }
        wanted.retain(|name| !depends.contains_key(name));
        wanted.sort();
        wanted.dedup();
    }
    for name in MODULES.iter().filter(|name| !depends.contains_key(**name)) {
        eprintln!("xtask: note: {name} is no module of this kernel: built in, or left out");
    }
    for (number, name) in load_order(&depends).iter().enumerate() {
        let numbered = to.join(format!("{number:02}-{name}.ko"));
        fs::rename(to.join(name), &numbered).with_context(|| format!("naming {}", numbered.display()))?;
    }
    Ok(())
}

/// What each module needs comes before it. What is not among the keys is built into the kernel.
fn load_order(depends: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    fn visit(name: &str, depends: &BTreeMap<String, Vec<String>>, seen: &mut Vec<String>, order: &mut Vec<String>) {
        let Some(needs) = depends.get(name) else {
            return;
        };
        // A cycle cannot be loaded in any order; the kernel will say so.
        if seen.iter().any(|known| known == name) {
            return;
        }
        seen.push(name.to_owned());
        for need in needs {
            visit(need, depends, seen, order);
        }
        order.push(name.to_owned());
    }
    let (mut seen, mut order) = (Vec::new(), Vec::new());
    for name in depends.keys() {
        visit(name, depends, &mut seen, &mut order);
    }
    order
}

/// The `depends=` string of a module's .modinfo section. modules.dep is not in the packages: depmod makes it on
/// installation.
fn depends_of(module: &[u8]) -> Vec<String> {
    let key = b"depends=";
    let Some(start) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let value = module.get(start + key.len()..).unwrap_or_default();
    let value = value.split(|&byte| byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// `sch_netem` of `sch-netem.ko.xz`; `None` if the file is no module.
fn module_name(file: &str) -> Option<String> {
    let (name, compression) = file.split_once(".ko")?;
    let known = compression.is_empty() || COMPRESSIONS.iter().any(|(e, ..)| compression.strip_prefix('.') == Some(e));
    known.then(|| name.replace('-', "_"))
}

/// The file without the extension that its decompressor takes away.
fn plain(file: &Path) -> PathBuf {
    if file.extension().is_some_and(|e| e == "ko") { file.to_owned() } else { file.with_extension("") }
}

fn name_of(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry.with_context(|| format!("reading {}", dir.display()))?;
        let kind = entry.file_type().with_context(|| format!("asking what {} is", entry.path().display()))?;
        if kind.is_dir() {
            walk(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_come_first() {
        let module = |name: &str, needs: &[&str]| (name.to_owned(), needs.iter().map(|&n| n.to_owned()).collect());
        let depends = [
            module("inet_diag", &[]),
            module("tcp_diag", &["inet_diag"]),
            module("a", &["tcp_diag", "builtin", "z"]),
            module("z", &["a"]),
        ];
        assert_eq!(load_order(&depends.into()), ["inet_diag", "tcp_diag", "z", "a"]);
    }

    #[test]
    fn modinfo_names_the_needs() {
        assert_eq!(
            depends_of(b"\x7fELF\0license=GPL\0depends=inet_diag,nf-conntrack\0name=x\0"),
            ["inet_diag", "nf_conntrack"]
        );
        assert_eq!(depends_of(b"license=GPL\0depends=\0name=x\0"), [""; 0]);
        assert_eq!(depends_of(b"depends=cut"), ["cut"]);
        assert_eq!(depends_of(b"no such thing"), [""; 0]);
    }

    #[test]
    fn module_files_are_told_from_others() {
        assert_eq!(module_name("veth.ko").as_deref(), Some("veth"));
        assert_eq!(module_name("sch-netem.ko.xz").as_deref(), Some("sch_netem"));
        assert_eq!(module_name("modules.order"), None);
        assert_eq!(module_name("veth.ko.sig"), None);
        assert_eq!(plain(Path::new("/m/veth.ko.zst")), Path::new("/m/veth.ko"));
        assert_eq!(plain(Path::new("/m/veth.ko")), Path::new("/m/veth.ko"));
    }
}
