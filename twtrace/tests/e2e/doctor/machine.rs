//! What `twtrace doctor` says of settings, of connection tracking and of descriptors: made true, and then false again.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use twtrace::{
    host::netns::Netns,
    lab::lives::{self, sysctl},
};

use crate::{
    scene::fresh,
    tracer::{PATIENCE, forking, spawn, traffic},
};

type Outcome = Result<(), String>;

/// What the doctor says of a namespace.
fn doctor(netns: &Netns) -> Result<Value, String> {
    said(spawn(netns, &["doctor", "--format", "json", "--netns", "self"], |_| {})?)
}

/// The report of a doctor that was started.
fn said(child: Child) -> Result<Value, String> {
    let output = child.wait_with_output().map_err(|error| format!("waiting for it: {error}"))?;
    serde_json::from_slice(&output.stdout).map_err(|error| {
        format!("no report ({error}), {}; it said: {}", output.status, String::from_utf8_lossy(&output.stderr))
    })
}

/// The finding of this id, if there is one.
fn found<'a>(report: &'a Value, id: &str) -> Option<&'a Value> {
    report["findings"].as_array()?.iter().find(|finding| finding["id"] == id)
}

/// It is there, and as bad as this.
fn is<'a>(report: &'a Value, id: &str, severity: &str) -> Result<&'a Value, String> {
    match found(report, id) {
        Some(finding) if finding["severity"] == severity => Ok(finding),
        other => Err(format!("{id} is not told as {severity}, but: {other:?}; all: {}", ids(report))),
    }
}

fn is_not(report: &Value, id: &str) -> Outcome {
    found(report, id).map_or(Ok(()), |finding| Err(format!("{id} is told, and should not: {finding}")))
}

fn ids(report: &Value) -> String {
    let findings = report["findings"].as_array().into_iter().flatten();
    let told: Vec<String> =
        findings.map(|finding| format!("{}/{}", finding["id"].as_str().unwrap_or("?"), finding["severity"])).collect();
    told.join(" ")
}

/// A piece of evidence, by its name and where it was read.
fn evidence(finding: &Value, name: &str, source: &str) -> Option<u64> {
    let all = finding["evidence"].as_array()?;
    let is_it = |it: &&Value| it["name"] == name && it["source"].as_str().is_some_and(|text| text.contains(source));
    all.iter().find(is_it)?["value"].as_u64()
}

fn equal(what: &str, seen: Option<u64>, expected: u64) -> Outcome {
    if seen == Some(expected) { Ok(()) } else { Err(format!("{what} is {seen:?}, not {expected}")) }
}

/// A sysctl, what is wrong with it, what is told of it then, and what it is by default.
const SETTINGS: [(&str, &str, &str, &str, &str); 6] = [
    ("tcp_fin_timeout", "15", "folklore.fin-timeout", "note", "60"),
    ("tcp_max_tw_buckets", "100", "folklore.max-tw-buckets", "warning", ""),
    ("tcp_rfc1337", "1", "folklore.rfc1337", "note", "0"),
    ("tcp_timestamps", "0", "folklore.timestamps", "warning", "1"),
    ("tcp_syncookies", "0", "folklore.syncookies", "warning", "1"),
    ("tcp_abort_on_overflow", "1", "listen.abort-on-overflow", "note", "0"),
];
/// Connections that are reset.
const RESETS: u64 = 40;

pub fn doctor_folklore() -> Outcome {
    let netns = Netns::new().map_err(|error| format!("a network namespace: {error}"))?;
    let was = netns.run(|| fs::read_to_string("/proc/sys/net/ipv4/tcp_max_tw_buckets"));
    let was = was.map_err(|error| error.to_string())?;
    let before = doctor(&netns)?;
    for (name, _, id, ..) in SETTINGS {
        // A file of this machine may set it, but nothing in the new namespace is so.
        let is_about_it = |finding: &&Value| id.starts_with("listen") || !finding["netns"].is_null();
        if let Some(finding) = found(&before, id).filter(is_about_it) {
            return Err(format!("{name} is as ever: {finding}"));
        }
    }
    for (name, value, id, severity, default) in SETTINGS {
        let default = if default.is_empty() { was.trim() } else { default };
        set(&netns, name, value)?;
        let report = doctor(&netns)?;
        let finding = is(&report, id, severity)?;
        let expected = value.parse().map_err(|error| format!("{error}"))?;
        equal(name, evidence(finding, name, &format!("/proc/sys/net/ipv4/{name}")), expected)?;
        set(&netns, name, default)?;
    }
    // What is there once they are as they were.
    let after = doctor(&netns)?;
    for (name, _, id, ..) in SETTINGS {
        if found(&after, id) != found(&before, id) {
            return Err(format!("{name}: '{}' before, '{}' after", ids(&before), ids(&after)));
        }
    }
    resets(&netns)
}

