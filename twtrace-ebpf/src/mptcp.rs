//! MPTCP: a program holds the MPTCP socket, and a worker of the kernel closes the TCP sockets below it (`mptcp_worker`,
//! net/mptcp/protocol.c), and opens all but the first. Whoever asks who closed such a connection wants the program.
//!
//! The MPTCP socket reports its own transitions by the same tracepoint, in the task that calls connect(), shutdown() or
//! close(), before the worker acts. That task is noted here, and stands in for the worker. A program cannot be wronged by
//! this: whoever calls itself `kworker/..` and closes a subflow is that task.

use twtrace_common::state::{Conn, Owner};

use crate::{
    filter,
    kernel::{self, Object as _, Raw},
    knobs,
    maps::OWNERS,
    plain::{clear, forget},
};

const SYN_SENT: i32 = 2;
const SYN_RECV: i32 = 3;
const FIN_WAIT1: i32 = 4;
const LAST_ACK: i32 = 9;

/// A transition of an MPTCP socket.
#[inline(always)]
pub fn moved(sk: u64, new: i32) {
    match new {
        SYN_SENT | FIN_WAIT1 | LAST_ACK => note(sk),
        // Accepted: nobody of this host has acted yet, and an earlier socket may have had this address.
        SYN_RECV => {
            let _none_there = OWNERS.remove(sk);
        }
        _ => {}
    }
}

/// A function of its own, for its stack.
#[inline(never)]
fn note(sk: u64) {
    let mut owner = core::mem::MaybeUninit::<Owner>::uninit();
    let owner = clear(&mut owner);
    owner.pid = kernel::current(&mut owner.comm);
    owner.cgroup_id = kernel::current_cgroup();
    owner.under = filter::is_under() as u8;
    // The last reference to a file may be dropped by a worker too: then whoever acted before stays.
    if !is_worker(&owner.comm) {
        // No room: the worker will be reported, as it is without this.
        let _no_room = OWNERS.insert(sk, *owner, 0);
    }
}

/// True if a task's name is that of a worker. The name is at hand; the task's flags would cost a read at every close.
#[inline(always)]
pub fn is_worker(comm: &[u8; 16]) -> bool {
    let words = comm.as_ptr().cast::<u32>();
    // SAFETY: 8 of 16 bytes; every such array is 4-byte aligned.
    let [first, second] = unsafe { [words.read(), words.add(1).read()] };
    // One branch, not two: each is one more way through all that follows.
    forget(u64::from((first ^ u32::from_ne_bytes(*b"kwor")) | (second ^ u32::from_ne_bytes(*b"ker/")))) == 0
}

/// Who holds the MPTCP socket above a TCP socket; null if there is none, or nobody is known.
#[inline(never)]
pub fn owner(sk: u64) -> *const Owner {
    let sk = Raw(sk);
    let Some(1..) = sk.get::<u8>(&knobs::TP_IS_MPTCP) else { return core::ptr::null() };
    let Some(above) = sk.behind::<u64>(&knobs::ICSK_ULP_DATA, &knobs::SUBFLOW_CONN) else { return core::ptr::null() };
    OWNERS.get_ptr(above).unwrap_or(core::ptr::null())
}

/// Puts the program in the place of the worker that closes its connection.
#[inline(never)]
pub fn closer(sk: u64, conn: &mut Conn) {
    let owner = owner(sk);
    if !owner.is_null() {
        // SAFETY: a map value, which stays mapped.
        let owner = unsafe { &*owner };
        (conn.closer_pid, conn.closer_comm, conn.cgroup_id) = (owner.pid, owner.comm, owner.cgroup_id);
        conn.under = owner.under;
    }
}

/// Puts the program in the place of the worker that opens one more path of its connection.
#[inline(never)]
pub fn opener(sk: u64, conn: &mut Conn) {
    let owner = owner(sk);
    if !owner.is_null() {
        // SAFETY: as above.
        let owner = unsafe { &*owner };
        (conn.opener_pid, conn.opener_comm) = (owner.pid, owner.comm);
    }
}
