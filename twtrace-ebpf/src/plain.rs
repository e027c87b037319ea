//! Zeroing, word by word. Left to itself LLVM makes a call of memset out of every few zero bytes, and memset is a loop
//! over single bytes here: it was the largest cost of several programs.

use core::mem::MaybeUninit;

use twtrace_common::{
    record::{Birth, Connect, Death, Life, Touch},
    state::{Alive, Closing, Conn, Denied},
};

/// A type that may be all zeroes.
///
/// # Safety
/// Integers and byte arrays only, aligned to 8, its size a multiple of 8.
pub unsafe trait Plain: Copy {}

// SAFETY: the types of the kernel boundary; sizes are asserted there.
unsafe impl Plain for Birth {}
// SAFETY: as above.
unsafe impl Plain for Touch {}
// SAFETY: as above.
unsafe impl Plain for Death {}
// SAFETY: as above.
unsafe impl Plain for Connect {}
// SAFETY: as above.
unsafe impl Plain for Life {}
// SAFETY: as above.
unsafe impl Plain for Alive {}
// SAFETY: as above.
unsafe impl Plain for Conn {}
// SAFETY: as above.
unsafe impl Plain for Denied {}
// SAFETY: as above.
unsafe impl Plain for Closing {}

/// Zeroes a place and hands it back as a value.
#[inline(always)]
pub fn clear<T: Plain>(place: &mut MaybeUninit<T>) -> &mut T {
    let words = place.as_mut_ptr().cast::<u64>();
    for i in 0..size_of::<T>() / 8 {
        // SAFETY: within the place. Volatile, so that the stores stay what they are.
        unsafe { words.add(i).write_volatile(0) };
    }
    // SAFETY: zeroes are a value of every Plain type.
    unsafe { place.assume_init_mut() }
}
