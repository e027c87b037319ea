//! The filters' verdict on a record that user space hands over, for the test that compares both sides. No run loads this;
//! BPF_PROG_RUN runs it.

use core::mem::offset_of;

use aya_ebpf::{macros::classifier, programs::TcContext};
use twtrace_common::record::{Death, Header, Life, kind};

use crate::filter;

/// Where the packet has the record: behind what the kernel takes for an Ethernet header.
const RECORD_AT: usize = 16;
const KIND_AT: usize = RECORD_AT + offset_of!(Header, kind);
/// Every record has its life at the same place.
const LIFE_AT: usize = RECORD_AT + offset_of!(Death, life);
const CAUSE_AT: usize = RECORD_AT + offset_of!(Death, cause);

/// 1 if the filters let the record through, 0 if not, 2 if the packet is too short.
#[classifier]
pub fn extra_verdict(ctx: TcContext) -> i32 {
    let (Ok(kind), Ok(life)) = (ctx.load::<u8>(KIND_AT), ctx.load::<Life>(LIFE_AT)) else { return 2 };
    let matched = filter::wants(kind) && filter::lets_through(&life);
    if kind != kind::DIED {
        return matched.into();
    }
    let Ok(cause) = ctx.load::<u8>(CAUSE_AT) else { return 2 };
    (matched && filter::wants_cause(cause)).into()
}
