//! Kernels by their role, and their packages: from the machine's own mirror, kept in the user's cache directory.
//!
//! A mirror moves on: series come and go, and releases within them. So a test asks for a role, and the mirror (or what is
//! cached) says which kernel has it.

mod index;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};

use self::index::{Index, number_of, realtime};
pub use self::index::{natural, series_of};
use crate::{
    apt::{
        Private,
        sources::{self, Source},
    },
    exec, paths,
};

/// The series with long support that twtrace is tested on, oldest first.
pub const LONGTERM: [&str; 4] = ["5.10", "6.1", "6.12", "6.18"];
/// The newest kernel is of this series or a later one: whatever the mirror has.
const NEWEST: &str = "7.2";

enum Suite {
    Main(&'static str),
    Security(&'static str),
}
use Suite::{Main, Security};

/// Where kernels are looked for. A suite that has left the mirror is passed over by apt.
const SUITES: [Suite; 7] = [
    Main("bullseye"),
    Security("bullseye-security"),
    Main("bookworm"),
    Security("bookworm-security"),
    Main("trixie"),
    Main("trixie-backports"),
    Main("sid"),
];

/// A role that a kernel can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The oldest that is to be had.
    Oldest,
    /// Of this series.
    Series(String),
    /// The newest that is to be had.
    Newest,
    /// The newest PREEMPT_RT.
    Realtime,
}

impl Role {
    /// All roles of a whole run, oldest first.
    pub fn all() -> Vec<Self> {
        LONGTERM.iter().map(|series| Self::Series((*series).to_owned())).chain([Self::Newest, Self::Realtime]).collect()
    }

    /// The role by its name on the command line, or which there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name {
            "oldest" => Ok(Self::Oldest),
            "newest" => Ok(Self::Newest),
            "rt" => Ok(Self::Realtime),
            series if LONGTERM.contains(&series) || is_newest(series) => Ok(Self::Series(series.to_owned())),
            _ => Err(format!(
                "the kernels are oldest, {}, newest, rt, and any series from {NEWEST} on",
                LONGTERM.join(", ")
            )),
        }
    }

    /// The suite's name on the command line.
    pub fn name(&self) -> &str {
        match self {
            Self::Oldest => "oldest",
            Self::Series(series) => series,
            Self::Newest => "newest",
            Self::Realtime => "rt",
        }
    }
}

/// True for a series that the newest kernel may be of.
fn is_newest(series: &str) -> bool {
    number_of(&format!("{series}.")) == Some(series) && natural(series, NEWEST).is_ge()
}

/// Which kernel has a role.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// Of a series that is cached.
    Cached(String),
    /// This release, which the mirror has.
    Release(String),
    /// Nowhere.
    Missing,
}

/// A kernel to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Series: `6.1`.
    pub series: String,
    /// Packages.
    pub packages: Vec<PathBuf>,
}

/// What came of looking for kernels.
pub struct Fetched {
    /// Kernels that are here, oldest first, each once; and those that could not be fetched, with the reason.
    pub kernels: Vec<(String, Result<Kernel>)>,
    /// What is neither cached nor on the mirror, in a sentence each.
    pub missing: Vec<String>,
}

/// Finds a kernel for each role, and fetches those that are not in the cache; all, in the newest release, if `refresh`.
pub fn fetch(roles: &[Role], refresh: bool) -> Result<Fetched> {
    let cached = cached()?;
    let mut mirror = None;
    let mut fetched = Fetched { kernels: Vec::new(), missing: Vec::new() };
    for role in roles {
        for role in stand_ins(role) {
            if !refresh && let Choice::Cached(series) = choose(&role, &cached, None) {
                fetched.add(&series, || kernel(&series));
                break;
            }
            // Opened once, and only if something is wanted of it.
            let mirror = match mirror.get_or_insert_with(|| Mirror::open().map_err(|error| format!("{error:#}"))) {
                Ok(mirror) => mirror,
                Err(why) => {
                    fetched.add(role.name(), || Err(anyhow!("{why}")));
                    break;
                }
            };
            let known = if refresh { &[] } else { cached.as_slice() };
            let choice = match choose(&role, known, Some(&mirror.index)) {
                // It is no longer there, but was when it was cached.
                Choice::Missing => choose(&role, &cached, None),
                choice => choice,
            };
            match choice {
                Choice::Cached(series) => fetched.add(&series, || kernel(&series)),
                Choice::Release(release) => {
                    let series = series_of(&release).unwrap_or_else(|| release.clone());
                    fetched.add(&series, || mirror.download(&release, &series).and_then(|()| kernel(&series)));
                }
                Choice::Missing => {
                    fetched.missing.push(format!("{} is not on this mirror, and not cached", role.name()));
                    continue;
                }
            }
            break;
        }
    }
    if fetched.kernels.is_empty() {
        bail!("no kernel to test on: {}", fetched.missing.join("; "));
    }
    fetched.kernels.sort_by(|(a, _), (b, _)| natural(a, b));
    Ok(fetched)
}

