//! The test program as the first process of a guest: it makes the system that its tests need, and ends it.
//!
//! `cargo xtask vm` builds the guest's file system: see xtask/src/vm/initramfs.rs for what lies where.

use std::{
    ffi::CStr,
    fs::{self, File},
    io::{self, Write as _},
    os::fd::AsRawFd as _,
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use rustix::{
    mount::{MountFlags, mount},
    process::{Resource, Rlimit, setrlimit},
    system::{RebootCommand, finit_module, reboot},
};

/// What the guest is to do.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct GuestConfig {
    /// The backends to test.
    pub backends: Vec<String>,
    /// Only tests whose name contains this.
    pub test: Option<String>,
    /// None whose name contains one of these.
    pub skip: Vec<String>,
    /// A program of the guest and its arguments, instead of the tests.
    pub run: Option<String>,
}

/// (type, where). Those that a kernel lacks are reported and done without.
const MOUNTS: [(&str, &str); 9] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("bpf", "/sys/fs/bpf"),
    ("debugfs", "/sys/kernel/debug"),
    ("tracefs", "/sys/kernel/tracing"),
];

/// How many files, and so sockets, a test may have open. The first process starts with room for 4,096.
const FILES: u64 = 65_536;

/// Sets the guest up. What fails is reported on the console; the tests that need it will tell.
pub fn boot() -> GuestConfig {
    for (kind, target) in MOUNTS {
        report(&format!("mounting {target}"), mount(kind, target, kind, MountFlags::empty(), None::<&CStr>));
    }
    for module in modules() {
        let loaded = File::open(&module).and_then(|file| Ok(finit_module(&file, c"", 0)?));
        report(&format!("loading {}", module.display()), loaded);
    }
    report("setting lo up", twtrace::host::netns::loopback_up());
    // Before 5.11 the memory of BPF maps counts against this limit.
    let unlimited = Rlimit { current: None, maximum: None };
    report("raising RLIMIT_MEMLOCK", setrlimit(Resource::Memlock, unlimited));
    let files = Rlimit { current: Some(FILES), maximum: Some(FILES) };
    report("raising RLIMIT_NOFILE", setrlimit(Resource::Nofile, files));
    let config = fs::read_to_string("/config.env");
    if let Err(error) = &config {
        eprintln!("guest: reading /config.env: {error}");
    }
    parse(&config.unwrap_or_default())
}

/// Runs a program until it ends; true if it has done what it should.
pub fn run(command: &str) -> bool {
    let mut words = command.split_ascii_whitespace();
    let ended = Command::new(words.next().unwrap_or_default()).args(words).status();
    report(&format!("running {command}"), ended.as_ref().map(drop));
    ended.is_ok_and(|status| status.success())
}

/// Ends the guest, and QEMU with it.
pub fn power_off() -> ! {
    let _ = io::stdout().flush();
    // SAFETY: tcdrain takes a descriptor, open or not. It waits until the last line has left the serial port.
    unsafe { libc::tcdrain(io::stdout().as_raw_fd()) };
    rustix::fs::sync();
    report("powering off", reboot(RebootCommand::PowerOff));
    // `panic=-1` on the kernel's command line would end the guest if this process returned, but as a failure.
    report("restarting", reboot(RebootCommand::Restart));
    loop {
        thread::sleep(Duration::from_secs(60));
    }
}

/// The modules in the order to load them: their names begin with a number.
fn modules() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir("/modules").into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension() == Some("ko".as_ref()));
    files.sort();
    files
}

/// `KEY=VALUE` lines, a list separated by commas; an empty value is none.
fn parse(text: &str) -> GuestConfig {
    let value = |key: &str| {
        let mut pairs = text.lines().filter_map(|line| line.split_once('='));
        let value = pairs.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim());
        value.filter(|value| !value.is_empty())
    };
    let list = |key: &str| value(key).into_iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
    GuestConfig {
        backends: list("BACKENDS"),
        test: value("TEST").map(str::to_owned),
        skip: list("SKIP"),
        run: value("RUN").map(str::to_owned),
    }
}

fn report<E: std::fmt::Display>(what: &str, result: Result<(), E>) {
    if let Err(error) = result {
        eprintln!("guest: {what}: {error}");
    }
}
