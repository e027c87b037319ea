//! What ends a run from outside.

use std::{
    future::poll_fn,
    io, mem, ptr,
    task::Poll::{Pending, Ready},
};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT, SIGTERM and SIGHUP: from the moment when this is made, each is kept until somebody asks for it.
///
/// One that twtrace was started with as ignored stays ignored: `nohup` does that with SIGHUP, and a shell with SIGINT for what
/// it starts in the background.
#[derive(Debug)]
pub struct Signals(Vec<Signal>);

impl Signals {
    /// Begins to keep them.
    ///
    /// # Errors
    /// If the kernel refuses. Must be called inside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let all = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let heeded = all.into_iter().filter(|kind| !is_ignored(*kind));
        Ok(Self(heeded.map(signal).collect::<io::Result<_>>()?))
    }

    /// Returns when one has come.
    pub async fn recv(&mut self) {
        poll_fn(|context| {
            let came = self.0.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
            if came { Ready(()) } else { Pending }
        })
        .await;
    }
}

fn is_ignored(kind: SignalKind) -> bool {
    // SAFETY: all zeroes are a valid sigaction, and the call writes one there.
    let (done, action) = unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        (libc::sigaction(kind.as_raw_value(), ptr::null(), &raw mut action), action)
    };
    done == 0 && action.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_came_before_is_kept() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut signals = Signals::new().unwrap();
            // SAFETY: a signal to this process, which is kept.
            unsafe { libc::raise(libc::SIGHUP) };
            signals.recv().await;
        });
    }
}
