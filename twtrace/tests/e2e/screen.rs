//! The live view on a real terminal: tmux types, and reads what is shown.

use std::{
    env,
    fs::{self, File},
    io::Read as _,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcgetattr, tcsetwinsize},
};
use twtrace::{host::netns::Netns, lab::stage::First};

use crate::{
    scene::{Scene, fresh},
    tracer::{PATIENCE, binary, forking, spawn},
};

/// A tmux server of its own.
pub struct Tmux {
    socket: PathBuf,
}

impl Tmux {
    /// Starts a shell in the namespace.
    pub fn start(netns: &Netns, name: &str) -> Result<Self, String> {
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

    pub fn keys(&self, keys: &[&str]) -> Result<(), String> {
        self.ask(&[&["send-keys"], keys].concat()).map(drop)
    }

    /// The screen, once it shows what is wanted.
    pub fn shows(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String, String> {
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

/// Ctrl-Z and `fg`, and a shell's work between them; the same for a SIGTSTP from elsewhere, and for a SIGSTOP, which nobody can
/// prepare for.
pub fn suspended() -> Result<(), String> {
    const LIVES: usize = 40;
    let netns = fresh()?;
    let tmux = Tmux::start(&netns, "suspended")?;
    let before = tmux.modes("before")?;
    let start = format!("{} run --netns self --interval 250ms", binary().display());
    tmux.keys(&[&start, "Enter"])?;
    let is_whole = |screen: &str| {
        let has = |what: &str| screen.matches(what).count() == 1;
        has("twtrace") && has("1 Ports") && has("kernel: diff 0") && !screen.contains("Stopped")
    };
    tmux.shows("the live view", is_whole)?;
    let shell = tmux.ask(&["display-message", "-p", "#{pane_pid}"])?;
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", shell.trim()));
    let children = children.map_err(|error| error.to_string())?;
    let child = children.split_whitespace().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?));
    let child = child.ok_or("no child of the shell")?;
    let mut scene = Scene::new(&netns)?;
    let listener = scene.listen()?;
    let port = listener.local_addr().map_err(|error| error.to_string())?.port().to_string();
    for round in 1..=3 {
        match round {
            1 => tmux.keys(&["C-z"])?,
            2 => kill_process(child, Signal::TSTP).map_err(|error| error.to_string())?,
            _ => kill_process(child, Signal::STOP).map_err(|error| error.to_string())?,
        }
        tmux.shows("the shell", |screen| screen.contains("Stopped") || screen.contains("suspended"))?;
        if round < 3 {
            is_sane(&tmux, &before)?;
        }
        // Minisocks that are born meanwhile wait in the ring.
        scene.live(&listener, First::Client, LIVES)?;
        // A line feed ends a line whether or not the terminal is still in the mode of the view.
        tmux.keys(&["clear; fg", "C-j"])?;
        let all = (LIVES * round).to_string();
        let row = |screen: &str| {
            let mut rows = screen.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            rows.any(|cells| cells.starts_with(&["client", &port, &all]))
        };
        tmux.shows("the whole view again", |screen| is_whole(screen) && row(screen))?;
        let flags = tmux.ask(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"])?;
        if round < 3 && flags.trim() != "1 0" {
            return Err(format!("not on the other screen, or with a cursor: {flags}"));
        }
        // Keys come one by one, and are not shown.
        tmux.keys(&["2"])?;
        tmux.shows("the destinations", |screen| screen.contains("RADDR") && is_whole(screen))?;
        tmux.keys(&["1"])?;
        tmux.shows("the ports", row)?;
    }
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
    let pid = Pid::from_raw(child).ok_or("no process")?;
    kill_process(pid, Signal::TERM).map_err(|error| error.to_string())?;
    tmux.shows("the summary", |screen| screen.contains("exact"))?;
    is_sane(&tmux, &before)
}

/// Both ends of a terminal of 120x40.
fn terminal() -> rustix::io::Result<(File, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let terminal = ioctl_tiocgptpeer(&master, flags)?;
    tcsetwinsize(&terminal, Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 })?;
    Ok((master.into(), terminal))
}

/// Why there can be no terminal; `None` if there can.
pub fn no_terminal() -> Option<String> {
    terminal().err().map(|error| format!("no pseudo terminal can be opened: {error}"))
}

/// A terminal that shows nothing more (an ssh connection that hangs): SIGTERM ends the live view all the same, and when the
/// terminal goes on, it is given back and shows the summary.
pub fn stopped_terminal() -> Result<(), String> {
    let broken = |error: rustix::io::Errno| format!("the terminal: {error}");
    let netns = fresh()?;
    let (mut master, terminal) = terminal().map_err(broken)?;
    let before = tcgetattr(&terminal).map_err(broken)?.local_modes;
    let end = || terminal.try_clone().map(Stdio::from).map_err(|error| error.to_string());
    let (input, output, errors) = (end()?, end()?, end()?);
    let mut child = spawn(&netns, &["run", "--netns", "self", "--interval", "100ms"], move |command| {
        command.env("TERM", "xterm-256color").stdin(input).stdout(output).stderr(errors);
    })?;
    let mut scene = Scene::new(&netns)?;
    let deadline = Instant::now() + PATIENCE;
    // Until what it draws does not come through any more.
    while poll(&mut [PollFd::new(&terminal, PollFlags::OUT)], Some(&Timespec::default())).map_err(broken)? > 0 {
        let listener = scene.listen()?;
        scene.live(&listener, First::Client, 100)?;
        thread::sleep(Duration::from_millis(100));
        if Instant::now() > deadline {
            return Err("the terminal takes everything".to_owned());
        }
    }
    kill_process(Pid::from_child(&child), Signal::TERM).map_err(broken)?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                return Err("it does not end".to_owned());
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    let after = tcgetattr(&terminal).map_err(broken)?.local_modes;
    drop(terminal);
    let mut shown = Vec::new();
    // The end of a terminal whose other end is closed is EIO.
    let _eio = master.read_to_end(&mut shown);
    let shown = String::from_utf8_lossy(&shown);
    let last = shown.rsplit_once("\x1b[?1049l").map(|(_, last)| last);
    if !status.success() || after != before || last.is_none_or(|last| !last.contains("reconcile")) {
        return Err(format!("{status}, modes {before:?}, then {after:?}: {last:?}"));
    }
    Ok(())
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
