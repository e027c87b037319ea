//! What user space tells the programs before they are loaded: offsets of kernel fields, addresses of kernel functions,
//! the filters of the run. All of it is frozen read-only data, so the verifier sees constants and prunes what is off.

use crate::size;

/// An offset that the running kernel's BTF does not have.
pub const ABSENT: u16 = u16::MAX;

/// Calls `$m!` with every kernel field that the programs read: `NAME, bytes, need, "struct.path|alternative"`.
///
/// The eBPF crate makes one global of each, named NAME; user space resolves the path against BTF, checks the size, and
/// sets the global. `need` is `required` (no run without it) or `optional` (absent shows as unknown).
#[macro_export]
macro_rules! for_each_field {
    ($m:ident) => {
        $m! {
            SKC_DADDR, 4, required, "sock_common.skc_daddr";
            SKC_RCV_SADDR, 4, required, "sock_common.skc_rcv_saddr";
            SKC_DPORT, 2, required, "sock_common.skc_dport";
            SKC_NUM, 2, required, "sock_common.skc_num";
            SKC_FAMILY, 2, required, "sock_common.skc_family";
            SKC_STATE, 1, required, "sock_common.skc_state";
            SKC_BOUND_IF, 4, required, "sock_common.skc_bound_dev_if";
            SKC_PPREV, 8, required, "sock_common.skc_nulls_node.pprev";
            SKC_PROT, 8, required, "sock_common.skc_prot";
            SKC_NET, 8, required, "sock_common.skc_net.net";
            SKC_V6_DADDR, 16, optional, "sock_common.skc_v6_daddr";
            SKC_V6_RCV_SADDR, 16, optional, "sock_common.skc_v6_rcv_saddr";
            PROTO_NAME, 32, required, "proto.name";
            TW_SUBSTATE, 1, required, "inet_timewait_sock.tw_substate";
            TW_MARK, 4, optional, "inet_timewait_sock.tw_mark";
            TW_TIMER, 0, required, "inet_timewait_sock.tw_timer";
            TW_TB, 8, required, "inet_timewait_sock.tw_tb";
            TW_ENTRY_STAMP, 4, optional, "inet_timewait_sock.tw_entry_stamp";
            TCPTW_TS_STAMP, 4, optional, "tcp_timewait_sock.tw_ts_recent_stamp";
            TIMER_EXPIRES, 8, required, "timer_list.expires";
            TIMER_FUNCTION, 8, required, "timer_list.function";
            TIMER_PPREV, 8, required, "timer_list.entry.pprev";
            DR_COUNT, 4, optional, "inet_timewait_death_row.tw_refcount|inet_timewait_death_row.tw_count";
            DR_LIMIT, 4, optional, "inet_timewait_death_row.sysctl_max_tw_buckets";
            NET_INUM, 4, required, "net.ns.inum";
            NET_LIVE, 4, optional, "net.ns.__ns_ref|net.ns.count|net.count";
            NET_TW_REUSE, 0, optional, "net.ipv4.sysctl_tcp_tw_reuse";
            NET_FIN_TIMEOUT, 4, optional, "net.ipv4.sysctl_tcp_fin_timeout";
            NET_DEATH_ROW, 0, optional, "net.ipv4.tcp_death_row";
            SK_PROTOCOL, 2, required, "sock.sk_protocol";
            SK_MARK, 4, optional, "sock.sk_mark";
            SK_TXHASH, 4, optional, "sock.sk_txhash";
            INET_SPORT, 2, required, "inet_sock.inet_sport";
            TASK_COMM, 0, required, "task_struct.comm";
            TP_WRITE_SEQ, 4, optional, "tcp_sock.write_seq";
            TP_SRTT, 4, optional, "tcp_sock.srtt_us";
            TP_BYTES_RECEIVED, 8, optional, "tcp_sock.bytes_received";
            TP_BYTES_SENT, 8, optional, "tcp_sock.bytes_sent";
            TP_BYTES_RETRANS, 8, optional, "tcp_sock.bytes_retrans";
            TP_TS_RECENT_STAMP, 4, optional, "tcp_sock.rx_opt.ts_recent_stamp";
            TP_LINGER2, 4, optional, "tcp_sock.linger2";
            TP_IS_MPTCP, 1, optional, "tcp_sock.is_mptcp";
            ICSK_ULP_DATA, 8, optional, "inet_connection_sock.icsk_ulp_data";
            SUBFLOW_CONN, 8, optional, "mptcp_subflow_context.conn";
        }
    };
}

/// A kernel function's place in memory: `start <= ip < end`. Zero where it is not known.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
}

impl Range {
    /// A function whose place is not known.
    pub const NOWHERE: Self = Self { start: 0, end: 0 };
}

