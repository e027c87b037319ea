//! The records that the eBPF programs write into the ring, one type per shape.
//!
//! A record is a [`Header`], a [`Life`] and what its kind adds. Times are nanoseconds of `CLOCK_MONOTONIC`
//! (`bpf_ktime_get_ns`); ports are in host order; addresses are in network order, an IPv4 address in the first 4 bytes.

use crate::{COMM_LEN, size};

/// What a record tells; [`Header::kind`]. 0 is no kind.
pub mod kind {
    /// A minisock was born: [`Birth`](super::Birth).
    pub const BORN: u8 = 1;
    /// A FIN_WAIT2 minisock became TIME_WAIT in place: [`Touch`](super::Touch).
    pub const TURNED: u8 = 2;
    /// A minisock's timer was armed anew: [`Touch`](super::Touch).
    pub const REARMED: u8 = 3;
    /// A minisock ended: [`Death`](super::Death).
    pub const DIED: u8 = 4;
    /// The kernel made no minisock, for lack of room: [`Birth`](super::Birth).
    pub const REFUSED: u8 = 5;
    /// A connect() failed with EADDRNOTAVAIL: [`Connect`](super::Connect).
    pub const NO_PORT: u8 = 6;
    /// A connect() that failed was denied a minisock that stood in its way: [`Connect`](super::Connect).
    pub const REUSE_DENIED: u8 = 7;
    /// A bind() or listen() failed with EADDRINUSE: [`Bind`](super::Bind).
    pub const NO_BIND: u8 = 8;
    /// One more than the largest kind.
    pub const COUNT: usize = 9;
}

/// Why a minisock ended; [`Death::cause`]. The names are those of the JSON output.
pub mod cause {
    /// Not known.
    pub const UNKNOWN: u8 = 0;
    /// The timer ran out (`tw_timer_handler`).
    pub const EXPIRED: u8 = 1;
    /// A connect() with an automatically chosen port took it (`__inet_hash_connect`).
    pub const REUSED: u8 = 2;
    /// A connect() from an explicitly bound port took it (`__inet_check_established` with `twp == NULL`).
    pub const REUSED_BOUND: u8 = 3;
    /// A new SYN took it (`tcp_v4_rcv`, `tcp_v6_rcv` after `TCP_TW_SYN`).
    pub const RECYCLED: u8 = 4;
    /// A RST killed it (`tcp_timewait_state_process`).
    pub const RESET: u8 = 5;
    /// Data or a SYN reached a FIN_WAIT2 minisock (`tcp_v4_rcv`, `tcp_v6_rcv` after `TCP_TW_RST`).
    pub const DATA_RESET: u8 = 6;
    /// SOCK_DESTROY (`ss -K`) or bpf_sock_destroy (`tcp_abort`).
    pub const KILLED: u8 = 7;
    /// The minisock's network namespace went away (`inet_twsk_purge`).
    pub const NETNS: u8 = 8;
    /// A TPROXY redirect of a SYN (`nf_tproxy_handle_time_wait4`, `..6`).
    pub const TPROXY: u8 = 9;
    /// Places for counters by cause: a power of two above the largest, so that a mask bounds the index.
    pub const SLOTS: usize = 16;
}

/// `tw_substate` of a minisock; the numbers of include/net/tcp_states.h.
pub mod substate {
    /// TCP_FIN_WAIT2: our FIN is acknowledged, the peer's has not come.
    pub const FIN_WAIT2: u8 = 5;
    /// TCP_TIME_WAIT: both FINs are through.
    pub const TIME_WAIT: u8 = 6;
}

/// Who opened the connection; [`Life::role`].
pub mod role {
    /// Not seen being opened.
    pub const UNKNOWN: u8 = 0;
    /// This host called connect() (CLOSE -> SYN_SENT).
    pub const CLIENT: u8 = 1;
    /// This host accepted it (LISTEN -> SYN_RECV).
    pub const SERVER: u8 = 2;
}

/// Why no minisock was made; [`Birth::reason`].
pub mod refusal {
    /// Not a refusal.
    pub const NONE: u8 = 0;
    /// `tcp_max_tw_buckets` was reached.
    pub const BUCKETS: u8 = 1;
    /// The slab allocation failed.
    pub const MEMORY: u8 = 2;
    /// One more than the largest reason.
    pub const COUNT: usize = 3;
}

