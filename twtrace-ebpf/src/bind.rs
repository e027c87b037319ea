//! Capability `no_bind`: a bind() or listen() failed with EADDRINUSE.
//!
//! `inet_csk_get_port` is asked for a port by bind() (`__inet_bind`, `__inet6_bind`), and once more by listen()
//! (`inet_csk_listen_start`, which has set the state to LISTEN by then): of two sockets that share a port by SO_REUSEADDR one
//! may listen. TCP has no other caller (`tcp_prot.no_autobind`). Whatever it returns but 0, the caller makes EADDRINUSE of it;
//! the one other cause is that there was no memory for a `struct inet_bind_bucket`. A connection's own socket is never asked for.
//!
//! There is no kprobe twin: the result is known at the return alone, where softirqs are on, and while a kprobe program runs
//! the kernel skips those of births and deaths on its CPU. No tracepoint fires in bind().

use core::mem::MaybeUninit;

use aya_ebpf::{macros::fexit, programs::FExitContext};
use twtrace_common::{
    knob::stage,
    record::{Bind, Life, call, flag, kind},
};

use crate::{
    connect,
    emit::{self, head, now},
    filter,
    kernel::{self, Object as _, Of, Typed},
    knobs,
    maps::{self, count},
    plain::clear,
};

const LISTEN: u8 = 10;

/// `int inet_csk_get_port(struct sock *sk, unsigned short snum)`; the result follows the arguments.
#[fexit]
pub fn no_bind_fexit(ctx: FExitContext) -> i32 {
    if !maps::acts(stage::ALL) {
        return 0;
    }
    if ctx.arg::<i32>(2) != 0 {
        let sk = Typed(ctx.arg(0));
        if kernel::is_tcp_sock(sk) {
            failed(sk, ctx.arg(1));
        }
    }
    0
}

#[inline(always)]
fn failed(sk: Typed, port: u16) {
    let Some(counters) = maps::counters() else { return };
    let mut life = MaybeUninit::uninit();
    let life = clear(&mut life);
    kernel::tuple(sk, Of::Bound, life);
    life.lport = port;
    plain_v4(life);
    connect::acts(life);
    let matched = filter::lets_through(life);
    if matched && life.flags & flag::SELF_TEST == 0 {
        count(&counters.no_bind);
    }
    let call = if sk.get::<u8>(&knobs::SKC_STATE) == Some(LISTEN) { call::LISTEN } else { call::BIND };
    emit::emit::<Bind>(counters, kind::NO_BIND, life, matched, |place| {
        let bind = clear(place);
        head(&mut bind.header, kind::NO_BIND, now());
        (bind.life, bind.call) = (*life, call);
    });
}

/// A v4-mapped local address becomes IPv4; there is no remote one by which [`kernel::tuple`] would know.
#[inline(always)]
fn plain_v4(life: &mut Life) {
    let words = life.laddr.as_mut_ptr().cast::<u32>();
    // SAFETY: 16 bytes hold four words, and the array stands 4-byte aligned in a Life.
    unsafe {
        if life.family == 6
            && words.read() == 0
            && words.add(1).read() == 0
            && words.add(2).read() == u32::from_be(0xffff)
        {
            life.family = 4;
            words.write(words.add(3).read());
            words.add(2).write(0);
            words.add(3).write(0);
        }
    }
}