/// Kernel functions that tell, by their place in a kernel stack, why something happened.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Functions {
    /// `tw_timer_handler`: `timer->function` of every minisock's timer; 0 where it is not known.
    pub tw_timer_handler: u64,
    /// `inet_twsk_deschedule_put`: below it stands who ended a minisock early.
    pub deschedule: Range,
    /// `inet_twsk_purge`: the namespace's end, with `inet_twsk_deschedule_put` inlined on some kernels.
    pub purge: Range,
    /// `tcp_timewait_state_process`: a RST.
    pub state_process: Range,
    /// `tcp_v4_rcv`: a SYN, or data to FIN_WAIT2.
    pub v4_rcv: Range,
    /// `tcp_v6_rcv`.
    pub v6_rcv: Range,
    /// `tcp_abort`: SOCK_DESTROY.
    pub abort: Range,
    /// `nf_tproxy_handle_time_wait4`, in a module.
    pub tproxy4: Range,
    /// `nf_tproxy_handle_time_wait6`, in a module.
    pub tproxy6: Range,
    /// `tcp_done`: below it stands who closed a socket.
    pub done: Range,
    /// `tcp_time_wait`.
    pub time_wait: Range,
    /// `tcp_fin`: reaches `tcp_done` only through a tail call of `tcp_time_wait`.
    pub fin: Range,
    /// `__tcp_close`: as `tcp_fin`.
    pub close: Range,
    /// `tcp_rcv_state_process`: calls `tcp_done` itself too.
    pub rcv_state_process: Range,
    /// `tcp_keepalive_timer`: calls `tcp_done` itself too.
    pub keepalive: Range,
}

impl Functions {
    /// None of them is known.
    pub const NOWHERE: Self = Self {
        tw_timer_handler: 0,
        deschedule: Range::NOWHERE,
        purge: Range::NOWHERE,
        state_process: Range::NOWHERE,
        v4_rcv: Range::NOWHERE,
        v6_rcv: Range::NOWHERE,
        abort: Range::NOWHERE,
        tproxy4: Range::NOWHERE,
        tproxy6: Range::NOWHERE,
        done: Range::NOWHERE,
        time_wait: Range::NOWHERE,
        fin: Range::NOWHERE,
        close: Range::NOWHERE,
        rcv_state_process: Range::NOWHERE,
        keepalive: Range::NOWHERE,
    };
}

/// Which backend does what; each field 0 or 1, unless it says more.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Duties {
    /// timer_start tells births.
    pub tp_birth: u8,
    /// timer_cancel and timer_expire_entry tell deaths.
    pub tp_death: u8,
    /// timer_start tells re-arms.
    pub tp_rearm: u8,
    /// How the transition to CLOSE tells refusals: 1 by the note of `tcp_time_wait`, 2 because no birth was seen.
    pub close_refusal: u8,
    /// `net.ipv4.tcp_death_row` is a pointer (5.18 to 6.0), not a struct.
    pub death_row_pointer: u8,
    /// `tw_refcount` (5.18+) starts at one.
    pub refcount_base: u8,
    /// The target of the birth hook has the timeout as argument 3 (`inet_twsk_hashdance_schedule`).
    pub has_timeo: u8,
    /// The functions that tell a cause by their place in a stack are known.
    pub has_stack: u8,
    /// The transition SYN_SENT -> CLOSE tells that connect() failed with EADDRNOTAVAIL.
    pub tp_no_port: u8,
    /// Denials are noted in map `DENIED`.
    pub reuse_denied: u8,
    /// Connections that the peer closed first are counted in map `PASSIVE`.
    pub passive: u8,
    /// Zero.
    pub pad: [u8; 5],
}

impl Duties {
    /// Before user space has said anything.
    pub const NONE: Self = Self {
        tp_birth: 0,
        tp_death: 0,
        tp_rearm: 0,
        close_refusal: 0,
        death_row_pointer: 0,
        refcount_base: 0,
        has_timeo: 0,
        has_stack: 0,
        tp_no_port: 0,
        reuse_denied: 0,
        passive: 0,
        pad: [0; 5],
    };
}

/// Makes programs linger, so that events come inside events: for tests, all zeroes in every run, and then no program has an
/// instruction of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Linger {
    /// How long the first program of a hook goes on once its work is done, before it leaves its token; nanoseconds, some
    /// 500,000 at most.
    pub first_ns: u32,
    /// How long the second program waits before it looks for the token; nanoseconds, as above.
    pub second_ns: u32,
    /// Bit n: at changes numbered n: the new state of `inet_sock_set_state`, 0 at other hooks.
    pub changes: u32,
    /// While this task is the current one: its thread id.
    pub tid: u32,
}

impl Linger {
    /// Nothing lingers.
    pub const NEVER: Self = Self { first_ns: 0, second_ns: 0, changes: 0, tid: 0 };
}

/// How many values of one kind a filter holds.
pub const FILTER_VALUES: usize = 8;

/// 16 bytes as two words, each with its bytes in memory order: what the programs compare.
pub type Words = [u64; 2];

