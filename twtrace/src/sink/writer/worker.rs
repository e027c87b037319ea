//! The thread's side of the writer.

use std::{
    io::{self, ErrorKind},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use tokio::sync::watch;

use super::{Batch, Fate, GLANCE, REMARKS, newlines, output::Output};

/// The thread's side.
pub(super) struct Worker<W> {
    pub(super) out: W,
    pub(super) fate: Arc<Fate>,
    /// Written so far.
    pub(super) bytes: u64,
    pub(super) close: watch::Sender<bool>,
    pub(super) failure: Option<io::Error>,
}

impl<W: Output> Worker<W> {
    /// Writes a batch; after a failure, or once it is given up, counts it instead, so that the sums hold.
    pub(super) fn put(&mut self, batch: &Batch) {
        let mut rest = batch.bytes.as_ref();
        self.try_write(&mut rest);
        self.done(batch, rest);
    }

    /// Writes the last batch. If the reader is given up, and its pipe is full, the pipe is made wider: should it be read one
    /// day, the end is there.
    pub(super) fn put_last(&mut self, batch: &Batch) {
        let mut rest = batch.bytes.as_ref();
        self.try_write(&mut rest);
        let size = rest.len();
        if size > 0 && self.failure.is_none() && (self.out.room(size, Duration::ZERO) >= size || self.out.widen(size)) {
            self.fate.given_up.store(false, Relaxed);
            self.try_write(&mut rest);
        }
        self.done(batch, rest);
        // What is said now is said on standard error, which may be the same pipe (`2>&1 | less`).
        if self.out.room(REMARKS, Duration::ZERO) < REMARKS {
            self.out.widen(REMARKS);
        }
    }

    fn try_write(&mut self, rest: &mut &[u8]) {
        if self.failure.is_none()
            && let Err(error) = self.write(rest)
        {
            self.failure = Some(error);
            self.close.send_replace(true);
        }
    }

    fn done(&self, batch: &Batch, unwritten: &[u8]) {
        self.fate.discarded.fetch_add(newlines(unwritten), Relaxed);
        self.fate.bytes_done.fetch_add(batch.bytes.len() as u64, Relaxed);
    }

    /// `write_all`, which leaves in `rest` what was not written. As much is written at once as there is room for, in whole
    /// lines, so that whoever gives up leaves no half of a line behind.
    fn write(&mut self, rest: &mut &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            if self.fate.given_up.load(Relaxed) {
                return Ok(());
            }
            let line = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
            let room = self.out.room(line, GLANCE);
            self.note_taken();
            if room == 0 {
                continue;
            }
            let fits = &rest[..room.min(rest.len())];
            let lines = memchr::memrchr(b'\n', fits).map_or(fits.len(), |end| end + 1);
            match self.out.write(&fits[..lines]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => {
                    let (done, left) = rest.split_at(n.min(rest.len()));
                    self.fate.written.fetch_add(newlines(done), Relaxed);
                    self.bytes += done.len() as u64;
                    *rest = left;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Somebody else who shares the terminal or pipe made it non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(2)),
                Err(error) => return Err(error),
            }
            self.note_taken();
        }
        self.out.flush()
    }

    fn note_taken(&self) {
        self.fate.taken.store(self.bytes.saturating_sub(self.out.unread()), Relaxed);
    }
}
