//! The order in which other CPUs see what a program does to memory.
//!
//! The kernel compiles a program's loads, stores and additions to plain instructions (arch/*/net/bpf_jit_comp*.c). x86 keeps
//! their order, except that a load may overtake a store to another place; an addition (`lock add`) waits for all before it
//! and holds up all behind it. arm64 keeps no order between two places, nor does its plain addition (STADD, or LDXR and
//! STXR). What keeps order there is an addition that returns what was there before: LDADDAL, or STLXR and then DMB ISH.

#[cfg(not(bpf_target_arch = "aarch64"))]
pub use plain::{Seen, after, load, lower, raise, set};

#[cfg(bpf_target_arch = "aarch64")]
pub use fetching::{Seen, after, load, lower, raise, set};

#[cfg(not(bpf_target_arch = "aarch64"))]
mod plain {
    use crate::maps;

    /// Adds 1 to a number in a map, before all behind it. Returns the sum, or a later one.
    #[inline(always)]
    pub fn raise(number: *mut u64) -> u64 {
        // SAFETY: a word of a map value, 8-byte aligned, only ever changed by atomic additions.
        maps::add(unsafe { &*number }, 1);
        // SAFETY: as above.
        unsafe { number.read_volatile() }
    }

    /// Takes 1 from a number in a map, after all before it.
    #[inline(always)]
    pub fn lower(number: *mut u64) {
        // SAFETY: as in `raise`.
        maps::add(unsafe { &*number }, -1);
    }

    /// Sets a word in a map that is 0, after all before it.
    #[inline(always)]
    pub fn set(word: *mut u64, value: u64) {
        // SAFETY: a word of a map value, 8-byte aligned.
        unsafe { word.write_volatile(value) };
    }

    /// Proof that a word was loaded.
    pub type Seen = ();

    /// Loads a word of a map.
    #[inline(always)]
    pub fn load(word: *const u64) -> (u64, Seen) {
        // SAFETY: a word of a map value, 8-byte aligned.
        (unsafe { word.read_volatile() }, ())
    }

    /// A pointer: what is loaded through it is loaded after that word.
    #[inline(always)]
    pub fn after<T>(pointer: *mut T, (): Seen) -> *mut T {
        pointer
    }
}

/// Needs BPF_FETCH: Linux 5.12, and 5.18 for arm64's compiler.
#[cfg(bpf_target_arch = "aarch64")]
mod fetching {
    use core::arch::asm;

    /// As `plain::raise`.
    #[inline(always)]
    pub fn raise(number: *mut u64) -> u64 {
        add(number, 1).wrapping_add(1)
    }

    /// As `plain::lower`.
    #[inline(always)]
    pub fn lower(number: *mut u64) {
        add(number, -1);
    }

    /// As `plain::set`.
    #[inline(always)]
    pub fn set(word: *mut u64, value: u64) {
        add(word, value as i64);
    }

    /// Adds to a word in a map, after all before it and before all behind it. Returns what was there.
    #[inline(always)]
    fn add(word: *mut u64, many: i64) -> u64 {
        let before;
        // SAFETY: a word of a map value, 8-byte aligned.
        unsafe {
            asm!(
                "{many} = atomic_fetch_add((u64 *)({at} + 0), {many})",
                at = in(reg) word,
                many = inout(reg) many => before,
                options(nostack),
            );
        }
        before
    }

    /// As `plain::Seen`: 0, computed from what was loaded.
    pub type Seen = usize;

    /// As `plain::load`. In one piece: knowing that the word is equal to something, LLVM would compute with that instead.
    #[inline(always)]
    pub fn load(word: *const u64) -> (u64, Seen) {
        let (loaded, seen);
        // SAFETY: a word of a map value, 8-byte aligned.
        unsafe {
            asm!(
                "{loaded} = *(u64 *)({at} + 0)",
                "{seen} = {loaded}",
                "{seen} &= 0",
                at = in(reg) word,
                loaded = out(reg) loaded,
                seen = lateout(reg) seen,
                options(nostack, readonly),
            );
        }
        (loaded, seen)
    }

    /// As `plain::after`. arm64 loads from an address that was computed from an earlier load after that load, whatever the
    /// computation. The verifier knows that it gives 0, and does not care; nor does the compiler behind it.
    #[inline(always)]
    pub fn after<T>(pointer: *mut T, seen: Seen) -> *mut T {
        pointer.wrapping_byte_add(seen)
    }
}
