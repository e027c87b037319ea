//! Who reads the output: slowly, not at all, or on a terminal that somebody's name could steer.

use std::{
    collections::BTreeSet,
    ffi::CStr,
    io::{self, BufRead as _, BufReader, PipeReader, PipeWriter, Read as _, Write as _},
    process::{Child, ChildStdout, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    pipe::fcntl_setpipe_size,
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;
use twtrace::{
    host::netns::Netns,
    lab::stage::{Family, First},
    model::name,
};

use crate::{
    scene::{Scene, fresh},
    tracer::{PATIENCE, spawn},
};

type Outcome = Result<(), String>;

/// Lives whose lines fill a pipe of 64 KiB twice over, and leave much.
pub const LIVES: usize = 400;

/// A `twtrace run` whose first line was read, and no other.
pub struct Run {
    child: Child,
    out: BufReader<ChildStdout>,
    first: String,
}

impl Run {
    pub fn start(netns: &Netns, format: &str, more: &[&str]) -> Result<Self, String> {
        Self::with_errors(netns, format, more, Stdio::piped())
    }

    /// As [`Run::start`], with this as its standard error.
    fn with_errors(netns: &Netns, format: &str, more: &[&str], errors: Stdio) -> Result<Self, String> {
        let args = ["run", "--netns", "self", "--format", format];
        let mut child = spawn(netns, &[&args, more].concat(), |command| {
            command.stderr(errors);
        })?;
        let mut out = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let mut first = String::new();
        out.read_line(&mut first).map_err(|error| error.to_string())?;
        Ok(Self { child, out, first })
    }

    pub fn stop(&self) -> Outcome {
        kill_process(Pid::from_child(&self.child), Signal::TERM).map_err(|error| error.to_string())
    }

    /// Waits for its end. Exit code, standard error if that is ours to read.
    pub fn ended(&mut self) -> Result<(i32, String), String> {
        let code = ended(&mut self.child)?;
        let mut errors = String::new();
        if let Some(err) = &mut self.child.stderr {
            err.read_to_string(&mut errors).map_err(|error| error.to_string())?;
        }
        Ok((code, errors))
    }

    /// All that stands in the pipe and will come, and the first line; a page at a time, with pauses.
    pub fn rest(&mut self, pause: Duration) -> Result<Vec<u8>, String> {
        let mut all = self.first.clone().into_bytes();
        let mut page = [0; 4096];
        loop {
            match self.out.read(&mut page).map_err(|error| error.to_string())? {
                0 => return Ok(all),
                n => all.extend_from_slice(&page[..n]),
            }
            thread::sleep(pause);
        }
    }
}

/// Waits for a child's end: its exit code.
fn ended(child: &mut Child) -> Result<i32, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return status.code().ok_or_else(|| format!("it ended with {status}"));
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            return Err("it does not end".to_owned());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Lines of JSON, all of them whole.
pub fn lines(bytes: &[u8]) -> Result<Vec<Value>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    if !text.ends_with('\n') {
        return Err(format!("the last line is cut: {:?}", text.lines().last()));
    }
    text.lines().map(|line| serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))).collect()
}

pub fn of_type(lines: &[Value], kind: &str) -> usize {
    lines.iter().filter(|line| line["type"] == kind).count()
}

pub fn make_lives(netns: &Netns) -> Outcome {
    let mut scene = Scene::new(netns)?;
    let listener = scene.listen()?;
    scene.live(&listener, First::Client, LIVES)
}

/// A reader that stops: whole lines, a summary that counts what is missing, and an exit code of its own.
pub fn stopped_reader() -> Outcome {
    let netns = fresh()?;
    let mut run = Run::start(&netns, "json", &["--drain-for", "1s"])?;
    make_lives(&netns)?;
    run.stop()?;
    let (code, errors) = run.ended()?;
    if code != 75 || !errors.contains("not delivered") {
        return Err(format!("exit {code}: {errors}"));
    }
    let lines = lines(&run.rest(Duration::ZERO)?)?;
    let summary = lines.last().filter(|line| line["type"] == "summary").ok_or("no summary")?;
    let dropped = summary["trouble"]["sink_dropped"].as_u64().unwrap_or(0);
    let lost = lines.iter().find(|line| line["type"] == "lost" && line["where"] == "output");
    if dropped == 0 || summary["exact"] != false || lost.is_none_or(|line| line["count"] != dropped) {
        return Err(format!("not counted: {lost:?}, {summary}"));
    }
    if !errors.contains(&format!("{dropped} lines not delivered")) {
        return Err(format!("{dropped} were dropped, and it says: {errors}"));
    }
    let (born, lives) = (of_type(&lines, "born"), summary["born_time_wait"].as_u64().unwrap_or(0));
    if born >= LIVES || lives + summary["born_fin_wait2"].as_u64().unwrap_or(0) != LIVES as u64 {
        return Err(format!("{born} lines of {LIVES}: {summary}"));
    }
    Ok(())
}

