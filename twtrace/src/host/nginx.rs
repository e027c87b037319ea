//! What a running nginx is configured with: its master's command line, the defaults in its binary, and its configuration,
//! read where the process itself would read it (its own root, as in a container).

pub mod config;
mod glob;
pub mod tokens;

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io::{self, Read as _},
    net::IpAddr,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use config::Config;
use memchr::memmem;
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};
use tokens::Directive;

use super::Host;

/// The most bytes of all files of one configuration.
const BYTES: u64 = 4 << 20;
/// The most files of one configuration.
const FILES: usize = 1000;
/// The deepest nesting of includes.
const INCLUDES: usize = 8;
/// The most bytes of a binary that are searched for its defaults.
const BINARY: u64 = 64 << 20;
/// The longest command line, or list of compiled-in arguments, bytes.
const LINE: u64 = 64 << 10;
/// The most files that are named as unread.
const COMPLAINTS: usize = 16;
/// The most workers that are counted.
const WORKERS: usize = 4096;

/// One nginx: a master, or a process that works alone, and what it is configured with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nginx {
    /// The master's process id.
    pub master: u32,
    /// The master's processes: workers, and what else it started; itself, if it works alone.
    pub workers: BTreeSet<u32>,
    /// Network namespace, by inode number.
    pub netns: Option<u32>,
    /// The configuration file, as the process names it.
    pub file: String,
    /// nginx's version, if the binary tells it and it is nginx or OpenResty.
    pub version: Option<[u32; 3]>,
    /// What it is configured with.
    pub config: Config,
    /// Addresses of names, from the process's /etc/hosts.
    pub names: HashMap<String, Vec<IpAddr>>,
    /// Files that could not be read, or are beyond what is read.
    pub unread: Vec<String>,
}

impl Nginx {
    /// Whether this process is one of its.
    #[must_use]
    pub fn has(&self, pid: u32) -> bool {
        self.master == pid || self.workers.contains(&pid)
    }

    /// Whether its version is known, and is this or a later one.
    #[must_use]
    pub fn is_since(&self, version: [u32; 3]) -> bool {
        self.version.is_some_and(|own| own >= version)
    }
}

/// Reads what the nginx is configured with that this process belongs to. What is in the files is what a start or the next
/// reload takes; nginx itself keeps no copy that could be read.
///
/// # Errors
/// If this process may not look at that one, or it is gone, or its file cannot be found.
pub fn read(host: &Host, pid: u32) -> io::Result<Nginx> {
    let master = master(host, pid);
    let line = bounded(&host.path(&format!("proc/{master}/cmdline")), LINE)?;
    let arguments = Arguments::of(&line);
    let compiled = Compiled::of(&host.path(&format!("proc/{master}/exe"))).unwrap_or_default();
    let root = Root::of(host, master)?;
    // Told from the root of that process, if it has its own.
    let cwd = fs::read_link(host.path(&format!("proc/{master}/cwd"))).unwrap_or_else(|_| PathBuf::from("/"));
    let prefix = cwd.join(arguments.prefix.as_deref().unwrap_or(&compiled.prefix));
    let file = prefix.join(arguments.file.as_deref().unwrap_or(&compiled.file));
    let mut reader = Reader {
        root: &root,
        directory: file.parent().map(Path::to_owned).unwrap_or_default(),
        left: BYTES,
        files: 0,
        unread: Vec::new(),
    };
    let text = reader.text(&file)?;
    let mut directives = tokens::parse(&text);
    reader.include(&mut directives, 0);
    let hosts = reader.text(Path::new("/etc/hosts")).unwrap_or_default();
    Ok(Nginx {
        master,
        workers: workers(host, master),
        netns: netns(host, master),
        file: file.display().to_string(),
        version: compiled.version,
        config: Config::of(&directives),
        names: names(&hosts),
        unread: reader.unread,
    })
}