fn set(netns: &Netns, name: &str, value: &str) -> Outcome {
    netns.run(|| sysctl(name, value)).map_err(|error| error.to_string())
}

/// SO_LINGER 0: told while it happens, and no longer.
fn resets(netns: &Netns) -> Outcome {
    is_not(&doctor(netns)?, "folklore.linger0")?;
    let (reset, orderly) = (traffic_beside(netns, true)?, traffic_beside(netns, false)?);
    let finding = is(&reset, "folklore.linger0", "warning")?;
    let now = finding["evidence"].as_array().into_iter().flatten().find(|it| it["name"] == "TCPAbortOnData now");
    if now.and_then(|it| it["value"].as_f64()).is_none_or(|rate| rate < 1.0) {
        return Err(format!("nothing moves: {finding}"));
    }
    is_not(&orderly, "folklore.linger0")?;
    // At rest it is no finding; its total is shown with what is fine.
    let report = doctor(netns)?;
    is_not(&report, "folklore.linger0")?;
    let Some(told) = found(&report, "folklore.none") else { return Ok(()) };
    let told = evidence(told, "TCPAbortOnData", "/proc/net/netstat TcpExt");
    match nstat(netns)? {
        Some(total) => equal("TCPAbortOnData, which nstat knows", told, total)?,
        None => crate::line("not here: nstat, to hold TCPAbortOnData against"),
    }
    if told.is_none_or(|total| total < RESETS) { Err(format!("TCPAbortOnData is {told:?}")) } else { Ok(()) }
}

/// What the doctor says while connections are made and ended.
fn traffic_beside(netns: &Netns, resets: bool) -> Result<Value, String> {
    // As long as there is traffic nobody may fork, so the doctor is started first.
    let mut child = spawn(netns, &["doctor", "--format", "json", "--netns", "self"], |_| {})?;
    traffic(netns, || {
        let listener = lives::listen(([127, 0, 0, 1], 8000).into())?;
        let (mut made, deadline) = (0, Instant::now() + PATIENCE);
        while made < RESETS || child.try_wait()?.is_none() && Instant::now() < deadline {
            let pair = lives::connect(&listener, None)?;
            if resets {
                lives::abort(pair.client)?;
            } else {
                lives::close_in_order(pair.client, pair.server)?;
            }
            made += 1;
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    })?;
    said(child)
}

/// What nstat says; `None` if it is not there.
fn nstat(netns: &Netns) -> Result<Option<u64>, String> {
    let _no_traffic = forking();
    let output = netns.run(|| match Command::new("nstat").args(["-azs", "TcpExtTCPAbortOnData"]).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    });
    let Some(output) = output.map_err(|error| format!("nstat: {error}"))? else { return Ok(None) };
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("TcpExtTCPAbortOnData"));
    let number = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
    number.map(Some).ok_or_else(|| format!("nstat says {text}"))
}

/// The hidden argument that makes a holder of this program.
const HOLDER: &str = "__holder";
/// The most descriptors that a holder may have.
const LIMIT: u64 = 64;

/// If this process was started to hold descriptors, it does so until its standard input ends: as many as each line says,
/// and answers with a line.
pub fn hold() -> Option<ExitCode> {
    (env::args().nth(1).as_deref() == Some(HOLDER)).then(|| match holder() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holding descriptors: {error}");
            ExitCode::FAILURE
        }
    })
}

