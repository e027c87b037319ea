//! Capabilities `no_port` and `reuse_denied`: a connect() failed with EADDRNOTAVAIL, because it found no port or because
//! somebody has the connection of the port that was bound before; and the minisocks that it was denied.
//!
//! fexit sees `inet_hash_connect` and `inet6_hash_connect` return EADDRNOTAVAIL. There is no kprobe twin: it would run
//! with softirqs on, and while a kprobe program runs the kernel skips those of births and deaths on its CPU.
//!
//! The tracepoint twin is the transition from SYN_SENT to CLOSE of a socket whose `sk_txhash` and `write_seq` are what they
//! were when connect() began. `tcp_v4_connect` and `tcp_v6_connect` call `inet_hash_connect`; after its success `sk_set_txhash`
//! draws 32 random bits (before it for IPv6 on 7.2), `write_seq` becomes the first sequence number if it is 0, and `tcp_connect`
//! adds the SYN to it. Every other way from SYN_SENT to CLOSE comes later: a RST, ICMP, timeouts, close() and shutdown()
//! before an answer, a connect() that TCP_FASTOPEN_CONNECT put off, errors of `ip_route_newports` and `tcp_connect`. So a
//! failure of `inet_hash_connect` is what is reported, but for one hash in 2^32 that is drawn again, and, for IPv6 on 7.2, a
//! socket that is used again, put off by TCP_FASTOPEN_CONNECT and closed. Its other errno is ENOMEM, for want of a
//! `struct inet_bind_bucket`: only where it looks for a port, never with one that was bound.
//! (`sk_err` and `packets_out` would not do: both are 0 after a connect() that was put off.)
//!
//! `tcp_twsk_unique` is asked about every minisock in a connect()'s way. Its denials are noted by socket, and told only if
//! the connect() fails: most searches pass over thousands of ports and find one.

use core::{hint::black_box, mem::MaybeUninit};

use aya_ebpf::{
    macros::{fexit, kprobe},
    programs::{FExitContext, ProbeContext},
};
use twtrace_common::{
    counter::Counters,
    knob::stage,
    record::{Connect, Life, denial, flag, kind, role, substate, valid},
    state::{Conn, DENIALS, Denied},
};

use crate::{
    conn,
    emit::{self, head, now},
    filter,
    kernel::{self, Object, Of, Raw, Typed},
    knobs::{self, knob},
    maps::{self, CONNS, DENIED, LIVES, bump, count},
    plain::clear,
};

const EADDRNOTAVAIL: i32 = 99;

/// `int inet_hash_connect(struct inet_timewait_death_row *death_row, struct sock *sk)`; the result follows the arguments.
#[fexit]
pub fn no_port_fexit(ctx: FExitContext) -> i32 {
    if !maps::acts(stage::ALL) {
        return 0;
    }
    hash_connected(&ctx);
    0
}

/// `int inet6_hash_connect(struct inet_timewait_death_row *death_row, struct sock *sk)`
#[fexit]
pub fn no_port6_fexit(ctx: FExitContext) -> i32 {
    if !maps::acts(stage::ALL) {
        return 0;
    }
    hash_connected(&ctx);
    0
}

#[inline(always)]
fn hash_connected(ctx: &FExitContext) {
    if ctx.arg::<i32>(2) == -EADDRNOTAVAIL {
        let sk = Typed(ctx.arg(1));
        if kernel::is_tcp_sock(sk) {
            failed(sk, has_port(sk));
        }
    }
}

/// True if a socket has a port already, while it is no connection: bind() gave it one.
#[inline(always)]
fn has_port(sk: Typed) -> bool {
    kernel::local_port(sk, Of::Bound).unwrap_or(0) != 0
}

/// Notes, at the transition to SYN_SENT, by what a failure is told at the next.
#[inline(always)]
pub fn begins(sk: Typed, conn: &mut Conn) {
    if knob!(DUTIES.tp_no_port) == 1 {
        conn.bound = has_port(sk) as u8;
        conn.closer_pid = sk.get(&knobs::SK_TXHASH).unwrap_or(0);
        // SAFETY: 16 bytes that begin 4-byte aligned in a Conn.
        unsafe { conn.closer_comm.as_mut_ptr().cast::<u32>().write(write_seq(sk)) };
    }
}

