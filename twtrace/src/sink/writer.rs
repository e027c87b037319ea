//! The thread that owns the output. Whoever formats never waits for whoever reads: a batch that finds the queue full is
//! dropped, and its lines are counted. At any time, lines in = written + dropped + under way.

use std::{
    fs::File,
    io::{self, ErrorKind, Write},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread,
    time::Duration,
};

use tokio::sync::watch;

use super::BATCH_BYTES;

/// Batches that may wait for the reader, of [`BATCH_BYTES`] each: where batches are larger, fewer may wait.
pub const QUEUE_BATCHES: usize = 64;
/// How long [`Writer::finish`] waits for the reader.
pub const GRACE: Duration = Duration::from_secs(2);

/// Whole lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
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
        Self { bytes, lines }
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
    /// It could not be written.
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
        Self::spawn(File::from(io::stdout().as_fd().try_clone_to_owned()?))
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
        let (queue, from_queue) = mpsc::sync_channel(batches);
        // The last batch has a way of its own: it holds the summary, and must not find the queue full.
        let (last, from_last) = mpsc::sync_channel(1);
        let (end, ended) = mpsc::sync_channel(1);
        let (close, closed) = watch::channel(false);
        let fate = Arc::new(Fate::default());
        let mut worker = Worker { out, fate: Arc::clone(&fate), close, failure: None };
        thread::Builder::new().name("twtrace-writer".to_owned()).spawn(move || {
            while let Ok(batch) = from_queue.recv() {
                worker.put(&batch);
            }
            if let Ok(batch) = from_last.try_recv() {
                worker.put(&batch);
            }
            // Nobody is there to hear it if the time limit is over.
            let _ = end.send(worker.failure);
        })?;
        let room = batches.saturating_mul(BATCH_BYTES) as u64;
        Ok(Self { queue, last, ended, closed, fate, room, bytes_in: 0, lines_in: 0, refused: 0 })
    }

    /// Hands over a batch. Never waits: if there is no room, its lines are dropped and counted.
    pub fn send(&mut self, batch: Batch) {
        if let Err(batch) = self.try_send(batch) {
            self.lines_in += batch.lines;
            self.refused += batch.lines;
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

    /// What became of the lines so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let dropped = self.refused + self.fate.discarded.load(Relaxed);
        Tally { lines_in: self.lines_in, written: self.fate.written.load(Relaxed), dropped }
    }

    /// True from the first failed write on: nothing more will be written.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Ends when [`Writer::is_closed`] becomes true.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut closed = self.closed.clone();
        async move {
            // An error means that the thread has ended: nothing more will be written then either.
            let _ = closed.wait_for(|closed| *closed).await;
        }
    }

    /// Writes what waits, then `last`, and ends; waits for the reader no longer than [`GRACE`].
    pub fn finish(self, last: Batch) -> (Tally, End) {
        self.finish_within(last, GRACE)
    }

    /// As [`Writer::finish`], with another limit.
    pub fn finish_within(mut self, last: Batch, limit: Duration) -> (Tally, End) {
        self.lines_in += last.lines;
        let _ = self.last.try_send(last);
        // The thread reads `last` once the queue is closed.
        drop(self.queue);
        let end = match self.ended.recv_timeout(limit) {
            Ok(None) => End::Flushed,
            Ok(Some(error)) if error.kind() == ErrorKind::BrokenPipe => End::Closed,
            Ok(Some(error)) => End::Failed(error),
            Err(RecvTimeoutError::Timeout) => End::Stuck,
            Err(RecvTimeoutError::Disconnected) => End::Failed(io::Error::other("the writer's thread broke down")),
        };
        let written = self.fate.written.load(Relaxed);
        (Tally { lines_in: self.lines_in, written, dropped: self.lines_in.saturating_sub(written) }, end)
    }
}

/// The thread's side.
struct Worker<W> {
    out: W,
    fate: Arc<Fate>,
    close: watch::Sender<bool>,
    failure: Option<io::Error>,
}

impl<W: Write> Worker<W> {
    /// Writes a batch; after a failure, counts it instead, so that the sums hold.
    fn put(&mut self, batch: &Batch) {
        let mut rest = batch.bytes.as_slice();
        if self.failure.is_none()
            && let Err(error) = self.write(&mut rest)
        {
            self.failure = Some(error);
            self.close.send_replace(true);
        }
        self.fate.discarded.fetch_add(newlines(rest), Relaxed);
        self.fate.bytes_done.fetch_add(batch.bytes.len() as u64, Relaxed);
    }

    /// `write_all`, which leaves in `rest` what was not written.
    fn write(&mut self, rest: &mut &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => {
                    let (done, left) = rest.split_at(n.min(rest.len()));
                    self.fate.written.fetch_add(newlines(done), Relaxed);
                    *rest = left;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Somebody else who shares the terminal or pipe made it non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(2)),
                Err(error) => return Err(error),
            }
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
