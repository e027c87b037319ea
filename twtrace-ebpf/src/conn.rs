//! Capabilities `conn` and `closer`: who opened a connection, when, how long that took, and who closed it.
//!
//! One tracepoint serves all backends: `sock:inet_sock_set_state(const struct sock *sk, int old, int new)`. It never
//! reports TIME_WAIT, but it runs in the task that opens (CLOSE -> SYN_SENT) and in the one that closes (.. ->
//! FIN_WAIT1), which nothing else tells.

use core::mem::MaybeUninit;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use twtrace_common::{
    knob::stage,
    record::{Life, role, valid},
    state::{Closing, Conn},
};

use crate::{
    again::{self, Done},
    connect,
    emit::now,
    filter,
    kernel::{self, Object as _, Of, Typed},
    knobs::knob,
    maps::{self, CLOSING, CONNS, bump},
    mptcp, passive,
    plain::clear,
    refusal,
};

const ESTABLISHED: i32 = 1;
const SYN_SENT: i32 = 2;
const SYN_RECV: i32 = 3;
const FIN_WAIT1: i32 = 4;
const FIN_WAIT2: i32 = 5;
const CLOSE: i32 = 7;
const LAST_ACK: i32 = 9;
const LISTEN: i32 = 10;
const IN_CLOSING: i32 = 11;

/// `void inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn conn_tp(ctx: BtfTracePointContext) -> i32 {
    if !maps::acts(stage::ALL) {
        return 0;
    }
    transition(&ctx);
    again::told(again::CONN, token(&ctx));
    0
}

/// As [`conn_tp`], where that is not run.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn conn_again_tp(ctx: BtfTracePointContext) -> i32 {
    if !maps::acts(stage::ALL) {
        return 0;
    }
    again::if_untold(again::CONN, token(&ctx), || done(&ctx), || transition(&ctx));
    0
}

#[inline(always)]
fn token(ctx: &BtfTracePointContext) -> again::Token {
    [ctx.arg(0), u64::from(ctx.arg::<u32>(2))]
}

/// What the table of connections says of a transition: those that the first program notes there.
#[inline(always)]
fn done(ctx: &BtfTracePointContext) -> Done {
    let (old, new) = (ctx.arg::<i32>(1), ctx.arg::<i32>(2));
    let Some(state) = state(ctx.arg(0)) else {
        // Gone, or never followed. A refusal must not be told twice.
        let is_refusal = new == CLOSE && matches!(old, FIN_WAIT2 | IN_CLOSING);
        return if is_refusal { Done::Yes } else { Done::Perhaps };
    };
    match new {
        SYN_SENT | SYN_RECV | ESTABLISHED | FIN_WAIT1 | LAST_ACK if i32::from(state) == new => Done::Yes,
        SYN_SENT | SYN_RECV | FIN_WAIT1 | CLOSE => Done::No,
        ESTABLISHED if i32::from(state) == SYN_SENT => Done::No,
        LAST_ACK if knob!(DUTIES.passive) == 1 => Done::No,
        // Nothing is noted of it, and it may be done twice.
        _ => Done::Perhaps,
    }
}

#[inline(always)]
fn transition(ctx: &BtfTracePointContext) {
    let (old, new) = (ctx.arg::<i32>(1), ctx.arg::<i32>(2));
    let matters = match new {
        ESTABLISHED | SYN_SENT | SYN_RECV | FIN_WAIT1 | FIN_WAIT2 | CLOSE | IN_CLOSING => true,
        LAST_ACK => knob!(DUTIES.passive) == 1,
        _ => false,
    };
    let sock = Typed(ctx.arg::<*const u8>(0));
    if kernel::is_mptcp_sock(sock) {
        mptcp::moved(sock.address(), new);
        return;
    }
    if old == new || !matters || !kernel::is_tcp_sock(sock) {
        return;
    }
    let sk = sock.address();
    match new {
        SYN_SENT => opened(sock),
        ESTABLISHED if old == SYN_SENT => established(sk),
        SYN_RECV if old == LISTEN => accepted(sk),
        FIN_WAIT1 => closed(sk),
        FIN_WAIT2 | IN_CLOSING => closing(sock),
        LAST_ACK => closed_second(sock),
        CLOSE => gone(ctx, sock, old),
        _ => {}
    }
}

#[inline(always)]
fn opened(sock: Typed) {
    let mut conn = MaybeUninit::<Conn>::uninit();
    let conn = clear(&mut conn);
    (conn.start_ns, conn.role, conn.has_opener) = (now(), role::CLIENT, 1);
    conn.state = SYN_SENT as u8;
    conn.opener_pid = kernel::current(&mut conn.opener_comm);
    connect::begins(sock, conn);
    if mptcp::is_worker(&conn.opener_comm) {
        mptcp::opener(sock.address(), conn);
    }
    follow(sock.address(), conn);
}

#[inline(always)]
fn accepted(sk: u64) {
    let mut conn = MaybeUninit::<Conn>::uninit();
    let conn = clear(&mut conn);
    (conn.start_ns, conn.role, conn.state) = (now(), role::SERVER, SYN_RECV as u8);
    follow(sk, conn);
}

