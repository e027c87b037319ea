//! The BPF ring buffer: all CPUs' records in one order.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    ptr,
    sync::atomic::{AtomicU64, Ordering::Acquire},
};

use aya::maps::{MapData, RingBuf};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use tokio::io::{Interest, unix::AsyncFd};

use super::Source;

/// The ring's reading end under tokio.
pub struct Ring {
    ring: AsyncFd<RingBuf<MapData>>,
    positions: Option<Positions>,
}

impl Ring {
    /// Registers the ring with the running tokio runtime.
    ///
    /// # Errors
    /// If the descriptor cannot be watched.
    pub fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the RingBuf owns its descriptor, keeps it for life, and always returns the same one.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
        let positions = Positions::map(ring.get_ref().as_fd()).ok();
        Ok(Self { ring, positions })
    }

    /// Bytes that wait, headers included; `None` if the ring's positions could not be mapped.
    #[must_use]
    pub fn used(&self) -> Option<u64> {
        self.positions.as_ref().map(Positions::used)
    }

    /// Waits until the programs wake the reader: the ring is filling faster than the timer empties it.
    ///
    /// # Errors
    /// If the descriptor cannot be watched any more.
    pub async fn filling(&mut self) -> io::Result<()> {
        self.ring.readable_mut().await?.clear_ready();
        Ok(())
    }
}

/// How far reader and writers are: the first two pages of a ring's memory.
struct Positions(ptr::NonNull<std::ffi::c_void>);

// SAFETY: memory that is only read, atomically, and belongs to this value.
unsafe impl Send for Positions {}
// SAFETY: as above.
unsafe impl Sync for Positions {}

impl Positions {
    fn map(ring: BorrowedFd<'_>) -> io::Result<Self> {
        let length = 2 * rustix::param::page_size();
        // SAFETY: a new mapping, where the kernel finds room, of pages that it lets everybody read.
        let at = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, ring, 0) }?;
        ptr::NonNull::new(at).map(Self).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn used(&self) -> u64 {
        let page = rustix::param::page_size();
        // SAFETY: each page begins with a position, an aligned long that the kernel writes whole.
        let [read, written] = [0, page].map(|at| unsafe { &*self.0.as_ptr().byte_add(at).cast::<AtomicU64>() });
        // The reader's first: the writers' is never behind it.
        let read = read.load(Acquire);
        written.load(Acquire).saturating_sub(read)
    }
}

impl Drop for Positions {
    fn drop(&mut self) {
        // SAFETY: what was mapped, to which no reference is left.
        let _ = unsafe { munmap(self.0.as_ptr(), 2 * rustix::param::page_size()) };
    }
}

impl Source for Ring {
    fn drain(&mut self, most: usize, take: &mut dyn FnMut(&[u8])) -> usize {
        let ring = self.ring.get_mut();
        for count in 0..most {
            match ring.next() {
                Some(record) => take(&record),
                None => return count,
            }
        }
        most
    }
}