/// Why connect() could not take over a minisock (`tcp_twsk_unique`); [`Connect::reason`].
pub mod denial {
    /// Not a denial.
    pub const NONE: u8 = 0;
    /// The minisock's connection had no TCP timestamps.
    pub const NO_TIMESTAMPS: u8 = 1;
    /// tcp_tw_reuse would have it, a little later.
    pub const TOO_YOUNG: u8 = 2;
    /// tcp_tw_reuse is 0, or is 2 and it is not a loopback connection.
    pub const DISABLED: u8 = 3;
    /// The peer has not closed.
    pub const FIN_WAIT2: u8 = 4;
    /// One more than the largest reason.
    pub const COUNT: usize = 5;
}

/// Which system call failed; [`Bind::call`].
pub mod call {
    /// bind(2).
    pub const BIND: u8 = 1;
    /// listen(2): the port was bound, by SO_REUSEADDR beside another socket, and that one listens.
    pub const LISTEN: u8 = 2;
}

/// Which fields of a record hold what the kernel said; [`Life::valid`]. A bit that is not set means: not read.
pub mod valid {
    /// `Life::{closer_pid, closer_comm}` and `cgroup_id`, whoever that is.
    pub const CLOSER: u32 = 1 << 0;
    /// `Birth::{opener_pid, opener_comm}`.
    pub const OPENER: u32 = 1 << 1;
    /// `Birth::conn_ns`.
    pub const CONN: u32 = 1 << 2;
    /// `Birth::{bytes_in, bytes_out}`.
    pub const BYTES: u32 = 1 << 3;
    /// `Birth::srtt_us`.
    pub const SRTT: u32 = 1 << 4;
    /// `Birth::mark`.
    pub const MARK: u32 = 1 << 5;
    /// `timeout_ms`.
    pub const TIMEOUT: u32 = 1 << 6;
    /// `Birth::timestamps`.
    pub const TIMESTAMPS: u32 = 1 << 7;
    /// `Birth::{used, limit}`.
    pub const BUCKETS: u32 = 1 << 8;
    /// `Death::life_ns`, `Touch::after_ns`.
    pub const AGE: u32 = 1 << 9;
    /// `Death::{taker_pid, taker_comm}`.
    pub const TAKER: u32 = 1 << 10;
    /// `Life::netns`.
    pub const NETNS: u32 = 1 << 11;
    /// `Life::{lport, rport, laddr, raddr, family}`.
    pub const TUPLE: u32 = 1 << 12;
    /// `Life::substate`.
    pub const SUBSTATE: u32 = 1 << 13;
    /// `Birth::connect_ns`, `Connect::took_ns`.
    pub const CONNECT: u32 = 1 << 14;
    /// The closer was in one of the cgroups of map `CGROUPS`, or below. Looked at only if the filter names such cgroups.
    pub const UNDER: u32 = 1 << 15;
}

/// [`Life::flags`].
pub mod flag {
    /// The minisock existed before the programs were attached.
    pub const PREEXISTING: u8 = 1 << 0;
    /// No birth of it is on record: it existed before, or the table of lives was full when it was born.
    pub const UNKNOWN_BIRTH: u8 = 1 << 1;
    /// The life belongs to the namespace of the start-up self-test; no counter moved.
    pub const SELF_TEST: u8 = 1 << 2;
    /// Seen only after the fact, at the next event of the minisock's timer (tracepoint backend).
    pub const LATE: u8 = 1 << 3;
}

/// The start of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// When it happened, nanoseconds of `CLOCK_MONOTONIC`.
    pub mono_ns: u64,
    /// One of [`kind`].
    pub kind: u8,
    /// [`ABI`](crate::ABI).
    pub abi: u8,
    /// Zero.
    pub pad: [u8; 6],
}

/// Which minisock, and who closed its connection; in a [`Connect`] or [`Bind`], who called connect(), bind() or listen().
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Stable for the life of the minisock, unique since the programs were attached, below 2^53; 0 if it is not in the
    /// table of lives.
    pub id: u64,
    /// The closer's cgroup v2 id.
    pub cgroup_id: u64,
    /// Local address.
    pub laddr: [u8; 16],
    /// Remote address.
    pub raddr: [u8; 16],
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Which fields are known: bits of [`valid`].
    pub valid: u32,
    /// Local port; 0: none was found, or any was wanted.
    pub lport: u16,
    /// Remote port.
    pub rport: u16,
    /// 4 or 6; a v4-mapped socket is 4.
    pub family: u8,
    /// One of [`substate`].
    pub substate: u8,
    /// One of [`role`].
    pub role: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// The task that ran the transition into FIN_WAIT1 (of MPTCP: that closed the MPTCP socket), or called connect(), bind()
    /// or listen(): thread group id.
    pub closer_pid: u32,
    /// The closer's command name.
    pub closer_comm: [u8; COMM_LEN],
    /// Zero.
    pub pad: [u8; 4],
}

