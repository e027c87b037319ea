//! What lines are written to. A pipe is never left with half a line in it if that can be helped: as much is written at once
//! as has room, and no more.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Write},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::OpenOptionsExt as _,
    },
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, OFlags, fstat},
    pipe::{PIPE_BUF, fcntl_getpipe_size, fcntl_setpipe_size},
};

/// Between two looks at a pipe that has room, but not for a long line.
const GLANCE: Duration = Duration::from_millis(5);

/// What lines are written to.
pub trait Output: Write + Send {
    /// Waits, at most this long, until `least` bytes can be written without waiting. Says how many can be; 0: not yet.
    fn room(&mut self, least: usize, limit: Duration) -> usize {
        let _ = (least, limit);
        usize::MAX
    }

    /// Bytes written that the reader has not taken, as far as that can be known.
    fn unread(&self) -> u64 {
        0
    }

    /// Makes room for so many bytes, whatever the reader does. `false`: this output cannot.
    fn widen(&mut self, bytes: usize) -> bool {
        let _ = bytes;
        false
    }
}

/// An output of which nothing is known: a write takes as long as it takes.
pub struct Opaque<W>(pub W);

impl<W: Write> Write for Opaque<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write + Send> Output for Opaque<W> {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Takes all that there is room for on its disk.
    File,
    /// Holds what its reader has not taken, in pages.
    Pipe,
    /// A terminal, a socket: has room or not.
    Other,
}

/// A file descriptor.
pub struct Descriptor {
    file: File,
    kind: Kind,
}

impl Descriptor {
    /// This file, pipe, socket or terminal.
    #[must_use]
    pub fn new(file: File) -> Self {
        let kind = match fstat(&file).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::RegularFile) => Kind::File,
            Ok(FileType::Fifo) => Kind::Pipe,
            _ => Kind::Other,
        };
        let file = if kind == Kind::Pipe || file.is_terminal() { opened_again(&file).unwrap_or(file) } else { file };
        Self { file, kind }
    }

    /// True once it has room for one page; or is broken, which the next write will tell.
    fn is_ready(&self, limit: Duration) -> bool {
        let limit = Timespec::try_from(limit).ok();
        // An interrupted wait is one that was too short; any other error shows when something is written.
        match poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], limit.as_ref()) {
            Ok(ready) => ready > 0,
            Err(error) => error != rustix::io::Errno::INTR,
        }
    }

    fn is_broken(&self) -> bool {
        let mut polled = [PollFd::new(&self.file, PollFlags::OUT)];
        let _ = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        polled[0].revents().intersects(PollFlags::ERR | PollFlags::NVAL)
    }

    fn size(&self) -> usize {
        fcntl_getpipe_size(&self.file).unwrap_or(PIPE_BUF)
    }

    /// Bytes that a pipe takes whole for sure. It holds pages, and what is written goes on a page of its own unless the one
    /// before has room for all of it: so two that follow one another hold more than one page's worth (`pipe_write`,
    /// fs/pipe.c).
    fn free(&self) -> usize {
        let page = rustix::param::page_size();
        let unread = usize::try_from(self.unread()).unwrap_or(usize::MAX);
        let used = if unread == 0 { 0 } else { (unread / page).saturating_mul(2).saturating_add(2) };
        (self.size() / page).saturating_sub(used) * page
    }

    fn room_in_pipe(&mut self, least: usize, limit: Duration) -> usize {
        let free = self.free();
        if free >= least.max(PIPE_BUF) {
            return free;
        }
        if least <= PIPE_BUF {
            return if self.is_ready(limit) { PIPE_BUF } else { 0 };
        }
        if least > self.size() && !self.widen(least) || self.is_broken() {
            // A line that is longer than the pipe goes through it in pieces; and what is broken says so when written to.
            return if self.is_ready(limit) { least } else { 0 };
        }
        thread::sleep(GLANCE.min(limit));
        0
    }
}

