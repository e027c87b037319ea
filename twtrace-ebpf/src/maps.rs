//! The maps. Hash maps are preallocated: tracing programs may not allocate.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    helpers::generated::bpf_get_smp_processor_id,
    macros::map,
    maps::{Array, CgroupArray, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use twtrace_common::{
    counter::{Counters, hook},
    knob::{FILTER_VALUES, LiveKnobs, PortSet},
    record::{Life, flag},
    state::{Alive, Closing, Conn, Denied, Owner, PassiveCloses, PassiveKey},
};

use crate::{
    again, knobs,
    table::{Slot, Table},
};

/// `bpf_map_update_elem`: only if there is no such entry.
pub const BPF_NOEXIST: u64 = 1;
/// `bpf_map_update_elem`: only if there is one.
pub const BPF_EXIST: u64 = 2;

/// Records on their way to user space, from all CPUs in order. User space sets the sizes of all maps.
#[map]
pub static RING: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Makes a [`Table`] of its two maps and the number that user space sets with their sizes.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident: $value:ty, $slots:ident, $rest:ident, $mask:ident, $cell:literal, $flags:expr) => {
        #[map]
        static $slots: Array<Slot<$value>> = Array::with_max_entries(1, $flags);
        #[map]
        static $rest: HashMap<u64, $value> = HashMap::with_max_entries(1, 0);
        $(#[$doc])*
        pub const $name: Table<$value> = Table { slots: &$slots, rest: &$rest, mask: || knobs::$mask.load(), cell: $cell };
    };
}

table! {
    /// Connections being followed, by address of their socket, of more than 2 KB.
    CONNS: Conn, CONN_SLOTS, CONN_REST, CONN_MASK, 11, 0
}
table! {
    /// Minisocks alive, by address. They have some 256 bytes. User space looks through the slots, which it maps: a call for
    /// each would take it a tenth of a second.
    LIVES: Alive, LIFE_SLOTS, LIFE_REST, LIFE_MASK, 8, BPF_F_MMAPABLE
}
table! {
    /// Sockets in FIN_WAIT2 or CLOSING, by [`crate::kernel::MeetingPoint`]; written only where timer_start tells births.
    CLOSING: Closing, CLOSING_SLOTS, CLOSING_REST, CLOSING_MASK, 0, 0
}

/// Sockets inside tcp_time_wait, and the substate asked for; written only by the kprobe backend of `refusal`.
#[map]
pub static ENTERING: HashMap<u64, u32> = HashMap::with_max_entries(4_096, 0);

/// What a connect() was denied, by address of its socket: see [`crate::connect`].
#[map]
pub static DENIED: LruHashMap<u64, Denied> = LruHashMap::with_max_entries(4_096, 0);

/// Who holds an MPTCP socket, by its address: see [`crate::mptcp`]. The kernel forgets the oldest.
#[map]
pub static OWNERS: LruHashMap<u64, Owner> = LruHashMap::with_max_entries(4_096, 0);

/// How many connections the peer closed first: see [`crate::passive`]. The kernel evicts the least recently used.
#[map]
pub static PASSIVE: LruHashMap<PassiveKey, PassiveCloses> = LruHashMap::with_max_entries(4_096, 0);

#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// What one hook leaves for the next on the same CPU, both inside one stretch without migration.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Scratch {
    /// The minisock whose timer callback runs (`tw_timer_handler` to `inet_twsk_kill`).
    pub expiring: u64,
    /// The minisock whose timer was taken off the wheel to be armed anew (timer_cancel to timer_start).
    pub rearming: u64,
    /// When that one was to expire, jiffies.
    pub expires: u64,
    /// Where the present program's context is: see `death_tp`.
    pub here: u64,
    /// What the first programs of hooks have told: see [`crate::again`].
    pub tokens: [again::Tokens; hook::COUNT],
    /// The minisocks that are being looked at: see [`crate::kernel::Head`].
    pub heads: [[u64; HEAD_WORDS]; Reader::COUNT],
}

/// Who looks at a minisock through [`Scratch::heads`]. Each has its own, for one may interrupt or preempt another.
#[derive(Clone, Copy)]
pub enum Reader {
    /// `timer_start` and `timer_cancel`: the timer's base is locked, and interrupts are off, on PREEMPT_RT too.
    Wheel,
    /// `timer_expire_entry`: in the timer softirq, which PREEMPT_RT lets others preempt.
    Expiry,
    /// kprobes, while one of which runs no other does on this CPU (bpf_prog_active).
    Kprobe,
}

