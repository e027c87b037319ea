//! Bad input, missing privilege, closed pipes: what a person runs into. Once, not once a backend.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use twtrace::{host::netns::Netns, lab::stage::First};

use crate::{
    scene::{Scene, fresh},
    tracer::{PATIENCE, Tracer, spawn},
};

type Outcome = Result<(), String>;

fn here() -> Result<Netns, String> {
    Netns::current().map_err(|error| error.to_string())
}

/// Runs to the end: exit code, standard output, standard error.
fn run(args: &[&str], set_up: impl FnOnce(&mut Command) + Send) -> Result<(i32, String, String), String> {
    let mut child = spawn(&here()?, args, set_up)?;
    let (mut out, mut err) = (child.stdout.take().ok_or("no stdout")?, child.stderr.take().ok_or("no stderr")?);
    let reader = thread::spawn(move || {
        let mut text = String::new();
        let _ = err.read_to_string(&mut text);
        text
    });
    let mut text = String::new();
    out.read_to_string(&mut text).map_err(|error| error.to_string())?;
    let code = ended(&mut child)?;
    Ok((code, text, reader.join().unwrap_or_default()))
}

fn ended(child: &mut Child) -> Result<i32, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => return status.code().ok_or_else(|| format!("it ended with {status}")),
            None if Instant::now() > deadline => {
                let _ = child.kill();
                return Err("it does not end".to_owned());
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn expect(what: &(i32, String, String), code: i32, words: &[&str]) -> Outcome {
    let (got, out, err) = what;
    if *got != code {
        return Err(format!("exit {got}, not {code}; stdout: {out}; stderr: {err}"));
    }
    if let Some(word) = words.iter().find(|word| !err.contains(*word)) {
        return Err(format!("standard error does not say '{word}': {err}"));
    }
    if err.contains("panicked") {
        return Err(format!("a panic: {err}"));
    }
    Ok(())
}

/// Without privileges: exit 77, and the capabilities by name.
pub fn unprivileged() -> Outcome {
    let nobody = 65534;
    let what = run(&["run", "--duration", "1s"], |command| {
        command.uid(nobody).gid(nobody);
    })?;
    expect(&what, 77, &["twtrace: ", "CAP_BPF", "CAP_SYS_ADMIN", "sudo"])
}

/// A BTF file that is garbage, or is not there: exit 69.
pub fn bad_btf() -> Outcome {
    let file = std::env::temp_dir().join(format!("twtrace-e2e-{}.btf", std::process::id()));
    std::fs::write(&file, b"this is no BTF at all, only words").map_err(|error| error.to_string())?;
    let path = file.to_string_lossy().into_owned();
    let garbage = run(&["run", "--duration", "1s", "--btf", &path], |_| {});
    std::fs::remove_file(&file).map_err(|error| error.to_string())?;
    expect(&garbage?, 69, &["twtrace: ", &path])?;
    expect(&run(&["run", "--duration", "1s", "--btf", "/nonexistent/btf"], |_| {})?, 69, &["/nonexistent/btf"])
}

/// Filters that cannot be parsed: exit 64, the wrong word, a right example.
pub fn bad_filters() -> Outcome {
    for (args, words) in [
        (["--port", "70000"], ["70000", "--port"]),
        (["--lport", "8100-8000"], ["8100-8000", "--lport"]),
        (["--raddr", "10.0.0.0/99"], ["10.0.0.0/99", "--raddr"]),
        (["--cause", "murdered"], ["murdered", "expired"]),
    ] {
        expect(&run(&["run", args[0], args[1]], |_| {})?, 64, &words)?;
    }
    Ok(())
}

/// `twtrace run | head -1`: ends quietly, exit 0.
pub fn closed_pipe() -> Outcome {
    let netns = fresh()?;
    let mut child = spawn(&netns, &["run", "--format", "text", "--netns", "self", "--interval", "100ms"], |_| {})?;
    let mut first = String::new();
    let mut reader = BufReader::new(child.stdout.take().ok_or("no stdout")?);
    reader.read_line(&mut first).map_err(|error| error.to_string())?;
    drop(reader);
    let mut scene = Scene::new(&netns)?;
    let listener = scene.listen()?;
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().map_err(|error| error.to_string())?.is_none() && Instant::now() < deadline {
        scene.live(&listener, First::Client, 10)?;
        thread::sleep(Duration::from_millis(50));
    }
    let mut err = String::new();
    child.stderr.take().ok_or("no stderr")?.read_to_string(&mut err).map_err(|error| error.to_string())?;
    let code = ended(&mut child)?;
    if !first.contains("EVENT") {
        return Err(format!("the first line is {first:?}"));
    }
    // What it says at the start of this machine's limits may well quote an error.
    if err.contains("panic") || err.contains("ipe") {
        return Err(format!("not quiet: {err}"));
    }
    if code == 0 { Ok(()) } else { Err(format!("exit {code}: {err}")) }
}

/// A duration ends the run by itself, an interrupt before it.
pub fn endings() -> Outcome {
    let netns = fresh()?;
    for signal in [None, Some(Signal::INT), Some(Signal::TERM)] {
        let tracer = Tracer::start(&netns, "auto", &["--duration", if signal.is_some() { "1h" } else { "1s" }])?;
        let said = match signal {
            Some(signal) => tracer.stop(signal)?,
            None => tracer.end()?,
        };
        if said.summary["duration_ns"].as_u64().is_none_or(|duration| duration == 0) {
            return Err(format!("no duration: {}", said.summary));
        }
    }
    Ok(())
}

/// The demo shows every kind of life that it promises, and nothing is lost.
pub fn demo() -> Outcome {
    let what = run(&["run", "--demo", "--format", "json", "--duration", "12s"], |_| {})?;
    expect(&what, 0, &[])?;
    for word in [
        "\"type\":\"born\"",
        "\"type\":\"refused\"",
        "\"cause\":\"recycled\"",
        "\"cause\":\"reused\"",
        "\"cause\":\"expired\"",
        "\"substate\":\"fin_wait2\"",
        "\"role\":\"server\"",
    ] {
        if !what.1.contains(word) {
            return Err(format!("the demo shows no {word}; stderr: {}", what.2));
        }
    }
    Ok(())
}

/// A full disk ends every command that prints with a message and exit code 70.
pub fn full_disk() -> Outcome {
    let commands = [
        &["--help"][..],
        &["--version"],
        &["run", "--help"],
        &["probe"],
        &["probe", "--format", "json"],
        &["doctor", "--netns", "self"],
        &["doctor", "--netns", "self", "--format", "json"],
        &["doctor", "--netns", "self", "--watch", "1h"],
        &["doctor", "--explain", "listen.overflows"],
        &["lab", "--list"],
        &["lab", "--list", "--format", "json"],
        &["run", "--netns", "self", "--format", "json", "--events", "none", "--duration", "200ms"],
        &["run", "--netns", "self", "--format", "text", "--events", "none", "--duration", "200ms"],
    ];
    for command in commands {
        let what = onto("/dev/full", command)?;
        expect(&what, 70, &["standard output", "incomplete", "No space left"])
            .map_err(|why| format!("{command:?}: {why}"))?;
        // Where there is room, the same commands are content.
        if command[0].starts_with('-') {
            expect(&onto("/dev/null", command)?, 0, &[])?;
        }
    }
    Ok(())
}

/// Runs with standard output going to this file.
fn onto(path: &str, args: &[&str]) -> Result<(i32, String, String), String> {
    let file = std::fs::OpenOptions::new().write(true).open(path).map_err(|error| error.to_string())?;
    let mut child = spawn(&here()?, args, move |command| {
        command.stdout(file);
    })?;
    let mut err = String::new();
    child.stderr.take().ok_or("no stderr")?.read_to_string(&mut err).map_err(|error| error.to_string())?;
    Ok((ended(&mut child)?, String::new(), err))
}

/// Why a process cannot be confined here; `None` if it can.
pub fn missing() -> Option<String> {
    let runs =
        |program: &&&str| Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    let missing = ["unshare", "setpriv"].iter().find(|program| !runs(program));
    missing.map(|program| format!("there is no {program} here"))
}

/// Each thing that is missing has a message that names it and the way to it, and none asks for a report.
pub fn lacks() -> Outcome {
    let shell = |script: &str| -> Result<(i32, String, String), String> {
        let binary = crate::tracer::binary().display().to_string();
        let _no_traffic = crate::tracer::forking();
        let output =
            Command::new("sh").args(["-c", script, "sh", &binary]).output().map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
    };
    let run = "\"$1\" run --events none --duration 100ms";
    let cases: [(String, i32, &[&str]); 8] = [
        (format!("ulimit -n 30; {run}"), 70, &["may have 30 open files", "ulimit -n "]),
        ("ulimit -n 30; \"$1\" probe".to_owned(), 70, &["may have 30 open files", "ulimit -n "]),
        (format!("unshare -m sh -c 'mount -t tmpfs none /proc; {run}' sh \"$1\""), 69, &["mount -t proc proc /proc"]),
        (
            "unshare -m sh -c 'mount -t tmpfs none /proc; \"$1\" doctor' sh \"$1\"".to_owned(),
            69,
            &["mount -t proc proc /proc"],
        ),
        (format!("unshare -m sh -c 'mount -t tmpfs none /sys; {run}' sh \"$1\""), 69, &["mount -t sysfs sysfs /sys"]),
        (format!("unshare -Ur {run}"), 77, &["user namespace"]),
        ("unshare -Ur \"$1\" probe".to_owned(), 77, &["user namespace"]),
        (
            "unshare -Ur sh -c 'echo 0 > /proc/sys/user/max_net_namespaces; \"$1\" run --demo' sh \"$1\"".to_owned(),
            70,
            &["user.max_net_namespaces"],
        ),
    ];
    for (script, code, words) in cases {
        let what = shell(&script)?;
        expect(&what, code, words).map_err(|why| format!("{script}: {why}"))?;
        if what.2.contains("report") {
            return Err(format!("{script}: {}", what.2));
        }
    }
    // None of it is said where nothing is missing.
    let fine = shell(&format!("ulimit -n 4096; {run}"))?;
    expect(&fine, 0, &[])?;
    if fine.2.contains("ulimit") || fine.2.contains("mount") { Err(fine.2) } else { Ok(()) }
}

/// Without CAP_SYS_PTRACE namespaces of other users' processes are missed, and it is said why; with it they are not.
pub fn no_ptrace() -> Outcome {
    const LISTED: &str = "+bpf,+perfmon,+syslog,+sys_admin,+net_admin,+net_raw";
    // A namespace that only a process of root's holds.
    let netns = fresh()?;
    let mut holder = {
        let _no_traffic = crate::tracer::forking();
        netns.run(|| Command::new("sleep").arg("600").spawn()).map_err(|error| error.to_string())?
    };
    let start = |capabilities: &str| -> Result<serde_json::Value, String> {
        let binary = crate::tracer::binary();
        let grant = format!("-all,{capabilities}");
        let _no_traffic = crate::tracer::forking();
        let output = Command::new("setpriv")
            .args([
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "--inh-caps",
                &grant,
                "--ambient-caps",
                &grant,
            ])
            .arg(binary)
            .args(["run", "--events", "none", "--format", "json", "--duration", "100ms"])
            .output()
            .map_err(|error| format!("setpriv: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let first = text.lines().next().unwrap_or_default();
        serde_json::from_str(first).map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    };
    let both = start(LISTED).and_then(|without| Ok((without, start(&format!("{LISTED},+sys_ptrace"))?)));
    let _ = holder.kill();
    let _ = holder.wait();
    let (without, with) = both?;
    let why = without["namespaces_missed_why"].as_str().unwrap_or_default();
    if !why.contains("CAP_SYS_PTRACE") || without["namespaces_missed"].as_u64() <= with["namespaces_missed"].as_u64() {
        return Err(format!("without: {without}; with: {with}"));
    }
    if with["namespaces_missed_why"].is_null() { Ok(()) } else { Err(format!("it is not missing: {with}")) }
}

/// `probe` names every capability, in both formats.
pub fn probe() -> Outcome {
    let text = run(&["probe"], |_| {})?;
    expect(&text, 0, &[])?;
    let json = run(&["probe", "--format", "json"], |_| {})?;
    expect(&json, 0, &[])?;
    let value: serde_json::Value = serde_json::from_str(&json.1).map_err(|error| format!("{error}: {}", json.1))?;
    for name in ["birth", "death", "turn", "rearm", "cause", "refusal", "conn", "closer", "no_port"] {
        if !text.1.contains(name) || value["capabilities"][name]["backend"].is_null() {
            return Err(format!("probe does not offer {name}: {} {}", text.1, json.1));
        }
    }
    Ok(())
}

/// The programs' own log can be switched on: that configuration passes the verifier too.
pub fn ebpf_log() -> Outcome {
    let netns = fresh()?;
    let tracer = Tracer::start(&netns, "auto", &["--ebpf-log", "trace", "--max-lives", "4"])?;
    let mut scene = Scene::new(&netns)?;
    let listener = scene.listen()?;
    scene.live(&listener, First::Client, 20)?;
    let said = tracer.stop(Signal::INT)?;
    let full = said.summary["trouble"]["lives_full"].as_u64().unwrap_or(0);
    if full == 0 || said.summary["exact"] == true {
        return Err(format!("20 births, 4 places: {}", said.summary));
    }
    if !said.errors.contains("table of lives is full") {
        return Err(format!("the programs' log does not say so: {}", said.errors));
    }
    Ok(())
}
