//! `twtrace doctor` on sockets that make each finding true, and then false; its numbers held against those of ss and nstat,
//! run beside it.

pub mod aborts;
pub mod conntrack;
pub mod keepalive;
pub mod listen;
pub mod machine;
pub mod manners;
pub mod nat;
pub mod nginx;
pub mod places;
pub mod ports;
pub mod reuse;
pub mod sockets;
pub mod states;
pub mod sysctls;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt, io,
    net::SocketAddr,
    process::{Child, Command},
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use twtrace::{
    host::{
        diag::{self, Detail, StateFlags},
        netns::Netns,
    },
    traffic::lives::{self, Pair},
};

use crate::tracer::{PATIENCE, spawn, traffic};

pub type Outcome = Result<(), String>;

/// The service of most scenarios.
pub const SERVICE: &str = "127.0.0.1:8000";

/// As long as this is held, the machine as a whole is one test's: held by who makes something that every doctor finds,
/// whatever namespace it looks at, and by who needs it to find nothing.
pub fn machine() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn new() -> Result<Netns, String> {
    Netns::new().map_err(|error| format!("a network namespace: {error}"))
}

/// What each report has to be.
static SCHEMA: LazyLock<Result<jsonschema::Validator, String>> = LazyLock::new(|| {
    let schema = include_str!("../../../../docs/doctor.schema.json");
    let schema = serde_json::from_str(schema).map_err(|error| error.to_string())?;
    jsonschema::validator_for(&schema).map_err(|error| error.to_string())
});

/// What the doctor is asked.
pub const QUESTION: [&str; 5] = ["doctor", "--format", "json", "--netns", "self"];

/// What the doctor said of a namespace.
pub struct Said(pub Value);

impl Said {
    /// Asks inside the namespace.
    pub fn of(netns: &Netns, more: &[&str]) -> Result<Self, String> {
        Self::hear(spawn(netns, &[&QUESTION, more].concat(), |_| {})?)
    }

    /// What a doctor said that was started before. It must be as its schema says, the exit code that of the verdict, and the
    /// verdict that of the findings.
    pub fn hear(child: Child) -> Result<Self, String> {
        let output = child.wait_with_output().map_err(|error| format!("waiting for the doctor: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let said: Value = serde_json::from_str(&text).map_err(|error| {
            format!("the doctor ended with {} and no JSON ({error}): {text} {errors}", output.status)
        })?;
        if let Err(error) = SCHEMA.as_ref().map_err(String::clone)?.validate(&said) {
            return Err(format!("not as docs/doctor.schema.json says: {error} at {}: {said:#}", error.instance_path()));
        }
        let worst = said["findings"].as_array().into_iter().flatten().map(|it| rank(&it["severity"])).max();
        let verdict = rank(&said["verdict"]["severity"]);
        // A note alone is no verdict.
        let expected = if worst == Some(1) { Some(0) } else { worst };
        if expected != Some(verdict) || output.status.code() != Some((verdict - 1).max(0)) {
            return Err(format!("exit {}, the worst finding is {worst:?}: {said}", output.status));
        }
        Ok(Self(said))
    }

    /// The finding, which there must be, of this severity.
    pub fn finds(&self, id: &str, severity: &str) -> Result<Finding<'_>, String> {
        let Finding(finding) = self.finding(id).ok_or_else(|| format!("{id} is not found: {self}"))?;
        if finding["severity"] != severity {
            return Err(format!("{id} is not {severity}: {finding}"));
        }
        if rank(&finding["severity"]) > 1 && finding["do"].as_array().is_none_or(Vec::is_empty) {
            return Err(format!("nothing is to be done about {finding}"));
        }
        Ok(Finding(finding))
    }

    /// The finding, which there must not be.
    pub fn lacks(&self, id: &str) -> Outcome {
        match self.finding(id) {
            Some(Finding(finding)) => Err(format!("{finding}")),
            None => Ok(()),
        }
    }

    /// The finding, if there is one.
    pub fn finding(&self, id: &str) -> Option<Finding<'_>> {
        self.findings().find(|Finding(finding)| finding["id"] == id)
    }

    /// All of them.
    pub fn findings(&self) -> impl Iterator<Item = Finding<'_>> {
        self.0["findings"].as_array().into_iter().flatten().map(Finding)
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

/// Fine, note, warning, critical.
fn rank(severity: &Value) -> i32 {
    let words = ["fine", "note", "warning", "critical"];
    words.iter().position(|word| severity == word).map_or(-1, |place| place as i32)
}

/// One finding.
#[derive(Clone, Copy, PartialEq)]
pub struct Finding<'a>(pub &'a Value);

impl Finding<'_> {
    /// Holds a piece of evidence against what it should be.
    pub fn shows(&self, name: &str, expected: impl Into<Value>) -> Outcome {
        let (seen, expected) = (self.evidence(name)?, expected.into());
        if *seen == expected { Ok(()) } else { Err(format!("{name} is {seen} instead of {expected}: {:#}", self.0)) }
    }

    /// The value of a piece of evidence.
    pub fn evidence(&self, name: &str) -> Result<&Value, String> {
        let all = self.0["evidence"].as_array().into_iter().flatten();
        let found = all.clone().find(|evidence| evidence["name"] == name);
        found.map(|evidence| &evidence["value"]).ok_or_else(|| format!("no {name}: {:#}", self.0))
    }
}

/// Runs twtrace inside a namespace, to its end.
pub fn run(netns: &Netns, args: &[&str]) -> Result<std::process::Output, String> {
    spawn(netns, args, |_| {})?.wait_with_output().map_err(|error| error.to_string())
}