impl Fetched {
    /// Each series once, whatever roles it has.
    fn add(&mut self, series: &str, kernel: impl FnOnce() -> Result<Kernel>) {
        if self.kernels.iter().all(|(known, _)| known != series) {
            self.kernels.push((series.to_owned(), kernel()));
        }
    }
}

/// The roles to try one after the other: if the oldest has left the mirror, the next one is.
fn stand_ins(role: &Role) -> Vec<Role> {
    if *role == Role::Oldest { Role::all() } else { vec![role.clone()] }
}

/// Without an index of the mirror only what is cached has a role.
fn choose(role: &Role, cached: &[String], index: Option<&Index>) -> Choice {
    let has_role = |series: &str| match role {
        Role::Oldest => false,
        Role::Series(wanted) => series == wanted,
        Role::Newest => is_newest(series),
        Role::Realtime => realtime(series).is_some(),
    };
    if let Some(series) = cached.iter().filter(|series| has_role(series)).max_by(|a, b| natural(a, b)) {
        return Choice::Cached(series.clone());
    }
    let newest = index.and_then(|index| index.newest(has_role));
    newest.map_or(Choice::Missing, |release| Choice::Release(release.to_owned()))
}

fn dir(series: &str) -> Result<PathBuf> {
    Ok(paths::cache()?.join("kernels").join(series))
}

/// The series whose packages are cached.
fn cached() -> Result<Vec<String>> {
    let dirs = fs::read_dir(paths::cache()?.join("kernels")).into_iter().flatten().flatten();
    let names = dirs.filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|series| packages(series).is_ok_and(|packages| !packages.is_empty())).collect())
}

/// A cached kernel.
fn kernel(series: &str) -> Result<Kernel> {
    Ok(Kernel { series: series.to_owned(), packages: packages(series)? })
}

/// The cached packages of a series; none if the image is not among them.
fn packages(series: &str) -> Result<Vec<PathBuf>> {
    let files: Vec<PathBuf> =
        fs::read_dir(dir(series)?).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    let number = realtime(series).unwrap_or(series);
    let is_of = |file: &Path, prefix: &str| {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(&format!("{prefix}{number}.")) && name.ends_with(".deb")
    };
    let mut debs: Vec<PathBuf> =
        files.into_iter().filter(|file| index::PREFIXES.iter().any(|prefix| is_of(file, prefix))).collect();
    if !debs.iter().any(|deb| index::IMAGES.iter().any(|prefix| is_of(deb, prefix))) {
        debs.clear();
    }
    debs.sort();
    Ok(debs)
}

/// The machine's mirror, and what kernels it has.
struct Mirror {
    apt: Private,
    index: Index,
}

impl Mirror {
    fn open() -> Result<Self> {
        let configured = sources::read(Path::new("/etc/apt"));
        let Some(main) = sources::main(&configured) else {
            bail!(
                "the kernels come from a Debian mirror, and apt's sources on this machine name none; \
                 put the packages into {} by hand, or run on Debian",
                paths::cache()?.join("kernels/SERIES").display()
            );
        };
        let apt = Private::new(&stanzas(main, sources::security(&configured)))?;
        apt.update()?;
        let found = exec::capture(apt.command("apt-cache").args(["search", "--names-only", index::PATTERN]))?;
        let index = Index::parse(&found);
        if index.newest(|_| true).is_none() {
            bail!("apt finds no kernel at all on this machine's mirror; its messages above say why");
        }
        Ok(Self { apt, index })
    }

    fn download(&self, release: &str, series: &str) -> Result<()> {
        let dir = dir(series)?;
        let partial = dir.with_file_name(format!("{series}.partial"));
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial).with_context(|| format!("creating {}", partial.display()))?;
        let names = self.index.packages(release);
        exec::run(self.apt.command("apt-get").args(["-q", "download"]).args(names).current_dir(&partial))?;
        let _ = fs::remove_dir_all(&dir);
        fs::rename(&partial, &dir).with_context(|| format!("renaming {} to {}", partial.display(), dir.display()))
    }
}

