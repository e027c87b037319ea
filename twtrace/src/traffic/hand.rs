//! Other processes: sockets are passed to them, for what a process does to a socket by forking, by being given it, and by
//! dying.

use std::{
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    net::TcpStream,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    cmsg_space,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
};

use crate::traffic::who::Who;

/// The hidden command that starts a helper.
pub const COMMAND: &str = "__lab-hand";
/// Name of the helper's thread, and of the child that it forks.
const NAMES: (&str, &str) = ("lab-hand", "lab-child");

/// Take the socket that comes along.
const HOLD: u8 = b'h';
/// Close it.
const CLOSE: u8 = b'c';
/// Fork; the child has it too, and waits.
const FORK: u8 = b'f';
/// Let the child exit.
const REAP: u8 = b'x';

/// A helper process. It ends when this is dropped.
pub struct Hand {
    child: Child,
    line: UnixStream,
}

impl Hand {
    /// Starts one. Only while no other thread has sockets open that matter: until it has executed `program`, the child
    /// holds them all.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn start(program: &Path) -> io::Result<Self> {
        let (line, other) = UnixStream::pair()?;
        line.set_read_timeout(Some(Duration::from_secs(20)))?;
        let child = Command::new(program)
            .arg(COMMAND)
            .stdin(Stdio::from(OwnedFd::from(other)))
            .stdout(Stdio::null())
            .spawn()?;
        let mut hand = Self { child, line };
        // It says when it has been executed.
        hand.answer(&mut [0])?;
        Ok(hand)
    }

    /// The helper as a closer.
    #[must_use]
    pub fn who(&self) -> Who {
        Who::process(self.child.id(), NAMES.0)
    }

    /// Gives it a socket; ours is closed.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub fn hold(&mut self, stream: TcpStream) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sockets = [stream.as_fd()];
        if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        sendmsg(&self.line, &[IoSlice::new(&[HOLD])], &mut control, SendFlags::empty())?;
        self.answer(&mut [0])
    }

    /// Lets it close what it holds.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn close(&mut self) -> io::Result<()> {
        self.line.write_all(&[CLOSE])?;
        self.answer(&mut [0])
    }

    /// Lets it fork: the child shares the socket. Hands back the child as a closer.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn fork(&mut self) -> io::Result<Who> {
        self.line.write_all(&[FORK])?;
        let mut pid = [0; 4];
        self.answer(&mut pid)?;
        Ok(Who::process(u32::from_ne_bytes(pid), NAMES.1))
    }

    /// Lets the forked child exit, the socket still open.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn reap(&mut self) -> io::Result<()> {
        self.line.write_all(&[REAP])?;
        self.answer(&mut [0])
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// Those of kill(2) and wait(2).
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    fn answer(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.line.read_exact(bytes).map_err(|error| io::Error::new(error.kind(), format!("a helper process: {error}")))
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        // It may have been killed, and waited for, before.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The helper process itself: does what comes on standard input, until that ends. It has one thread.
///
/// # Errors
/// Those of the calls that it makes.
pub fn serve() -> io::Result<()> {
    rename(NAMES.0)?;
    let mut line = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut held: Option<OwnedFd> = None;
    let mut child: Option<(libc::pid_t, UnixStream)> = None;
    line.write_all(&[0])?;
    while let Some((command, passed)) = receive(&line)? {
        match command {
            HOLD => held = passed,
            CLOSE => drop(held.take()),
            FORK => {
                let forked = fork()?;
                let pid = u32::try_from(forked.0).map_err(io::Error::other)?;
                line.write_all(&pid.to_ne_bytes())?;
                child = Some(forked);
                continue;
            }
            REAP => {
                if let Some((pid, waits)) = child.take() {
                    drop(waits);
                    // SAFETY: the process is our child, and nobody else waits for it.
                    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
                }
            }
            _ => {}
        }
        line.write_all(&[0])?;
    }
    Ok(())
}

/// A child that waits until the other end of the line is closed, and exits with all that it holds.
fn fork() -> io::Result<(libc::pid_t, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    // SAFETY: this process has one thread, so the child may run any code.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let ready = rename(NAMES.1).and_then(|()| {
                drop(ours);
                (&theirs).write_all(&[0])?;
                (&theirs).read(&mut [0])
            });
            // SAFETY: ends the process at once; descriptors are closed by the kernel, which is the point.
            unsafe { libc::_exit(i32::from(ready.is_err())) }
        }
        pid => {
            drop(theirs);
            (&ours).read_exact(&mut [0])?;
            Ok((pid, ours))
        }
    }
}

fn rename(name: &str) -> io::Result<()> {
    let name = std::ffi::CString::new(name)?;
    Ok(rustix::thread::set_name(&name)?)
}

/// A command and the descriptor that came along; `None`: the other side is gone.
fn receive(line: &UnixStream) -> io::Result<Option<(u8, Option<OwnedFd>)>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(line, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes == 0 {
        return Ok(None);
    }
    let passed = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    Ok(Some((byte[0], passed)))
}