/// Notes what connect() took. A socket that goes through SYN_RECV has met another that opened at the same time: that is
/// no handshake to be measured.
#[inline(always)]
fn established(sk: u64) {
    if let Some(conn) = CONNS.get_ptr_mut(sk) {
        // SAFETY: the entry belongs to this socket, whose lock is held at every transition.
        let conn = unsafe { &mut *conn };
        // Else the last that was told of this address is another connection, or this one is accepted.
        if conn.state == SYN_SENT as u8 {
            // The clock may not have moved, and 0 means not known.
            conn.connect_ns = now().saturating_sub(conn.start_ns).max(1);
            conn.state = ESTABLISHED as u8;
        }
    }
}

#[inline(always)]
fn closed(sk: u64) {
    if let Some(conn) = CONNS.get_ptr_mut(sk) {
        // SAFETY: the entry belongs to this socket, whose lock is held at every transition.
        closer(sk, unsafe { &mut *conn });
    } else {
        let mut conn = MaybeUninit::<Conn>::uninit();
        let conn = clear(&mut conn);
        closer(sk, conn);
        follow(sk, conn);
    }
}

#[inline(always)]
fn closer(sk: u64, conn: &mut Conn) {
    conn.closer_pid = kernel::current(&mut conn.closer_comm);
    conn.cgroup_id = kernel::current_cgroup();
    conn.under = filter::is_under() as u8;
    (conn.has_closer, conn.state) = (1, FIN_WAIT1 as u8);
    if mptcp::is_worker(&conn.closer_comm) {
        mptcp::closer(sk, conn);
    }
}

#[inline(always)]
fn follow(sk: u64, conn: &Conn) {
    if !CONNS.insert(sk, conn) {
        bump!(trouble.conns_full);
        aya_log_ebpf::warn!(&(), "table of connections is full: a socket is not followed");
    }
}

/// From CLOSE_WAIT, the only state before this one.
#[inline(always)]
fn closed_second(sock: Typed) {
    if let Some(conn) = CONNS.get_ptr_mut(sock.address()) {
        // SAFETY: as in `closed`.
        let conn = unsafe { &mut *conn };
        conn.state = LAST_ACK as u8;
        passive::closed(sock, conn);
    }
}

/// Leaves word where the minisock, which knows no socket, will look: see [`crate::birth`], tracepoint backend.
#[inline(always)]
fn closing(sock: Typed) {
    if knob!(DUTIES.tp_birth) == 0 {
        return;
    }
    if let Some(at) = kernel::meeting_point(sock, Of::Bound) {
        let mut entry = MaybeUninit::<Closing>::uninit();
        let entry = clear(&mut entry);
        (entry.sk, entry.ports) = (sock.address(), at.ports);
        if !CLOSING.insert(at.key, entry) {
            bump!(trouble.closing_full);
        }
    }
}

#[inline(always)]
fn gone(ctx: &BtfTracePointContext, sock: Typed, old: i32) {
    let sk = sock.address();
    if old == FIN_WAIT2 || old == IN_CLOSING {
        let born = knob!(DUTIES.tp_birth) == 0 || is_born(sk) || met(sock);
        refusal::at_close(ctx, sock, old == IN_CLOSING, born);
    } else if old == SYN_SENT && knob!(DUTIES.tp_no_port) == 1 {
        connect::maybe_failed(sock);
    }
    CONNS.remove(sk);
}

#[inline(always)]
fn is_born(sk: u64) -> bool {
    // SAFETY: as in `state`.
    CONNS.get_ptr(sk).is_some_and(|conn| unsafe { (*conn).born == 1 })
}

/// True if the birth of this socket's minisock left word in `CLOSING`, which it does if the socket is not followed. Takes
/// away what is there.
#[inline(always)]
fn met(sock: Typed) -> bool {
    let Some(at) = kernel::meeting_point(sock, Of::Socket) else { return false };
    let Some(closing) = CLOSING.get_ptr(at.key) else { return false };
    // SAFETY: the entry is removed below and by nobody else.
    let born = unsafe { (*closing).born == 1 && (*closing).ports == at.ports };
    CLOSING.remove(at.key);
    born
}

/// What is known of a socket's connection; all zeroes, which is nothing, if it is not followed.
#[inline(always)]
pub fn of(sk: u64, place: &mut MaybeUninit<Conn>) -> &Conn {
    let conn = clear(place);
    if sk != 0 {
        CONNS.read(sk, conn);
    }
    conn
}

/// How far a followed socket has come.
#[inline(always)]
pub fn state(sk: u64) -> Option<u8> {
    // SAFETY: the entry lives until the socket's transition to CLOSE, which comes after every caller of this.
    CONNS.get_ptr(sk).map(|conn| unsafe { (*conn).state })
}

/// When a followed socket began to connect or was accepted; 0: not known.
#[inline(always)]
pub fn start_ns(sk: u64) -> u64 {
    match CONNS.get_ptr(sk) {
        // SAFETY: as in `state`.
        Some(conn) => unsafe { (*conn).start_ns },
        None => 0,
    }
}

/// Notes that a followed socket's minisock is born. `false`: it is not followed.
#[inline(always)]
pub fn mark_born(sk: u64) -> bool {
    let Some(conn) = CONNS.get_ptr_mut(sk) else { return false };
    // SAFETY: as in `state`; one byte, which only this socket's events write.
    unsafe { (*conn).born = 1 };
    true
}

/// Notes how far a followed socket has come.
#[inline(always)]
pub fn mark(sk: u64, state: u8) {
    if let Some(conn) = CONNS.get_ptr_mut(sk) {
        // SAFETY: as in `state`; one byte, which only this socket's events write.
        unsafe { (*conn).state = state };
    }
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
        if conn.under == 1 {
            life.valid |= valid::UNDER;
        }
    }
}
