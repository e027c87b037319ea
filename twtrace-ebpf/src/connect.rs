//! Capabilities `no_port` and `reuse_denied`: a connect() failed for want of a port, and the minisocks that it was denied.
//!
//! fexit sees `inet_hash_connect` and `inet6_hash_connect` return EADDRNOTAVAIL. The tracepoint twin is the transition
//! from SYN_SENT to CLOSE of a socket that never had a port (ENOMEM looks the same). There is no kprobe twin: it would run
//! with softirqs on, and while a kprobe program runs the kernel skips those of births and deaths on its CPU.
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
    record::{Connect, Life, denial, flag, kind, role, substate, valid},
    state::{DENIALS, Denied},
};

use crate::{
    conn,
    emit::{self, head, now},
    filter,
    kernel::{self, Object, Of, Raw, Typed},
    knobs::{self, knob},
    maps::{self, DENIED, LIVES, bump, count},
    plain::clear,
};

const EADDRNOTAVAIL: i32 = 99;

/// `int inet_hash_connect(struct inet_timewait_death_row *death_row, struct sock *sk)`; the result follows the arguments.
#[fexit]
pub fn no_port_fexit(ctx: FExitContext) -> i32 {
    hash_connected(&ctx);
    0
}

/// `int inet6_hash_connect(struct inet_timewait_death_row *death_row, struct sock *sk)`
#[fexit]
pub fn no_port6_fexit(ctx: FExitContext) -> i32 {
    hash_connected(&ctx);
    0
}

#[inline(always)]
fn hash_connected(ctx: &FExitContext) {
    if ctx.arg::<i32>(2) == -EADDRNOTAVAIL {
        let sk = Typed(ctx.arg(1));
        if kernel::is_tcp_sock(sk) {
            failed(sk);
        }
    }
}

/// `int tcp_twsk_unique(struct sock *sk, struct sock *sktw, void *twp)`; the result follows the arguments.
#[fexit]
pub fn denied_fexit(ctx: FExitContext) -> i32 {
    if ctx.arg::<i32>(3) == 0 {
        denied(ctx.arg(0), Typed(ctx.arg(1)), ctx.arg::<u64>(2) == 0);
    }
    0
}

/// As [`denied_fexit`], at the entry: what is noted of a minisock that is not denied is never told, for then the connect()
/// succeeds. It runs with softirqs off.
#[kprobe]
pub fn denied_kprobe(ctx: ProbeContext) -> u32 {
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

/// Called when connect() comes to nothing, on the tracepoint backend for whatever reason. A function of its own, for its
/// stack: `conn_tp` has 512 bytes in all, and other rare cases.
#[inline(never)]
pub fn failed(sk: impl Object) {
    let Some(port) = kernel::local_port(sk, Of::Socket) else { return };
    let Some(counters) = maps::counters() else { return };
    let call = Call { start_ns: conn::start_ns(sk.address()), now: now() };
    if port == 0 {
        let mut life = MaybeUninit::uninit();
        let life = clear(&mut life);
        caller(sk, life);
        let matched = filter::lets_through(life);
        if matched && life.flags & flag::SELF_TEST == 0 {
            count(&counters.no_port);
        }
        tell(counters, kind::NO_PORT, call, life, matched, denial::NONE, 0);
    }
    if knob!(DUTIES.reuse_denied) == 0 {
        return;
    }
    if let Some(denied) = DENIED.get_ptr(sk.address()) {
        // SAFETY: removed below, by nobody else: the socket's lock is held.
        let denied = unsafe { &*denied };
        if (port == 0 || denied.bound == 1) && denied.start_ns == call.start_ns {
            tell_denied(counters, sk, call, denied);
        }
        let _gone_already = DENIED.remove(sk.address());
    }
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
    life.closer_pid = kernel::current(&mut life.closer_comm);
    life.cgroup_id = kernel::current_cgroup();
    life.valid |= valid::CLOSER;
    if filter::is_under() {
        life.valid |= valid::UNDER;
    }
    if life.netns == maps::self_test_netns() && life.netns != 0 {
        life.flags |= flag::SELF_TEST;
    }
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