/// The private list: the suites on the machine's own mirror.
fn stanzas(main: &Source, security: Option<&Source>) -> String {
    let list: BTreeSet<String> = SUITES
        .iter()
        .filter_map(|suite| match suite {
            Main(suite) => Some(main.stanza(suite)),
            Security(suite) => Some(security?.stanza(suite)),
        })
        .collect();
    list.into_iter().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn series(name: &str) -> Role {
        Role::Series(name.to_owned())
    }

    #[test]
    fn roles_have_names() {
        for role in
            Role::all().into_iter().chain([Role::Oldest, Role::Realtime, series("7.3"), series("8.0"), series("7.10")])
        {
            assert_eq!(Role::parse(role.name()), Ok(role));
        }
        for wrong in ["6.2", "7.1", "7", "7.2.12", "7.3-rt", "latest", ""] {
            assert!(Role::parse(wrong).is_err_and(|why| why.contains("5.10, 6.1")), "{wrong}");
        }
    }

    #[test]
    fn what_is_cached_has_the_role() {
        let cached = owned(&["6.1", "7.2", "7.10", "7.9", "7.12-rt", "6.12-rt", "5.10"]);
        let choose = |role| choose(&role, &cached, None);
        assert_eq!(choose(series("6.1")), Choice::Cached("6.1".into()));
        assert_eq!(choose(series("7.9")), Choice::Cached("7.9".into()));
        assert_eq!(choose(Role::Newest), Choice::Cached("7.10".into()));
        assert_eq!(choose(Role::Realtime), Choice::Cached("7.12-rt".into()));
        assert_eq!(choose(series("6.12")), Choice::Missing);
    }

    #[test]
    fn the_mirror_says_which_is_the_newest() {
        let index = Index::parse(include_str!("fetch/index-2026.txt"));
        let choose = |role, cached: &[&str]| choose(&role, &owned(cached), Some(&index));
        assert_eq!(choose(Role::Newest, &[]), Choice::Release("7.3.4+deb13-cloud-amd64".into()));
        assert_eq!(choose(Role::Newest, &["6.18"]), Choice::Release("7.3.4+deb13-cloud-amd64".into()));
        assert_eq!(choose(Role::Newest, &["7.2"]), Choice::Cached("7.2".into()));
        assert_eq!(choose(series("5.10"), &[]), Choice::Release("5.10.0-46-cloud-amd64".into()));
        assert_eq!(choose(series("6.12"), &[]), Choice::Release("6.12.118+deb13-cloud-amd64".into()));
        assert_eq!(choose(series("8.0"), &[]), Choice::Missing);
        assert_eq!(choose(Role::Realtime, &["7.3"]), Choice::Release("7.3.4+deb13-rt-amd64".into()));
    }

    #[test]
    fn the_nearest_newer_one_takes_the_role_of_the_oldest() {
        let without = |gone: &str| {
            let text = include_str!("fetch/index-2026.txt");
            Index::parse(
                &text.lines().filter(|line| !line.contains(gone)).map(|line| format!("{line}\n")).collect::<String>(),
            )
        };
        let oldest = |index: &Index| {
            let mut roles = stand_ins(&Role::Oldest).into_iter().map(|role| choose(&role, &[], Some(index)));
            roles.find(|choice| *choice != Choice::Missing)
        };
        assert_eq!(oldest(&without("nothing")), Some(Choice::Release("5.10.0-46-cloud-amd64".into())));
        assert_eq!(oldest(&without("-5.10.")), Some(Choice::Release("6.1.0-56-cloud-amd64".into())));
        assert_eq!(oldest(&Index::parse("")), None);
    }

    #[test]
    fn the_private_list_names_the_machines_mirror() {
        let main = Source { uri: "http://m/debian".into(), suites: vec![], trust: vec!["Signed-By: /k.gpg".into()] };
        let security = Source { uri: "http://m/security".into(), ..Source::default() };
        let list = stanzas(&main, Some(&security));
        let stanza =
            "Types: deb\nURIs: http://m/debian\nSuites: trixie-backports\nComponents: main\nSigned-By: /k.gpg\n";
        assert!(list.split("\n\n").any(|part| stanza.trim_end() == part.trim_end()), "{list}");
        assert!(list.contains("http://m/security\nSuites: bookworm-security\n"));
        assert!(!stanzas(&main, None).contains("security"));
    }
}
