//! Duty `passive`: connections that the peer closed first, so that this host gets no TIME_WAIT of them. They are counted
//! by service, not told: on a busy server that is every connection.

use core::{hint::black_box, mem::MaybeUninit};

use twtrace_common::{
    record::{Life, role, valid},
    state::{Conn, Service},
};

use crate::{
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

#[inline(always)]
fn add(life: &Life) {
    // Both are read: LLVM would choose between their addresses, by arithmetic that the verifier does not do on its stack.
    let (lport, rport) = (black_box(life.lport), black_box(life.rport));
    let port = if life.role == role::CLIENT { rport } else { lport };
    let service = Service { port, role: life.role, pad: 0 };
    // Twice: whoever loses the race for a new entry finds the winner's.
    for _ in 0..2 {
        if let Some(closes) = PASSIVE.get_ptr(service) {
            // SAFETY: a map value, which stays; it is only ever changed by atomic additions.
            count(unsafe { &*closes });
            return;
        }
        if PASSIVE.insert(service, 1_u64, BPF_NOEXIST).is_ok() {
            return;
        }
    }
    bump!(trouble.passive_full);
}
