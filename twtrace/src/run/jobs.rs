//! Job control of a live view: it is suspended (Ctrl-Z) only after the terminal is given back, and takes it again when it goes
//! on (`fg`). Without a live view the kernel does what is to be done.

use std::{io, mem::MaybeUninit};

use rustix::process::{Signal as Number, getpgrp, kill_process_group};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What somebody at a shell asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// To be suspended.
    Suspend,
    /// The process has gone on after it was stopped.
    GoneOn,
}

/// Signals of job control.
pub(super) struct Jobs(Option<(Signal, Signal)>);

impl Jobs {
    /// The signals of a live view; none for all else.
    pub fn of(is_live: bool) -> io::Result<Self> {
        if !is_live {
            return Ok(Self(None));
        }
        let [suspend, go_on] = [libc::SIGTSTP, libc::SIGCONT].map(|number| signal(SignalKind::from_raw(number)));
        Ok(Self(Some((suspend?, go_on?))))
    }

    /// The next.
    pub async fn next(&mut self) -> Job {
        let Some((suspend, go_on)) = &mut self.0 else { return std::future::pending().await };
        tokio::select! {
            _ = suspend.recv() => Job::Suspend,
            _ = go_on.recv() => Job::GoneOn,
        }
    }
}

/// What Ctrl-Z does where the terminal itself does not see to it: all of the job is to be suspended (`twtrace | tee`).
pub(super) fn ask() {
    // It may always signal itself.
    let _always = kill_process_group(getpgrp(), Number::TSTP);
}

/// Suspends the process, and returns when it goes on: at once if nobody could let it go on, because there is no shell with job
/// control (`ssh -t host twtrace run`). Only the signal's default action leaves it out then; SIGSTOP would not.
pub(super) fn suspend() {
    let mut before = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: all zeroes are a sigaction: SIG_DFL, no flags, an empty mask.
    let default: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: both point to a sigaction, and the default action runs no code of this process.
    if unsafe { libc::sigaction(libc::SIGTSTP, &raw const default, before.as_mut_ptr()) } != 0 {
        return;
    }
    // SAFETY: sigaction has filled `before` in, and raise() has no conditions.
    unsafe {
        libc::raise(libc::SIGTSTP);
        libc::sigaction(libc::SIGTSTP, before.as_ptr(), std::ptr::null_mut());
    }
}
