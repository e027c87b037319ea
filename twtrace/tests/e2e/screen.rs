//! The live view on a real terminal: tmux types, and reads what is shown.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use twtrace::{host::netns::Netns, lab::stage::First};

use crate::{
    scene::{Scene, fresh},
    tracer::{PATIENCE, binary, forking},
};

/// A tmux server of its own.
struct Tmux {
    socket: PathBuf,
}

impl Tmux {
    /// Starts a shell in the namespace.
    fn start(netns: &Netns, name: &str) -> Result<Self, String> {
        let socket = env::temp_dir().join(format!("twtrace-e2e-{}-{name}.tmux", std::process::id()));
        let tmux = Self { socket };
        let _no_traffic = forking();
        let done = netns.run(|| {
            let mut command = tmux.command(&["new-session", "-d", "-x", "120", "-y", "30", "sh"]);
            command.env("TERM", "xterm-256color").env("PS1", "$ ").env_remove("NO_COLOR").status()
        });
        match done {
            Ok(status) if status.success() => Ok(tmux),
            other => Err(format!("tmux does not start: {other:?}")),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-f").arg("/dev/null").arg("-S").arg(&self.socket).args(args).stdin(Stdio::null());
        command
    }

    fn ask(&self, args: &[&str]) -> Result<String, String> {
        let _no_traffic = forking();
        let output = self.command(args).output().map_err(|error| format!("tmux: {error}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn keys(&self, keys: &[&str]) -> Result<(), String> {
        self.ask(&[&["send-keys"], keys].concat()).map(drop)
    }

    /// The screen, once it shows what is wanted.
    fn shows(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.ask(&["capture-pane", "-p"])?;
            if wanted(&screen) {
                return Ok(screen);
            }
            if Instant::now() > deadline {
                return Err(format!("the screen does not show {what}:\n{screen}"));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The terminal's settings, as stty has them.
    fn modes(&self, name: &str) -> Result<String, String> {
        let file = self.socket.with_extension(name);
        let shown = file.display().to_string();
        self.keys(&[&format!("stty -g > {shown}.new; mv {shown}.new {shown}"), "Enter"])?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(modes) = fs::read_to_string(&file) {
                fs::remove_file(&file).map_err(|error| error.to_string())?;
                return Ok(modes);
            }
            if Instant::now() > deadline {
                return Err(format!("no shell answers:\n{}", self.ask(&["capture-pane", "-p"])?));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.ask(&["kill-server"]);
        let _ = fs::remove_file(&self.socket);
    }
}

/// Why there is no tmux to ask; `None` if there is.
pub fn missing() -> Option<String> {
    let found = Command::new("tmux").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match found {
        Ok(status) if status.success() => None,
        _ => Some("there is no tmux here".to_owned()),
    }
}

/// What a person does: looks at the ports, at one port's histograms, at the destinations; filters, quits. The numbers are
/// those of the traffic, and the terminal is as it was before.
pub fn screen() -> Result<(), String> {
    const LIVES: usize = 40;
    let netns = fresh()?;
    let tmux = Tmux::start(&netns, "screen")?;
    let before = tmux.modes("before")?;
    let start = format!("{} run --netns self --interval 250ms", binary().display());
    tmux.keys(&[&start, "Enter"])?;
    tmux.shows("the live view", |screen| screen.contains("1 Ports") && screen.contains("kernel: diff 0"))?;
    let mut scene = Scene::new(&netns)?;
    let listener = scene.listen()?;
    let port = listener.local_addr().map_err(|error| error.to_string())?.port().to_string();
    scene.live(&listener, First::Client, LIVES)?;
    let row = |screen: &str| {
        let mut rows = screen.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.any(|cells| cells.starts_with(&["client", &port, &LIVES.to_string()]))
    };
    tmux.shows("the port and its minisocks", row)?;
    // Other tests leave minisocks in other namespaces: all numbers are of this one. The last life may be a FIN_WAIT2 for a
    // moment, and the kernel's counters may be read in the middle of it.
    let (states, gauge) = (format!("time_wait {LIVES}, fin_wait2 0"), format!(" {LIVES}/"));
    let at_rest =
        |screen: &str| screen.contains(&states) && screen.contains(&gauge) && !screen.contains("kernel: comparing");
    let screen = tmux.shows("the states and the buckets of this namespace", at_rest)?;
    if !screen.contains(&format!("live {LIVES} in ")) || !screen.contains("kernel: diff 0") {
        return Err(format!("the header has other numbers:\n{screen}"));
    }
    tmux.keys(&["Enter"])?;
    let histogram = format!("age of connections when they closed  n {LIVES} ");
    tmux.shows("the port's histogram", |screen| screen.contains(&histogram) && screen.contains('█'))?;
    tmux.keys(&["Escape"])?;
    tmux.keys(&["2"])?;
    let used = |screen: &str| {
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        screen.lines().map(cells).any(|cells| cells.get(1..3) == Some(&[port.clone(), LIVES.to_string()][..]))
    };
    tmux.shows("the destination and its ports", used)?;
    tmux.keys(&["/"])?;
    tmux.keys(&["-l", "rport:1"])?;
    tmux.keys(&["Enter"])?;
    tmux.shows("nothing, for the filter", |screen| screen.contains("nothing matches the filter rport:1"))?;
    // Another size, in the middle of it.
    tmux.ask(&["resize-window", "-x", "80", "-y", "24"])?;
    tmux.keys(&["Escape"])?;
    tmux.shows("the table at 80x24", used)?;
    tmux.keys(&["q"])?;
    tmux.shows("the summary", |screen| screen.contains("exact") && screen.contains("reconcile"))?;
    is_sane(&tmux, &before)
}

/// SIGTERM in the middle of it leaves a terminal that can be used.
pub fn screen_is_left() -> Result<(), String> {
    let netns = fresh()?;
    let tmux = Tmux::start(&netns, "left")?;
    let before = tmux.modes("before")?;
    let start = format!("{} run --netns self & P=$!; fg", binary().display());
    tmux.keys(&["set -m", "Enter"])?;
    tmux.keys(&[&start, "Enter"])?;
    tmux.shows("the live view", |screen| screen.contains("1 Ports"))?;
    let pid = tmux.ask(&["display-message", "-p", "#{pane_pid}"])?;
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", pid.trim()));
    let child = children.map_err(|error| error.to_string())?;
    let child: i32 = child.split_whitespace().next().and_then(|pid| pid.parse().ok()).ok_or("no child of the shell")?;
    let pid = rustix::process::Pid::from_raw(child).ok_or("no process")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|error| error.to_string())?;
    tmux.shows("the summary", |screen| screen.contains("exact"))?;
    is_sane(&tmux, &before)
}

fn is_sane(tmux: &Tmux, before: &str) -> Result<(), String> {
    let after = tmux.modes("after")?;
    if after != before {
        return Err(format!("stty was {before}, is {after}"));
    }
    let flags = tmux.ask(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"])?;
    if flags.trim() != "0 1" {
        return Err(format!("not on the first screen with a cursor: {flags}"));
    }
    Ok(())
}