/// `tcp_sock.write_seq`, beyond struct sock and so beyond what a typed argument allows; 0 where BTF does not have it.
#[inline(always)]
fn write_seq(sk: Typed) -> u32 {
    Raw(sk.address()).get(&knobs::TP_WRITE_SEQ).unwrap_or(0)
}

/// A socket goes from SYN_SENT to CLOSE, for whatever reason. One that is not followed is not told of: the table was full,
/// which is counted.
#[inline(always)]
pub fn maybe_failed(sk: Typed) {
    let Some(conn) = CONNS.get_ptr(sk.address()) else { return };
    // SAFETY: the entry belongs to this socket, whose lock is held at every transition.
    let conn = unsafe { &*conn };
    let is_begun = conn.has_opener == 1 && conn.has_closer == 0;
    // SAFETY: as in `begins`.
    let began = unsafe { conn.closer_comm.as_ptr().cast::<u32>().read() };
    if is_begun && sk.get::<u32>(&knobs::SK_TXHASH) == Some(conn.closer_pid) && write_seq(sk) == began {
        failed(sk, conn.bound == 1);
    }
}

/// `int tcp_twsk_unique(struct sock *sk, struct sock *sktw, void *twp)`; the result follows the arguments.
#[fexit]
pub fn denied_fexit(ctx: FExitContext) -> i32 {
    if !maps::acts(stage::ALL) {
        return 0;
    }
    if ctx.arg::<i32>(3) == 0 {
        denied(ctx.arg(0), Typed(ctx.arg(1)), ctx.arg::<u64>(2) == 0);
    }
    0
}

/// As [`denied_fexit`], at the entry: what is noted of a minisock that is not denied is never told, for then the connect()
/// succeeds. It runs with softirqs off.
#[kprobe]
pub fn denied_kprobe(ctx: ProbeContext) -> u32 {
    if !maps::acts(stage::ALL) {
        return 0;
    }
    if let (Some(sk), Some(tw), Some(twp)) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1), ctx.arg::<u64>(2)) {
        denied(sk, Raw(tw), twp == 0);
    }
    0
}

/// Notes that connect() was denied a minisock; `bound`: its port was chosen beforehand.
#[inline(always)]
fn denied(sk: u64, tw: impl Object, bound: bool) {
    let reason = reason(tw, bound);
    if reason == denial::NONE {
        return;
    }
    // It tells one connect() of a socket from the next.
    let start_ns = conn::start_ns(sk);
    let is_noted = match DENIED.get_ptr(sk) {
        // SAFETY: the entry belongs to this socket, whose lock is held throughout connect().
        Some(earlier) => unsafe { (*earlier).start_ns == start_ns },
        None => false,
    };
    if !is_noted {
        let mut first = MaybeUninit::<Denied>::uninit();
        let first = clear(&mut first);
        (first.start_ns, first.bound) = (start_ns, bound as u8);
        if DENIED.insert(sk, first as &Denied, 0).is_err() {
            bump!(trouble.denied_full);
            return;
        }
    }
    let Some(noted) = DENIED.get_ptr_mut(sk) else { return };
    // SAFETY: as above.
    let noted = unsafe { &mut *noted };
    // The verifier needs the mask that LLVM would drop.
    let row = black_box(usize::from(reason) - 1) & (DENIALS - 1);
    if noted.count[row] == 0 {
        noted.first_port[row] = tw.get::<u16>(&knobs::SKC_NUM).unwrap_or(0);
        if let Some(alive) = LIVES.get_ptr(tw.address()) {
            // SAFETY: the minisock is looked at under its bucket's lock, so it has not ended.
            noted.first_id[row] = unsafe { (*alive).id };
        }
    }
    noted.count[row] += 1;
}

/// Why `tcp_twsk_unique` denies this minisock, given that it does; `NONE` if it cannot have.
#[inline(always)]
fn reason(tw: impl Object, bound: bool) -> u8 {
    // Beyond struct sock, so beyond what a typed argument allows.
    let beyond = Raw(tw.address());
    if beyond.get::<u32>(&knobs::TCPTW_TS_STAMP).unwrap_or(0) == 0 {
        return denial::NO_TIMESTAMPS;
    }
    if bound {
        return denial::NONE;
    }
    if beyond.get::<u8>(&knobs::TW_SUBSTATE).unwrap_or(0) == substate::FIN_WAIT2 {
        return denial::FIN_WAIT2;
    }
    // An int on older kernels, a u8 on newer: on little-endian machines, the only ones built for, the first byte is it.
    let net = Raw(tw.get::<u64>(&knobs::SKC_NET).unwrap_or(0));
    match net.get::<u8>(&knobs::NET_TW_REUSE).unwrap_or(0) {
        1 => denial::TOO_YOUNG,
        2 if kernel::is_loopback(tw) => denial::TOO_YOUNG,
        _ => denial::DISABLED,
    }
}