/// A reader that takes longer than `--drain-for` in all, but never stops: every line, and no complaint.
pub fn slow_reader() -> Outcome {
    let netns = fresh()?;
    let mut run = Run::start(&netns, "json", &["--drain-for", "1s"])?;
    make_lives(&netns)?;
    run.stop()?;
    let all = run.rest(Duration::from_millis(50))?;
    let (code, errors) = run.ended()?;
    let lines = lines(&all)?;
    let last = lines.last().cloned().unwrap_or_default();
    if code != 0 || of_type(&lines, "born") != LIVES || last["type"] != "summary" {
        return Err(format!("exit {code}, {} lines: {last}; {errors}", of_type(&lines, "born")));
    }
    Ok(())
}

/// Ticks come faster than they are read: of those that find no room, one is told as soon as there is room, with the number
/// of those that were not, and the summary tells it as well.
pub fn skipped_ticks() -> Outcome {
    let netns = fresh()?;
    let mut run = Run::start(&netns, "json", &["--by", "port", "--interval", "10ms"])?;
    let mut told = None;
    // Each time nobody reads for longer: the pipe and twtrace's queue are full in a second or two.
    for pause in [2, 4, 8, 16] {
        thread::sleep(Duration::from_secs(pause));
        for _ in 0..1000 {
            let mut line = String::new();
            run.out.read_line(&mut line).map_err(|error| error.to_string())?;
            let line: Value = serde_json::from_str(&line).map_err(|error| format!("{error}: {line}"))?;
            let skipped = line["ticks_skipped"].as_u64().unwrap_or(0);
            if skipped > 0 {
                told = Some((skipped, line));
                break;
            }
        }
        if told.is_some() {
            break;
        }
    }
    let (skipped, line) = told.ok_or("no tick says that others were skipped")?;
    if line["type"] != "tick" || line["by"].is_null() {
        return Err(format!("not a tick with its tables: {line}"));
    }
    run.stop()?;
    let mut rest = Vec::new();
    run.out.read_to_end(&mut rest).map_err(|error| error.to_string())?;
    let (code, errors) = run.ended()?;
    let lines = lines(&rest)?;
    let summary = lines.last().cloned().unwrap_or_default();
    if code != 0 || summary["type"] != "summary" || summary["ticks_skipped"].as_u64().is_none_or(|all| all < skipped) {
        return Err(format!("exit {code}, {skipped} skipped before: {summary}; {errors}"));
    }
    Ok(())
}

/// A pipe that is full and that nobody reads.
fn full_pipe() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, mut writer) = io::pipe()?;
    let flags = fcntl_getfl(&writer)?;
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK)?;
    for piece in [&[b'#'; 4096][..], b"#"] {
        while writer.write(piece).is_ok() {}
    }
    fcntl_setfl(&writer, flags)?;
    Ok((reader, writer))
}

/// Standard error is a full pipe that nobody reads (`2>&1 | less`, and nobody turns the page): events are told all the same,
/// SIGTERM ends the run with its summary, and whoever reads standard error afterwards learns what is missing there.
pub fn stuck_errors() -> Outcome {
    const FEW: usize = 20;
    // The programs' own log goes to standard error as well, a line for each life that finds no room in the table.
    for (format, more) in [("text", &[][..]), ("json", &["--ebpf-log", "trace", "--max-lives", "4"])] {
        let netns = fresh()?;
        let (mut errors, full) = full_pipe().map_err(|error| error.to_string())?;
        let mut run = Run::with_errors(&netns, format, more, full.into())?;
        let mut scene = Scene::new(&netns)?;
        let listener = scene.listen()?;
        scene.live(&listener, First::Client, FEW)?;
        run.stop()?;
        let (code, _) = run.ended().map_err(|error| format!("{format}: {error}"))?;
        let all = run.rest(Duration::ZERO)?;
        let text = String::from_utf8_lossy(&all).into_owned();
        let mut said = String::new();
        errors.read_to_string(&mut said).map_err(|error| error.to_string())?;
        let said = said.trim_start_matches('#');
        let (born, is_told) = match format {
            "json" => {
                let lines = lines(&all)?;
                let summary = lines.last().cloned().unwrap_or_default();
                let born = ["born_time_wait", "born_fin_wait2"].map(|name| summary[name].as_u64().unwrap_or(0));
                let counted = born.iter().sum::<u64>();
                let is_right = summary["type"] == "summary" && counted == FEW as u64 && summary["lost"] == 0;
                (of_type(&lines, "born"), is_right)
            }
            _ => (
                text.lines().filter(|line| line.contains(" born ")).count(),
                said.contains(&format!("\nborn            {FEW}:")),
            ),
        };
        if code != 0 || born != FEW || !is_told || !said.contains("standard error is read too slowly: ") {
            return Err(format!("{format}: exit {code}, {born} births of {FEW}: {said}\n{text}"));
        }
    }
    Ok(())
}