/// A birth, or a birth that the kernel refused.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth {
    /// Kind [`BORN`](kind::BORN) or [`REFUSED`](kind::REFUSED).
    pub header: Header,
    /// Which minisock.
    pub life: Life,
    /// Age of the connection, from SYN_SENT or SYN_RECV, nanoseconds.
    pub conn_ns: u64,
    /// From SYN_SENT to ESTABLISHED, nanoseconds, never 0: the search for a port and the handshake.
    pub connect_ns: u64,
    /// `tcp_sock.bytes_received`: payload, and one for the peer's FIN if it came.
    pub bytes_in: u64,
    /// Payload sent without retransmissions: `tcp_sock.bytes_sent - bytes_retrans`.
    pub bytes_out: u64,
    /// Smoothed round-trip time, microseconds: `tcp_sock.srtt_us >> 3`.
    pub srtt_us: u32,
    /// What the timer was armed with, milliseconds.
    pub timeout_ms: u32,
    /// `SO_MARK`.
    pub mark: u32,
    /// Minisocks of the namespace at the refusal.
    pub used: u32,
    /// `net.ipv4.tcp_max_tw_buckets` of the namespace.
    pub limit: u32,
    /// The task that called connect(): thread group id.
    pub opener_pid: u32,
    /// The opener's command name.
    pub opener_comm: [u8; COMM_LEN],
    /// 1 if the peers exchanged TCP timestamps.
    pub timestamps: u8,
    /// One of [`refusal`].
    pub reason: u8,
    /// Zero.
    pub pad: [u8; 6],
}

/// A minisock turned from FIN_WAIT2 to TIME_WAIT, or was armed anew.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// Kind [`TURNED`](kind::TURNED) or [`REARMED`](kind::REARMED).
    pub header: Header,
    /// Which minisock.
    pub life: Life,
    /// Time since its birth, nanoseconds.
    pub after_ns: u64,
    /// What the timer was armed with, milliseconds.
    pub timeout_ms: u32,
    /// Zero.
    pub pad: [u8; 4],
}

/// A minisock ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// Kind [`DIED`](kind::DIED).
    pub header: Header,
    /// Which minisock.
    pub life: Life,
    /// From birth to now, nanoseconds.
    pub life_ns: u64,
    /// The task whose connect() took the tuple: thread group id.
    pub taker_pid: u32,
    /// The taker's command name.
    pub taker_comm: [u8; COMM_LEN],
    /// One of [`cause`].
    pub cause: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// A connect() failed with EADDRNOTAVAIL.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Kind [`NO_PORT`](kind::NO_PORT) or [`REUSE_DENIED`](kind::REUSE_DENIED).
    pub header: Header,
    /// What it wanted, its local port 0 unless that was bound before; or the first minisock that it was denied for this
    /// reason.
    pub life: Life,
    /// From SYN_SENT to the failure, nanoseconds, never 0.
    pub took_ns: u64,
    /// How many minisocks it was denied for this reason.
    pub count: u32,
    /// One of [`denial`].
    pub reason: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// A bind() or listen() failed with EADDRINUSE.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Kind [`NO_BIND`](kind::NO_BIND).
    pub header: Header,
    /// The address and the port that it wanted, without a remote end; local port 0: any port, and all are taken. The closer
    /// is who called.
    pub life: Life,
    /// One of [`call`].
    pub call: u8,
    /// Zero.
    pub pad: [u8; 7],
}

const _: () = {
    assert!(size::<Header>() == 16);
    assert!(size::<Life>() == 88);
    assert!(size::<Birth>() == 16 + 88 + 80);
    assert!(size::<Touch>() == 16 + 88 + 16);
    assert!(size::<Death>() == 16 + 88 + 32);
    assert!(size::<Connect>() == 16 + 88 + 16);
    assert!(size::<Bind>() == 16 + 88 + 8);
    assert!(core::mem::offset_of!(Life, netns) == 48);
    assert!(core::mem::offset_of!(Life, closer_pid) == 64);
    assert!(align_of::<Birth>() == 8);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), integers and byte arrays only, no implicit padding (sizes asserted above).
    unsafe impl aya::Pod for super::Birth {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Touch {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Death {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Connect {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Bind {}
}
