//! The counters that the eBPF programs keep: one block per CPU, added up by user space. They are the truth; records are
//! the detail.

use crate::{
    record::{cause, denial, kind, refusal},
    size,
};

/// One CPU's counters; map `COUNTERS`.
///
/// For every kind of record `seen = emitted + filtered + lost`: `seen` moves when the event is found, one of the others
/// when its fate is known, both in one run of one program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events found, by [`kind`].
    pub seen: [u64; kind::COUNT],
    /// Records submitted to the ring, by [`kind`].
    pub emitted: [u64; kind::COUNT],
    /// Events that the filters of the run left out, by [`kind`].
    pub filtered: [u64; kind::COUNT],
    /// Events for which the ring had no room, by [`kind`].
    pub lost: [u64; kind::COUNT],
    /// Births of TIME_WAIT minisocks that the filters let through.
    pub born_time_wait: u64,
    /// Births of FIN_WAIT2 minisocks that the filters let through.
    pub born_fin_wait2: u64,
    /// Turns that the filters let through.
    pub turned: u64,
    /// Re-arms that the filters let through.
    pub rearmed: u64,
    /// Deaths that the filters let through, by [`cause`].
    pub died: [u64; cause::SLOTS],
    /// Refusals that the filters let through, by [`refusal`].
    pub refused: [u64; refusal::COUNT],
    /// connect() calls that failed with EADDRNOTAVAIL and that the filters let through.
    pub no_port: u64,
    /// Failed connect() calls whose port was bound before.
    pub no_port_bound: u64,
    /// bind() and listen() calls that failed with EADDRINUSE and that the filters let through.
    pub no_bind: u64,
    /// Denials that the filters let through, one a connect() and reason, by [`denial`].
    pub reuse_denied: [u64; denial::COUNT],
    /// Connections that the peer closed first and that the filters let through. All that is not in map `PASSIVE`, now or when
    /// it was read before, was evicted from it.
    pub passive: u64,
    /// Without filters, in twtrace's own network namespace only: what its TcpExt counters can be held against.
    pub own: Own,
    /// What went wrong inside the programs.
    pub trouble: Trouble,
    /// Minisocks that were there before, entered by the seeding iterator.
    pub seeded: u64,
    /// Ids given out so far on this CPU, to births and to minisocks that looks entered.
    pub ids: u64,
    /// Events for which the first program of a hook was not run and the second was, by [`hook`].
    pub again: [u64; hook::COUNT],
    /// Ends of minisocks that the table of lives did not have, or had as over.
    pub unborn: u64,
}

/// Hooks with a second program, which acts if the first was not run: rows of [`Counters::again`].
pub mod hook {
    /// `inet_sock_set_state`.
    pub const CONN: usize = 0;
    /// `inet_twsk_alloc`.
    pub const REFUSAL: usize = 1;
    /// `inet_twsk_kill`.
    pub const DEATH: usize = 2;
    /// How many.
    pub const COUNT: usize = 3;
}

/// Totals of one network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Minisocks born, both substates.
    pub born: u64,
    /// Minisocks that ended, whatever the cause.
    pub died: u64,
    /// Ends by the timer.
    pub expired: u64,
    /// Ends by a connect(), auto-bound or bound.
    pub taken: u64,
    /// Births refused.
    pub refused: u64,
}

/// Losses and surprises, each a reason why a field may be unknown.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Births that found the table of lives full: their deaths will not know their age.
    pub lives_full: u64,
    /// Connections that found the table of connections full: opener, closer and age unknown.
    pub conns_full: u64,
    /// Sockets that found the table of closing sockets full (tracepoint backend).
    pub closing_full: u64,
    /// Denials of a connect() that could not be noted.
    pub denied_full: u64,
    /// Minisocks that were entered by the seeding iterator and could not be told to its reader.
    pub seeds_full: u64,
    /// Kernel memory that could not be read.
    pub read_failed: u64,
    /// Kernel stacks that could not be taken.
    pub stack_failed: u64,
    /// Births at an address whose former life was never seen to end.
    pub stale: u64,
    /// Minisocks that are not TCP's (DCCP shares the functions).
    pub not_tcp: u64,
    /// Sockets that closed into TIME_WAIT without a birth that a program saw, though there was room for it (tracepoint and
    /// kprobe backends).
    pub unseen_births: u64,
    /// Records of the self-test for which the ring had no room.
    pub self_test_lost: u64,
}

const _: () = assert!(
    size::<Counters>()
        == 8 * (4 * kind::COUNT + 4 + cause::SLOTS + refusal::COUNT + 3 + denial::COUNT + 1 + 5 + 11 + 3 + hook::COUNT)
);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), u64 only.
    unsafe impl aya::Pod for super::Counters {}
}