/// The parent of a worker; the process itself, if its parent is no nginx.
fn master(host: &Host, pid: u32) -> u32 {
    let parent = status(host, pid, "PPid:").and_then(|text| text.parse().ok());
    let same = |parent: &u32| {
        let name = |pid| host.read(&format!("proc/{pid}/comm")).ok();
        name(*parent).is_some_and(|name_of| Some(name_of) == name(pid))
    };
    parent.filter(same).unwrap_or(pid)
}

/// A line of /proc/PID/status.
fn status(host: &Host, pid: u32, name: &str) -> Option<String> {
    let text = host.read(&format!("proc/{pid}/status")).ok()?;
    Some(text.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned())
}

/// The children of the master (`/proc/PID/task/PID/children`, with CONFIG_PROC_CHILDREN); itself, if it has none.
fn workers(host: &Host, master: u32) -> BTreeSet<u32> {
    let children = host.read(&format!("proc/{master}/task/{master}/children")).unwrap_or_default();
    let workers: BTreeSet<u32> =
        children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).take(WORKERS).collect();
    if workers.is_empty() { BTreeSet::from([master]) } else { workers }
}

fn netns(host: &Host, pid: u32) -> Option<u32> {
    let file = fs::metadata(host.path(&format!("proc/{pid}/ns/net"))).ok()?;
    u32::try_from(file.ino()).ok()
}

/// At most so many bytes of a file.
fn bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `-p` and `-c` of a command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    prefix: Option<PathBuf>,
    file: Option<PathBuf>,
}

impl Arguments {
    /// A master's title is `nginx: master process ` and the arguments, by spaces (`ngx_master_process_cycle`); one that works
    /// alone has its arguments, by NULs.
    fn of(line: &[u8]) -> Self {
        let line = String::from_utf8_lossy(line);
        let mut words = line.split(['\0', ' ']).filter(|word| !word.is_empty());
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            let Some(options) = word.strip_prefix('-') else { continue };
            for (at, option) in options.char_indices() {
                let value = || {
                    let rest = options.get(at + option.len_utf8()..).filter(|rest| !rest.is_empty());
                    rest.map(PathBuf::from)
                };
                match option {
                    'p' => arguments.prefix = value().or_else(|| words.next().map(PathBuf::from)),
                    'c' => arguments.file = value().or_else(|| words.next().map(PathBuf::from)),
                    '?' | 'h' | 'v' | 'V' | 't' | 'T' | 'q' => continue,
                    // Those of -g, -s and -e are words of their own, or end here.
                    _ => {}
                }
                break;
            }
        }
        arguments
    }
}

/// What is compiled into a binary.
#[derive(Debug, PartialEq, Eq)]
struct Compiled {
    prefix: PathBuf,
    file: PathBuf,
    version: Option<[u32; 3]>,
}

impl Default for Compiled {
    /// The paths of auto/options.
    fn default() -> Self {
        Self { prefix: "/usr/local/nginx".into(), file: "conf/nginx.conf".into(), version: None }
    }
}

impl Compiled {
    /// Finds the text that `nginx -V` prints.
    fn of(exe: &Path) -> io::Result<Self> {
        Ok(Self::within(&bounded(exe, BINARY)?))
    }

    fn within(binary: &[u8]) -> Self {
        // What stands behind a text, to the end of the line or string.
        let behind = |text: &[u8]| {
            let begin = memmem::find(binary, text)? + text.len();
            let rest = binary.get(begin..)?;
            let rest = &rest[..rest.len().min(LINE as usize)];
            let end = rest.iter().position(|byte| *byte == 0 || *byte == b'\n').unwrap_or(rest.len());
            Some(String::from_utf8_lossy(&rest[..end]).into_owned())
        };
        let configured = behind(b"configure arguments: ").unwrap_or_default();
        let option = |name: &str| {
            let value = configured.split(" --").find_map(|word| word.trim_start_matches('-').strip_prefix(name))?;
            Some(PathBuf::from(value.trim().trim_matches(['\'', '"'])))
        };
        let default = Self::default();
        Self {
            prefix: option("prefix=").unwrap_or(default.prefix),
            file: option("conf-path=").unwrap_or(default.file),
            version: behind(b"nginx version: ").and_then(|version| version_of(&version)),
        }
    }
}

