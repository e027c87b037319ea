//! What sets sysctls at boot: the files of sysctl.d(5), and /etc/sysctl.conf; in the order in which systemd-sysctl or procps
//! (`sysctl --system`) reads them. `effect` says what becomes of their lines, `value` how the kernel reads a number.

mod effect;
mod value;

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::Host;

/// Where they are: a file of an earlier directory hides those of its name in later ones.
const DIRECTORIES: [&str; 5] =
    ["etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d"];
/// What `sysctl --system` reads after them.
const LAST: &str = "etc/sysctl.conf";
/// The longest file that is read, bytes.
const LONGEST: u64 = 1 << 20;
/// The most files that are read.
const MOST: usize = 4096;

pub use effect::{Fate, Line};
pub use value::number;

/// A line that sets sysctls, or keeps patterns off one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The sysctl, as sysctl(8) writes it: `net.ipv4.tcp_tw_reuse`, and `net.ipv4.conf.eth0/5.forwarding` where a name has a
    /// dot. It may be a pattern of glob(7): `net.ipv4.conf.*.rp_filter`.
    pub key: String,
    /// What is written to the file, without the blanks around it; may be empty. `None`: the line is `-key`, which keeps
    /// patterns off the key.
    pub value: Option<String>,
    /// The file's name on the machine.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
}

impl Setting {
    /// True of a line about all sysctls that match.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        self.key.bytes().any(|byte| matches!(byte, b'*' | b'?' | b'['))
    }
}

/// All that is set, in the order in which it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SysctlFiles {
    /// The lines of all files, one behind the other.
    pub settings: Vec<Setting>,
    /// Files and directories that could not be read, and why.
    pub unread: Vec<(PathBuf, String)>,
    /// The machine was booted by systemd (sd_booted(3)), which does not read /etc/sysctl.conf unless a file of a directory
    /// links to it. `sysctl --system` reads it in any case, last.
    pub systemd: bool,
}

/// Reads the files.
#[must_use]
pub fn read(host: &Host) -> SysctlFiles {
    let systemd = host.path("run/systemd/system").is_dir();
    let mut unread = Vec::new();
    let mut settings = Vec::new();
    for found in files(host, systemd, &mut unread) {
        match text(&found.path, &found.metadata) {
            Ok(text) => settings.extend(parse(&text, &found.name)),
            Err(error) => unread.push((found.name, error.to_string())),
        }
    }
    SysctlFiles { settings, unread, systemd }
}

/// A file to be read.
struct Found {
    /// Where it is.
    path: PathBuf,
    /// The file's path on the machine.
    name: PathBuf,
    /// Of what it leads to.
    metadata: Metadata,
}

impl Found {
    fn new(path: PathBuf, name: PathBuf) -> Result<Self, (PathBuf, io::Error)> {
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Self { path, name, metadata }),
            Err(error) => Err((name, error)),
        }
    }

    fn id(&self) -> (u64, u64) {
        (self.metadata.dev(), self.metadata.ino())
    }

    /// True of /dev/null, which stands for an empty file.
    fn is_null(&self) -> bool {
        self.metadata.file_type().is_char_device() && self.metadata.rdev() == libc::makedev(1, 3)
    }
}

/// The files in the order in which they count, each once.
fn files(host: &Host, systemd: bool, unread: &mut Vec<(PathBuf, String)>) -> Vec<Found> {
    let mut by_name: BTreeMap<OsString, Found> = BTreeMap::new();
    for directory in DIRECTORIES {
        let name = Path::new("/").join(directory);
        let entries = match fs::read_dir(host.path(directory)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                unread.push((name, error.to_string()));
                continue;
            }
        };
        let names = entries.flatten().map(|entry| entry.file_name()).filter(|name| {
            let name = name.as_encoded_bytes();
            // procps reads what is hidden, systemd does not.
            name.ends_with(b".conf") && !(systemd && name.starts_with(b"."))
        });
        for file in names {
            if by_name.contains_key(&file) {
                continue;
            }
            match Found::new(host.path(directory).join(&file), name.join(&file)) {
                Ok(found) if by_name.len() < MOST => drop(by_name.insert(file, found)),
                Ok(found) => unread.push((found.name, format!("there are more than {MOST} files"))),
                Err((name, error)) => unread.push((name, error.to_string())),
            }
        }
    }
    let last = match Found::new(host.path(LAST), Path::new("/").join(LAST)) {
        Ok(last) => Some(last),
        Err((_, error)) if error.kind() == io::ErrorKind::NotFound => None,
        Err((name, error)) => {
            unread.push((name, error.to_string()));
            None
        }
    };
    // Of a file with two names the later one counts. systemd reads /etc/sysctl.conf where a file of a directory links to it
    // and not again; procps reads it again, last.
    let (mut files, last): (Vec<_>, Option<Found>) = match last {
        Some(last) if !systemd => {
            let id = last.id();
            (by_name.into_values().filter(|found| found.id() != id).collect(), Some(last))
        }
        Some(last) => {
            let is_linked = by_name.values().any(|found| found.id() == last.id());
            (by_name.into_values().collect(), (!is_linked).then_some(last))
        }
        None => (by_name.into_values().collect(), None),
    };
    let mut seen = HashSet::new();
    files.reverse();
    files.retain(|found| seen.insert(found.id()));
    files.reverse();
    files.extend(last);
    files.retain(|found| !found.is_null());
    files
}

/// A file's text; bytes that are no UTF-8 are replaced. Nothing that could block is opened.
fn text(path: &Path, metadata: &Metadata) -> io::Result<String> {
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    // One byte more tells a file that is longer.
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::other(format!("longer than {LONGEST} bytes")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What both loaders strip, isspace(3) of the C locale: no other blanks.
const BLANKS: [char; 6] = [' ', '\t', '\n', '\r', '\u{b}', '\u{c}'];

/// `key = value`, `-key = value` (it may fail) and `-key` (no pattern may set it). Other lines are ignored, as the loaders do.
fn parse<'a>(text: &'a str, file: &'a Path) -> impl Iterator<Item = Setting> + 'a {
    text.split('\n').zip(1..).filter_map(move |(line, number)| {
        let line = line.trim_matches(BLANKS);
        if line.starts_with(['#', ';']) {
            return None;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key.strip_prefix('-').unwrap_or(key), Some(value.trim_matches(BLANKS).to_owned())),
            None => (line.strip_prefix('-')?, None),
        };
        let key = dotted(key.trim_matches(BLANKS));
        (!key.is_empty()).then(|| Setting { key, value, file: file.to_owned(), line: number })
    })
}

/// A key with dots between its names. If the first separator is a slash, the slashes separate and dots are part of the
/// names, which are slashes in the other spelling (sysctl_normalize of systemd).
fn dotted(key: &str) -> String {
    let is_path = key.chars().find(|c| matches!(c, '.' | '/')) == Some('/');
    let names = key.split(if is_path { '/' } else { '.' }).filter(|name| !name.is_empty());
    let mut dotted = String::with_capacity(key.len());
    for name in names {
        if !dotted.is_empty() {
            dotted.push('.');
        }
        dotted.extend(name.chars().map(|c| if is_path && c == '.' { '/' } else { c }));
    }
    dotted
}

#[cfg(test)]
mod tests;
