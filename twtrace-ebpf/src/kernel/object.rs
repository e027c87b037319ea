//! Objects of the kernel, and how their fields are read: known to the verifier by type, copied at once, or by address alone.

use aya_ebpf::{
    Global,
    helpers::{bpf_probe_read_kernel, generated::bpf_probe_read_kernel as bpf_probe_read_kernel_raw},
};
use twtrace_common::knob::ABSENT;

use crate::maps::{self, HEAD_WORDS, Reader, bump};

/// A kernel object whose fields can be read at offsets from BTF.
pub trait Object: Copy {
    /// The object's address.
    fn address(self) -> u64;

    /// The field at `offset`, `plus` bytes into it; `None` if this kernel has no such field or it could not be read.
    fn part<T: Copy>(self, offset: &Global<u16>, plus: u64) -> Option<T>;

    /// The field at `offset`.
    #[inline(always)]
    fn get<T: Copy>(self, offset: &Global<u16>) -> Option<T> {
        self.part(offset, 0)
    }

    /// The field at `offset` of what the field at `pointer` points to.
    #[inline(always)]
    fn behind<T: Copy>(self, pointer: &Global<u16>, offset: &Global<u16>) -> Option<T> {
        Raw(self.get(pointer)?).get(offset)
    }
}

/// An object of which nothing but the address is known: every field costs a helper call.
#[derive(Clone, Copy)]
pub struct Raw(pub u64);

impl Object for Raw {
    #[inline(always)]
    fn address(self) -> u64 {
        self.0
    }

    #[inline(always)]
    fn part<T: Copy>(self, offset: &Global<u16>, plus: u64) -> Option<T> {
        let offset = offset.load();
        if offset == ABSENT {
            return None;
        }
        read(self.0 + u64::from(offset) + plus)
    }
}

/// An argument of a tp_btf, fentry or fexit program: the verifier knows its type, so fields of that type (not of what
/// embeds it) are plain loads, which cannot fault.
#[derive(Clone, Copy)]
pub struct Typed(pub *const u8);

impl Object for Typed {
    #[inline(always)]
    fn address(self) -> u64 {
        self.0 as u64
    }

    #[inline(always)]
    fn part<T: Copy>(self, offset: &Global<u16>, plus: u64) -> Option<T> {
        let offset = offset.load();
        if offset == ABSENT {
            return None;
        }
        // SAFETY: the verifier holds offset and size against BTF; kernel fields are aligned to their size.
        Some(unsafe { self.0.add(usize::from(offset)).add(plus as usize).cast::<T>().read_volatile() })
    }

    /// A pointer loaded from a typed object is typed as well.
    #[inline(always)]
    fn behind<T: Copy>(self, pointer: &Global<u16>, offset: &Global<u16>) -> Option<T> {
        Self(self.get(pointer)?).get(offset)
    }
}

/// A minisock of which only the address is known, its first bytes copied at once to this CPU's scratch.
///
/// Only for programs that have a place of that scratch to themselves: [`Reader`] says why they do.
#[derive(Clone, Copy)]
pub struct Head {
    address: u64,
    words: &'static [u64; HEAD_WORDS],
}

impl Head {
    /// Copies the head of the minisock at `address`.
    #[inline(always)]
    pub fn of(address: u64, reader: Reader) -> Option<Self> {
        let scratch = maps::scratch()?;
        // SAFETY: this CPU's entry; see above for why nobody else writes it meanwhile.
        let words = unsafe { &mut *(&raw mut (*scratch).heads).cast::<[u64; HEAD_WORDS]>().add(reader as usize) };
        // SAFETY: the helper writes that many bytes at most, and fails instead of faulting.
        let failed = unsafe {
            bpf_probe_read_kernel_raw(words.as_mut_ptr().cast(), (HEAD_WORDS * 8) as u32, address as *const _)
        };
        if failed != 0 {
            bump!(trouble.read_failed);
        }
        Some(Self { address, words })
    }
}

impl Object for Head {
    #[inline(always)]
    fn address(self) -> u64 {
        self.address
    }

    #[inline(always)]
    fn part<T: Copy>(self, offset: &Global<u16>, plus: u64) -> Option<T> {
        let offset = offset.load();
        if offset == ABSENT {
            return None;
        }
        let at = u64::from(offset) + plus;
        // On every kernel known the fields asked for lie within; elsewhere they would show as unknown.
        if at + size_of::<T>() as u64 > (HEAD_WORDS * 8) as u64 {
            return None;
        }
        // SAFETY: within the words, as just checked; kernel fields are aligned to their size.
        Some(unsafe { self.words.as_ptr().cast::<u8>().add(at as usize).cast::<T>().read_volatile() })
    }
}

/// Kernel memory at an address.
#[inline(always)]
pub fn read<T: Copy>(address: u64) -> Option<T> {
    // SAFETY: bpf_probe_read_kernel checks the address and fails instead of faulting.
    if let Ok(value) = unsafe { bpf_probe_read_kernel(address as *const T) } {
        return Some(value);
    }
    bump!(trouble.read_failed);
    None
}
