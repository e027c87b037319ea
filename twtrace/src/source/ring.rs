//! The BPF ring buffer: all CPUs' records in one order.

use std::io;

use aya::maps::{MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

use super::Source;

/// The ring's reading end under tokio.
pub struct Ring(AsyncFd<RingBuf<MapData>>);

impl Ring {
    /// Registers the ring with the running tokio runtime.
    ///
    /// # Errors
    /// If the descriptor cannot be watched.
    pub fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the RingBuf owns its descriptor, keeps it for life, and always returns the same one.
        Ok(Self(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?))
    }

    /// Waits until the programs wake the reader: the ring is filling faster than the timer empties it.
    ///
    /// # Errors
    /// If the descriptor cannot be watched any more.
    pub async fn filling(&mut self) -> io::Result<()> {
        self.0.readable_mut().await?.clear_ready();
        Ok(())
    }
}

impl Source for Ring {
    fn drain(&mut self, most: usize, take: &mut dyn FnMut(&[u8])) -> usize {
        let ring = self.0.get_mut();
        for count in 0..most {
            match ring.next() {
                Some(record) => take(&record),
                None => return count,
            }
        }
        most
    }
}
