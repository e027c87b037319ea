//! The doctor's advice, taken by its word: a proxy that opens a connection for every request, and the lines that end it.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use twtrace::{host::netns::Netns, traffic::oracle};

use super::{Finding, Outcome, Said, new, until};
use crate::{
    attempts::note_within,
    tracer::{PATIENCE, forking, spawn, traffic},
};

const FINDING: &str = "keepalive.short-connections";
const PROXY: &str = "127.0.0.1:8080";
const UPSTREAM: &str = "127.0.0.1:8081";
/// What nginx did by itself up to 1.29: a connection is closed after one answer.
const BY_DEFAULT: &str = "proxy_http_version 1.0; proxy_set_header Connection close;";
/// So many minisocks are made before the doctor is asked.
const MANY: u64 = 10_000;
/// So often the doctor is asked anew whose connections these are.
const LOOKS: usize = 5;
/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest that a server may take to end in good order.
const FAREWELL: Duration = Duration::from_secs(10);

/// Why there is no proxy, or nothing that asks it; `None` if there is.
pub fn missing() -> Option<String> {
    let runs = |program: &&str| {
        let mut command = Command::new(program);
        let asked = command.arg("-v").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        // 127: one of its libraries is missing.
        asked.is_ok_and(|status| status.code() != Some(127))
    };
    let absent = ["nginx", "wrk"].into_iter().find(|program| !runs(program))?;
    Some(format!("there is no {absent} here"))
}

/// The directives are copied from the finding. Then it is gone, though the old minisocks are still there.
pub fn doctor_nginx() -> Outcome {
    let netns = new()?;
    let place = Place::new("proxy")?;
    let answers = format!("server {{ listen {UPSTREAM}; location / {{ return 200 \"hello\\n\"; }} }}");
    let _upstream = Nginx::start(&netns, place.0.join("upstream"), &answers)?;
    let proxy = Nginx::start(&netns, place.0.join("proxy"), &proxying("", BY_DEFAULT))?;

    let mut load = Load::start(&netns, &place)?;
    until("minisocks", || Ok(births(&netns)? >= MANY))?;
    let mut attempts = 1..=LOOKS;
    let ill = loop {
        let look = Look::take(&netns, &place, &mut load)?;
        let finding = look.finding(&netns).ok_or_else(|| format!("{FINDING} is not found: {}", look.said))?;
        if !finding.to_string().contains("8081") {
            return Err(format!("it does not tell of {UPSTREAM}: {finding}"));
        }
        // Whose connections these are is found out by catching one of them, which live for half a millisecond.
        if directive(finding, "keepalive ").is_ok() || attempts.next().is_none() {
            break look;
        }
        note_within("doctor_nginx: none of the proxy's connections was caught");
    };
    drop(load);
    let finding = ill.finding(&netns).ok_or("it was found just now")?;
    let location = ["proxy_http_version ", "proxy_set_header Connection "].map(|begin| directive(finding, begin));
    let [version, header] = location;
    proxy.reload(&proxying(directive(finding, "keepalive ")?, &format!("{} {}", version?, header?)))?;

    let mut load = Load::start(&netns, &place)?;
    until("end of the births", || {
        let since = Since::now(&netns)?;
        thread::sleep(PAUSE);
        Ok(since.rate(&netns)? < ill.rate / 10.0)
    })?;
    let well = Look::take(&netns, &place, &mut load)?;
    let (before, after) = (ill.rate, well.rate);
    crate::line(&format!("doctor_nginx: {before:.0} TIME_WAIT/s without upstream keepalive, {after:.0}/s with it"));
    well.finding(&netns).map_or(Ok(()), |finding| Err(format!("it is still found: {finding}")))
}

/// An nginx that keeps connections already, and closes each after ten requests: that limit is named, and none of the lines that are
/// there.
pub fn doctor_nginx_limits() -> Outcome {
    let netns = new()?;
    let place = Place::new("limits")?;
    let answers = format!(
        "server {{ listen {UPSTREAM}; keepalive_requests 100000000; location / {{ return 200 \"hello\\n\"; }} }}"
    );
    let _upstream = Nginx::start(&netns, place.0.join("upstream"), &answers)?;
    let location = "proxy_http_version 1.1; proxy_set_header Connection \"\";";
    let proxy =
        Nginx::start(&netns, place.0.join("proxy"), &proxying("keepalive 16; keepalive_requests 10;", location))?;
    let limit = mended(&netns, &place, &proxy, |finding| {
        lacks(finding, &["proxy_http_version", "proxy_set_header", "keepalive 16;"])?;
        let limit = directive(finding, "keepalive_requests ")?;
        Ok((proxying(&format!("keepalive 16; {limit}"), location), limit.to_owned()))
    })?;
    crate::line(&format!("doctor_nginx_limits: {limit}"));
    Ok(())
}

