//! Where records come from.

mod ring;

pub use ring::Ring;

/// Something that yields records, one slice of bytes each, without blocking.
pub trait Source {
    /// Hands up to `most` waiting records to `take`, oldest first, and says how many there were.
    fn drain(&mut self, most: usize, take: &mut dyn FnMut(&[u8])) -> usize;
}
