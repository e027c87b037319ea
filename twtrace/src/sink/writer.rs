//! The thread that owns the output. Whoever formats never waits for whoever reads: a batch that finds the queue full is
//! dropped, and its lines are counted. At any time, lines in = written + dropped + under way.
//!
//! At the end somebody has to say how long the reader is waited for: see [`Patience`] and [`Writer::give_up`]. What is given
//! up is given up at a line's end, and the last batch, which holds the summary, still finds room in a pipe.

mod output;
mod patience;
mod worker;

use std::{
    fs::File,
    io::{self, ErrorKind, Write},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use output::Opaque;
use tokio::sync::watch;
use worker::Worker;

use super::BATCH_BYTES;

pub use output::{Descriptor, Output};
pub use patience::Patience;

/// Batches that may wait for the reader, of [`BATCH_BYTES`] each: where batches are larger, fewer may wait.
pub const QUEUE_BATCHES: usize = 64;
/// How long [`Writer::finish`] waits for a reader that takes nothing.
pub const GRACE: Duration = Duration::from_secs(2);
/// Between two looks of the thread at a full output: so long it may take to notice that it is given up.
const GLANCE: Duration = Duration::from_millis(50);
/// Room that standard error needs at the end, bytes.
const REMARKS: usize = 16 * 1024;
/// How long the thread is waited for once the output is given up: it is done at once, unless a write holds it.
const PARTING: Duration = Duration::from_millis(500);

/// Whole lines, or a frame. A copy shares the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    bytes: Bytes,
    lines: u64,
}

impl Batch {
    /// The lines in `buffer`, which is left empty and as roomy as it was.
    pub(super) fn drain(buffer: &mut Vec<u8>) -> Self {
        let room = buffer.capacity().min(2 * BATCH_BYTES);
        std::mem::replace(buffer, Vec::with_capacity(room)).into()
    }

    /// The lines themselves.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many they are.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// True if there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl From<Vec<u8>> for Batch {
    fn from(bytes: Vec<u8>) -> Self {
        let lines = newlines(&bytes);
        Self { bytes: bytes.into(), lines }
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// What became of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Handed to the writer.
    pub lines_in: u64,
    /// Written whole.
    pub written: u64,
    /// Given up: the queue was full, or the output was closed or failed.
    pub dropped: u64,
}

/// How the output ended.
#[derive(Debug)]
pub enum End {
    /// Everything that was not dropped is written.
    Flushed,
    /// Whoever read has gone away (`| head`): a reason to end, not an error.
    Closed,
    /// The output could not be written.
    Failed(io::Error),
    /// Whoever reads did not read on in time; what was under way counts as dropped.
    Stuck,
}

/// The writer's thread, from the side of whoever formats.
pub struct Writer {
    queue: SyncSender<Batch>,
    last: SyncSender<Batch>,
    ended: Receiver<Option<io::Error>>,
    closed: watch::Receiver<bool>,
    fate: Arc<Fate>,
    /// Bytes that may be under way.
    room: u64,
    bytes_in: u64,
    lines_in: u64,
    refused: u64,
}

/// What the thread did with the lines, so far.
#[derive(Default)]
struct Fate {
    written: AtomicU64,
    discarded: AtomicU64,
    /// Bytes that the reader took, as far as that can be known; those written, where it cannot.
    taken: AtomicU64,
    /// Nothing more is to be written but the last batch, and that without waiting.
    given_up: AtomicBool,
    /// Bytes of the batches that it is done with.
    bytes_done: AtomicU64,
}

impl Writer {
    /// A writer to standard output, past the buffer of the standard library.
    ///
    /// # Errors
    ///
    /// If there is no room for one more descriptor or thread.
    pub fn stdout() -> io::Result<Self> {
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Self::with_output(Descriptor::new(stdout), QUEUE_BATCHES)
    }

    /// A writer to anything.
    ///
    /// # Errors
    ///
    /// If there is no room for one more thread.
    pub fn spawn(out: impl Write + Send + 'static) -> io::Result<Self> {
        Self::with_queue(out, QUEUE_BATCHES)
    }

    /// A writer with room for this many batches.
    ///
    /// # Errors
    ///
    /// If there is no room for one more thread.
    pub fn with_queue(out: impl Write + Send + 'static, batches: usize) -> io::Result<Self> {
        Self::with_output(Opaque(out), batches)
    }

    /// A writer to an output that knows how much room it has.
    ///
    /// # Errors
    ///
    /// If there is no room for one more thread.
    pub fn with_output(out: impl Output + 'static, batches: usize) -> io::Result<Self> {
        Self::with_room(out, batches, batches.saturating_mul(BATCH_BYTES))
    }

    /// As [`Writer::with_output`], with room for this many batches, but for no more bytes than these in all of them.
    ///
    /// # Errors
    ///
    /// If there is no room for one more thread.
    pub fn with_room(out: impl Output + 'static, batches: usize, bytes: usize) -> io::Result<Self> {
        let (queue, from_queue) = mpsc::sync_channel(batches);
        // The last batch has a way of its own: it holds the summary, and must not find the queue full.
        let (last, from_last) = mpsc::sync_channel(1);
        let (end, ended) = mpsc::sync_channel(1);
        let (close, closed) = watch::channel(false);
        let fate = Arc::new(Fate::default());
        let mut worker = Worker { out, fate: Arc::clone(&fate), bytes: 0, close, failure: None };
        thread::Builder::new().name("twtrace-writer".to_owned()).spawn(move || {
            while let Ok(batch) = from_queue.recv() {
                worker.put(&batch);
            }
            worker.put_last(&from_last.try_recv().unwrap_or_default());
            // Nobody is there to hear it if the time limit is over.
            let _ = end.send(worker.failure);
        })?;
        let room = bytes as u64;
        Ok(Self { queue, last, ended, closed, fate, room, bytes_in: 0, lines_in: 0, refused: 0 })
    }