/// FastCGI has lines of its own.
pub fn doctor_nginx_fastcgi() -> Outcome {
    let netns = new()?;
    let place = Place::new("fastcgi")?;
    let listener = traffic(&netns, || TcpListener::bind(UPSTREAM))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || fastcgi(stream));
        }
    });
    let passing = |upstream: &str, location: &str| {
        format!(
            "upstream app {{ server {UPSTREAM}; {upstream} }}\nserver {{ listen {PROXY}; location / {{ fastcgi_pass app; \
             fastcgi_param REQUEST_METHOD $request_method; {location} }} }}"
        )
    };
    let proxy = Nginx::start(&netns, place.0.join("proxy"), &passing("", ""))?;
    mended(&netns, &place, &proxy, |finding| {
        lacks(finding, &["proxy_http_version", "proxy_set_header"])?;
        let (keepalive, keep) = (directive(finding, "keepalive ")?, directive(finding, "fastcgi_keep_conn ")?);
        Ok((passing(keepalive, keep), ()))
    })
}

/// Lets the doctor look at a proxy that is ill, changes its configuration as `cure` makes it of the finding, and waits until
/// the finding is gone.
fn mended<T>(
    netns: &Netns,
    place: &Place,
    proxy: &Nginx,
    cure: impl FnOnce(&Value) -> Result<(String, T), String>,
) -> Result<T, String> {
    let mut load = Load::start(netns, place)?;
    until("minisocks", || Ok(births(netns)? >= MANY / 20))?;
    let ill = Look::take(netns, place, &mut load)?;
    let finding = ill.finding(netns).ok_or_else(|| format!("{FINDING} is not found: {}", ill.said))?;
    let (servers, told) = cure(finding)?;
    proxy.reload(&servers)?;
    until("end of the finding", || Ok(Look::take(netns, place, &mut load)?.finding(netns).is_none()))?;
    Ok(told)
}

/// What must not be among what is to be done.
fn lacks(finding: &Value, lines: &[&str]) -> Outcome {
    let steps = finding["do"].to_string();
    match lines.iter().find(|line| steps.contains(**line)) {
        Some(line) => Err(format!("`{line}` is among what is to be done: {finding}")),
        None => Ok(()),
    }
}

