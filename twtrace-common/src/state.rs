//! What the eBPF programs remember between events, in maps that only they write.

use crate::{COMM_LEN, knob::Words, record::denial, size};

/// A connection that is being followed; map `CONNS`, keyed by the address of its `struct sock`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Conn {
    /// When it entered SYN_SENT or SYN_RECV, nanoseconds of `CLOCK_MONOTONIC`; 0: not seen.
    pub start_ns: u64,
    /// From SYN_SENT to ESTABLISHED, nanoseconds; 0: not seen, or not both.
    pub connect_ns: u64,
    /// The closer's cgroup v2 id.
    pub cgroup_id: u64,
    /// Who called connect(); 0: not seen, or accepted.
    pub opener_pid: u32,
    /// Who ran the transition into FIN_WAIT1, or held the MPTCP socket for which a worker did, if [`Conn::has_closer`]. Before
    /// that, of a connection that was opened here: `sk_txhash` when connect() began (see the programs' `connect.rs`).
    pub closer_pid: u32,
    /// Command name of the opener.
    pub opener_comm: [u8; COMM_LEN],
    /// Command name of the closer. Before there is one, in the first 4 bytes, `write_seq` when connect() began.
    pub closer_comm: [u8; COMM_LEN],
    /// One of [`role`](crate::record::role).
    pub role: u8,
    /// 1 if the opener is known.
    pub has_opener: u8,
    /// 1 if the closer is known.
    pub has_closer: u8,
    /// The last transition that was told, a number of include/net/tcp_states.h.
    pub state: u8,
    /// 1 once its minisock was born (tracepoint backend).
    pub born: u8,
    /// 1 if the closer was in one of the cgroups of map `CGROUPS`, or below.
    pub under: u8,
    /// 1 if the port was bound before connect().
    pub bound: u8,
    /// Zero.
    pub pad: u8,
}

/// A minisock that is alive; map `LIVES`, keyed by its address.
///
/// It holds what a death has to say beyond the minisock itself, so that a death survives the loss of its birth record.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Alive {
    /// See [`Life::id`](crate::record::Life::id).
    pub id: u64,
    /// Birth, nanoseconds of `CLOCK_MONOTONIC`; 0: not seen.
    pub born_ns: u64,
    /// `timer.expires` when last seen, jiffies.
    pub expires: u64,
    /// The closer's cgroup v2 id.
    pub cgroup_id: u64,
    /// Who closed the connection.
    pub closer_pid: u32,
    /// The closer's command name.
    pub closer_comm: [u8; COMM_LEN],
    /// `tw_substate` when last seen.
    pub substate: u8,
    /// One of [`role`](crate::record::role).
    pub role: u8,
    /// Bits of [`flag`](crate::record::flag).
    pub flags: u8,
    /// Bits of [`alive`].
    pub state: u8,
    /// The last look that met this minisock, with bits of [`met`]; or [`met::OVER`] and [`Alive::id`]: it ended unseen. 0: no
    /// look has met it.
    pub met: u64,
}

/// [`Alive::met`]. It is only ever written whole, so whoever writes it to an entry that became another life's meanwhile does
/// no harm: that life was not met a moment ago, which the next look mends, and it is not over, for its id is another.
pub mod met {
    /// With the id of the entry: the kernel has ended this life, no program saw it, and it has been counted. The entry stays in
    /// its place until the address is born again: kernels before 5.12 have no way to take it away only if it is still the same.
    pub const OVER: u64 = 1 << 63;
    /// The present look entered it.
    pub const NEW: u64 = 1 << 62;
    /// The number of the look: all bits below.
    pub const LOOK: u64 = NEW - 1;
}

/// What the program `bury` says of a life.
pub mod verdict {
    /// The kernel still follows a minisock at this address.
    pub const ALIVE: u32 = 0;
    /// The kernel does not follow one any more.
    pub const DEAD: u32 = 1;
    /// The table of lives has another life at this address by now, or none.
    pub const CHANGED: u32 = 2;
}

