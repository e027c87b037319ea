//! Lives without sockets, for the benches: as many as the ring and its reader can take, and more. No run loads this;
//! BPF_PROG_RUN runs it.

use core::mem::MaybeUninit;

use aya_ebpf::{macros::classifier, programs::TcContext};
use twtrace_common::{
    counter::Counters,
    record::{Birth, Death, Life, cause, kind, role, substate, valid},
    state::{Alive, alive},
};

use crate::{
    emit::{self, head, now},
    filter,
    maps::{self, LIVES, bump, count},
    plain::clear,
    rearm,
};

/// Where the packet says how many minisocks live at once on this CPU, and to how many destinations: two u32.
const LIVE_AT: usize = 16;
const DESTINATIONS_AT: usize = 20;

/// One birth, and the death of the oldest if there are enough alive; with none alive, births alone, which are not entered
/// into the table of lives: the ring then gets as much as one CPU can put into it. A classifier, because it is the kernel's
/// bpf_prog_test_run_skb that repeats a program as often as it is told and measures how long that takes.
#[classifier]
pub fn bench_produce(ctx: TcContext) -> i32 {
    let (Ok(live), Ok(destinations)) = (ctx.load::<u32>(LIVE_AT), ctx.load::<u32>(DESTINATIONS_AT)) else { return 1 };
    let Some(counters) = maps::counters() else { return 1 };
    let id = maps::next_id(counters);
    let n = id >> 13;
    born(counters, id, n, destinations, live > 0);
    if live > 0 && n > u64::from(live) {
        let n = n - u64::from(live);
        died(counters, (n << 13) | (id & 0x1fff), n, destinations);
    }
    0
}

/// A life's key in the table of lives: as if the minisocks lay side by side, 256 bytes each.
#[inline(always)]
fn place(id: u64) -> u64 {
    (id & 0x1fff) << 48 | (id >> 13) << 8
}

/// What a life has from its number: its destination, and one of 3,000 processes.
#[inline(always)]
fn describe(life: &mut Life, id: u64, n: u64, destinations: u32) {
    let to = n % u64::from(destinations.max(1));
    life.id = id;
    life.netns = 1;
    life.family = 4;
    life.substate = substate::TIME_WAIT;
    life.role = role::CLIENT;
    life.lport = 1024 + (n & 0x7fff) as u16;
    life.rport = 8000;
    life.laddr[..4].copy_from_slice(&[127, 0, 0, 1]);
    life.raddr[0] = 10;
    life.raddr[1] = (to >> 16) as u8;
    life.raddr[2] = (to >> 8) as u8;
    life.raddr[3] = to as u8;
    life.closer_pid = 1000 + (n % 3000) as u32;
    life.closer_comm[..4].copy_from_slice(b"load");
    life.valid = valid::NETNS | valid::TUPLE | valid::SUBSTATE | valid::CLOSER;
}

#[inline(always)]
fn born(counters: &Counters, id: u64, n: u64, destinations: u32, entered: bool) {
    let now = now();
    let mut life = MaybeUninit::uninit();
    let life = clear(&mut life);
    describe(life, id, n, destinations);
    let matched = filter::lets_through(life);
    if entered {
        enter(life, now);
    }
    count(&counters.born_time_wait);
    emit::emit::<Birth>(counters, kind::BORN, life, matched, |place| {
        let birth = clear(place);
        head(&mut birth.header, kind::BORN, now);
        birth.life = *life;
        // From 1 ms to 1 s, and from 20 us to 1 ms.
        (birth.conn_ns, birth.connect_ns) = (1_000_000 + (n & 0x3ff) * 1_000_000, 20_000 + (n & 0x3ff) * 1000);
        (birth.bytes_in, birth.bytes_out, birth.srtt_us) = (n, n, 20);
        (birth.timeout_ms, birth.timestamps) = (60_000, 1);
        (birth.opener_pid, birth.opener_comm) = (life.closer_pid, life.closer_comm);
        birth.life.valid |= valid::CONN | valid::CONNECT | valid::BYTES | valid::SRTT | valid::TIMEOUT;
        birth.life.valid |= valid::TIMESTAMPS | valid::OPENER | valid::MARK;
    });
}

#[inline(always)]
fn enter(life: &Life, born_ns: u64) {
    let mut entry = MaybeUninit::<Alive>::uninit();
    let entry: &mut Alive = clear(&mut entry);
    (entry.id, entry.born_ns, entry.role) = (life.id, born_ns, life.role);
    (entry.closer_pid, entry.closer_comm) = (life.closer_pid, life.closer_comm);
    entry.substate = life.substate;
    entry.state = alive::MATCHED | alive::HAS_CLOSER;
    if !LIVES.insert_new(place(life.id), entry as &Alive) {
        bump!(trouble.lives_full);
    }
}

#[inline(always)]
fn died(counters: &Counters, id: u64, n: u64, destinations: u32) {
    let now = now();
    let mut life = MaybeUninit::uninit();
    let life = clear(&mut life);
    describe(life, id, n, destinations);
    let mut life_ns = 0;
    if let Some(entry) = LIVES.get_ptr(place(id)) {
        // SAFETY: removed below, by nobody else.
        life_ns = rearm::recall(unsafe { &*entry }, now, life);
        LIVES.remove(place(id));
    }
    let matched = filter::lets_through(life) && filter::wants_cause(cause::EXPIRED);
    count(&counters.died[usize::from(cause::EXPIRED)]);
    emit::emit::<Death>(counters, kind::DIED, life, matched, |place| {
        let death = clear(place);
        head(&mut death.header, kind::DIED, now);
        (death.life, death.life_ns, death.cause) = (*life, life_ns, cause::EXPIRED);
    });
}
