//! Capabilities `conn` and `closer`: who opened a connection, when, and who closed it.
//!
//! One tracepoint serves all backends: `sock:inet_sock_set_state(const struct sock *sk, int old, int new)`. It never
//! reports TIME_WAIT, but it runs in the task that opens (CLOSE -> SYN_SENT) and in the one that closes (.. ->
//! FIN_WAIT1), which nothing else tells.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use twtrace_common::{
    record::{Life, role, valid},
    state::{Closing, Conn, Tuple},
};

use crate::{
    emit::now,
    kernel,
    knobs::knob,
    maps::{CLOSING, CONNS, bump},
    refusal,
};

const SYN_SENT: i32 = 2;
const SYN_RECV: i32 = 3;
const FIN_WAIT1: i32 = 4;
const FIN_WAIT2: i32 = 5;
const CLOSE: i32 = 7;
const LISTEN: i32 = 10;
const IN_CLOSING: i32 = 11;

const BLANK: Conn = Conn {
    start_ns: 0,
    cgroup_id: 0,
    opener_pid: 0,
    closer_pid: 0,
    opener_comm: [0; 16],
    closer_comm: [0; 16],
    role: role::UNKNOWN,
    has_opener: 0,
    has_closer: 0,
    pad: [0; 5],
};

/// `void inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn conn_tp(ctx: BtfTracePointContext) -> i32 {
    let (old, new) = (ctx.arg::<i32>(1), ctx.arg::<i32>(2));
    if old == new || !matches!(new, SYN_SENT | SYN_RECV | FIN_WAIT1 | FIN_WAIT2 | CLOSE | IN_CLOSING) {
        return 0;
    }
    let sk = ctx.arg::<u64>(0);
    if !kernel::is_tcp_sock(sk) {
        return 0;
    }
    match new {
        SYN_SENT => opened(sk),
        SYN_RECV if old == LISTEN => accepted(sk),
        FIN_WAIT1 => closed(sk),
        FIN_WAIT2 | IN_CLOSING => closing(sk),
        CLOSE => gone(&ctx, sk, old),
        _ => {}
    }
    0
}

#[inline(always)]
fn opened(sk: u64) {
    let mut conn = Conn { start_ns: now(), role: role::CLIENT, has_opener: 1, ..BLANK };
    conn.opener_pid = kernel::current(&mut conn.opener_comm);
    follow(sk, &conn);
}

#[inline(always)]
fn accepted(sk: u64) {
    follow(sk, &Conn { start_ns: now(), role: role::SERVER, ..BLANK });
}

#[inline(always)]
fn closed(sk: u64) {
    if let Some(conn) = CONNS.get_ptr_mut(sk) {
        // SAFETY: the entry belongs to this socket, whose lock is held at every transition.
        closer(unsafe { &mut *conn });
    } else {
        let mut conn = BLANK;
        closer(&mut conn);
        follow(sk, &conn);
    }
}

#[inline(always)]
fn closer(conn: &mut Conn) {
    conn.closer_pid = kernel::current(&mut conn.closer_comm);
    // SAFETY: the helper takes nothing and cannot fail.
    conn.cgroup_id = unsafe { aya_ebpf::helpers::generated::bpf_get_current_cgroup_id() };
    conn.has_closer = 1;
}

#[inline(always)]
fn follow(sk: u64, conn: &Conn) {
    if CONNS.insert(sk, conn, 0).is_err() {
        bump!(trouble.conns_full);
        aya_log_ebpf::warn!(&(), "table of connections is full: a socket is not followed");
    }
}

/// Leaves word where the minisock, which knows no socket, will look: see [`crate::birth`], tracepoint backend.
#[inline(always)]
fn closing(sk: u64) {
    if knob!(DUTIES.tp_birth) == 0 {
        return;
    }
    let mut key = no_tuple();
    if kernel::meeting_point(sk, false, &mut key).is_some()
        && CLOSING.insert(&key, Closing { sk, born: 0, pad: [0; 7] }, 0).is_err()
    {
        bump!(trouble.closing_full);
    }
}

#[inline(always)]
fn gone(ctx: &BtfTracePointContext, sk: u64, old: i32) {
    if old == FIN_WAIT2 || old == IN_CLOSING {
        let mut born = knob!(DUTIES.tp_birth) == 0;
        if !born {
            let mut key = no_tuple();
            if kernel::meeting_point(sk, false, &mut key).is_some() {
                if let Some(closing) = CLOSING.get_ptr(&key) {
                    // SAFETY: the entry is removed below and by nobody else.
                    born = unsafe { (*closing).born } == 1;
                }
                let _gone_already = CLOSING.remove(&key);
            }
        }
        refusal::at_close(ctx, sk, old == IN_CLOSING, born);
    }
    let _not_followed = CONNS.remove(sk);
}

#[inline(always)]
pub fn no_tuple() -> Tuple {
    Tuple { net: 0, laddr: [0; 16], raddr: [0; 16], lport: 0, rport: 0, bound_if: 0 }
}

/// What is known of a socket's connection.
#[inline(always)]
pub fn of(sk: u64) -> Option<&'static Conn> {
    if sk == 0 {
        return None;
    }
    // SAFETY: the entry lives until the socket's transition to CLOSE, which comes after every caller of this.
    CONNS.get_ptr(sk).map(|conn| unsafe { &*conn })
}

/// Enters role and closer into a record.
#[inline(always)]
pub fn describe(conn: &Conn, life: &mut Life) {
    life.role = conn.role;
    if conn.has_closer == 1 {
        life.closer_pid = conn.closer_pid;
        life.closer_comm = conn.closer_comm;
        life.cgroup_id = conn.cgroup_id;
        life.valid |= valid::CLOSER;
    }
}
