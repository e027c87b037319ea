//! Zeroing and copying, word by word. Left to itself LLVM makes a call of memset out of every few zero bytes, and memset is
//! a loop over single bytes here, as memcpy is: they were the largest cost of several programs.

use core::mem::MaybeUninit;

use twtrace_common::{
    record::{Bind, Birth, Connect, Death, Life, Touch},
    state::{Alive, Closing, Conn, Denied, Owner, PassiveKey},
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
unsafe impl Plain for Bind {}
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
// SAFETY: as above.
unsafe impl Plain for Owner {}
// SAFETY: as above.
unsafe impl Plain for PassiveKey {}

/// Zeroes a place and hands it back as a value.
#[inline(always)]
pub fn clear<T: Plain>(place: &mut MaybeUninit<T>) -> &mut T {
    let words = place.as_mut_ptr().cast::<u64>();
    let zero = zero();
    for i in 0..size_of::<T>() / 8 {
        // SAFETY: within the place. Volatile, so that the stores stay what they are.
        unsafe { words.add(i).write_volatile(zero) };
    }
    // SAFETY: zeroes are a value of every Plain type.
    unsafe { place.assume_init_mut() }
}

/// Copies word by word.
#[inline(always)]
pub fn copy<T: Plain>(to: &mut T, from: &T) {
    let (to, from) = (core::ptr::from_mut(to).cast::<u64>(), core::ptr::from_ref(from).cast::<u64>());
    for i in 0..size_of::<T>() / 8 {
        // SAFETY: within both. Volatile as above.
        unsafe { to.add(i).write_volatile(from.add(i).read()) };
    }
}

/// A value, of which the verifier then knows nothing. Each constant that it knows is a case of its own to it, for all
/// that follows.
#[inline(always)]
pub fn forget(value: u64) -> u64 {
    value.wrapping_add(zero())
}

/// Zero, as a number of which the verifier knows nothing. Of zeroes that it knows, it keeps for every optional field apart
/// whether it was written, and goes through all that follows once for each combination.
#[inline(always)]
fn zero() -> u64 {
    let zero;
    // SAFETY: arithmetic between registers. The difference of two pointers is any number to the verifier.
    unsafe { core::arch::asm!("{0} = r10", "{0} -= r10", out(reg) zero, options(pure, nomem, nostack)) };
    zero
}
