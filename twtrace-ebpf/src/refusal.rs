//! Capability `refusal`: the kernel made no minisock, because tcp_max_tw_buckets was reached or memory ran out.
//!
//! fexit sees `inet_twsk_alloc` return NULL. The kprobe twin notes the socket at `tcp_time_wait` and finds the note still
//! there when the socket closes. The tracepoint twin finds no birth when the socket closes, and asks the stack whether it
//! was `tcp_time_wait` that closed it.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    macros::{fexit, kprobe},
    programs::{FExitContext, ProbeContext},
};
use twtrace_common::{
    knob::stage,
    record::{Birth, flag, kind, refusal, substate, valid},
};

use crate::{
    again::{self, Done},
    birth, conn,
    emit::{self, now},
    filter,
    kernel::{self, Object, Of, Raw, Typed},
    knobs::{self, knob},
    maps::{self, ENTERING, bump, count},
    plain::{clear, forget},
    stack::{self, Close},
};

/// In place of a state of include/net/tcp_states.h, which end at 13: the socket got no minisock.
const REFUSED: u8 = u8::MAX;
/// TCP_TIMEWAIT_LEN of include/net/tcp.h, seconds.
const TIME_WAIT_S: i64 = 60;

/// `struct inet_timewait_sock *inet_twsk_alloc(const struct sock *sk, struct inet_timewait_death_row *dr, const int
/// state)`; the result follows the arguments.
#[fexit]
pub fn refusal_fexit(ctx: FExitContext) -> i32 {
    if !maps::acts(stage::ALL) {
        return 0;
    }
    if ctx.arg::<u64>(3) == 0 {
        not_made(&ctx);
    }
    again::told(again::REFUSAL, [ctx.arg(0), 0]);
    0
}

/// As [`refusal_fexit`], where that is not run.
#[fexit]
pub fn refusal_again_fexit(ctx: FExitContext) -> i32 {
    if !maps::acts(stage::ALL) {
        return 0;
    }
    let done = || match conn::state(ctx.arg(0)) {
        _ if ctx.arg::<u64>(3) != 0 => Done::Perhaps,
        Some(state) if state != REFUSED => Done::No,
        // Of a connection that is not followed nobody can say: better once too few, which is counted, than twice.
        _ => Done::Yes,
    };
    again::if_untold(again::REFUSAL, [ctx.arg(0), 0], done, || {
        if ctx.arg::<u64>(3) == 0 {
            not_made(&ctx);
        }
    });
    0
}

#[inline(always)]
fn not_made(ctx: &FExitContext) {
    let sk = Typed(ctx.arg(0));
    if kernel::is_tcp_sock(sk) {
        refused(sk, ctx.arg::<i32>(2) as u8);
    }
}

/// `void tcp_time_wait(struct sock *sk, int state, int timeo)`
#[kprobe]
pub fn refusal_kprobe(ctx: ProbeContext) -> u32 {
    if !maps::acts(stage::ALL) {
        return 0;
    }
    if let (Some(sk), Some(state)) = (ctx.arg::<u64>(0), ctx.arg::<u32>(1))
        && ENTERING.insert(sk, state, 0).is_err()
    {
        bump!(trouble.closing_full);
    }
    0
}

/// Called at a socket's transition from FIN_WAIT2 or CLOSING to CLOSE; `born`: its minisock was seen, or births are
/// another hook's business.
#[inline(always)]
pub fn at_close(ctx: &impl EbpfContext, sk: Typed, was_closing: bool, born: bool) {
    match knob!(DUTIES.close_refusal) {
        1 => {
            if let Some(state) = ENTERING.get_ptr(sk.address()) {
                // SAFETY: the entry is this socket's, whose lock is held.
                let state = unsafe { *state };
                let _gone_already = ENTERING.remove(sk.address());
                refused(sk, state as u8);
            }
        }
        2 if !born => match stack::close_of_socket(ctx, was_closing) {
            Close::TimeWait(state) => refused(sk, state),
            // An abort for data after close looks the same: only a full table makes it a refusal.
            Close::Either if buckets(sk).are_full() && !never_lingers(sk) => {
                refused(sk, substate::FIN_WAIT2);
            }
            Close::Timer if buckets(sk).are_full() && outlasts_time_wait(sk) => {
                refused(sk, substate::FIN_WAIT2);
            }
            Close::Either | Close::Timer | Close::Other => {}
        },
        _ => {}
    }
}

/// TCP_LINGER2 < 0: such a socket is aborted where others become a FIN_WAIT2 minisock (`tcp_rcv_state_process`,
/// net/ipv4/tcp_input.c, and `tcp_keepalive_timer`, net/ipv4/tcp_timer.c).
#[inline(always)]
fn never_lingers(sk: Typed) -> bool {
    Raw(sk.address()).get::<i32>(&knobs::TP_LINGER2).unwrap_or(0) < 0
}