impl Reader {
    /// How many.
    pub const COUNT: usize = 3;
}

/// Words of a minisock that are copied at once: all of `struct sock_common`, and what follows it up to the timer.
pub const HEAD_WORDS: usize = 21;

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Port filters: rows of [`twtrace_common::knob`].
#[map]
pub static PORTS: Array<PortSet> = Array::with_max_entries(3, 0);

/// Cgroups whose whole subtree is wanted: the first [`twtrace_common::knob::Filter::cgroup_trees`] of them.
#[map]
pub static CGROUPS: CgroupArray = CgroupArray::with_max_entries(FILTER_VALUES as u32, 0);

/// The number of the present look at the kernel's minisocks: see [`Alive::met`]. The first, 1, finds those that are older than
/// the run. A map of its own: another thread writes it than the knobs.
#[map]
static LOOK: Array<u32> = Array::with_max_entries(1, 0);

#[map]
static LIVE_KNOBS: Array<LiveKnobs> = Array::with_max_entries(1, 0);

/// This CPU's counters. The map has one entry, so `None` is for the verifier alone.
#[inline(always)]
pub fn counters() -> Option<&'static Counters> {
    COUNTERS.get(0)
}

/// Adds one to a counter. Atomic, because a softirq may interrupt a program on its own CPU between load and store.
///
/// In assembly: rustc offers no atomic arithmetic for this target.
#[inline(always)]
pub fn count(counter: &u64) {
    add(counter, 1);
}

/// Adds to a number in a map, atomically.
#[inline(always)]
pub fn add(number: &u64, many: i64) {
    // SAFETY: the number lies in a map value, is 8-byte aligned, and is only ever changed by atomic additions.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({at} + 0) += {many}",
            at = in(reg) number,
            many = in(reg) many,
            options(nostack),
        );
    }
}

/// Adds one to a counter of this CPU: `bump!(trouble.stale)`.
macro_rules! bump {
    ($($field:tt)+) => {
        if let Some(counters) = $crate::maps::counters() {
            $crate::maps::count(&counters.$($field)+);
        }
    };
}
pub(crate) use bump;

/// An id for a minisock that is being born here. Births run with softirqs off, so nobody else counts on this CPU.
#[inline(always)]
pub fn next_id(counters: &Counters) -> u64 {
    let n = counters.ids + 1;
    count(&counters.ids);
    (n << 13) | cpu()
}

/// An id for a minisock that is entered by the seeding iterator, apart from those of births. Only one walk at a time counts, so
/// that births which come between leave a gap, and no id is given out twice; its task may move from one CPU to the next.
#[inline(always)]
pub fn seed_id(counters: &Counters) -> u64 {
    const SEEDED: u64 = 1 << 52;
    let n = counters.ids + 1;
    count(&counters.ids);
    SEEDED | n << 13 | cpu()
}

/// The CPU's number, 13 bits (NR_CPUS is 8192 at most).
#[inline(always)]
fn cpu() -> u64 {
    // SAFETY: the helper takes nothing and cannot fail.
    u64::from(unsafe { bpf_get_smp_processor_id() }) & 0x1fff
}

#[inline(always)]
pub fn scratch() -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(0)
}

/// The number of the present look; 0: none.
#[inline(always)]
pub fn look() -> u32 {
    // SAFETY: a map value; user space writes it between looks, and a u32 is written whole.
    LOOK.get_ptr(0).map_or(0, |look| unsafe { look.read_volatile() })
}

/// True of the namespace of the self-test, while there is one.
#[inline(always)]
pub fn is_self_test(netns: u32) -> bool {
    let of_self_test = match LIVE_KNOBS.get_ptr(0) {
        // SAFETY: a map value; user space writes it between events, and a u32 is written whole.
        Some(knobs) => unsafe { (*knobs).self_test_netns },
        None => 0,
    };
    netns == of_self_test && netns != 0
}

/// Marks a life of the self-test, so that user space keeps it from everybody's eyes.
#[inline(always)]
pub fn mark_self_test(life: &mut Life) {
    if is_self_test(life.netns) {
        life.flags |= flag::SELF_TEST;
    }
}

/// True if programs of this [`stage`](twtrace_common::knob::stage) act now.
#[inline(always)]
pub fn acts(stage: u32) -> bool {
    match LIVE_KNOBS.get_ptr(0) {
        // SAFETY: as in `is_self_test`. Volatile, for it is read once by each program that runs.
        Some(knobs) => unsafe { (&raw const (*knobs).stage).read_volatile() >= stage },
        None => false,
    }
}