fn holder() -> io::Result<()> {
    rustix::thread::set_name(c"holder")?;
    // The limit bounds numbers, and what was inherited may have a higher one: it would be counted and take no room.
    // SAFETY: nothing in this process has opened a descriptor yet, so nothing uses one beyond the first three.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(LIMIT), ..getrlimit(Resource::Nofile) })?;
    let open = || -> io::Result<usize> {
        // Without the one that reads the directory.
        Ok(fs::read_dir("/proc/self/fd")?.count() - 1)
    };
    let mut held = Vec::new();
    let others = open()?;
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let wanted: usize = line?.trim().parse().map_err(io::Error::other)?;
        held.truncate(wanted.saturating_sub(others));
        while held.len() + others < wanted {
            held.push(Socket::new(Domain::IPV4, Type::STREAM, None)?);
        }
        // One more than there may be.
        let refused =
            Socket::new(Domain::IPV4, Type::STREAM, None).is_err_and(|it| it.raw_os_error() == Some(libc::EMFILE));
        writeln!(out, "{refused}")?;
        out.flush()?;
    }
    Ok(())
}

/// A process that holds as many descriptors as it is told.
struct Holder {
    child: Child,
    tells: ChildStdin,
    hears: BufReader<ChildStdout>,
}

impl Holder {
    fn start() -> Result<Self, String> {
        let _no_traffic = forking();
        // In a guest the first process is this program as well.
        let mut command = Command::new("/proc/self/exe");
        command.arg(HOLDER).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("starting a holder: {error}"))?;
        let tells = child.stdin.take().ok_or("no standard input")?;
        let hears = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Self { child, tells, hears })
    }

    /// Holds so many, and tells whether there can be no more.
    fn hold(&mut self, count: u64) -> Result<bool, String> {
        let mut answer = String::new();
        let done = writeln!(self.tells, "{count}").and_then(|()| self.hears.read_line(&mut answer));
        done.map_err(|error| format!("a holder: {error}"))?;
        answer.trim().parse().map_err(|_| format!("a holder says '{answer}'"))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub fn doctor_descriptors() -> Outcome {
    let netns = fresh()?;
    let mut holder = Holder::start()?;
    let pid = holder.child.id();
    // Whether the finding is about the holder; what others of this machine have is not this test's to say.
    let about = |report: &Value| -> Option<(String, Option<u64>)> {
        let finding = found(report, "descriptors.process")?;
        let count = evidence(finding, &format!("descriptors of holder ({pid})"), &format!("/proc/{pid}/fd"))?;
        Some((finding["severity"].as_str()?.to_owned(), Some(count)))
    };
    for (count, severity) in
        [(10, None), (51, None), (52, Some("warning")), (60, Some("warning")), (64, Some("critical"))]
    {
        let refused = holder.hold(count)?;
        if refused != (count >= LIMIT) {
            return Err(format!("with {count} of {LIMIT} descriptors EMFILE is {refused}"));
        }
        let report = doctor(&netns)?;
        let expected = severity.map(|severity| (severity.to_owned(), Some(count)));
        if about(&report) != expected {
            return Err(format!("{count} of {LIMIT}: {:?}, not {expected:?}; {}", about(&report), ids(&report)));
        }
        if severity == Some("critical") && report["verdict"]["severity"] != "critical" {
            return Err(format!("the verdict is {}", report["verdict"]));
        }
    }
    holder.hold(10)?;
    let report = doctor(&netns)?;
    if let Some(told) = about(&report) {
        return Err(format!("they were closed: {told:?}"));
    }
    // Unless others are at their limits, it is fine again.
    if found(&report, "descriptors.process").is_none() && found(&report, "descriptors.system").is_none() {
        let fine = is(&report, "descriptors.room", "fine")?;
        if !fine["sentence"].as_str().is_some_and(|sentence| sentence.contains("TIME_WAITs have none")) {
            return Err(format!("it does not say that TIME_WAIT holds none: {fine}"));
        }
    }
    Ok(())
}

/// The limit of the table.
const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// Bigger tables are not filled: an entry takes 256 bytes or more of the kernel's memory.
const BIGGEST: u64 = 1 << 19;
/// The limit in a guest, which is all ours.
const SMALL: u64 = 2_000;

/// Why there is no table that could be filled, if so.
pub fn no_table() -> Option<String> {
    let Ok(text) = fs::read_to_string(MAX) else { return Some("nf_conntrack is not loaded".to_owned()) };
    let max: u64 = text.trim().parse().unwrap_or_default();
    if !is_guest() && !(1..=BIGGEST).contains(&max) {
        return Some(format!("nf_conntrack_max is {max}: too many entries to make, and not ours to change"));
    }
    let tried = Netns::new().map_err(|error| error.to_string()).and_then(|netns| {
        let entry = netns.run(|| Table::open()?.add(0..1)).map_err(|error| format!("nfnetlink: {error}"))?;
        if entry == 0 { Ok(()) } else { Err("an entry is refused".to_owned()) }
    });
    tried.err()
}

fn is_guest() -> bool {
    Path::new("/config.env").exists()
}

/// Entries are made as the program conntrack(8) makes them: real ones, which take room and time out.
pub fn doctor_conntrack() -> Outcome {
    let netns = Netns::new().map_err(|error| format!("a network namespace: {error}"))?;
    if is_guest() {
        fs::write(MAX, SMALL.to_string()).map_err(|error| format!("{MAX}: {error}"))?;
    }
    let max = fs::read_to_string(MAX).map_err(|error| error.to_string())?;
    let max: u64 = max.trim().parse().map_err(|error| format!("{MAX}: {error}"))?;
    // Another holds nothing of this one's room.
    let other = Netns::new().map_err(|error| format!("a network namespace: {error}"))?;
    is(&doctor(&netns)?, "conntrack.off", "fine")?;
    let mut table = netns.run(Table::open).map_err(|error| format!("nfnetlink: {error}"))?;
    let mut fill =
        |entries: std::ops::Range<u64>| table.add(entries).map_err(|error| format!("making entries: {error}"));
    let mut made = 0;
    for (count, id, severity) in [
        (max / 2, "conntrack.room", "fine"),
        (max * 4 / 5 - 1, "conntrack.room", "fine"),
        ((max * 4).div_ceil(5), "conntrack.filling", "warning"),
        (max - 1, "conntrack.filling", "warning"),
        (max, "conntrack.full", "critical"),
    ] {
        equal("refused", Some(fill(made..count)?), 0)?;
        made = count;
        let report = doctor(&netns)?;
        let finding = is(&report, id, severity)?;
        equal("the count", evidence(finding, "nf_conntrack_count", "nf_conntrack_count"), count)?;
        equal("the limit", evidence(finding, "nf_conntrack_max", "nf_conntrack_max"), max)?;
    }
    // The kernel says so too.
    let refused = fill(max..max + 10)?;
    equal("refused", Some(refused), 10)?;
    is(&doctor(&netns)?, "conntrack.full", "critical")?;
    is(&doctor(&other)?, "conntrack.off", "fine")?;
    table.flush().map_err(|error| format!("emptying the table: {error}"))?;
    is(&doctor(&netns)?, "conntrack.off", "fine").map(drop)
}

/// The table of a namespace: a socket of nfnetlink.
struct Table(Socket);

/// Values of include/uapi/linux/netfilter/{nfnetlink,nfnetlink_conntrack}.h.
mod nf {
    /// NFNL_SUBSYS_CTNETLINK, in the high byte, and IPCTNL_MSG_CT_NEW and _DELETE.
    pub const NEW: u16 = 1 << 8;
    pub const DELETE: u16 = (1 << 8) | 2;
    pub const TUPLE_ORIG: u16 = 1;
    pub const TUPLE_REPLY: u16 = 2;
    pub const STATUS: u16 = 3;
    pub const PROTOINFO: u16 = 4;
    pub const TIMEOUT: u16 = 7;
    pub const TUPLE_IP: u16 = 1;
    pub const TUPLE_PROTO: u16 = 2;
    pub const IP_V4_SRC: u16 = 1;
    pub const IP_V4_DST: u16 = 2;
    pub const PROTO_NUM: u16 = 1;
    pub const PROTO_SRC_PORT: u16 = 2;
    pub const PROTO_DST_PORT: u16 = 3;
    pub const PROTOINFO_TCP: u16 = 1;
    pub const TCP_STATE: u16 = 1;
    /// TCP_CONNTRACK_ESTABLISHED.
    pub const ESTABLISHED: u8 = 3;
    /// IPS_SEEN_REPLY, IPS_ASSURED and IPS_CONFIRMED: the kernel never forgets it early.
    pub const ASSURED: u32 = 0b1110;
}

/// Entries that are sent at once.
const BATCH: u64 = 64;

impl Table {
    /// That of the calling thread's namespace.
    fn open() -> io::Result<Self> {
        let protocol = Protocol::from(libc::NETLINK_NETFILTER);
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Makes entries, one for each number, and tells how many were refused for lack of room.
    fn add(&mut self, numbers: std::ops::Range<u64>) -> io::Result<u64> {
        let mut refused = 0;
        let mut next = numbers.start;
        while next < numbers.end {
            let last = numbers.end.min(next + BATCH);
            let messages: Vec<u8> = (next..last).flat_map(entry).collect();
            refused += self.ask(&messages, last - next)?;
            next = last;
        }
        Ok(refused)
    }

    /// Forgets all entries of the namespace.
    fn flush(&mut self) -> io::Result<()> {
        match self.ask(&message(nf::DELETE, 0, &[]), 1)? {
            0 => Ok(()),
            _ => Err(io::Error::other("no memory")),
        }
    }

    /// Sends so many messages, and tells how many were answered by ENOMEM; any other error is one.
    fn ask(&mut self, messages: &[u8], count: u64) -> io::Result<u64> {
        self.0.send(messages)?;
        let (mut answers, mut refused) = (0, 0);
        let mut buffer = vec![0; 1 << 16];
        while answers < count {
            let length = self.0.read(&mut buffer)?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            // struct nlmsghdr, then the error of struct nlmsgerr.
            while let (Some(size), Some(error)) = (number(rest, 0), number(rest, 16)) {
                answers += 1;
                match -error {
                    0 => {}
                    libc::ENOMEM => refused += 1,
                    errno => return Err(io::Error::from_raw_os_error(errno)),
                }
                rest = rest.get((size as usize).next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Ok(refused)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A message that asks for an answer: struct nlmsghdr, struct nfgenmsg, attributes.
fn message(kind: u16, flags: i32, attributes: &[u8]) -> Vec<u8> {
    let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut message = Vec::with_capacity(20 + attributes.len());
    message.extend((20 + attributes.len() as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([libc::AF_INET as u8, 0, 0, 0]);
    message.extend(attributes);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut attribute = Vec::with_capacity(length.next_multiple_of(4));
    attribute.extend((length as u16).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(length.next_multiple_of(4), 0);
    attribute
}

/// An attribute made of attributes (NLA_F_NESTED).
fn nest(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | 1 << 15, &parts.concat())
}

/// An open connection that there is no other of: one for each number.
fn entry(number: u64) -> Vec<u8> {
    let [high, middle, low] = [(number >> 16) as u8, (number >> 8) as u8, number as u8];
    let (client, server) = (([10, 1, high, middle], 1024 + u16::from(low)), ([10, 2, 0, 1], 80));
    let tuple = |kind, from: ([u8; 4], u16), to: ([u8; 4], u16)| {
        let addresses = [attribute(nf::IP_V4_SRC, &from.0), attribute(nf::IP_V4_DST, &to.0)];
        let protocol = [
            attribute(nf::PROTO_NUM, &[libc::IPPROTO_TCP as u8]),
            attribute(nf::PROTO_SRC_PORT, &from.1.to_be_bytes()),
            attribute(nf::PROTO_DST_PORT, &to.1.to_be_bytes()),
        ];
        nest(kind, &[nest(nf::TUPLE_IP, &addresses), nest(nf::TUPLE_PROTO, &protocol)])
    };
    let state = nest(nf::PROTOINFO_TCP, &[attribute(nf::TCP_STATE, &[nf::ESTABLISHED])]);
    let attributes = [
        tuple(nf::TUPLE_ORIG, client, server),
        tuple(nf::TUPLE_REPLY, server, client),
        attribute(nf::STATUS, &nf::ASSURED.to_be_bytes()),
        attribute(nf::TIMEOUT, &600_u32.to_be_bytes()),
        nest(nf::PROTOINFO, &[state]),
    ];
    message(nf::NEW, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &attributes.concat())
}