/// `2>&1 | less`, and nobody turns the page: the events that find no room in the ring are told as lost on standard error,
/// which is the same full pipe. SIGTERM ends the run all the same, and every life is a line, or counted as lost.
pub fn shared_pipe() -> Outcome {
    // Not so many that the first have run their course before the last is made.
    const ROUNDS: usize = 100;
    const EACH: usize = 10;
    let netns = fresh()?;
    let (mut reader, pipe) = io::pipe().map_err(|error| error.to_string())?;
    // Four pages, of which the first remarks take one: a pipe takes nothing while none is free.
    fcntl_setpipe_size(&pipe, 4 * 4096).map_err(|error| error.to_string())?;
    let errors = pipe.try_clone().map_err(|error| error.to_string())?;
    let args = ["run", "--netns", "self", "--format", "text", "--ring-size", "4096", "--drain-for", "1s"];
    let mut child = spawn(&netns, &[&args[..], &["--interval", "10ms", "--events", "born"]].concat(), |command| {
        command.stdout(pipe).stderr(errors);
    })?;
    let mut first = Vec::new();
    while !first.contains(&b'\n') {
        let mut page = [0; 64];
        let count = reader.read(&mut page).map_err(|error| error.to_string())?;
        first.extend_from_slice(&page[..count]);
    }
    let mut scene = Scene::new(&netns)?;
    let listener = scene.listen()?;
    // A batch every 40 ms, of which the queue holds 64.
    for _ in 0..ROUNDS {
        scene.live(&listener, First::Client, EACH)?;
        thread::sleep(Duration::from_millis(50));
    }
    kill_process(Pid::from_child(&child), Signal::TERM).map_err(|error| error.to_string())?;
    let code = ended(&mut child)?;
    let mut said = String::from_utf8_lossy(&first).into_owned();
    reader.read_to_string(&mut said).map_err(|error| error.to_string())?;
    let numbers = |what: &str| -> Option<Vec<u64>> {
        let line = said.lines().rfind(|line| line.contains(what))?;
        Some(line.split(' ').filter_map(|word| word.trim_end_matches(':').parse().ok()).collect())
    };
    let [_, _, _, lost] = numbers("emitted +").ok_or_else(|| format!("no summary: {said}"))?[..] else {
        return Err(format!("which is seen, emitted, filtered, lost? {said}"));
    };
    let dropped = numbers("(sink_dropped)").map_or(0, |numbers| numbers[0]);
    let born = said.lines().filter(|line| line.split_whitespace().nth(1) == Some("born")).count() as u64;
    let made = (ROUNDS * EACH) as u64;
    if code != 75 || lost == 0 || dropped == 0 || born + lost + dropped != made {
        return Err(format!("exit {code}: {born} lines, {lost} lost, {dropped} dropped of {made}: {said}"));
    }
    Ok(())
}

/// Names of threads that would steer a terminal, turn the line round, or are no UTF-8.
const NAMES: [&CStr; 8] = [
    c"\x1b[31mred\x1b[0m",
    c"a\nb\rc\td",
    c"\xff\xfe\x80bad",
    c"\xfe\xff\x80bad",
    c"???bad",
    c"\xe2\x80\xaeabc",
    c"\xe2\x80\xa8ls",
    c"\xc2\x9b31mC1",
];

/// Hostile names: a line of text each, with nothing hidden in it; in JSON as many names as there are, and nothing hidden.
pub fn hostile_names() -> Outcome {
    for format in ["json", "text"] {
        let netns = fresh()?;
        let mut run = Run::start(&netns, format, &["--events", "born"])?;
        let mut scene = Scene::new(&netns)?;
        let listener = scene.listen()?;
        for name in NAMES {
            scene.act(|stage| {
                let _ = rustix::thread::set_name(name);
                stage.live(&listener, Family::V4, First::Client).map(|_| ())
            })?;
        }
        run.stop()?;
        let all = run.rest(Duration::ZERO)?;
        let (code, errors) = run.ended()?;
        let text = std::str::from_utf8(&all).map_err(|error| error.to_string())?;
        if code != 0 || text.chars().any(|c| c != '\n' && name::is_hidden(c)) {
            return Err(format!("exit {code}: {errors}; {text:?}"));
        }
        let born = match format {
            "json" => {
                let lines = lines(&all)?;
                let comms = lines.iter().filter(|line| line["type"] == "born").filter_map(|line| line["comm"].as_str());
                let told: BTreeSet<_> = comms.map(str::to_owned).collect();
                let made: BTreeSet<_> = NAMES.iter().map(|name| name::text(name.to_bytes()).into_owned()).collect();
                if told != made {
                    return Err(format!("{told:?} instead of {made:?}"));
                }
                told.len()
            }
            _ => text.lines().filter(|line| line.contains(" born ")).count(),
        };
        if born != NAMES.len() {
            return Err(format!("{born} lines of {}: {text}", NAMES.len()));
        }
    }
    Ok(())
}
