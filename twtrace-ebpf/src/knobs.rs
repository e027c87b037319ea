//! What user space sets before load: frozen read-only data, constants to the verifier.

use aya_ebpf::Global;
use twtrace_common::{
    for_each_field,
    knob::{ABSENT, Duties, Filter, Functions, Linger},
};

macro_rules! offsets {
    ($($name:ident, $bytes:literal, $need:ident, $path:literal;)*) => {
        $(
            #[doc = concat!("Byte offset of `", $path, "` on the running kernel.")]
            #[unsafe(no_mangle)]
            pub static $name: Global<u16> = Global::new(ABSENT);
        )*
    };
}
for_each_field!(offsets);

/// Where the kernel's functions are.
#[unsafe(no_mangle)]
pub static FUNCTIONS: Global<Functions> = Global::new(Functions::NOWHERE);

/// Which backend does what.
#[unsafe(no_mangle)]
pub static DUTIES: Global<Duties> = Global::new(Duties::NONE);

/// For tests: see [`crate::again`].
#[unsafe(no_mangle)]
pub static LINGER: Global<Linger> = Global::new(Linger::NEVER);

/// The filters of the run.
#[unsafe(no_mangle)]
pub static FILTER: Global<Filter> = Global::new(Filter::ALL);

/// Timer ticks per second, CONFIG_HZ.
#[unsafe(no_mangle)]
pub static HZ: Global<u32> = Global::new(250);

/// Inode number of the network namespace that twtrace itself runs in.
#[unsafe(no_mangle)]
pub static OWN_NETNS: Global<u32> = Global::new(0);

/// Bytes waiting in the ring past which a record wakes the reader; below it the reader's timer does.
#[unsafe(no_mangle)]
pub static WAKE_AT: Global<u64> = Global::new(u64::MAX);

/// Entries of `CONN_SLOTS` less one, all bits below the highest set: see [`crate::table`].
#[unsafe(no_mangle)]
pub static CONN_MASK: Global<u32> = Global::new(0);

/// As [`CONN_MASK`], in `LIFE_SLOTS`.
#[unsafe(no_mangle)]
pub static LIFE_MASK: Global<u32> = Global::new(0);

/// As [`CONN_MASK`], in `CLOSING_SLOTS`.
#[unsafe(no_mangle)]
pub static CLOSING_MASK: Global<u32> = Global::new(0);

/// Reads one field of a global struct, volatile as [`Global::load`] is, without copying the rest to the stack.
macro_rules! knob {
    ($global:ident . $($field:tt)+) => {
        // SAFETY: a Global holds an initialised T and nothing else, so both have the same address and layout.
        unsafe { core::ptr::read_volatile(&raw const (*core::ptr::from_ref(&$crate::knobs::$global).cast::<$crate::knobs::of::$global>()).$($field)+) }
    };
}
pub(crate) use knob;

/// The type behind each global struct, by the global's name, for [`knob!`].
#[expect(clippy::upper_case_acronyms, reason = "the names are those of the globals")]
pub mod of {
    pub type FUNCTIONS = super::Functions;
    pub type DUTIES = super::Duties;
    pub type FILTER = super::Filter;
    pub type LINGER = super::Linger;
}
