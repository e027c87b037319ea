//! Duty `passive`: connections that the peer closed first, so that this host gets no TIME_WAIT of them. They are counted
//! by service, those opened here by remote end too, not told: on a busy server that is every connection.
//!
//! The table evicts the least recently used. The kernel does not say so; the sum of all that was counted does, less what user
//! space found in the entries.

use core::{hint::black_box, mem::MaybeUninit};

use twtrace_common::{
    record::{Life, role, valid},
    state::{Conn, PassiveCloses, PassiveKey},
};

use crate::{
    emit::now,
    filter,
    kernel::{self, Object as _, Of, Typed},
    knobs::knob,
    maps::{self, BPF_NOEXIST, PASSIVE, bump, count},
    mptcp,
    plain::clear,
};

/// Counts one. Called at the transition CLOSE_WAIT -> LAST_ACK, which runs in the task that closes.
///
/// A connection whose beginning was not seen has no service: which of its ports is the service's cannot be told.
///
/// A function of its own, for its stack, as other cases of `conn_tp` are.
#[inline(never)]
pub fn closed(sock: Typed, conn: &Conn) {
    let mut life = MaybeUninit::uninit();
    let life = clear(&mut life);
    kernel::tuple(sock, Of::Socket, life);
    life.role = conn.role;
    life.closer_pid = kernel::current(&mut life.closer_comm);
    life.cgroup_id = kernel::current_cgroup();
    // Whose it is matters to filters alone.
    if knob!(FILTER.any) == 1 && mptcp::is_worker(&life.closer_comm) {
        let owner = mptcp::owner(sock.address());
        if !owner.is_null() {
            // SAFETY: a map value, which stays mapped.
            let owner = unsafe { &*owner };
            (life.closer_pid, life.closer_comm, life.cgroup_id) = (owner.pid, owner.comm, owner.cgroup_id);
        }
    }
    life.valid |= valid::CLOSER;
    if filter::is_under() {
        life.valid |= valid::UNDER;
    }
    let is_known = life.role != role::UNKNOWN && life.valid & valid::TUPLE != 0;
    if is_known && !maps::is_self_test(life.netns) && filter::lets_through(life) {
        add(life);
    }
}

/// A function of its own, for its stack.
#[inline(never)]
fn add(life: &Life) {
    let mut key = MaybeUninit::<PassiveKey>::uninit();
    let key = clear(&mut key);
    key.role = life.role;
    // Both are read: LLVM would choose between their addresses, by arithmetic that the verifier does not do on its stack.
    let (lport, rport) = (black_box(life.lport), black_box(life.rport));
    if life.role == role::CLIENT {
        key.port = rport;
        (key.netns, key.family) = (life.netns, life.family);
        (key.laddr, key.raddr) = (filter::words(&life.laddr), filter::words(&life.raddr));
    } else {
        key.port = lport;
    }
    enter(key);
    // Only now: what is counted here and found in no entry has been evicted, and is not merely about to be entered.
    bump!(passive);
}

#[inline(always)]
fn enter(key: &PassiveKey) {
    // Twice: whoever loses the race for a new entry finds the winner's.
    for _ in 0..2 {
        if let Some(entry) = PASSIVE.get_ptr(key) {
            // SAFETY: a map value, which stays mapped; this field is only ever changed by atomic additions. If the entry is
            // evicted at this moment the addition is lost or another peer's; either way the sum shows what is missing.
            count(unsafe { &(*entry).closes });
            return;
        }
        if PASSIVE.insert(key, PassiveCloses { closes: 1, since_ns: now() }, BPF_NOEXIST).is_ok() {
            return;
        }
    }
}
