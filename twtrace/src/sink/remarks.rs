//! Standard error. Whoever reads it may stop (`2>&1 | less`, a terminal after Ctrl-S): the thread that empties the ring must
//! not wait for that reader. Once [`aside`] is called, a thread of its own writes the remarks. A remark that finds no room is
//! dropped, its lines are counted, and the count is said as soon as there is room.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::AsFd as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::writer::{Batch, Descriptor, GRACE, Output, Patience, Writer};
use crate::show::human::Many;

/// Remarks that may wait.
const MOST: usize = 1024;
/// Bytes that may wait; one longer remark passes when no other waits.
const MOST_BYTES: usize = 256 * 1024;
/// How long the end waits for a reader that is slow but reads.
const LONGEST: Duration = Duration::from_secs(10);
/// Between two looks at the end.
const GLANCE: Duration = Duration::from_millis(1);

/// `None`: remarks are written by whoever makes them.
static ASIDE: Mutex<Option<Remarks>> = Mutex::new(None);

fn shared() -> MutexGuard<'static, Option<Remarks>> {
    ASIDE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on nobody who remarks something waits for whoever reads standard error. Without room for one more thread or
/// descriptor all stays as it was.
pub fn aside() {
    let remarks =
        io::stderr().as_fd().try_clone_to_owned().and_then(|fd| Remarks::spawn(Descriptor::new(File::from(fd))));
    *shared() = remarks.ok();
}

/// Writes remarks to standard error. Whoever read them may have gone away, which is no reason to end, let alone to panic
/// as `eprint!` would. Nothing to say is a chance to say how many were dropped before.
pub fn remark(text: &str) {
    match &mut *shared() {
        Some(remarks) => remarks.say(text),
        None => write(text),
    }
}

/// As [`remark`], for what has to be said even if nobody has read the remarks before it: it is kept for [`last`].
pub fn parting(text: &str) {
    match &mut *shared() {
        Some(remarks) => remarks.parting.push_str(text),
        None => write(text),
    }
}

/// The last remarks before the process ends. Waits until all are written, but not long for a reader that has stopped.
pub fn last(text: &str) {
    let remarks = shared().take();
    match remarks {
        Some(remarks) => remarks.finish(text),
        None => write(text),
    }
}

fn write(text: &str) {
    let _nobody_there = io::stderr().write_all(text.as_bytes());
}

/// Remarks on their way to a thread that writes them.
struct Remarks {
    writer: Writer,
    /// Lines that were told to be missing.
    told: u64,
    parting: String,
}

impl Remarks {
    fn spawn(out: impl Output + 'static) -> io::Result<Self> {
        let writer = Writer::with_room(out, MOST, MOST_BYTES)?;
        Ok(Self { writer, told: 0, parting: String::new() })
    }

    /// Never waits.
    fn say(&mut self, text: &str) {
        let missing = self.writer.tally().dropped;
        if missing > self.told && self.writer.try_send(notice(missing)).is_ok() {
            self.told = missing;
        }
        self.writer.send(text.to_owned().into_bytes().into());
    }

    fn finish(mut self, text: &str) {
        let began = Instant::now();
        let mut patience = Patience::new(GRACE, self.writer.taken(), Duration::ZERO);
        while !self.writer.is_idle() && !self.writer.is_closed() {
            if patience.is_over(self.writer.taken(), began.elapsed()) || began.elapsed() > LONGEST {
                self.writer.give_up();
                break;
            }
            std::thread::sleep(GLANCE);
        }
        let tally = self.writer.tally();
        let missing = tally.lines_in.saturating_sub(tally.written);
        let notice = if missing > self.told { notice(missing) } else { Batch::default() };
        let last = [notice.bytes(), self.parting.as_bytes(), text.as_bytes()].concat();
        // However full the pipe is, it is made wide enough for this.
        let _nobody_there = self.writer.finish_within(last.into(), GRACE);
    }
}

/// The number is that of all so far: a notice that is dropped itself is made good by the next.
fn notice(lines: u64) -> Batch {
    let (lines, verb) = (Many(lines, "line"), if lines == 1 { "is" } else { "are" });
    format!("twtrace: standard error is read too slowly: {lines} {verb} missing so far\n").into_bytes().into()
}

#[cfg(test)]
mod tests;