/// A slot of the array behind map `LIVES`, `LIFE_SLOTS`, as the programs lay it out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LifeSlot {
    /// How many keys have this slot.
    pub keys: u64,
    /// Address of the minisock; 0: none.
    pub key: u64,
    /// The key's entry.
    pub value: Alive,
}

/// [`Alive::state`].
pub mod alive {
    /// The closer is known.
    pub const HAS_CLOSER: u8 = 1 << 0;
    /// The filters of the run let this life through.
    pub const MATCHED: u8 = 1 << 1;
}

/// A socket on its way into TIME_WAIT; value of map `CLOSING`, which leads from a minisock to the socket it replaces
/// where only timer tracepoints are to be had. Keyed by a mix of namespace, addresses, ports and bound device.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Closing {
    /// Address of its `struct sock`; 0: not known.
    pub sk: u64,
    /// Local port (upper half, host order) and remote port (as on the wire).
    pub ports: u32,
    /// 1 once its minisock was born.
    pub born: u32,
}

/// What a connect() was denied so far; map `DENIED`, keyed by the address of its `struct sock`. Rows are [`denial`] - 1.
///
/// Whoever succeeds leaves it behind, for the next connect() of that socket or for the map, which forgets the oldest.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Denied {
    /// [`Conn::start_ns`] of the connect() that this is about; 0: not followed.
    pub start_ns: u64,
    /// [`Alive::id`] of the first minisock; 0: not known.
    pub first_id: [u64; DENIALS],
    /// How many minisocks.
    pub count: [u32; DENIALS],
    /// Local port of the first.
    pub first_port: [u16; DENIALS],
    /// 1 if the port was bound before.
    pub bound: u8,
    /// Zero.
    pub pad: [u8; 7],
}

/// The task that acted last on an MPTCP socket: called connect(), shutdown() or close(); value of map `OWNERS`, keyed by the
/// address of its `struct sock`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Owner {
    /// The task's cgroup v2 id.
    pub cgroup_id: u64,
    /// Thread group id.
    pub pid: u32,
    /// The task's command name.
    pub comm: [u8; COMM_LEN],
    /// 1 if it was in one of the cgroups of map `CGROUPS`, or below.
    pub under: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Whose connections the peer closes first; key of map `PASSIVE`.
///
/// Of connections that were opened here: the remote end, and from where. Of those that were accepted the port alone: there
/// would be as many keys as clients.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PassiveKey {
    /// Local address, as in [`Life`](crate::record::Life); zero of a server.
    pub laddr: Words,
    /// Remote address; zero of a server.
    pub raddr: Words,
    /// Inode number of the network namespace; 0 of a server, or if it is not known.
    pub netns: u32,
    /// The service's port: the remote one of a client, the local one of a server.
    pub port: u16,
    /// One of [`role`](crate::record::role), never unknown.
    pub role: u8,
    /// 4 or 6; 0 of a server.
    pub family: u8,
}

/// How many connections the peer closed first; value of map `PASSIVE`, whose entries the kernel evicts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassiveCloses {
    /// How many since the entry was made.
    pub closes: u64,
    /// When that was, nanoseconds of `CLOCK_MONOTONIC`: an entry that was evicted and came again has another time.
    pub since_ns: u64,
}

/// Rows of a [`Denied`].
pub const DENIALS: usize = denial::COUNT - 1;

const _: () = {
    assert!(size::<Conn>() == 72);
    assert!(size::<Alive>() == 64);
    assert!(size::<LifeSlot>() == 16 + 64);
    assert!(size::<Closing>() == 16);
    assert!(size::<Owner>() == 32);
    assert!(size::<PassiveKey>() == 40);
    assert!(size::<PassiveCloses>() == 16);
    assert!(size::<Denied>() == 8 + DENIALS * 14 + 8);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), integers without implicit padding (size asserted above).
    unsafe impl aya::Pod for super::PassiveKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::PassiveCloses {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Alive {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::LifeSlot {}
}