/// A connect() that failed: when its socket came to SYN_SENT (0: not seen), and when it was over, nanoseconds.
#[derive(Clone, Copy)]
struct Call {
    start_ns: u64,
    now: u64,
}

/// Called when `inet_hash_connect` has failed; `bound`: with a port that was bound before. A function of its own, for its
/// stack: `conn_tp` has 512 bytes in all, and other rare cases.
#[inline(never)]
pub fn failed(sk: Typed, bound: bool) {
    let Some(counters) = maps::counters() else { return };
    let call = Call { start_ns: conn::start_ns(sk.address()), now: now() };
    tell_no_port(counters, sk, call, bound);
    if knob!(DUTIES.reuse_denied) == 0 {
        return;
    }
    if let Some(denied) = DENIED.get_ptr(sk.address()) {
        // SAFETY: removed below, by nobody else: the socket's lock is held.
        let denied = unsafe { &*denied };
        if denied.start_ns == call.start_ns {
            tell_denied(counters, sk, call, denied);
        }
        let _gone_already = DENIED.remove(sk.address());
    }
}

#[inline(always)]
fn tell_no_port(counters: &Counters, sk: impl Object, call: Call, bound: bool) {
    let mut life = MaybeUninit::uninit();
    let life = clear(&mut life);
    caller(sk, life);
    if !bound {
        // Of an earlier connection of the socket, perhaps.
        life.lport = 0;
    }
    let matched = filter::lets_through(life);
    if matched && life.flags & flag::SELF_TEST == 0 {
        count(&counters.no_port);
        if bound {
            count(&counters.no_port_bound);
        }
    }
    tell(counters, kind::NO_PORT, call, life, matched, denial::NONE, 0);
}

#[inline(always)]
fn tell_denied(counters: &Counters, sk: impl Object, call: Call, denied: &Denied) {
    let mut life = MaybeUninit::uninit();
    let life = clear(&mut life);
    caller(sk, life);
    for row in 0..DENIALS {
        // A loop for the verifier to walk, not four copies of the filters.
        let row = black_box(row) & (DENIALS - 1);
        let many = denied.count[row];
        if many == 0 {
            continue;
        }
        (life.id, life.lport) = (denied.first_id[row], denied.first_port[row]);
        let matched = filter::lets_through(life);
        if matched && life.flags & flag::SELF_TEST == 0 {
            count(&counters.reuse_denied[row + 1]);
        }
        tell(counters, kind::REUSE_DENIED, call, life, matched, row as u8 + 1, many);
    }
}

/// The connection that was wanted, and by whom.
#[inline(always)]
fn caller(sk: impl Object, life: &mut Life) {
    kernel::tuple(sk, Of::Socket, life);
    life.role = role::CLIENT;
    acts(life);
}

/// Who acts, and whether for the self-test.
#[inline(always)]
pub fn acts(life: &mut Life) {
    life.closer_pid = kernel::current(&mut life.closer_comm);
    life.cgroup_id = kernel::current_cgroup();
    life.valid |= valid::CLOSER;
    if filter::is_under() {
        life.valid |= valid::UNDER;
    }
    maps::mark_self_test(life);
}

#[inline(always)]
fn tell(counters: &Counters, kind: u8, call: Call, life: &Life, matched: bool, reason: u8, many: u32) {
    emit::emit::<Connect>(counters, kind, life, matched, |place| {
        let connect = clear(place);
        head(&mut connect.header, kind, call.now);
        (connect.life, connect.reason, connect.count) = (*life, reason, many);
        if call.start_ns != 0 {
            // The clock may not have moved, and 0 means not known.
            connect.took_ns = call.now.saturating_sub(call.start_ns).max(1);
            connect.life.valid |= valid::CONNECT;
        }
    });
}
