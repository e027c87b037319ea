//! Minisocks that were there before the programs: a BPF iterator over the TCP sockets of one network namespace enters
//! them into the table of lives, if absent. It gives the minisock's own address, the key of every later event, which
//! sock_diag does not.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::programs::FEntryContext;
use twtrace_common::{
    record::flag,
    state::{Alive, alive},
};

use crate::{
    birth::timer_of,
    filter,
    kernel::{self, Object as _, Of, Raw},
    knobs,
    maps::{self, BPF_NOEXIST, LIVES, bump, count},
    plain::clear,
};

/// TCP_TIME_WAIT, `skc_state` of every minisock whatever its substate.
const TIME_WAIT: u8 = 6;

/// `int bpf_iter_tcp(struct bpf_iter_meta *meta, struct sock_common *sk_common, uid_t uid)`
///
/// aya-ebpf has no iterator macro; a section named so is all that aya needs. The context is an array of the arguments,
/// as fentry's is.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub fn seed_iter(ctx: *mut c_void) -> i32 {
    let ctx = FEntryContext::new(ctx);
    let sock = ctx.arg::<u64>(1);
    if sock != 0 && Raw(sock).get::<u8>(&knobs::SKC_STATE) == Some(TIME_WAIT) {
        seed(sock);
    }
    0
}

#[inline(always)]
fn seed(tw: u64) {
    let mut life = MaybeUninit::uninit();
    let life = clear(&mut life);
    let head = Raw(tw);
    kernel::tuple(head, Of::Minisock, life);
    life.flags = flag::PREEXISTING;
    let Some(counters) = maps::counters() else { return };
    let mut entry = MaybeUninit::<Alive>::uninit();
    let entry: &mut Alive = clear(&mut entry);
    entry.id = maps::seed_id(counters);
    entry.expires = timer_of(tw).get(&knobs::TIMER_EXPIRES).unwrap_or(0);
    entry.substate = head.get::<u8>(&knobs::TW_SUBSTATE).unwrap_or(0);
    entry.flags = life.flags;
    entry.state = if filter::lets_through(life) { alive::MATCHED } else { 0 };
    // An entry that is there already is a birth that the hooks have seen.
    if LIVES.insert(tw, entry as &Alive, BPF_NOEXIST).is_ok() {
        count(&counters.seeded);
    } else if LIVES.get_ptr(tw).is_none() {
        bump!(trouble.lives_full);
    }
}
