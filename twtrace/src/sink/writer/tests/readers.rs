//! Readers that are slow, or stop, at the other end of a pipe.

use super::*;

/// A pipe of so many bytes, and who reads it. It never waits by itself, so a test is as slow as its reader.
#[derive(Clone)]
pub(super) struct Pipe(Arc<(Mutex<InPipe>, Condvar)>);

struct InPipe {
    room: usize,
    holds: Vec<u8>,
    read: Vec<u8>,
    is_wide: bool,
}

impl Pipe {
    pub(super) fn of(room: usize) -> Self {
        let inside = InPipe { room, holds: Vec::new(), read: Vec::new(), is_wide: false };
        Self(Arc::new((Mutex::new(inside), Condvar::new())))
    }

    fn with<T>(&self, act: impl FnOnce(&mut InPipe) -> T) -> T {
        let result = act(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
        result
    }

    /// Reads up to this many bytes.
    pub(super) fn read(&self, most: usize) -> usize {
        self.with(|pipe| {
            let most = most.min(pipe.holds.len());
            let read: Vec<u8> = pipe.holds.drain(..most).collect();
            pipe.read.extend(read);
            most
        })
    }

    /// Waits until the thread has filled it, as far as whole lines do.
    pub(super) fn is_full(&self, line: usize) {
        let inside = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(inside, |pipe| pipe.holds.len() + line <= pipe.room).unwrap());
    }

    /// All that was read, and all that is there to be read.
    pub(super) fn all(&self) -> Vec<u8> {
        self.with(|pipe| [pipe.read.as_slice(), &pipe.holds].concat())
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|pipe| {
            assert!(pipe.holds.len() + bytes.len() <= pipe.room, "a write that would wait");
            pipe.holds.extend_from_slice(bytes);
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for Pipe {
    fn room(&mut self, least: usize, limit: Duration) -> usize {
        let inside = self.0.0.lock().unwrap();
        let lacks = |pipe: &mut InPipe| pipe.room - pipe.holds.len() < least;
        let (pipe, _) = self.0.1.wait_timeout_while(inside, limit.min(Duration::from_millis(1)), lacks).unwrap();
        let room = pipe.room - pipe.holds.len();
        if room < least { 0 } else { room }
    }

    fn unread(&self) -> u64 {
        self.with(|pipe| pipe.holds.len() as u64)
    }

    fn widen(&mut self, bytes: usize) -> bool {
        self.with(|pipe| {
            pipe.room += bytes;
            pipe.is_wide = true;
        });
        true
    }
}

/// Lines `from..to` of ten bytes each.
pub(super) fn lines(numbers: std::ops::Range<u64>) -> Batch {
    numbers.map(|n| format!("{n:09}\n")).collect::<String>().into_bytes().into()
}

/// Waits for a reader, who says at each look whether he read; the clock goes on by a second a look. `None`: he was given up.
fn drained(writer: &Writer, mut reads: impl FnMut(u64) -> bool) -> Option<u64> {
    let mut patience = Patience::new(Duration::from_secs(10), writer.taken(), Duration::ZERO);
    for second in 0.. {
        let taken = writer.taken();
        if writer.is_idle() {
            return Some(second);
        }
        // The thread sees what was read at its next look; the clock of the test waits for that.
        while reads(second) && writer.taken() == taken && !writer.is_idle() {
            thread::yield_now();
        }
        if patience.is_over(writer.taken(), Duration::from_secs(second)) {
            return None;
        }
    }
    None
}

#[test]
fn a_slow_reader_gets_every_line_and_the_summary() -> io::Result<()> {
    let pipe = Pipe::of(64);
    let mut writer = Writer::with_output(pipe.clone(), 8)?;
    for tens in 0..5 {
        writer.send(lines(tens * 10..tens * 10 + 10));
    }
    // Ten bytes each four seconds.
    let mut read = None;
    let seconds = drained(&writer, |second| {
        // The thread may not have written yet.
        if second % 4 == 0 && read != Some(second) && pipe.read(10) > 0 {
            read = Some(second);
        }
        second % 4 == 0
    });
    assert!(seconds.is_some_and(|seconds| seconds > 100), "{seconds:?}");
    let (tally, end) = (writer.tally(), finished(writer, &pipe, lines(50..51)));
    assert_eq!((tally.written, tally.dropped), (50, 0));
    assert!(matches!(end, End::Flushed), "{end:?}");
    assert_eq!(pipe.all(), lines(0..51).bytes);
    Ok(())
}

/// Ends, while somebody reads.
fn finished(writer: Writer, pipe: &Pipe, last: Batch) -> End {
    let mut ending = writer.finish(last);
    loop {
        if let Some(end) = ending.wait(Duration::from_millis(1)) {
            return end;
        }
        pipe.read(10);
    }
}

#[test]
fn a_reader_that_never_reads_leaves_whole_lines_and_the_summary() -> io::Result<()> {
    // Six lines and a half fit.
    let pipe = Pipe::of(65);
    let mut writer = Writer::with_output(pipe.clone(), 8)?;
    writer.send(lines(0..10));
    writer.send(lines(10..20));
    pipe.is_full(10);
    assert_eq!(drained(&writer, |_| false), None);
    writer.give_up();
    assert_eq!(writer.tally(), Tally { lines_in: 20, written: 6, dropped: 14 });
    writer.drop_batch(&lines(20..23));
    let mut ending = writer.finish(lines(99..100));
    let end = loop {
        if let Some(end) = ending.wait(Duration::from_millis(1)) {
            break end;
        }
    };
    assert!(matches!(end, End::Flushed), "{end:?}");
    assert_eq!(ending.tally(), Tally { lines_in: 24, written: 7, dropped: 17 });
    assert!(pipe.with(|pipe| pipe.is_wide));
    assert_eq!(pipe.all(), [lines(0..6).bytes, lines(99..100).bytes].concat());
    Ok(())
}

#[test]
fn a_reader_that_stops_before_the_summary_gets_it_all_the_same() -> io::Result<()> {
    let pipe = Pipe::of(65);
    let mut writer = Writer::with_output(pipe.clone(), 8)?;
    writer.send(lines(0..6));
    pipe.is_full(10);
    while !writer.is_idle() {
        thread::yield_now();
    }
    let (tally, end) = writer.finish_within(lines(6..7), Duration::ZERO);
    assert!(matches!(end, End::Flushed), "{end:?}");
    assert_eq!(tally, Tally { lines_in: 7, written: 7, dropped: 0 });
    assert_eq!(pipe.all(), lines(0..7).bytes);
    Ok(())
}
