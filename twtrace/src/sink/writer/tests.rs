//! Slow readers, closed pipes, and where every line went.

mod readers;

use std::{
    pin::pin,
    sync::{Condvar, Mutex},
    task::{Context, Poll, Waker},
};

use proptest::prelude::*;

use super::*;
use readers::{Pipe, lines};

/// Lines `from..to`, each with its number.
fn batch(numbers: std::ops::Range<u64>) -> Batch {
    numbers.map(|n| format!("{n}\n")).collect::<String>().into_bytes().into()
}

/// An output that others can look into.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().map(|bytes| bytes.clone()).unwrap_or_default()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().map_err(|_| io::Error::other("poisoned"))?.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An output that takes nothing until it is told to: says that a write has come, then waits for leave.
struct Gate {
    came: SyncSender<()>,
    leave: Receiver<()>,
    inner: Memory,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.came.try_send(());
        // Once the other end is gone, everything passes.
        let _ = self.leave.recv();
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A writer whose thread stands in its first write, with that batch of ten lines in hand.
fn held(room: usize) -> io::Result<(Writer, Memory, SyncSender<()>)> {
    let (came, has_come) = mpsc::sync_channel(1);
    let (go, leave) = mpsc::sync_channel(0);
    let memory = Memory::default();
    let mut writer = Writer::with_queue(Gate { came, leave, inner: memory.clone() }, room)?;
    writer.send(batch(0..10));
    has_come.recv().map_err(io::Error::other)?;
    Ok((writer, memory, go))
}

#[test]
fn a_full_queue_drops_and_counts_each_line() -> io::Result<()> {
    let (mut writer, memory, go) = held(2)?;
    writer.send(batch(10..11));
    writer.send(batch(11..13));
    assert_eq!(writer.tally(), Tally { lines_in: 13, written: 0, dropped: 0 });
    writer.send(batch(13..16));
    writer.send(batch(16..20));
    assert_eq!(writer.tally(), Tally { lines_in: 20, written: 0, dropped: 7 });
    assert!(!writer.is_closed());
    drop(go);
    let (tally, end) = writer.finish_within(batch(100..101), GRACE);
    assert_eq!(tally, Tally { lines_in: 21, written: 14, dropped: 7 });
    assert!(matches!(end, End::Flushed));
    let wanted: Vec<u8> = [batch(0..13), batch(100..101)].iter().flat_map(|batch| batch.bytes.clone()).collect();
    assert_eq!(memory.bytes(), wanted);
    Ok(())
}

#[test]
fn who_wants_to_wait_gets_the_batch_back() -> io::Result<()> {
    let (mut writer, memory, go) = held(1)?;
    assert_eq!(writer.try_send(batch(10..12)), Ok(()));
    assert_eq!(writer.try_send(batch(12..15)), Err(batch(12..15)));
    assert_eq!(writer.tally(), Tally { lines_in: 12, written: 0, dropped: 0 });
    drop(go);
    let (tally, _) = writer.finish_within(batch(12..15), GRACE);
    assert_eq!(tally, Tally { lines_in: 15, written: 15, dropped: 0 });
    assert_eq!(memory.bytes(), batch(0..15).bytes);
    Ok(())
}

#[test]
fn large_batches_do_not_pile_up() -> io::Result<()> {
    let large = || Batch::from(vec![b'\n'; 5 * BATCH_BYTES]);
    let (mut writer, _, go) = held(8)?;
    // There is room for eight batches, or for their bytes.
    assert_eq!(writer.try_send(large()), Ok(()));
    assert!(writer.try_send(large()).is_err());
    assert_eq!(writer.try_send(batch(0..1)), Ok(()));
    drop(go);
    let (tally, _) = writer.finish_within(Batch::default(), GRACE);
    assert_eq!((tally.lines_in, tally.dropped), (10 + 5 * BATCH_BYTES as u64 + 1, 0));
    let mut idle = Writer::with_queue(Memory::default(), 1)?;
    assert_eq!(idle.try_send(large()), Ok(()), "nothing else is under way");
    Ok(())
}

#[test]
fn the_last_batch_needs_no_room_in_the_queue() -> io::Result<()> {
    let (mut writer, memory, go) = held(1)?;
    writer.send(batch(10..20));
    drop(go);
    let (tally, _) = writer.finish_within(batch(20..21), GRACE);
    assert_eq!(tally, Tally { lines_in: 21, written: 21, dropped: 0 });
    assert_eq!(memory.bytes(), batch(0..21).bytes);
    Ok(())
}

#[test]
fn a_stuck_reader_does_not_hang_the_end() -> io::Result<()> {
    let (mut writer, _, go) = held(4)?;
    writer.send(batch(10..15));
    let (tally, end) = writer.finish_within(batch(15..16), Duration::from_millis(20));
    assert!(matches!(end, End::Stuck), "{end:?}");
    assert_eq!(tally, Tally { lines_in: 16, written: 0, dropped: 16 });
    drop(go);
    Ok(())
}

/// An output that takes so many bytes, `step` at a time at most, and then fails for good.
struct Failing {
    inner: Memory,
    left: usize,
    step: usize,
    kind: ErrorKind,
    hiccup: bool,
}

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hiccup = !self.hiccup;
        if self.hiccup {
            return Err(ErrorKind::Interrupted.into());
        }
        let n = bytes.len().min(self.step).min(self.left);
        if n == 0 {
            return Err(self.kind.into());
        }
        self.left -= n;
        self.inner.write(&bytes[..n])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failing(left: usize, kind: ErrorKind) -> (Failing, Memory) {
    let memory = Memory::default();
    (Failing { inner: memory.clone(), left, step: 3, kind, hiccup: false }, memory)
}

#[test]
fn a_closed_pipe_ends_quietly_and_tells_who_waits() -> io::Result<()> {
    let (out, memory) = failing(5, ErrorKind::BrokenPipe);
    let mut writer = Writer::spawn(out)?;
    let mut closed = pin!(writer.closed());
    let mut context = Context::from_waker(Waker::noop());
    assert_eq!(closed.as_mut().poll(&mut context), Poll::Pending);
    writer.send(batch(0..10));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(closed);
    assert!(writer.is_closed());
    // Who waits for room is not to wait for a closed pipe.
    assert_eq!(writer.try_send(batch(10..20)), Ok(()));
    let (tally, end) = writer.finish_within(batch(20..21), GRACE);
    assert!(matches!(end, End::Closed), "{end:?}");
    // Five bytes are two whole lines and half a line.
    assert_eq!(memory.bytes(), b"0\n1\n2");
    assert_eq!(tally, Tally { lines_in: 21, written: 2, dropped: 19 });
    Ok(())
}

#[test]
fn a_real_pipe_closes_as_quietly() -> io::Result<()> {
    let (reader, pipe) = io::pipe()?;
    let mut writer = Writer::spawn(pipe)?;
    drop(reader);
    writer.send(batch(0..3));
    let (tally, end) = writer.finish_within(batch(3..4), GRACE);
    assert!(matches!(end, End::Closed), "{end:?}");
    assert_eq!(tally, Tally { lines_in: 4, written: 0, dropped: 4 });
    Ok(())
}

#[test]
fn a_full_disk_is_an_error() -> io::Result<()> {
    let (out, _) = failing(4, ErrorKind::StorageFull);
    let writer = Writer::spawn(out)?;
    let (tally, end) = writer.finish_within(batch(0..3), GRACE);
    assert!(matches!(&end, End::Failed(error) if error.kind() == ErrorKind::StorageFull), "{end:?}");
    assert_eq!(tally, Tally { lines_in: 3, written: 2, dropped: 1 });
    Ok(())
}

/// An output that breaks its thread.
struct Panicking;

impl Write for Panicking {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        std::panic::resume_unwind(Box::new(()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_broken_thread_is_noticed() -> io::Result<()> {
    let mut writer = Writer::spawn(Panicking)?;
    writer.send(batch(0..2));
    tokio::runtime::Builder::new_current_thread().build()?.block_on(writer.closed());
    let (tally, end) = writer.finish_within(batch(2..3), GRACE);
    assert!(matches!(end, End::Failed(_)), "{end:?}");
    assert_eq!(tally, Tally { lines_in: 3, written: 0, dropped: 3 });
    Ok(())
}

#[test]
fn an_output_that_takes_nothing_fails() -> io::Result<()> {
    let mut nothing = [0_u8; 0];
    let mut worker = Worker {
        out: Opaque(&mut nothing[..]),
        fate: Arc::default(),
        bytes: 0,
        close: watch::channel(false).0,
        failure: None,
    };
    worker.put(&batch(0..3));
    assert_eq!(worker.failure.map(|error| error.kind()), Some(ErrorKind::WriteZero));
    assert_eq!(worker.fate.discarded.load(Relaxed), 3);
    Ok(())
}

#[test]
fn nothing_is_nothing() -> io::Result<()> {
    let mut writer = Writer::spawn(Memory::default())?;
    writer.send(Batch::default());
    let (tally, end) = writer.finish_within(Batch::default(), GRACE);
    assert!(matches!(end, End::Flushed));
    assert_eq!(tally, Tally::default());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever a reader stops, what stands in the pipe are whole lines, and all others are counted.
    #[test]
    fn a_pipe_is_cut_at_a_lines_end(
        sizes in prop::collection::vec(0..20_u64, 0..10),
        room in 10..400_usize,
        reads in prop::collection::vec(0..100_usize, 0..5),
    ) {
        let pipe = Pipe::of(room);
        let mut writer = Writer::with_output(pipe.clone(), 16)?;
        let mut next = 0;
        for size in sizes {
            writer.send(lines(next..next + size));
            next += size;
        }
        for most in reads {
            pipe.read(most);
        }
        writer.give_up();
        let tally = writer.tally();
        prop_assert_eq!(tally.lines_in, tally.written + tally.dropped);
        let (tally, end) = writer.finish_within(lines(999..1000), Duration::ZERO);
        // The last line came through, however much was lost before it.
        prop_assert!(matches!(end, End::Flushed), "{:?}", end);
        prop_assert_eq!(tally.lines_in, tally.written + tally.dropped);
        let all = pipe.all();
        prop_assert_eq!(newlines(&all), tally.written);
        prop_assert_eq!(&all, &[lines(0..tally.written - 1).bytes, lines(999..1000).bytes].concat());
    }

    /// Whatever the output does: lines in = written + dropped, and what is written is in order and without gaps but for
    /// whole batches.
    #[test]
    fn no_line_is_unaccounted_for(
        sizes in prop::collection::vec(0..20_u64, 0..40),
        left in prop_oneof![0..400_usize, Just(usize::MAX)],
        step in 1..50_usize,
        room in 1..8_usize,
    ) {
        let memory = Memory::default();
        let out = Failing { inner: memory.clone(), left, step, kind: ErrorKind::BrokenPipe, hiccup: false };
        let mut writer = Writer::with_queue(out, room)?;
        let mut next = 0;
        for size in sizes {
            writer.send(batch(next..next + size));
            next += size;
            let Tally { lines_in, written, dropped } = writer.tally();
            prop_assert!(lines_in == next && written + dropped <= lines_in);
        }
        let (tally, _) = writer.finish_within(batch(next..next + 1), GRACE);
        prop_assert_eq!(tally.lines_in, next + 1);
        prop_assert_eq!(tally.lines_in, tally.written + tally.dropped);
        let bytes = memory.bytes();
        prop_assert_eq!(newlines(&bytes), tally.written);
        let text = String::from_utf8(bytes).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let numbers: Vec<u64> = whole.lines().filter_map(|line| line.parse().ok()).collect();
        prop_assert!(numbers.len() as u64 == tally.written && numbers.is_sorted_by(|a, b| a < b));
    }
}