thread_local! {
    static ABSENT: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// The programs that this test was to be compared with and that are not here, since the last call.
pub fn take_absent() -> Option<String> {
    let absent: Vec<String> = ABSENT.take().into_iter().collect();
    (!absent.is_empty()).then(|| absent.join(", no "))
}

/// What another program says inside the namespace; `None`, and the test is no pass, if it is not here.
pub fn other(netns: &Netns, program: &str, args: &[&str]) -> Result<Option<String>, String> {
    let _no_traffic = crate::tracer::forking();
    match netns.run(|| Command::new(program).args(args).output()) {
        Ok(output) if output.status.success() => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
        Ok(output) => Err(format!("{program} {args:?} ended with {}", output.status)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            ABSENT.with_borrow_mut(|absent| absent.insert(program.to_owned()));
            Ok(None)
        }
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// How many sockets there are in these states, by sock_diag.
pub fn listed(netns: &Netns, states: &StateFlags) -> Result<u64, String> {
    netns.run(|| diag::dump(states, Detail::Header, || 0, |count, _| *count += 1)).map_err(|error| error.to_string())
}

/// How many sockets ss lists.
pub fn ss(netns: &Netns, filter: &[&str]) -> Result<Option<u64>, String> {
    let said = other(netns, "ss", &[&["-Htan"], filter].concat())?;
    Ok(said.map(|text| text.lines().count() as u64))
}

/// A counter as nstat shows it, such as `TcpExtListenDrops`.
pub fn nstat(netns: &Netns, name: &str) -> Result<Option<u64>, String> {
    let Some(said) = other(netns, "nstat", &["-asz", name])? else { return Ok(None) };
    let mut words = said.lines().filter_map(|line| line.strip_prefix(name)).flat_map(str::split_ascii_whitespace);
    words
        .next()
        .and_then(|word| word.parse().ok())
        .map(Some)
        .ok_or_else(|| format!("nstat does not show {name}: {said}"))
}

/// Holds a number of the doctor's against another program's, if that is here.
pub fn agrees(what: &str, ours: &Value, theirs: Option<u64>) -> Outcome {
    match theirs {
        Some(theirs) if *ours != theirs => Err(format!("{what}: the doctor says {ours}, the other {theirs}")),
        _ => Ok(()),
    }
}

/// So many connections, one end of each closed first; when it returns, all that is left of them are their TIME_WAITs.
///
/// On a machine that stalls, the last FIN is sent twice, and the second ACK meets no socket any more: its RST would end the
/// TIME_WAIT (RFC 1337). As long as this lasts, it does not; for good, the doctor would name the setting.
pub fn close(netns: &Netns, to: &str, count: usize, first: First) -> Outcome {
    set(netns, "tcp_rfc1337", "1")?;
    let closed = traffic(netns, || {
        let listener = lives::listen(address(to)?)?;
        (0..count).try_for_each(|_| {
            let Pair { client, server } = lives::connect(&listener, None)?;
            match first {
                First::Client => lives::close_in_order(client, server),
                First::Server => lives::close_in_order(server, client),
            }
        })
    });
    closed?;
    let open = StateFlags::all().difference(StateFlags::LISTEN | StateFlags::TIME_WAIT | StateFlags::ESTABLISHED);
    until("end of the closing", || Ok(listed(netns, &open)? == 0))?;
    set(netns, "tcp_rfc1337", "0")
}

/// What comes of something that is done while short connections come and go, of which the client closes first.
pub fn amid<T>(netns: &Netns, to: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let closing = scope.spawn(|| {
            netns.run(|| {
                let listener = lives::listen(address(to)?)?;
                while !is_over.load(Ordering::Relaxed) {
                    let Pair { client, server } = lives::connect(&listener, None)?;
                    lives::close_in_order(client, server)?;
                    thread::sleep(Duration::from_millis(2));
                }
                Ok(())
            })
        });
        let done = work();
        is_over.store(true, Ordering::Relaxed);
        closing.join().map_err(|_| "the closing thread panicked")?.map_err(|error| error.to_string())?;
        done
    })
}

/// Who closes first.
#[derive(Clone, Copy)]
pub enum First {
    Client,
    Server,
}

pub fn address(text: &str) -> io::Result<SocketAddr> {
    text.parse().map_err(io::Error::other)
}

/// Waits for something, at most as long as patience lasts.
pub fn until(what: &str, mut is_so: impl FnMut() -> Result<bool, String>) -> Outcome {
    within(|| Ok(if is_so()? { Ok(()) } else { Err(format!("no {what}")) }))
}

/// The first answer; the last reason why there is none, if none comes in time. The outer error ends it at once.
fn within<T>(mut look: impl FnMut() -> Result<Result<T, String>, String>) -> Result<T, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look()? {
            Err(why) if Instant::now() > deadline => return Err(why),
            Err(_) => thread::sleep(Duration::from_millis(20)),
            Ok(answer) => return Ok(answer),
        }
    }
}

/// What the doctor says once it finds this, `before` done before each of its looks.
pub fn awaited(netns: &Netns, id: &str, severity: &str, mut before: impl FnMut() -> Outcome) -> Result<Said, String> {
    within(|| {
        before()?;
        let said = Said::of(netns, &[])?;
        let found = said.finds(id, severity).map(drop);
        Ok(found.map(|()| said))
    })
}

/// Sets a sysctl of the namespace, below net/ipv4.
pub fn set(netns: &Netns, name: &str, value: &str) -> Outcome {
    traffic(netns, || lives::sysctl(name, value))
}
