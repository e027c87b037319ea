//! Several observers of one run: each has all of it, and loses only what is its own fault.

use std::{
    env, fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use twtrace::lab::stage::First;

use crate::{
    readers::{LIVES, Run, lines, make_lives, of_type},
    scene::{Scene, fresh},
    screen::Tmux,
    tracer::{PATIENCE, binary},
};

type Outcome = Result<(), String>;

/// A file for the lines of a run, which is removed at the end.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        Self(env::temp_dir().join(format!("twtrace-e2e-{}-{name}.jsonl", std::process::id())))
    }

    fn also(&self) -> String {
        format!("json:{}", self.0.display())
    }

    /// All lines, once the last of them is the summary.
    fn whole(&self) -> Result<Vec<Value>, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let bytes = fs::read(&self.0).map_err(|error| format!("{}: {error}", self.0.display()))?;
            let said = lines(&bytes);
            match said {
                Ok(said) if said.last().is_some_and(|line| line["type"] == "summary") => return Ok(said),
                other if Instant::now() > deadline => return Err(format!("no summary in the file: {other:?}")),
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Every birth is there, and the summary of these lines says that they are all.
fn is_whole(said: &[Value], lives: usize) -> Outcome {
    let summary = said.last().cloned().unwrap_or_default();
    let born = summary["born_time_wait"].as_u64().unwrap_or(0) + summary["born_fin_wait2"].as_u64().unwrap_or(0);
    if said[0]["type"] != "start" || of_type(said, "born") != lives || born != lives as u64 {
        return Err(format!("{} births of {lives}: {summary}", of_type(said, "born")));
    }
    if !summary["trouble"]["sink_dropped"].is_null() {
        return Err(format!("it says that its reader was too slow: {summary}"));
    }
    Ok(())
}

/// The live view on a terminal and JSON in a file: both tell the same run, whole.
pub fn two_observers() -> Outcome {
    const SEEN: usize = 40;
    let netns = fresh()?;
    let file = File::new("two");
    let tmux = Tmux::start(&netns, "two")?;
    let start = format!("{} run --netns self --interval 250ms --also {}", binary().display(), file.also());
    tmux.keys(&[&start, "Enter"])?;
    tmux.shows("the live view", |screen| screen.contains("1 Ports") && screen.contains("kernel: diff 0"))?;
    let mut scene = Scene::new(&netns)?;
    let listener = scene.listen()?;
    let port = listener.local_addr().map_err(|error| error.to_string())?.port().to_string();
    scene.live(&listener, First::Client, SEEN)?;
    let row = |screen: &str| {
        let mut rows = screen.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.any(|cells| cells.starts_with(&["client", &port, &SEEN.to_string()]))
    };
    tmux.shows("the port and its minisocks", row)?;
    // Counts that the view begins anew are its own: the file's go on.
    tmux.keys(&["r"])?;
    tmux.shows("that counts are reset", |screen| screen.contains("counts are reset"))?;
    tmux.keys(&["q"])?;
    is_whole(&file.whole()?, SEEN)
}

/// Nobody reads standard output: the file is complete all the same, and says under whose name what was lost.
pub fn stuck_observer() -> Outcome {
    let netns = fresh()?;
    let file = File::new("stuck");
    let mut run = Run::start(&netns, "json", &["--drain-for", "1s", "--also", &file.also()])?;
    make_lives(&netns)?;
    run.stop()?;
    let (code, errors) = run.ended()?;
    if code != 75 || !errors.contains("standard output") || !errors.contains("lines not delivered") {
        return Err(format!("exit {code}: {errors}"));
    }
    let said = file.whole()?;
    is_whole(&said, LIVES)?;
    // One line each interval in which something was lost.
    let lost: Vec<_> = said.iter().filter(|line| line["type"] == "lost").collect();
    if let Some(other) = lost.iter().find(|line| line["where"] != "output" || line["observer"] != "standard output") {
        return Err(format!("whose loss it is: {other}"));
    }
    let count: u64 = lost.iter().filter_map(|line| line["count"].as_u64()).sum();
    if count == 0 || !errors.contains(&format!("{count} lines not delivered")) {
        return Err(format!("{count} lines lost, and it says: {errors}"));
    }
    Ok(())
}

/// A file on a full disk: standard output is complete, is told once that the other has ended, and the end says why.
pub fn failed_observer() -> Outcome {
    // They fit into the pipe, ticks and all.
    const FEW: usize = 20;
    let netns = fresh()?;
    let mut run = Run::start(&netns, "json", &["--interval", "200ms", "--also", "json:/dev/full"])?;
    let mut scene = Scene::new(&netns)?;
    let listener = scene.listen()?;
    scene.live(&listener, First::Client, FEW)?;
    // Some ticks find it closed.
    thread::sleep(Duration::from_millis(600));
    run.stop()?;
    let (code, errors) = run.ended()?;
    let said = lines(&run.rest(Duration::ZERO)?)?;
    if code != 70 || !errors.contains("json:/dev/full") || !errors.contains("No space left on device") {
        return Err(format!("exit {code}: {errors}"));
    }
    is_whole(&said, FEW)?;
    let lost: Vec<_> = said.iter().filter(|line| line["type"] == "lost").collect();
    match lost.as_slice() {
        [lost] if lost["where"] == "closed" && lost["observer"] == "json:/dev/full" => Ok(()),
        other => Err(format!("losses: {other:?}")),
    }
}
