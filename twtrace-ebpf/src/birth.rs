//! Capability `birth`: a minisock comes into being.
//!
//! fentry and kprobe see the function that puts it into the established hash, with the socket it replaces beside it:
//! `inet_twsk_hashdance_schedule` (6.11, and earlier backports) or `inet_twsk_hashdance`. The tracepoint twin sees its
//! timer being started, and finds the socket by the tuple that [`crate::conn`] left in `CLOSING`.

use core::mem::MaybeUninit;

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, kprobe},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext},
};
use twtrace_common::{
    knob::stage,
    record::{Birth, Life, flag, kind, substate, valid},
    state::{Alive, Closing, Conn, alive, met},
};

use crate::{
    conn,
    emit::{self, head, now},
    filter,
    kernel::{self, Head, Object, Of, Raw, Typed},
    knobs::{self, knob},
    maps::{self, CLOSING, ENTERING, LIVES, Reader, bump, count},
    plain::{clear, copy, forget},
    rearm,
};

/// `void inet_twsk_hashdance_schedule(struct inet_timewait_sock *tw, struct sock *sk, struct inet_hashinfo *hashinfo,
/// int timeo)`, or `void inet_twsk_hashdance(tw, sk, hashinfo)`
#[fentry]
pub fn birth_fentry(ctx: FEntryContext) -> i32 {
    if !maps::acts(stage::MINISOCKS) {
        return 0;
    }
    let timeo = if knob!(DUTIES.has_timeo) == 1 { ctx.arg::<i32>(3) } else { 0 };
    hashed(Typed(ctx.arg(0)), Typed(ctx.arg(1)), timeo);
    0
}

/// As [`birth_fentry`].
#[kprobe]
pub fn birth_kprobe(ctx: ProbeContext) -> u32 {
    if !maps::acts(stage::MINISOCKS) {
        return 0;
    }
    let timeo = ctx.arg::<i32>(3).unwrap_or(0);
    if let (Some(tw), Some(sk)) = (ctx.arg(0).and_then(|tw| Head::of(tw, Reader::Kprobe)), ctx.arg(1)) {
        hashed(tw, Raw(sk), timeo);
    }
    0
}

/// `timeo` counts only where the function has it. Integers, not Options: older verifiers refuse the copies of undefined
/// registers that an Option becomes.
#[inline(always)]
fn hashed(tw: impl Object, sk: impl Object, timeo: i32) {
    if !kernel::is_tcp_sock(sk) {
        bump!(trouble.not_tcp);
        return;
    }
    let sk = sk.address();
    if knob!(DUTIES.close_refusal) == 1 {
        let _not_entered = ENTERING.remove(sk);
    }
    let now_jiffies = kernel::jiffies();
    let expires = if knob!(DUTIES.has_timeo) == 1 {
        now_jiffies + timeo as u64
    } else {
        // The timer is armed already: inet_twsk_schedule came before the hash dance.
        timer_of(tw.address()).get(&knobs::TIMER_EXPIRES).unwrap_or(0)
    };
    born(tw, sk, expires, now_jiffies);
}

/// `void timer_start(struct timer_list *timer, ..)`: the arguments behind it changed in 6.8 and are not used.
// Inlined: the verifier rounds the stack of each function up by 32 bytes, and this chain of calls is the deepest.
#[btf_tracepoint(function = "timer_start")]
#[inline(always)]
pub fn birth_tp(ctx: BtfTracePointContext) -> i32 {
    let timer = ctx.arg::<*const u8>(0);
    if !is_minisock_timer(timer) || !maps::acts(stage::MINISOCKS) {
        return 0;
    }
    let tw = kernel::minisock_of(timer as u64);
    let now_jiffies = kernel::jiffies();
    // SAFETY: as in is_minisock_timer.
    let expires = unsafe { timer.add(usize::from(knobs::TIMER_EXPIRES.load())).cast::<u64>().read_volatile() };
    if let Some(scratch) = maps::scratch() {
        // SAFETY: this CPU's entry; timer_cancel and timer_start of one re-arm run with interrupts off throughout.
        let rearming = unsafe { &mut (*scratch).rearming };
        if *rearming == tw {
            *rearming = 0;
            // SAFETY: as above.
            rearm::timer_moved(tw, unsafe { (*scratch).expires }, expires, now_jiffies);
            return 0;
        }
    }
    if knob!(DUTIES.tp_birth) == 1 {
        started(tw, expires, now_jiffies);
    }
    0
}

/// True if the timer is a minisock's. A direct load: this is all that every other timer of the machine pays.
#[inline(always)]
pub fn is_minisock_timer(timer: *const u8) -> bool {
    // SAFETY: a tp_btf argument of type struct timer_list *; the verifier checks offset and size against BTF, and the
    // load cannot fault.
    let function = unsafe { timer.add(usize::from(knobs::TIMER_FUNCTION.load())).cast::<u64>().read_volatile() };
    function == knob!(FUNCTIONS.tw_timer_handler)
}

/// A minisock's timer.
#[inline(always)]
pub fn timer_of(tw: u64) -> Raw {
    Raw(tw + u64::from(knobs::TW_TIMER.load()))
}