/// Answers requests as a FastCGI responder does, on a connection that is kept if it is asked to.
fn fastcgi(mut stream: TcpStream) -> io::Result<()> {
    let mut keeps = true;
    while keeps {
        loop {
            let mut header = [0; 8];
            stream.read_exact(&mut header)?;
            let mut body = vec![0; usize::from(u16::from_be_bytes([header[4], header[5]])) + usize::from(header[6])];
            stream.read_exact(&mut body)?;
            match (header[1], body.is_empty()) {
                (1, false) => keeps = body[2] & 1 == 1,
                // The end of the request's body.
                (5, true) => break,
                _ => {}
            }
        }
        let answer = b"Content-Type: text/plain\r\n\r\nhello";
        let mut records = vec![1, 6, 0, 1, 0, answer.len() as u8, 0, 0];
        records.extend_from_slice(answer);
        records.extend_from_slice(&[1, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        stream.write_all(&records)?;
    }
    Ok(())
}

/// Servers of a proxy's configuration: these directives for the upstream, those for the location.
fn proxying(upstream: &str, location: &str) -> String {
    format!(
        "upstream app {{ server {UPSTREAM}; {upstream} }}\n\
         server {{ listen {PROXY}; location / {{ proxy_pass http://app; {location} }} }}"
    )
}

/// A directive that the finding says to write: from its beginning, over one argument, to its semicolon.
fn directive<'a>(finding: &'a Value, begin: &str) -> Result<&'a str, String> {
    let lines = finding["do"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut parts = lines.flat_map(|line| line.split_inclusive(';'));
    let found = parts.find_map(|part| {
        let directive = part.get(part.rfind(begin)?..)?;
        let argument = directive.strip_prefix(begin)?.strip_suffix(';')?;
        (!argument.is_empty() && !argument.contains(char::is_whitespace)).then_some(directive)
    });
    found.ok_or_else(|| format!("there is no `{begin}...;` among what is to be done: {finding}"))
}

/// What the doctor said under load.
struct Look {
    said: Said,
    /// Births of TIME_WAIT per second meanwhile.
    rate: f64,
}

impl Look {
    fn take(netns: &Netns, place: &Place, load: &mut Load) -> Result<Self, String> {
        let since = Since::now(netns)?;
        let said = Said::hear(spawn(netns, &["doctor", "--format", "json"], |_| {})?)?;
        let rate = since.rate(netns)?;
        match load.0.try_wait().map_err(|error| error.to_string())? {
            None => Ok(Self { said, rate }),
            Some(status) => Err(format!("wrk ended with {status}: {}", place.read("wrk"))),
        }
    }

    /// Other namespaces may have their own.
    fn finding(&self, netns: &Netns) -> Option<&Value> {
        let is_ours = |finding: &&Value| finding["id"] == FINDING && finding["netns"] == netns.inum();
        self.said.findings().map(|Finding(finding)| finding).find(is_ours)
    }
}

/// Births up to a moment.
struct Since {
    births: u64,
    at: Instant,
}

impl Since {
    fn now(netns: &Netns) -> Result<Self, String> {
        Ok(Self { births: births(netns)?, at: Instant::now() })
    }

    /// Births per second from then on.
    fn rate(&self, netns: &Netns) -> Result<f64, String> {
        let now = Self::now(netns)?;
        Ok((now.births - self.births) as f64 / (now.at - self.at).as_secs_f64())
    }
}

/// TcpExt TW and TWKilled; before 5.18 they count expiries.
fn births(netns: &Netns) -> Result<u64, String> {
    let counters = netns.run(oracle::counters).map_err(|error| error.to_string())?;
    Ok(counters.tw + counters.tw_killed)
}

/// A directory that goes away with all that is in it.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Result<Self, String> {
        let place = Self(env::temp_dir().join(format!("twtrace-e2e-{}-nginx-{name}", std::process::id())));
        fs::create_dir_all(&place.0).map_err(|error| format!("{}: {error}", place.0.display()))?;
        Ok(place)
    }

    fn file(&self, name: &str) -> Result<File, String> {
        File::create(self.0.join(name)).map_err(|error| format!("{name}: {error}"))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Eight clients that ask the proxy, as fast as they can, over connections that they keep. They end when this is dropped.
struct Load(Child);

impl Load {
    fn start(netns: &Netns, place: &Place) -> Result<Self, String> {
        let (said, errors) = (place.file("wrk")?, place.file("wrk.errors")?);
        let seconds = format!("-d{}s", 2 * PATIENCE.as_secs());
        let mut command = Command::new("wrk");
        command.args(["-t1", "-c8", &seconds, &format!("http://{PROXY}/")]);
        command.stdin(Stdio::null()).stdout(said).stderr(errors);
        started(netns, &mut command).map(Self)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// One nginx, with a directory of its own; it ends when this is dropped.
struct Nginx {
    master: Child,
    dir: PathBuf,
}

impl Nginx {
    fn start(netns: &Netns, dir: PathBuf, servers: &str) -> Result<Self, String> {
        fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        configure(&dir, servers)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&dir).args(["-c", "nginx.conf", "-e", "error.log"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut nginx = Self { master: started(netns, &mut command)?, dir };
        until("nginx", || match nginx.master.try_wait().map_err(|error| error.to_string())? {
            Some(status) => Err(format!("nginx ended with {status}: {}", nginx.log())),
            // It is written when the ports are open.
            None => Ok(nginx.dir.join("pid").exists()),
        })?;
        Ok(nginx)
    }

    /// Changes the configuration, and waits until nobody works by the old one.
    fn reload(&self, servers: &str) -> Result<(), String> {
        let old = self.workers();
        configure(&self.dir, servers)?;
        kill_process(Pid::from_child(&self.master), Signal::HUP).map_err(|error| format!("reloading: {error}"))?;
        until("reloaded nginx", || {
            let (new, log) = (self.workers(), self.log());
            if log.contains("[emerg]") {
                return Err(format!("nginx does not take {servers}: {log}"));
            }
            Ok(!new.is_empty() && new.is_disjoint(&old))
        })
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("error.log")).unwrap_or_default()
    }

    fn workers(&self) -> BTreeSet<i32> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.master.id())).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Workers outlive a master that is killed.
        let workers = self.workers();
        let _asked = kill_process(Pid::from_child(&self.master), Signal::TERM);
        let deadline = Instant::now() + FAREWELL;
        while matches!(self.master.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                for worker in workers.into_iter().filter_map(Pid::from_raw) {
                    let _gone = kill_process(worker, Signal::KILL);
                }
                let _gone = self.master.kill();
                let _reaped = self.master.wait();
                return;
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Writes a configuration of which all files are in `dir`.
fn configure(dir: &Path, servers: &str) -> Result<(), String> {
    let temporary =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|what| format!("{what}_temp_path {what};"));
    let text = format!(
        "daemon off; user root; worker_processes 1; pid pid; error_log error.log;\nevents {{}}\n\
         http {{ access_log off; {}\n{servers} }}\n",
        temporary.join(" ")
    );
    fs::write(dir.join("nginx.conf"), text).map_err(|error| format!("{}: {error}", dir.display()))
}

/// Starts a program inside the namespace.
fn started(netns: &Netns, command: &mut Command) -> Result<Child, String> {
    let _no_traffic = forking();
    netns.run(|| command.spawn()).map_err(|error| format!("starting {}: {error}", command.get_program().display()))
}
