//! Capability `birth`: a minisock comes into being.
//!
//! fentry and kprobe see the function that puts it into the established hash, with the socket it replaces beside it:
//! `inet_twsk_hashdance_schedule` (6.11, and earlier backports) or `inet_twsk_hashdance`. The tracepoint twin sees its
//! timer being started, and finds the socket by the tuple that [`crate::conn`] left in `CLOSING`.

use aya_ebpf::{
    helpers::generated::bpf_get_smp_processor_id,
    macros::{btf_tracepoint, fentry, kprobe},
    programs::{BtfTracePointContext, FEntryContext, ProbeContext},
};
use twtrace_common::{
    record::{Birth, Header, Life, flag, kind, refusal, substate, valid},
    state::{Alive, Closing, Conn, alive},
};

use crate::{
    conn,
    emit::{self, blank, header, now},
    filter, kernel,
    knobs::{self, knob},
    maps::{self, CLOSING, ENTERING, LIVES, bump},
    rearm,
};

/// `void inet_twsk_hashdance_schedule(struct inet_timewait_sock *tw, struct sock *sk, struct inet_hashinfo *hashinfo,
/// int timeo)`, or `void inet_twsk_hashdance(tw, sk, hashinfo)`
#[fentry]
pub fn birth_fentry(ctx: FEntryContext) -> i32 {
    let timeo = if knob!(DUTIES.has_timeo) == 1 { Some(ctx.arg::<i32>(3)) } else { None };
    hashed(ctx.arg(0), ctx.arg(1), timeo);
    0
}

/// As [`birth_fentry`].
#[kprobe]
pub fn birth_kprobe(ctx: ProbeContext) -> u32 {
    let timeo = if knob!(DUTIES.has_timeo) == 1 { ctx.arg::<i32>(3) } else { None };
    if let (Some(tw), Some(sk)) = (ctx.arg(0), ctx.arg(1)) {
        hashed(tw, sk, timeo);
    }
    0
}

#[inline(always)]
fn hashed(tw: u64, sk: u64, timeo: Option<i32>) {
    if !kernel::is_tcp_sock(sk) {
        bump!(trouble.not_tcp);
        return;
    }
    if knob!(DUTIES.close_refusal) == 1 {
        let _not_entered = ENTERING.remove(sk);
    }
    let now_jiffies = kernel::jiffies();
    // Without the argument the timer is armed already: inet_twsk_schedule came before the hash dance.
    let expires = match timeo {
        Some(timeo) => Some(now_jiffies + timeo as u64),
        None => kernel::field::<u64>(tw + u64::from(knobs::TW_TIMER.load()), &knobs::TIMER_EXPIRES),
    };
    born(tw, sk, expires, now_jiffies);
}