/// A pipe or terminal, opened once more, so that no write waits, even if somebody else takes the room first. Setting
/// O_NONBLOCK on the descriptor itself would change it for all who share it: the shell, and whoever else writes there.
fn opened_again(file: &File) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(path)
}

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Output for Descriptor {
    fn room(&mut self, least: usize, limit: Duration) -> usize {
        match self.kind {
            Kind::File => usize::MAX,
            Kind::Pipe => self.room_in_pipe(least, limit),
            Kind::Other if self.is_ready(limit) => least.max(PIPE_BUF),
            Kind::Other => 0,
        }
    }

    fn unread(&self) -> u64 {
        match self.kind {
            Kind::Pipe => rustix::io::ioctl_fionread(self.file.as_fd()).unwrap_or(0),
            Kind::File | Kind::Other => 0,
        }
    }

    fn widen(&mut self, bytes: usize) -> bool {
        if self.kind != Kind::Pipe {
            return false;
        }
        // Two pages more: what was there may end in the middle of one.
        let wanted = self.size().saturating_add(bytes).saturating_add(2 * rustix::param::page_size());
        fcntl_setpipe_size(&self.file, wanted).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::fd::OwnedFd};

    use super::*;

    fn pipe() -> io::Result<(io::PipeReader, Descriptor)> {
        let (reader, writer) = io::pipe()?;
        Ok((reader, Descriptor::new(File::from(OwnedFd::from(writer)))))
    }

    /// Fills a pipe by pieces of this size, each of which fits whole, as it says.
    fn fill(out: &mut Descriptor, piece: usize) -> io::Result<usize> {
        let mut all = 0;
        loop {
            let room = out.room(piece, Duration::ZERO);
            if room == 0 {
                return Ok(all);
            }
            assert!(room >= piece);
            // It would hang here if that were not true.
            assert_eq!(out.write(&vec![b'x'; piece])?, piece);
            all += piece;
        }
    }

    #[test]
    fn a_pipe_is_filled_without_ever_waiting() -> io::Result<()> {
        for piece in [1, 160, 2049, 4096, 5000, 30_000] {
            let (mut reader, mut out) = pipe()?;
            let all = fill(&mut out, piece)?;
            assert!(all > 0 && out.unread() == all as u64, "{piece}: {all}");
            let mut taken = vec![0; all];
            reader.read_exact(&mut taken)?;
            assert_eq!(out.unread(), 0);
            assert!(out.room(piece, Duration::ZERO) >= piece, "{piece}");
        }
        Ok(())
    }

    #[test]
    fn a_full_pipe_is_widened_for_the_last_lines() -> io::Result<()> {
        let (_reader, mut out) = pipe()?;
        fill(&mut out, 4096)?;
        assert_eq!(out.room(3000, Duration::ZERO), 0);
        assert!(out.widen(3000));
        assert!(out.room(3000, Duration::ZERO) >= 3000);
        assert_eq!(out.write(&[b'x'; 3000])?, 3000);
        Ok(())
    }

    #[test]
    fn a_line_longer_than_the_pipe_gets_a_longer_pipe() -> io::Result<()> {
        let (_reader, mut out) = pipe()?;
        let line = out.size() + 1;
        while out.room(line, Duration::from_millis(1)) < line {}
        assert_eq!(out.write(&vec![b'x'; line])?, line);
        Ok(())
    }

    #[test]
    fn a_broken_pipe_has_room_for_the_error() -> io::Result<()> {
        for least in [1, 5000, 1 << 30] {
            let (reader, mut out) = pipe()?;
            fill(&mut out, 4096)?;
            drop(reader);
            assert!(out.room(least, Duration::ZERO) >= least);
            assert_eq!(out.write(b"x").map_err(|error| error.kind()), Err(io::ErrorKind::BrokenPipe));
        }
        Ok(())
    }

    #[test]
    fn who_takes_the_room_first_makes_no_write_wait() -> io::Result<()> {
        let (_reader, mut writer) = io::pipe()?;
        let mut out = Descriptor::new(File::from(OwnedFd::from(writer.try_clone()?)));
        assert!(out.room(1, Duration::ZERO) > 0);
        writer.write_all(&vec![b'x'; out.size()])?;
        assert_eq!(out.write(b"x").map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
        // Whoever shares the pipe waits for room as before.
        assert!(!rustix::fs::fcntl_getfl(&writer)?.contains(OFlags::NONBLOCK));
        Ok(())
    }

    #[test]
    fn a_file_takes_everything() -> io::Result<()> {
        let mut out = Descriptor::new(File::options().write(true).open("/dev/null")?);
        assert!(out.room(1 << 20, Duration::ZERO) >= 1 << 20);
        let mut out = Descriptor::new(File::open("/proc/self/exe")?);
        assert_eq!((out.room(1, Duration::ZERO), out.unread(), out.widen(1)), (usize::MAX, 0, false));
        Ok(())
    }
}
