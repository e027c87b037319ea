//! Kernel packages from the machine's own mirror, kept in the user's cache directory.

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    apt::{
        Private,
        sources::{self, Source},
    },
    exec, paths,
};

/// A kernel that twtrace is tested on.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The series: `6.1`.
    pub series: &'static str,
    suites: &'static [Suite],
    /// A package of each prefix is needed: since 7.2 the image and the modules are apart.
    packages: &'static [&'static str],
}

#[derive(Debug, PartialEq, Eq)]
enum Suite {
    Main(&'static str),
    Security(&'static str),
}
use Suite::{Main, Security};

const IMAGE: &[&str] = &["linux-image-"];
const APART: &[&str] = &["linux-binary-", "linux-modules-"];

/// The kernels, oldest first.
pub const KERNELS: [Kernel; 5] = [
    Kernel { series: "5.10", suites: &[Main("bullseye"), Security("bullseye-security")], packages: IMAGE },
    Kernel { series: "6.1", suites: &[Main("bookworm"), Security("bookworm-security")], packages: IMAGE },
    Kernel { series: "6.12", suites: &[Security("bookworm-security"), Main("trixie")], packages: IMAGE },
    Kernel { series: "6.18", suites: &[Main("trixie-backports")], packages: IMAGE },
    Kernel { series: "7.2", suites: &[Main("trixie-backports"), Main("sid")], packages: APART },
];

impl Kernel {
    /// The kernel of this series.
    pub fn find(series: &str) -> Option<&'static Self> {
        KERNELS.iter().find(|kernel| kernel.series == series)
    }

    fn dir(&self) -> Result<PathBuf> {
        Ok(paths::cache()?.join("kernels").join(self.series))
    }

    /// The cached packages, if all of them are there.
    pub fn packages(&self) -> Result<Option<Vec<PathBuf>>> {
        let Ok(dir) = fs::read_dir(self.dir()?) else {
            return Ok(None);
        };
        let files: Vec<PathBuf> = dir.flatten().map(|entry| entry.path()).collect();
        let found = self.packages.iter().map(|prefix| {
            let matches = |name: &str| name.starts_with(&format!("{prefix}{}.", self.series)) && name.ends_with(".deb");
            let mut debs = files.iter().filter(|file| file.file_name().and_then(|f| f.to_str()).is_some_and(matches));
            debs.next().cloned()
        });
        Ok(found.collect())
    }
}

/// Fetches what is not in the cache; everything if `refresh`. An error for a kernel is that kernel's own: the others may
/// still be had.
pub fn fetch(kernels: &[&'static Kernel], refresh: bool) -> Result<()> {
    let mut wanted = Vec::new();
    for kernel in kernels {
        if refresh || kernel.packages()?.is_none() {
            wanted.push(*kernel);
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let configured = sources::read(Path::new("/etc/apt"));
    let Some(main) = sources::main(&configured) else {
        bail!(
            "the kernels come from a Debian mirror, and apt's sources on this machine name none; \
             put the packages into {} by hand (see KERNELS in xtask/src/vm/fetch.rs), or run on Debian",
            paths::cache()?.join("kernels/SERIES").display()
        );
    };
    let apt = Private::new(&stanzas(&wanted, main, sources::security(&configured)))?;
    apt.update()?;
    for kernel in wanted {
        if let Err(error) = download(&apt, kernel) {
            eprintln!("xtask: warning: kernel {}: {error:#}", kernel.series);
        }
    }
    Ok(())
}

fn download(apt: &Private, kernel: &Kernel) -> Result<()> {
    let dir = kernel.dir()?;
    let partial = dir.with_file_name(format!("{}.partial", kernel.series));
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).with_context(|| format!("creating {}", partial.display()))?;
    let mut names = Vec::new();
    let mut release = None;
    for prefix in kernel.packages {
        let pattern = format!(r"^{prefix}{}\..*-cloud-amd64$", kernel.series.replace('.', r"\."));
        let found = exec::capture(apt.command("apt-cache").args(["search", "--names-only", &pattern]))?;
        let releases = found.lines().filter_map(|line| line.split(' ').next()?.strip_prefix(prefix));
        // The image decides; its modules must be of the same release.
        let newest = match &release {
            None => releases.max_by(|a, b| natural(a, b)),
            Some(release) => releases.into_iter().find(|found| found == release),
        };
        let newest = newest.with_context(|| format!("no package matches {pattern} on this mirror"))?;
        names.push(format!("{prefix}{newest}"));
        release.get_or_insert(newest.to_owned());
    }
    exec::run(apt.command("apt-get").args(["-q", "download"]).args(names).current_dir(&partial))?;
    let _ = fs::remove_dir_all(&dir);
    fs::rename(&partial, &dir).with_context(|| format!("renaming {} to {}", partial.display(), dir.display()))
}

/// The private list: the suites of `kernels` on the machine's own mirror.
fn stanzas(kernels: &[&Kernel], main: &Source, security: Option<&Source>) -> String {
    let mut list = BTreeSet::new();
    for suite in kernels.iter().flat_map(|kernel| kernel.suites) {
        let (source, suite) = match suite {
            Main(suite) => (Some(main), suite),
            Security(suite) => (security, suite),
        };
        list.extend(source.map(|source| source.stanza(suite)));
    }
    list.into_iter().collect::<Vec<_>>().join("\n")
}

/// Orders `6.1.9` before `6.1.10`: runs of digits by their value, all else byte by byte.
fn natural(a: &str, b: &str) -> Ordering {
    fn digits(text: &str) -> (&str, &str) {
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
    }
    let (mut a, mut b) = (a, b);
    loop {
        let ((number_a, rest_a), (number_b, rest_b)) = (digits(a), digits(b));
        let (value_a, value_b) = (number_a.trim_start_matches('0'), number_b.trim_start_matches('0'));
        let order = value_a.len().cmp(&value_b.len()).then_with(|| value_a.cmp(value_b));
        let (mut chars_a, mut chars_b) = (rest_a.chars(), rest_b.chars());
        let order = order.then_with(|| chars_a.next().cmp(&chars_b.next()));
        if order != Ordering::Equal || rest_a.is_empty() {
            return order;
        }
        (a, b) = (chars_a.as_str(), chars_b.as_str());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count() {
        let mut names = ["6.12.117+deb12", "6.12.94+deb13", "6.12.107+deb13", "6.12.107+deb12", "6.12"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["6.12", "6.12.94+deb13", "6.12.107+deb12", "6.12.107+deb13", "6.12.117+deb12"]);
        assert_eq!(natural("5.10.0-9", "5.10.0-32"), Ordering::Less);
        assert_eq!(natural("7.2.12", "7.2.12"), Ordering::Equal);
    }

    #[test]
    fn the_private_list_names_the_machines_mirror() {
        let main = Source { uri: "http://m/debian".into(), suites: vec![], trust: vec!["Signed-By: /k.gpg".into()] };
        let security = Source { uri: "http://m/security".into(), ..Source::default() };
        let kernels = [&KERNELS[2], &KERNELS[3]];
        assert_eq!(
            stanzas(&kernels, &main, Some(&security)),
            "Types: deb\nURIs: http://m/debian\nSuites: trixie\nComponents: main\nSigned-By: /k.gpg\n\n\
             Types: deb\nURIs: http://m/debian\nSuites: trixie-backports\nComponents: main\nSigned-By: /k.gpg\n\n\
             Types: deb\nURIs: http://m/security\nSuites: bookworm-security\nComponents: main\n"
        );
        assert!(!stanzas(&kernels, &main, None).contains("security"));
    }

    #[test]
    fn a_series_is_found() {
        assert_eq!(Kernel::find("6.12").map(|kernel| kernel.series), Some("6.12"));
        assert_eq!(Kernel::find("6.2"), None);
    }
}