/// `nginx/1.22.1`, `openresty/1.25.3.1`; of others the numbers are their own.
fn version_of(text: &str) -> Option<[u32; 3]> {
    let (name, numbers) = text.split_once('/')?;
    if !matches!(name, "nginx" | "openresty") {
        return None;
    }
    let is_number = |c: char| c.is_ascii_digit();
    let mut parts = numbers.split(|c| !is_number(c)).map(|part| part.parse().ok());
    Some([parts.next()??, parts.next()??, parts.next()??])
}

/// Lines of /etc/hosts: an address and its names.
fn names(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines().take(FILES) {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        for name in words {
            names.entry(name.to_owned()).or_default().push(address);
        }
    }
    // With or without a line of its own.
    let local = names.entry("localhost".to_owned()).or_default();
    local.extend([IpAddr::from([127, 0, 0, 1])]);
    names
}

/// The root directory of a process: links within it lead nowhere else.
struct Root(OwnedFd);

impl Root {
    fn of(host: &Host, pid: u32) -> io::Result<Self> {
        let path = host.path(&format!("proc/{pid}/root"));
        Ok(Self(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Opens a file or directory below it. Nothing that waits: neither a FIFO nor a device.
    fn open(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        // Absolute paths begin at the root too.
        let opened = openat2(&self.0, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
        let file = match opened {
            Ok(file) => file,
            // Before 5.6: links are followed as they are here.
            Err(Errno::NOSYS | Errno::PERM) => {
                let relative = path.strip_prefix("/").unwrap_or(path);
                rustix::fs::openat(&self.0, relative, flags, Mode::empty())?
            }
            Err(error) => return Err(error.into()),
        };
        Ok(File::from(file))
    }
}

/// Reads files, and counts what is left to be read.
struct Reader<'a> {
    root: &'a Root,
    /// What relative includes are relative to: where the configuration file is.
    directory: PathBuf,
    left: u64,
    files: usize,
    unread: Vec<String>,
}

impl Reader<'_> {
    fn text(&mut self, path: &Path) -> io::Result<String> {
        let file = self.root.open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut bytes = Vec::new();
        file.take(self.left).read_to_end(&mut bytes)?;
        self.left -= bytes.len() as u64;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Puts in the place of each `include` what it includes.
    fn include(&mut self, directives: &mut Vec<Directive>, depth: usize) {
        let mut whole = Vec::with_capacity(directives.len());
        for mut directive in directives.drain(..) {
            if directive.name != "include" {
                self.include(&mut directive.block, depth);
                whole.push(directive);
            } else if let Some(pattern) = directive.argument() {
                if depth >= INCLUDES || self.files >= FILES || self.left == 0 {
                    self.complain(format!("{pattern}: there is more than twtrace reads"));
                    continue;
                }
                for path in self.matching(pattern) {
                    self.files += 1;
                    match self.text(&path) {
                        Ok(text) => {
                            let mut included = tokens::parse(&text);
                            self.include(&mut included, depth + 1);
                            whole.append(&mut included);
                        }
                        Err(error) => self.complain(format!("{}: {error}", path.display())),
                    }
                }
            }
        }
        *directives = whole;
    }

    fn complain(&mut self, what: String) {
        if self.unread.len() < COMPLAINTS {
            self.unread.push(what);
        }
    }

    /// The files of a pattern, in order.
    fn matching(&self, pattern: &str) -> Vec<PathBuf> {
        let list = |directory: &Path| {
            let Ok(opened) = self.root.open(directory) else { return Vec::new() };
            let entries = rustix::fs::Dir::read_from(&opened).into_iter().flatten();
            let name =
                |entry: rustix::fs::DirEntry| std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
            let names = entries.filter_map(|entry| entry.ok().map(name));
            names.filter_map(|name| name.into_string().ok()).take(FILES).collect()
        };
        glob::expand(&self.directory.join(pattern), FILES, list)
    }
}

#[cfg(test)]
mod tests;