/// `void timer_start(struct timer_list *timer, ..)`: the arguments behind it changed in 6.8 and are not used.
#[btf_tracepoint(function = "timer_start")]
pub fn birth_tp(ctx: BtfTracePointContext) -> i32 {
    let timer = ctx.arg::<*const u8>(0);
    if !is_minisock_timer(timer) {
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
            rearm::timer_moved(tw, expires, now_jiffies);
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

#[inline(always)]
fn started(tw: u64, expires: u64, now_jiffies: u64) {
    if !kernel::is_tcp_minisock(tw) {
        bump!(trouble.not_tcp);
        return;
    }
    let mut sk = 0;
    let mut key = conn::no_tuple();
    if kernel::meeting_point(tw, true, &mut key).is_some() {
        if let Some(closing) = CLOSING.get_ptr_mut(&key) {
            // SAFETY: the entry is this tuple's; its socket's lock is held from here to its removal.
            unsafe {
                (*closing).born = 1;
                sk = (*closing).sk;
            }
        } else if CLOSING.insert(&key, Closing { sk: 0, born: 1, pad: [0; 7] }, 0).is_err() {
            // The socket was in FIN_WAIT2 before twtrace: without this its close would look like a refusal.
            bump!(trouble.closing_full);
        }
    }
    born(tw, sk, Some(expires), now_jiffies);
}

#[inline(always)]
fn born(tw: u64, sk: u64, expires: Option<u64>, now_jiffies: u64) {
    let now = now();
    let mut life = blank();
    kernel::tuple(tw, true, &mut life);
    if let Some(substate) = kernel::field::<u8>(tw, &knobs::TW_SUBSTATE) {
        life.substate = substate;
        life.valid |= valid::SUBSTATE;
    }
    let conn = conn::of(sk);
    if let Some(conn) = conn {
        conn::describe(conn, &mut life);
    }
    // SAFETY: the helper takes nothing and cannot fail.
    life.id = maps::next_id(unsafe { bpf_get_smp_processor_id() }.into());
    if life.netns == maps::self_test_netns() && life.netns != 0 {
        life.flags |= flag::SELF_TEST;
    }
    let matched = filter::lets_through(&life);
    remember(tw, &life, now, expires.unwrap_or(0), matched);
    if life.flags & flag::SELF_TEST == 0 {
        if life.netns == knobs::OWN_NETNS.load() {
            bump!(own.born);
        }
        if matched {
            if life.substate == substate::FIN_WAIT2 {
                bump!(born_fin_wait2);
            } else {
                bump!(born_time_wait);
            }
        }
    }
    emit::emit::<Birth>(kind::BORN, &life, matched, |place| {
        let mut birth = from_socket(&life, header(kind::BORN, now), sk, conn, now);
        if let Some(expires) = expires {
            birth.timeout_ms = kernel::jiffies_to_ms(expires.saturating_sub(now_jiffies));
            birth.life.valid |= valid::TIMEOUT;
        }
        if let Some(stamp) = kernel::field::<u32>(tw, &knobs::TCPTW_TS_STAMP) {
            birth.timestamps = (stamp != 0) as u8;
            birth.life.valid |= valid::TIMESTAMPS;
        }
        if let Some(mark) = kernel::field::<u32>(tw, &knobs::TW_MARK) {
            birth.mark = mark;
            birth.life.valid |= valid::MARK;
        }
        place.write(birth);
    });
}

/// Enters the minisock into the table of lives.
#[inline(always)]
fn remember(tw: u64, life: &Life, born_ns: u64, expires: u64, matched: bool) {
    if LIVES.get_ptr(tw).is_some_and(|old| {
        // SAFETY: a map value; whoever wrote it is gone, for this address is being born again.
        unsafe { (*old).flags & flag::PREEXISTING == 0 }
    }) {
        bump!(trouble.stale);
        aya_log_ebpf::warn!(&(), "a minisock's end was missed: its address is being born again");
    }
    let mut state = 0;
    if life.valid & valid::CLOSER != 0 {
        state |= alive::HAS_CLOSER;
    }
    if matched {
        state |= alive::MATCHED;
    }
    let entry = Alive {
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
    };
    if LIVES.insert(tw, &entry, 0).is_err() {
        bump!(trouble.lives_full);
        aya_log_ebpf::warn!(&(), "table of lives is full: a death will not know its age");
    }
}

/// The part of a birth or a refusal that the socket tells.
#[inline(always)]
pub fn from_socket(life: &Life, header: Header, sk: u64, conn: Option<&Conn>, now: u64) -> Birth {
    let mut birth = Birth {
        header,
        life: *life,
        conn_ns: 0,
        bytes_in: 0,
        bytes_out: 0,
        srtt_us: 0,
        timeout_ms: 0,
        mark: 0,
        used: 0,
        limit: 0,
        opener_pid: 0,
        opener_comm: [0; 16],
        timestamps: 0,
        reason: refusal::NONE,
        pad: [0; 6],
    };
    if let Some(conn) = conn {
        if conn.start_ns != 0 {
            birth.conn_ns = now.saturating_sub(conn.start_ns);
            birth.life.valid |= valid::CONN;
        }
        if conn.has_opener == 1 {
            birth.opener_pid = conn.opener_pid;
            birth.opener_comm = conn.opener_comm;
            birth.life.valid |= valid::OPENER;
        }
    }
    if sk == 0 {
        return birth;
    }
    if let (Some(received), Some(sent), Some(again)) = (
        kernel::field::<u64>(sk, &knobs::TP_BYTES_RECEIVED),
        kernel::field::<u64>(sk, &knobs::TP_BYTES_SENT),
        kernel::field::<u64>(sk, &knobs::TP_BYTES_RETRANS),
    ) {
        birth.bytes_in = received;
        birth.bytes_out = sent.saturating_sub(again);
        birth.life.valid |= valid::BYTES;
    }
    if let Some(srtt) = kernel::field::<u32>(sk, &knobs::TP_SRTT) {
        birth.srtt_us = srtt >> 3;
        birth.life.valid |= valid::SRTT;
    }
    birth
}