#[inline(always)]
fn started(tw: u64, expires: u64, now_jiffies: u64) {
    let Some(tw) = Head::of(tw, Reader::Wheel) else { return };
    let mut sk = 0;
    if let Some(at) = kernel::meeting_point(tw, Of::Minisock) {
        // Only TCP's sockets are entered.
        if let Some(closing) = CLOSING.get_ptr_mut(at.key) {
            // SAFETY: the entry is this connection's; its socket's lock is held from here to its removal.
            let closing = unsafe { &mut *closing };
            if closing.ports == at.ports {
                sk = closing.sk;
                if conn::mark_born(sk) {
                    CLOSING.remove(at.key);
                } else {
                    closing.born = 1;
                }
            }
        } else if !kernel::is_tcp_minisock(tw) {
            bump!(trouble.not_tcp);
            return;
        } else {
            // The socket was in FIN_WAIT2 before twtrace: without this its close would look like a refusal.
            let mut entry = MaybeUninit::<Closing>::uninit();
            let entry = clear(&mut entry);
            (entry.ports, entry.born) = (at.ports, 1);
            if !CLOSING.insert(at.key, entry) {
                bump!(trouble.closing_full);
            }
        }
    }
    born(tw, forget(sk), expires, now_jiffies);
}

#[inline(always)]
fn born(tw: impl Object, sk: u64, expires: u64, now_jiffies: u64) {
    let Some(counters) = maps::counters() else { return };
    let now = now();
    let mut life = MaybeUninit::uninit();
    let life = clear(&mut life);
    kernel::minisock(tw, life);
    let mut conn = MaybeUninit::uninit();
    let conn = conn::of(sk, &mut conn);
    conn::describe(conn, life);
    life.id = maps::next_id(counters);
    maps::mark_self_test(life);
    let matched = filter::lets_through(life);
    remember(tw.address(), life, now, expires, matched);
    if life.flags & flag::SELF_TEST == 0 {
        if life.netns == knobs::OWN_NETNS.load() {
            count(&counters.own.born);
        }
        if matched {
            if life.substate == substate::FIN_WAIT2 {
                count(&counters.born_fin_wait2);
            } else {
                count(&counters.born_time_wait);
            }
        }
    }
    emit::emit::<Birth>(counters, kind::BORN, life, matched, |place| {
        let birth = from_socket(place, kind::BORN, life, now, sk, conn);
        if expires != 0 {
            birth.timeout_ms = kernel::jiffies_to_ms(expires.saturating_sub(now_jiffies));
            birth.life.valid |= valid::TIMEOUT;
        }
        if let Some(stamp) = Raw(tw.address()).get::<u32>(&knobs::TCPTW_TS_STAMP) {
            birth.timestamps = (stamp != 0) as u8;
            birth.life.valid |= valid::TIMESTAMPS;
        }
        if let Some(mark) = tw.get::<u32>(&knobs::TW_MARK) {
            birth.mark = mark;
            birth.life.valid |= valid::MARK;
        }
    });
}

/// Enters the minisock into the table of lives.
#[inline(always)]
fn remember(tw: u64, life: &Life, born_ns: u64, expires: u64, matched: bool) {
    let mut state = 0;
    if life.valid & valid::CLOSER != 0 {
        state |= alive::HAS_CLOSER;
    }
    if matched {
        state |= alive::MATCHED;
    }
    let entry = &Alive {
        id: life.id,
        born_ns,
        expires,
        cgroup_id: life.cgroup_id,
        closer_pid: life.closer_pid,
        closer_comm: life.closer_comm,
        substate: life.substate,
        role: life.role,
        flags: life.flags,
        state,
        met: 0,
    };
    if LIVES.insert_new(tw, entry) {
        return;
    }
    // Rare: somebody is in this place, or the table is full.
    let Some(old) = LIVES.get_ptr_mut(tw) else {
        bump!(trouble.lives_full);
        aya_log_ebpf::warn!(&(), "table of lives is full: a death will not know its age");
        return;
    };
    // SAFETY: a map value; whoever wrote it is gone, for this address is being born again.
    let old = unsafe { &mut *old };
    // If a look has found out that it is over, it has been counted.
    if old.met != met::OVER | old.id {
        bump!(trouble.stale);
        aya_log_ebpf::warn!(&(), "a minisock's end was missed: its address is being born again");
    }
    copy(old, entry);
}

/// The part of a birth or a refusal that the socket tells, written into the ring's own memory.
#[inline(always)]
pub fn from_socket<'a>(
    place: &'a mut MaybeUninit<Birth>,
    kind: u8,
    life: &Life,
    now: u64,
    sk: u64,
    conn: &Conn,
) -> &'a mut Birth {
    let birth = clear(place);
    head(&mut birth.header, kind, now);
    birth.life = *life;
    if conn.start_ns != 0 {
        birth.conn_ns = now.saturating_sub(conn.start_ns);
        birth.life.valid |= valid::CONN;
    }
    if conn.connect_ns != 0 {
        birth.connect_ns = conn.connect_ns;
        birth.life.valid |= valid::CONNECT;
    }
    if conn.has_opener == 1 {
        birth.opener_pid = conn.opener_pid;
        birth.opener_comm = conn.opener_comm;
        birth.life.valid |= valid::OPENER;
    }
    if sk == 0 {
        return birth;
    }
    let sk = Raw(sk);
    if let (Some(received), Some(sent), Some(again)) = (
        sk.get::<u64>(&knobs::TP_BYTES_RECEIVED),
        sk.get::<u64>(&knobs::TP_BYTES_SENT),
        sk.get::<u64>(&knobs::TP_BYTES_RETRANS),
    ) {
        birth.bytes_in = received;
        birth.bytes_out = sent.saturating_sub(again);
        birth.life.valid |= valid::BYTES;
    }
    if let Some(srtt) = sk.get::<u32>(&knobs::TP_SRTT) {
        birth.srtt_us = srtt >> 3;
        birth.life.valid |= valid::SRTT;
    }
    birth
}
