//! One kernel in QEMU, from power-on to the guest's last word.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    verdict::{Done, Guest, Line, Verdict},
    verifier::Verified,
};
use crate::{exec, tally::Tally};

/// The program, and the package that it is in.
pub const QEMU: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");

/// How many lines of the console a failure is shown with.
const TAIL: usize = 30;
/// How long a guest may take to power off after its last word.
const POWER_OFF: Duration = Duration::from_secs(20);
/// A kernel without a root file system panics, and `panic=-1` ends QEMU, long before this.
const KVM_PROBE: Duration = Duration::from_secs(20);

/// Every guest's kernel command line. While it boots, the kernel waits some ticks for the timer's interrupts
/// (`timer_irq_works`, arch/x86/kernel/apic/io_apic.c), and panics if there are too few: on a busy machine an emulated guest
/// does not always get the time for them.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 no_timer_check";

/// What the guest's processors run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The host's processors.
    Kvm,
    /// Software emulation, one host thread per guest processor.
    Tcg,
}

/// Decides by boot: where virtual machines are nested, /dev/kvm may be there and QEMU abort, or the guest hang.
pub fn accel(vmlinuz: &Path) -> Accel {
    if OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Accel::Tcg;
    }
    let mut command = qemu(Accel::Kvm, vmlinuz, COMMAND_LINE);
    exec::echo(&command);
    let mut booted = false;
    let ended = watch(&mut command, Stdio::null(), KVM_PROBE, |line| {
        booted |= line.contains("Linux version");
        Heard::Log
    });
    if booted && ended.is_ok_and(|ended| ended == Ended::Itself) { Accel::Kvm } else { Accel::Tcg }
}

fn qemu(accel: Accel, vmlinuz: &Path, append: &str) -> Command {
    let mut qemu = Command::new(QEMU.0);
    qemu.args(match accel {
        Accel::Kvm => ["-accel", "kvm", "-cpu", "host"],
        // One thread for both CPUs: with one each, a CPU may run into the int3 of code that the other is patching (static
        // keys, tracepoints, trampolines), after the kernel has taken it for finished: "Oops: int3".
        Accel::Tcg => ["-accel", "tcg,thread=single", "-cpu", "max"],
    });
    // No default devices: nothing then probes a disk, a screen or a network card that the tests do not use.
    qemu.args(["-M", "q35", "-m", "1024", "-smp", "2", "-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot"]);
    qemu.arg("-kernel").arg(vmlinuz).args(["-append", append]);
    qemu
}

/// A guest to boot.
pub struct Boot<'a> {
    /// The kernel's series.
    pub series: &'a str,
    /// Image of the kernel.
    pub vmlinuz: &'a Path,
    /// File system.
    pub initramfs: &'a Path,
    /// What it runs on.
    pub accel: Accel,
    /// Where its console is logged.
    pub log: PathBuf,
    /// How long it may take.
    pub timeout: Duration,
}

/// Boots a guest and listens until it is off. `each` sees every verdict as it comes.
pub fn boot(boot: &Boot<'_>, each: impl Fn(&Verdict)) -> Result<Guest> {
    let mut command = qemu(boot.accel, boot.vmlinuz, &format!("{COMMAND_LINE} quiet"));
    command.arg("-initrd").arg(boot.initramfs);
    exec::echo(&command);
    let _ = fs::remove_file(&boot.log);
    let log = || OpenOptions::new().create(true).append(true).open(&boot.log);
    let opening = || format!("opening {}", boot.log.display());
    let mut console: File = log().with_context(opening)?;
    let complaints = log().with_context(opening)?;

    let mut listener = Listener::default();
    let ended = watch(&mut command, complaints.into(), boot.timeout, |line| {
        // A full disk costs the log, not the verdicts.
        let _ = writeln!(console, "{line}");
        let heard = listener.hear(line);
        if let (Heard::Verdict, Some(verdict)) = (heard, listener.verdicts.last()) {
            each(verdict);
        }
        heard
    })?;
    Ok(listener.into_guest(boot.series, ended, boot.timeout))
}

/// The last lines of a guest's console, without what would clear the reader's screen.
pub fn tail(log: &Path) -> Vec<String> {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let printable = |line: &str| line.chars().filter(|c| *c == '\t' || !c.is_control()).collect();
    let lines: Vec<String> = text.lines().map(printable).collect();
    lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().to_vec()
}

/// How QEMU came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The guest exited.
    Itself,
    /// The guest exited with an error.
    Error,
    /// The guest was killed when the time was up.
    TimedOut,
}

/// What a line was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Log,
    Verdict,
    Done,
}

/// Runs `command`, gives every line of its output to `each`, and kills it when the time is up.
fn watch(
    command: &mut Command,
    stderr: Stdio,
    timeout: Duration,
    mut each: impl FnMut(&str) -> Heard,
) -> Result<Ended> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .with_context(|| format!("cannot start {}", QEMU.0))?;
    let Some(stdout) = child.stdout.take() else { bail!("{} has no output to read", QEMU.0) };
    let (done, is_done) = mpsc::channel::<()>();
    let running = &mut child;
    let timed_out = thread::scope(|scope| {
        let watchdog = scope.spawn(move || {
            use mpsc::RecvTimeoutError::Timeout;
            let word = is_done.recv_timeout(timeout);
            let late = word == Err(Timeout);
            let hung = word.is_ok() && is_done.recv_timeout(POWER_OFF) == Err(Timeout);
            if late || hung {
                let _ = running.kill();
            }
            late
        });
        for line in BufReader::new(stdout).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line);
            if each(line.trim_end_matches('\r')) == Heard::Done {
                let _ = done.send(());
            }
        }
        drop(done);
        watchdog.join().unwrap_or(false)
    });
    let status = child.wait().with_context(|| format!("waiting for {}", QEMU.0))?;
    Ok(match (timed_out, status.success()) {
        (true, _) => Ended::TimedOut,
        (false, true) => Ended::Itself,
        (false, false) => Ended::Error,
    })
}

