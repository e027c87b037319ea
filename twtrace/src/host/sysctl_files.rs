//! What sets sysctls at boot: the files of sysctl.d(5), and /etc/sysctl.conf.

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

/// A line that sets a sysctl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The sysctl, as sysctl(8) writes it: `net.ipv4.tcp_tw_reuse`, and `net.ipv4.conf.eth0/5.forwarding` where a name has a
    /// dot. A pattern (`net.ipv4.conf.*.rp_filter`) stays as it is; it sets no sysctl that another line names.
    pub key: String,
    /// Without the spaces around it; may be empty.
    pub value: String,
    /// The file's name on the machine.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// No later line is about the same key.
    pub wins: bool,
}

/// All that is set, in the order in which it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SysctlFiles {
    /// The lines of all files, one behind the other.
    pub settings: Vec<Setting>,
    /// Files and directories that could not be read, and why.
    pub unread: Vec<(PathBuf, String)>,
    /// The machine was booted by systemd (sd_booted(3)), which does not read /etc/sysctl.conf unless a file of a directory
    /// links to it. `sysctl --system` does so in any case.
    pub systemd: bool,
}

/// Reads the files.
#[must_use]
pub fn read(host: &Host) -> SysctlFiles {
    let mut unread = Vec::new();
    let mut all = Vec::new();
    for found in files(host, &mut unread) {
        match text(&found.path, &found.metadata) {
            Ok(text) => all.extend(lines(&text).map(|line| (found.name.clone(), line))),
            Err(error) => unread.push((found.name, error.to_string())),
        }
    }
    SysctlFiles { settings: settings(all), unread, systemd: host.path("run/systemd/system").is_dir() }
}

/// A file to be read.
struct Found {
    /// Where it is.
    path: PathBuf,
    /// The same on the machine.
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

    /// It is /dev/null, which stands for an empty file.
    fn is_null(&self) -> bool {
        self.metadata.file_type().is_char_device() && self.metadata.rdev() == libc::makedev(1, 3)
    }
}

/// The files in the order in which they count, each once.
fn files(host: &Host, unread: &mut Vec<(PathBuf, String)>) -> Vec<Found> {
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
            name.ends_with(b".conf") && !name.starts_with(b".")
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
    // Of a file with two names the later one counts. /etc/sysctl.conf stands where a link to it does: with systemd, it is
    // read there and not again.
    let mut seen = HashSet::new();
    let mut files: Vec<_> = by_name.into_values().rev().filter(|found| seen.insert(found.id())).collect();
    files.reverse();
    match Found::new(host.path(LAST), Path::new("/").join(LAST)) {
        Ok(last) if seen.insert(last.id()) => files.push(last),
        Ok(_) => {}
        Err((_, error)) if error.kind() == io::ErrorKind::NotFound => {}
        Err((name, error)) => unread.push((name, error.to_string())),
    }
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

/// A line that says something.
struct Line {
    number: usize,
    key: String,
    /// `None`: no pattern may set the key.
    value: Option<String>,
}

/// `key = value`, `-key = value` (it may fail) and `-key` (no pattern may set it); what is none is passed over.
fn lines(text: &str) -> impl Iterator<Item = Line> {
    text.lines().zip(1..).filter_map(|(line, number)| {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            return None;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key.strip_prefix('-').unwrap_or(key), Some(value.trim().to_owned())),
            None => (line.strip_prefix('-')?, None),
        };
        let key = dotted(key.trim());
        (!key.is_empty()).then_some(Line { number, key, value })
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

/// The lines that set something. One that only keeps patterns off takes back what was set before, as with systemd.
fn settings(lines: Vec<(PathBuf, Line)>) -> Vec<Setting> {
    let mut later = HashSet::new();
    let setting = |(file, line): (PathBuf, Line)| {
        let wins = later.insert(line.key.clone());
        Some(Setting { key: line.key, value: line.value?, file, line: line.number, wins })
    };
    let mut settings: Vec<_> = lines.into_iter().rev().filter_map(setting).collect();
    settings.reverse();
    settings
}

#[cfg(test)]
mod tests;
