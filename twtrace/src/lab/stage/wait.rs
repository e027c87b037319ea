//! Waiting for the kernel, within what a machine may take.

use std::{
    io,
    time::{Duration, Instant},
};

use super::PATIENCE;
use crate::{
    model::event::Tuple,
    traffic::{diag, oracle},
};

/// Waits until an orphan is a minisock, or is plainly going to stay a full socket.
pub(super) fn becomes_minisock(tuple: &Tuple, count: u64) -> io::Result<bool> {
    /// A socket may be seen on its way.
    const PLAINLY: usize = 5;
    let mut full = 0;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if oracle::minisocks_reach(count, Duration::from_millis(50))? {
            return Ok(true);
        }
        full += usize::from(diag::listed()?.iter().any(|listed| listed.tuple == *tuple && !listed.minisock));
        if full == PLAINLY {
            return Ok(false);
        }
    }
    Err(io::Error::other(format!("{tuple:?} is neither a minisock nor a socket in FIN_WAIT2")))
}

/// Waits until the namespace has this many minisocks, by sockstat.
///
/// # Errors
/// If that takes too long.
#[track_caller]
pub fn await_minisocks(count: u64) -> io::Result<()> {
    let place = std::panic::Location::caller();
    if oracle::minisocks_reach(count, PATIENCE)? {
        return Ok(());
    }
    let now = oracle::minisocks()?;
    Err(io::Error::other(format!("{now} minisocks instead of {count}, at {}:{}", place.file(), place.line())))
}