    /// Hands over a batch. Never waits: if there is no room, its lines are dropped and counted.
    pub fn send(&mut self, batch: Batch) {
        if let Err(batch) = self.try_send(batch) {
            self.drop_batch(&batch);
        }
    }

    /// As [`Writer::send`], but a batch that finds no room comes back instead of being dropped: as long as the ring has
    /// room, the kernel's side of the pipe is the better place to wait.
    ///
    /// # Errors
    ///
    /// The batch, if there is no room for it. To a closed output there always is.
    pub fn try_send(&mut self, batch: Batch) -> Result<(), Batch> {
        let (lines, bytes) = (batch.lines, batch.bytes.len() as u64);
        if batch.is_empty() {
            return Ok(());
        }
        // A batch larger than all the room passes when nothing else is under way.
        let under_way = self.bytes_in - self.fate.bytes_done.load(Relaxed);
        if under_way > 0 && under_way + bytes > self.room && !self.is_closed() {
            return Err(batch);
        }
        match self.queue.try_send(batch) {
            Ok(()) => self.bytes_in += bytes,
            Err(TrySendError::Full(batch)) if !self.is_closed() => return Err(batch),
            Err(_) => self.refused += lines,
        }
        self.lines_in += lines;
        Ok(())
    }

    /// Counts a batch as given up.
    pub fn drop_batch(&mut self, batch: &Batch) {
        self.lines_in += batch.lines;
        self.refused += batch.lines;
    }

    /// What became of the lines so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let dropped = self.refused + self.fate.discarded.load(Relaxed);
        Tally { lines_in: self.lines_in, written: self.fate.written.load(Relaxed), dropped }
    }

    /// True from the first failed write on, or once the thread has ended: nothing more will be written.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow() || self.closed.has_changed().is_err()
    }

    /// Ends when [`Writer::is_closed`] becomes true.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut closed = self.closed.clone();
        async move {
            // An error means that the thread has ended: nothing more will be written then either.
            let _ = closed.wait_for(|closed| *closed).await;
        }
    }

    /// Bytes that the reader took so far, as far as that can be known: for [`Patience`].
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.fate.taken.load(Relaxed)
    }

    /// True if nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.fate.bytes_done.load(Relaxed) == self.bytes_in
    }

    /// Writes nothing more, but for the last batch if that needs no waiting. What is under way is dropped, from the end of
    /// a line on, and counted.
    pub fn give_up(&mut self) {
        self.fate.given_up.store(true, Relaxed);
        let since = Instant::now();
        while !self.is_idle() && !self.is_closed() && since.elapsed() < PARTING {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// No batch comes but `last`, which is written when all others are.
    pub fn finish(mut self, last: Batch) -> Ending {
        let tally = self.tally();
        // Once it was given up, what is not written yet is not written any more.
        let given_up = self.fate.given_up.load(Relaxed);
        let lost = if given_up { tally.lines_in.saturating_sub(tally.written) } else { tally.dropped };
        self.lines_in += last.lines;
        let _ = self.last.try_send(last);
        let Self { ended, fate, lines_in, queue, .. } = self;
        // The thread reads `last` once the queue is closed.
        drop(queue);
        Ending { ended, fate, lines_in, lost }
    }

    /// As [`Writer::finish`], and waits until that is done, or the reader has taken nothing for so long.
    pub fn finish_within(self, last: Batch, limit: Duration) -> (Tally, End) {
        let (mut patience, began) = (Patience::new(limit, self.taken(), Duration::ZERO), Instant::now());
        let mut ending = self.finish(last);
        loop {
            if let Some(end) = ending.wait(Duration::from_millis(1)) {
                return (ending.tally(), end);
            }
            if patience.is_over(ending.taken(), began.elapsed()) {
                return ending.give_up();
            }
        }
    }
}

/// A writer that is about to end.
pub struct Ending {
    ended: Receiver<Option<io::Error>>,
    fate: Arc<Fate>,
    lines_in: u64,
    /// Lines that were lost before the last batch came.
    lost: u64,
}

impl Ending {
    /// Waits this long. Returns how the output ended, if it has.
    pub fn wait(&mut self, limit: Duration) -> Option<End> {
        match self.ended.recv_timeout(limit) {
            Ok(None) => Some(End::Flushed),
            Ok(Some(error)) if error.kind() == ErrorKind::BrokenPipe => Some(End::Closed),
            Ok(Some(error)) => Some(End::Failed(error)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                Some(End::Failed(io::Error::other("the writer's thread broke down")))
            }
        }
    }

    /// As [`Writer::taken`].
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.fate.taken.load(Relaxed)
    }

    /// As [`Writer::give_up`], for all that is left.
    pub fn give_up(mut self) -> (Tally, End) {
        self.fate.given_up.store(true, Relaxed);
        let end = match self.wait(PARTING) {
            Some(End::Flushed) if self.tally().dropped > self.lost => End::Stuck,
            Some(end) => end,
            None => End::Stuck,
        };
        (self.tally(), end)
    }

    /// What became of the lines; what is not written yet counts as dropped.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let written = self.fate.written.load(Relaxed);
        Tally { lines_in: self.lines_in, written, dropped: self.lines_in.saturating_sub(written) }
    }
}

#[cfg(test)]
mod tests;
