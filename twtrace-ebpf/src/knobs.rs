//! What user space sets before load: frozen read-only data, constants to the verifier.

use aya_ebpf::Global;
use twtrace_common::{
    for_each_field,
    knob::{ABSENT, Cidr, Duties, FILTER_VALUES, Filter, Functions, Range},
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

const NOWHERE: Range = Range { start: 0, end: 0 };
const ANY: Cidr = Cidr { addr: [0; 2], mask: [0; 2], family: 0 };

/// Where the kernel's functions are.
#[unsafe(no_mangle)]
pub static FUNCTIONS: Global<Functions> = Global::new(Functions {
    tw_timer_handler: 0,
    deschedule: NOWHERE,
    purge: NOWHERE,
    state_process: NOWHERE,
    v4_rcv: NOWHERE,
    v6_rcv: NOWHERE,
    abort: NOWHERE,
    tproxy4: NOWHERE,
    tproxy6: NOWHERE,
    done: NOWHERE,
    time_wait: NOWHERE,
    fin: NOWHERE,
    close: NOWHERE,
    rcv_state_process: NOWHERE,
    keepalive: NOWHERE,
});

/// Which backend does what.
#[unsafe(no_mangle)]
pub static DUTIES: Global<Duties> = Global::new(Duties {
    tp_birth: 0,
    tp_death: 0,
    tp_rearm: 0,
    close_refusal: 0,
    death_row_pointer: 0,
    refcount_base: 0,
    has_timeo: 0,
    has_stack: 0,
});

/// The filters of the run.
#[unsafe(no_mangle)]
pub static FILTER: Global<Filter> = Global::new(Filter {
    netns: [0; FILTER_VALUES],
    pid: [0; FILTER_VALUES],
    cgroup: [0; FILTER_VALUES],
    comm: [[0; 2]; FILTER_VALUES],
    laddr: [ANY; FILTER_VALUES],
    raddr: [ANY; FILTER_VALUES],
    kinds: u32::MAX,
    causes: 0,
    netns_len: 0,
    pid_len: 0,
    cgroup_len: 0,
    comm_len: 0,
    laddr_len: 0,
    raddr_len: 0,
    family: 0,
    role: 0,
    lport: 0,
    rport: 0,
    port: 0,
    pad: [0; 5],
});

/// Timer ticks per second, CONFIG_HZ.
#[unsafe(no_mangle)]
pub static HZ: Global<u32> = Global::new(250);

/// Inode number of the network namespace that twtrace itself runs in.
#[unsafe(no_mangle)]
pub static OWN_NETNS: Global<u32> = Global::new(0);

/// Bytes waiting in the ring past which a record wakes the reader; below it the reader's timer does.
#[unsafe(no_mangle)]
pub static WAKE_AT: Global<u64> = Global::new(u64::MAX);

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
}
