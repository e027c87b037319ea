//! The filters of the run, evaluated where they save an event. They are constants to the verifier: one that is not set
//! costs nothing.

use twtrace_common::{
    knob::{FILTER_VALUES, PORTS_EITHER, PORTS_LOCAL, PORTS_REMOTE, Words},
    record::{Life, valid},
};

use crate::{
    knobs::knob,
    maps::{CGROUPS, PORTS},
};

/// True if records of this kind are wanted at all.
#[inline(always)]
pub fn wants(kind: u8) -> bool {
    knob!(FILTER.kinds) & (1 << (kind & 31)) != 0
}

/// True if deaths of this cause are wanted.
#[inline(always)]
pub fn wants_cause(cause: u8) -> bool {
    let causes = knob!(FILTER.causes);
    causes == 0 || causes & (1 << (cause & 31)) != 0
}

/// The verdict on a life. A value that is filtered on and not known does not match.
#[inline(always)]
pub fn lets_through(life: &Life) -> bool {
    knob!(FILTER.any) == 0 || addresses(life) && ports(life) && owner(life)
}

/// True if the filter holds no value of this kind, or `$hit` says yes to one of them.
macro_rules! any_of {
    ($len:ident, |$i:ident| $hit:expr) => {{
        let len = usize::from(knob!(FILTER.$len));
        let mut hit = len == 0;
        for $i in 0..FILTER_VALUES {
            if $i < len && $hit {
                hit = true;
            }
        }
        hit
    }};
}

#[inline(always)]
fn addresses(life: &Life) -> bool {
    let family = knob!(FILTER.family);
    if family != 0 && life.family != family {
        return false;
    }
    let (netns, known) = (life.netns, life.valid & valid::NETNS != 0);
    let family = u64::from(life.family);
    let (laddr, raddr) = (words(&life.laddr), words(&life.raddr));
    any_of!(netns_len, |i| known && knob!(FILTER.netns[i]) == netns)
        && any_of!(laddr_len, |i| knob!(FILTER.laddr[i].family) == family
            && laddr[0] & knob!(FILTER.laddr[i].mask[0]) == knob!(FILTER.laddr[i].addr[0])
            && laddr[1] & knob!(FILTER.laddr[i].mask[1]) == knob!(FILTER.laddr[i].addr[1]))
        && any_of!(raddr_len, |i| knob!(FILTER.raddr[i].family) == family
            && raddr[0] & knob!(FILTER.raddr[i].mask[0]) == knob!(FILTER.raddr[i].addr[0])
            && raddr[1] & knob!(FILTER.raddr[i].mask[1]) == knob!(FILTER.raddr[i].addr[1]))
}

/// An address or a name, as the filters compare it.
#[inline(always)]
pub fn words(bytes: &[u8; 16]) -> Words {
    let at = bytes.as_ptr().cast::<u64>();
    // SAFETY: 16 bytes hold two words, and all 16-byte fields of a Life stand 4-byte aligned.
    unsafe { [at.read_unaligned(), at.add(1).read_unaligned()] }
}

#[inline(always)]
fn ports(life: &Life) -> bool {
    let asked = knob!(FILTER.lport) | knob!(FILTER.rport) | knob!(FILTER.port);
    if asked != 0 && life.valid & valid::TUPLE == 0 {
        // Ports that are not known are zero, which a filter may name.
        return false;
    }
    if knob!(FILTER.lport) == 1 && !is_in(PORTS_LOCAL, life.lport) {
        return false;
    }
    if knob!(FILTER.rport) == 1 && !is_in(PORTS_REMOTE, life.rport) {
        return false;
    }
    if knob!(FILTER.port) == 1 && !is_in(PORTS_EITHER, life.lport) && !is_in(PORTS_EITHER, life.rport) {
        return false;
    }
    true
}

#[inline(always)]
fn is_in(row: u32, port: u16) -> bool {
    let Some(set) = PORTS.get(row) else { return false };
    set[usize::from(port >> 6)] & (1 << (port & 63)) != 0
}

/// True if the current task is in one of the cgroups whose subtree is wanted, or below it. Cgroups made later count too: the
/// kernel walks from the task's own cgroup upwards (`task_under_cgroup_hierarchy`, include/linux/cgroup.h).
#[inline(always)]
pub fn is_under() -> bool {
    let trees = u32::from(knob!(FILTER.cgroup_trees));
    for row in 0..FILTER_VALUES as u32 {
        if row < trees && CGROUPS.current_task_under_cgroup(row) == Ok(true) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn cgroup(life: &Life, known: bool) -> bool {
    if knob!(FILTER.cgroup_trees) == 0 {
        return any_of!(cgroup_len, |i| known && knob!(FILTER.cgroup[i]) == life.cgroup_id);
    }
    known
        && (life.valid & valid::UNDER != 0
            || knob!(FILTER.cgroup_len) != 0 && any_of!(cgroup_len, |i| knob!(FILTER.cgroup[i]) == life.cgroup_id))
}

#[inline(always)]
fn owner(life: &Life) -> bool {
    let role = knob!(FILTER.role);
    if role != 0 && life.role != role {
        return false;
    }
    let known = life.valid & valid::CLOSER != 0;
    let comm = words(&life.closer_comm);
    any_of!(pid_len, |i| known && knob!(FILTER.pid[i]) == life.closer_pid)
        && cgroup(life, known)
        && any_of!(comm_len, |i| known && knob!(FILTER.comm[i][0]) == comm[0] && knob!(FILTER.comm[i][1]) == comm[1])
}