/// Takes the protocol out of the lines.
#[derive(Debug, Default)]
pub struct Listener {
    /// The verdicts so far.
    pub verdicts: Vec<Verdict>,
    verified: Vec<Verified>,
    done: Option<Done>,
    garbled: usize,
    panic: Option<String>,
}

impl Listener {
    fn hear(&mut self, line: &str) -> Heard {
        match Line::parse(line) {
            Some(Line::Verdict(verdict)) => {
                self.verdicts.push(verdict);
                Heard::Verdict
            }
            Some(Line::Verified(verified)) => {
                self.verified.push(verified);
                Heard::Log
            }
            Some(Line::Done(done)) => {
                self.done = Some(done);
                Heard::Done
            }
            Some(Line::Garbled) => {
                self.garbled += 1;
                Heard::Log
            }
            None => {
                // Its last lines are the stack, and the first word is above them.
                if let Some((_, panic)) = line.split_once("Kernel panic - ") {
                    self.panic.get_or_insert(panic.to_owned());
                }
                Heard::Log
            }
        }
    }

    fn into_guest(self, series: &str, ended: Ended, timeout: Duration) -> Guest {
        let Self { verdicts, verified, done, garbled, panic } = self;
        let release = done.as_ref().map_or("?", |done| &done.release).to_owned();
        let mut guest = Guest { kernel: series.to_owned(), release, verdicts, verified, ..Guest::default() };
        let heard = guest.tally();
        guest.problem = match (done.map(|done| done.counts), ended) {
            (None, Ended::TimedOut) => Some(format!("timed out after {} s", timeout.as_secs())),
            (None, Ended::Error) => Some("QEMU failed before the guest was done".to_owned()),
            (None, Ended::Itself) => Some(match panic {
                Some(panic) => format!("kernel panic: {panic}"),
                None => "the guest ended without its @done line".to_owned(),
            }),
            (Some(counts), _) if counts != heard => Some(lost(counts, heard, garbled)),
            (Some(counts), _) if counts == Tally::default() => Some("the guest ran no test".to_owned()),
            (Some(_), _) => None,
        };
        guest
    }
}

fn lost(counts: Tally, heard: Tally, garbled: usize) -> String {
    format!("the guest counted {counts}, but {heard} came through the console ({garbled} lines garbled)")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = r#"@verdict {"test":"t","backend":"fentry","verdict":"passed","reason":null,"millis":1}"#;
    const MINUTE: Duration = Duration::from_secs(60);

    fn guest(lines: &[&str], ended: Ended) -> Guest {
        let mut listener = Listener::default();
        for line in lines {
            listener.hear(line);
        }
        listener.into_guest("6.1", ended, MINUTE)
    }

    #[test]
    fn a_good_guest_has_no_problem() {
        let done = r#"@done {"release":"6.1.0-56","passed":1,"failed":0,"skipped":0}"#;
        let guest = guest(&["boot", PASSED, done], Ended::Itself);
        assert_eq!(
            (guest.problem.as_deref(), guest.release.as_str(), guest.tally()),
            (None, "6.1.0-56", Tally::PASSED)
        );
    }

    #[test]
    fn a_guest_without_a_last_word_failed() {
        let problem = |ended| guest(&[PASSED], ended).problem.unwrap_or_default();
        assert!(problem(Ended::Itself).contains("without its @done"));
        assert!(problem(Ended::Error).contains("QEMU failed"));
        let panic = guest(&["[ 3.2] Kernel panic - not syncing: Attempted to kill init!"], Ended::Itself).problem;
        assert_eq!(panic.as_deref(), Some("kernel panic: not syncing: Attempted to kill init!"));
        assert_eq!(problem(Ended::TimedOut), "timed out after 60 s");
        assert_eq!(guest(&[PASSED], Ended::Itself).tally(), Tally { passed: 1, failed: 1, skipped: 0 });
    }

    #[test]
    fn verdicts_that_the_console_lost_are_missed() {
        let done = r#"@done {"release":"6.1","passed":2,"failed":0,"skipped":0}"#;
        let problem = guest(&[PASSED, "@verdict {\"te[   1.2] oops", done], Ended::Itself).problem.unwrap_or_default();
        assert!(problem.contains("2 passed") && problem.contains("1 passed") && problem.contains("1 lines garbled"));
    }

    #[test]
    fn a_process_that_hangs_is_killed() {
        let mut sleep = Command::new("sleep");
        sleep.arg("60");
        let ended = watch(&mut sleep, Stdio::null(), Duration::from_millis(50), |_| Heard::Log);
        assert_eq!(ended.ok(), Some(Ended::TimedOut));
    }
}
