//! Why something happened, by the place of kernel functions in the stack below the hook. Only the frame right above the
//! known function counts: deeper ones may belong to whatever task was interrupted.

use core::mem::MaybeUninit;

use aya_ebpf::{EbpfContext, helpers::generated::bpf_get_stack};
use twtrace_common::{
    knob::Range,
    record::{cause, substate},
};

use crate::{knobs::knob, maps::bump};

/// Frames looked at. On a tracepoint the hook's own machinery and the timer functions come first: up to 8 of them.
const DEPTH: usize = 16;

#[inline(always)]
fn holds(range: Range, ip: u64) -> bool {
    ip >= range.start && ip < range.end
}

/// The kernel stack, innermost frame first; zeroes behind the outermost.
#[inline(always)]
fn frames<'a>(ctx: &impl EbpfContext, to: &'a mut MaybeUninit<[u64; DEPTH]>) -> Option<&'a [u64; DEPTH]> {
    if knob!(DUTIES.has_stack) == 0 {
        return None;
    }
    let words = to.as_mut_ptr().cast::<u64>();
    for i in 0..DEPTH {
        // SAFETY: within the array. Volatile for the reason given in plain.rs.
        unsafe { words.add(i).write_volatile(0) };
    }
    // SAFETY: the helper writes at most the size given.
    let got = unsafe { bpf_get_stack(ctx.as_ptr(), words.cast(), (DEPTH * 8) as u32, 0) };
    if got < 0 {
        bump!(trouble.stack_failed);
        return None;
    }
    // SAFETY: zeroed above, and written over in part.
    Some(unsafe { to.assume_init_ref() })
}

/// What the stack says about a minisock's end.
pub enum End {
    /// Somebody took its timer away to end it, for this cause.
    Early(u8),
    /// Nobody did: the timer ran out, or is being armed anew.
    NotEarly,
}

/// Who called `inet_twsk_deschedule_put` (or `inet_twsk_purge` with a copy of it inlined).
#[inline(always)]
pub fn end_of_minisock(ctx: &impl EbpfContext, tw_substate: u8) -> End {
    let mut ips = MaybeUninit::uninit();
    let Some(ips) = frames(ctx, &mut ips) else { return End::NotEarly };
    let mut caller = 0;
    for i in 0..DEPTH - 1 {
        if holds(knob!(FUNCTIONS.deschedule), ips[i]) {
            caller = ips[i + 1];
            break;
        }
        if holds(knob!(FUNCTIONS.purge), ips[i]) {
            return End::Early(cause::NETNS);
        }
    }
    if caller == 0 {
        return End::NotEarly;
    }
    End::Early(if holds(knob!(FUNCTIONS.v4_rcv), caller) || holds(knob!(FUNCTIONS.v6_rcv), caller) {
        if tw_substate == substate::FIN_WAIT2 { cause::DATA_RESET } else { cause::RECYCLED }
    } else if holds(knob!(FUNCTIONS.state_process), caller) {
        cause::RESET
    } else if holds(knob!(FUNCTIONS.abort), caller) {
        cause::KILLED
    } else if holds(knob!(FUNCTIONS.purge), caller) {
        cause::NETNS
    } else if holds(knob!(FUNCTIONS.tproxy4), caller) || holds(knob!(FUNCTIONS.tproxy6), caller) {
        cause::TPROXY
    } else {
        cause::UNKNOWN
    })
}

/// What the stack says about a socket that closes from FIN_WAIT2 or CLOSING.
pub enum Close {
    /// `tcp_time_wait` closed it; with this substate it would have gone on.
    TimeWait(u8),
    /// `tcp_time_wait` or an abort: the function above `tcp_done` calls both ways.
    Either,
    /// `tcp_time_wait` or an abort, by the timer of a socket that nobody has open.
    Timer,
    /// An abort, a RST, a timeout.
    Other,
}

/// Who called `tcp_done`. `tcp_time_wait` itself is often missing from the stack, for it ends in a jump to `tcp_done`.
#[inline(always)]
pub fn close_of_socket(ctx: &impl EbpfContext, was_closing: bool) -> Close {
    let mut ips = MaybeUninit::uninit();
    let Some(ips) = frames(ctx, &mut ips) else { return Close::Either };
    let mut caller = 0;
    for i in 0..DEPTH - 2 {
        if holds(knob!(FUNCTIONS.done), ips[i]) {
            caller = ips[i + 1];
            if holds(knob!(FUNCTIONS.time_wait), caller) {
                let fin = was_closing || holds(knob!(FUNCTIONS.fin), ips[i + 2]);
                return Close::TimeWait(if fin { substate::TIME_WAIT } else { substate::FIN_WAIT2 });
            }
            break;
        }
    }
    if holds(knob!(FUNCTIONS.fin), caller) {
        Close::TimeWait(substate::TIME_WAIT)
    } else if holds(knob!(FUNCTIONS.close), caller) {
        Close::TimeWait(substate::FIN_WAIT2)
    } else if holds(knob!(FUNCTIONS.rcv_state_process), caller) {
        if was_closing { Close::TimeWait(substate::TIME_WAIT) } else { Close::Either }
    } else if holds(knob!(FUNCTIONS.keepalive), caller) {
        Close::Timer
    } else {
        Close::Other
    }
}