/// An address block.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cidr {
    /// Network order; IPv4 in the first 4 bytes; bits behind the prefix are zero.
    pub addr: Words,
    /// The prefix as a mask, network order.
    pub mask: Words,
    /// 4 or 6.
    pub family: u64,
}

impl Cidr {
    /// No block: of no family.
    pub const NONE: Self = Self { addr: [0; 2], mask: [0; 2], family: 0 };
}

/// The filters of a run. Values of one kind are alternatives, kinds add up; a count of 0 lets everything through.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Inode numbers of network namespaces.
    pub netns: [u32; FILTER_VALUES],
    /// Closers.
    pub pid: [u32; FILTER_VALUES],
    /// Closers' cgroup v2 ids.
    pub cgroup: [u64; FILTER_VALUES],
    /// Closers' command names, padded with NULs to 16 bytes.
    pub comm: [Words; FILTER_VALUES],
    /// Local address blocks.
    pub laddr: [Cidr; FILTER_VALUES],
    /// Remote address blocks.
    pub raddr: [Cidr; FILTER_VALUES],
    /// Bit n: kind n of [`record::kind`](crate::record::kind) is wanted.
    pub kinds: u32,
    /// Bit n: cause n of [`record::cause`](crate::record::cause) is wanted; 0: all.
    pub causes: u32,
    /// How many values `netns` holds.
    pub netns_len: u8,
    /// How many values `pid` holds.
    pub pid_len: u8,
    /// How many values `cgroup` holds.
    pub cgroup_len: u8,
    /// How many values `comm` holds.
    pub comm_len: u8,
    /// How many values `laddr` holds.
    pub laddr_len: u8,
    /// How many values `raddr` holds.
    pub raddr_len: u8,
    /// 4, 6, or 0 for both.
    pub family: u8,
    /// One of [`role`](crate::record::role), or 0 for all.
    pub role: u8,
    /// 1: map `PORTS` row 0 names the local ports that are wanted.
    pub lport: u8,
    /// 1: row 1 names the remote ports.
    pub rport: u8,
    /// 1: row 2 names ports either of which is wanted.
    pub port: u8,
    /// 1: any of the above, but for kinds and causes, leaves something out. Else nothing of them is looked at.
    pub any: u8,
    /// How many rows of map `CGROUPS` are cgroups whose whole subtree is wanted: alternatives to `cgroup`.
    pub cgroup_trees: u8,
    /// Zero.
    pub pad: [u8; 3],
}

impl Filter {
    /// Lets everything through.
    pub const ALL: Self = Self {
        netns: [0; FILTER_VALUES],
        pid: [0; FILTER_VALUES],
        cgroup: [0; FILTER_VALUES],
        comm: [[0; 2]; FILTER_VALUES],
        laddr: [Cidr::NONE; FILTER_VALUES],
        raddr: [Cidr::NONE; FILTER_VALUES],
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
        any: 0,
        cgroup_trees: 0,
        pad: [0; 3],
    };

    /// Sets [`Filter::any`] by what the rest of the filters says.
    #[must_use]
    pub fn settled(self) -> Self {
        let lets_all = Self { kinds: self.kinds, causes: self.causes, any: self.any, ..Self::ALL };
        Self { any: u8::from(self != lets_all), ..self }
    }
}

/// One row of map `PORTS`: a bit for each port.
pub type PortSet = [u64; 1024];
/// Row of [`PortSet`] for local ports.
pub const PORTS_LOCAL: u32 = 0;
/// Row of [`PortSet`] for remote ports.
pub const PORTS_REMOTE: u32 = 1;
/// Row of [`PortSet`] for either port.
pub const PORTS_EITHER: u32 = 2;

/// What may change while the programs run; map `LIVE_KNOBS`, entry 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveKnobs {
    /// Inode number of the namespace of the self-test, 0 when none runs: its events are flagged and not counted.
    pub self_test_netns: u32,
    /// Which programs act: see [`stage`]. All begin and stop at one moment, whatever the order in which hooks come and go.
    pub stage: u32,
}

/// Values of [`LiveKnobs::stage`].
pub mod stage {
    /// No program does anything: hooks are being attached, or the run is over.
    pub const STOPPED: u32 = 0;
    /// Only what follows minisocks: a transition of a socket must not be told while the birth just before it was not.
    pub const MINISOCKS: u32 = 1;
    /// Everything.
    pub const ALL: u32 = 2;
}

const _: () = {
    assert!(size::<Functions>() == 8 + 14 * 16);
    assert!(size::<Duties>() == 16);
    assert!(size::<Linger>() == 16);
    assert!(size::<Cidr>() == 40);
    assert!(size::<Filter>() == 32 + 32 + 64 + 128 + 320 + 320 + 8 + 16);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), integers and byte arrays, no implicit padding (sizes asserted above).
    unsafe impl aya::Pod for super::Functions {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Duties {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Linger {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Filter {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::LiveKnobs {}
}
