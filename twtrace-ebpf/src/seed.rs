//! Minisocks that were there before the programs: a BPF iterator over the TCP sockets of one network namespace enters
//! them into the table of lives, if absent, and writes those that the filters let through to whoever reads the iterator.
//! It gives the minisock's own address, the key of every later event, which sock_diag does not.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::{bindings::seq_file, helpers::generated::bpf_seq_write, programs::FEntryContext};
use twtrace_common::{
    record::{Life, flag},
    state::{Alive, alive},
};

use crate::{
    birth::timer_of,
    filter,
    kernel::{self, Object as _, Raw},
    knobs,
    maps::{self, LIVES, bump, count},
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
        seed(&ctx, sock);
    }
    0
}

#[inline(always)]
fn seed(ctx: &FEntryContext, tw: u64) {
    // An entry that is there already is a birth that the hooks have told, or of an earlier walk: each is told once. Later
    // walks find little else.
    if LIVES.get_ptr(tw).is_some() {
        return;
    }
    let mut life = MaybeUninit::uninit();
    let life = clear(&mut life);
    kernel::minisock(Raw(tw), life);
    life.flags = flag::PREEXISTING;
    let Some(counters) = maps::counters() else { return };
    let mut entry = MaybeUninit::<Alive>::uninit();
    let entry: &mut Alive = clear(&mut entry);
    entry.id = maps::seed_id(counters);
    entry.expires = timer_of(tw).get(&knobs::TIMER_EXPIRES).unwrap_or(0);
    entry.substate = life.substate;
    entry.flags = life.flags;
    let matched = filter::lets_through(life);
    entry.state = if matched { alive::MATCHED } else { 0 };
    life.id = entry.id;
    if LIVES.insert_new(tw, entry) {
        count(&counters.seeded);
        if matched && !write(ctx, life) {
            bump!(trouble.seeds_full);
        }
    } else if LIVES.get_ptr(tw).is_none() {
        bump!(trouble.lives_full);
    }
}

/// Hands a seed to the reader. `false`: the file's buffer has no room for it, which user space sees to.
#[inline(always)]
fn write(ctx: &FEntryContext, life: &Life) -> bool {
    let meta = ctx.arg::<*const *mut seq_file>(0);
    // SAFETY: `seq` is the first field of struct bpf_iter_meta; a direct load of a typed pointer, which cannot fault. The
    // helper reads the record, which lives on this stack, and checks the file's type.
    unsafe { bpf_seq_write(meta.read_volatile(), ptr::from_ref(life).cast(), size_of::<Life>() as u32) == 0 }
}