/// True of a socket in FIN_WAIT2 whose timer, when it runs out, makes a minisock for the rest of its time. One that is to
/// wait no longer than a TIME_WAIT is aborted instead. Such a socket became no minisock when its FIN was acknowledged, because
/// the same segment carried a FIN, which then did not count, or a system call had the socket (`tcp_rcv_state_process`,
/// net/ipv4/tcp_input.c; `tcp_keepalive_timer`, net/ipv4/tcp_timer.c). A retransmission timeout above 17 s would lengthen the
/// wait (`tcp_fin_time`); there is none where the FIN was just acknowledged.
#[inline(always)]
fn outlasts_time_wait(sk: Typed) -> bool {
    let linger2 = Raw(sk.address()).get::<i32>(&knobs::TP_LINGER2).unwrap_or(0);
    let wait = match linger2 {
        0 => sk.behind::<i32>(&knobs::SKC_NET, &knobs::NET_FIN_TIMEOUT).unwrap_or(0),
        own => own,
    };
    i64::from(wait) > TIME_WAIT_S * i64::from(knobs::HZ.load())
}

/// Minisocks of a namespace and their limit. No Option: verifiers before 6.5 refuse the copies of undefined registers that
/// its empty case becomes.
#[derive(Clone, Copy)]
struct Buckets {
    used: u32,
    limit: u32,
    are_known: bool,
}

impl Buckets {
    #[inline(always)]
    fn are_full(self) -> bool {
        self.are_known && self.used >= self.limit
    }

    /// There was room a moment ago. Some minisocks may have ended since the kernel looked, a batch of the timer wheel's when a
    /// softirq came between: so that a refusal is not lost in a table that is full all the time, an eighth is left out.
    #[inline(always)]
    fn have_room(self) -> bool {
        self.are_known && self.used < self.limit - self.limit / 8
    }
}

/// The buckets of the socket's namespace.
#[inline(always)]
fn buckets(sk: impl Object) -> Buckets {
    if let Some(row) = kernel::death_row(sk)
        && let Some(used) = row.get::<u32>(&knobs::DR_COUNT)
        && let Some(limit) = row.get::<u32>(&knobs::DR_LIMIT)
    {
        let used = used.saturating_sub(u32::from(knob!(DUTIES.refcount_base)));
        return Buckets { used, limit, are_known: true };
    }
    Buckets { used: 0, limit: 0, are_known: false }
}

/// A socket got no minisock, or, where only its close tells, none that a program saw. With room for one that is a birth that
/// was missed, for memory that runs out is by far the rarer case: it is counted, and not told.
///
/// A function of its own, for its stack: `conn_tp` has 512 bytes in all, and other rare cases.
#[inline(never)]
fn refused(sk: impl Object, state: u8) {
    let Some(counters) = maps::counters() else { return };
    let buckets = buckets(sk);
    if knob!(DUTIES.close_refusal) != 0 && buckets.have_room() {
        let netns = sk.behind::<u32>(&knobs::SKC_NET, &knobs::NET_INUM).unwrap_or(0);
        if !maps::is_self_test(netns) {
            count(&counters.trouble.unseen_births);
        }
        return;
    }
    let now = now();
    let mut life = MaybeUninit::uninit();
    let life = clear(&mut life);
    kernel::tuple(sk, Of::Socket, life);
    life.substate = forget(state.into()) as u8;
    life.valid |= valid::SUBSTATE;
    let mut conn = MaybeUninit::uninit();
    let conn = conn::of(sk.address(), &mut conn);
    conn::describe(conn, life);
    conn::mark(sk.address(), REFUSED);
    maps::mark_self_test(life);
    // Only fexit knows a refusal for what it is; elsewhere it is one because there was no room.
    let is_memory = knob!(DUTIES.close_refusal) == 0 && buckets.are_known && !buckets.are_full();
    let reason = forget(u64::from(if is_memory { refusal::MEMORY } else { refusal::BUCKETS })) as u8;
    let matched = filter::lets_through(life);
    if life.flags & flag::SELF_TEST == 0 {
        if life.netns == knobs::OWN_NETNS.load() {
            count(&counters.own.refused);
        }
        if matched {
            // Two calls: an index that the verifier cannot bound is an index it refuses.
            if reason == refusal::MEMORY {
                count(&counters.refused[refusal::MEMORY as usize]);
            } else {
                count(&counters.refused[refusal::BUCKETS as usize]);
            }
        }
    }
    emit::emit::<Birth>(counters, kind::REFUSED, life, matched, |place| {
        let birth = birth::from_socket(place, kind::REFUSED, life, now, sk.address(), conn);
        birth.reason = reason;
        if buckets.are_known {
            birth.used = buckets.used;
            birth.limit = buckets.limit;
            birth.life.valid |= valid::BUCKETS;
        }
        if let Some(stamp) = Raw(sk.address()).get::<u32>(&knobs::TP_TS_RECENT_STAMP) {
            birth.timestamps = (stamp != 0) as u8;
            birth.life.valid |= valid::TIMESTAMPS;
        }
        if let Some(mark) = sk.get::<u32>(&knobs::SK_MARK) {
            birth.mark = mark;
            birth.life.valid |= valid::MARK;
        }
    });
}
