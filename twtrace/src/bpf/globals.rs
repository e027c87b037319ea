//! What the programs are told before they are loaded.

use aya::EbpfLoader;
use twtrace_common::knob::{ABSENT, Duties, Filter, Functions, Linger};

use crate::{
    host::btf::{FIELDS, KernelTypes},
    plan::{Backend, Capability, HASHDANCE_SCHEDULE, Plan},
};

/// Where the kernel's fields are, in the order of [`FIELDS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offsets {
    values: Vec<u16>,
    /// `tcp_death_row` is a pointer (5.18 to 6.0).
    death_row_pointer: bool,
    /// `tw_refcount`, which starts at one, not `tw_count` (5.18+).
    refcount_base: bool,
}

impl Offsets {
    /// Looks every field up.
    #[must_use]
    pub fn resolve(types: &KernelTypes) -> Self {
        let mut offsets = Self { values: Vec::new(), death_row_pointer: false, refcount_base: false };
        for spec in FIELDS {
            let found = types.field(spec);
            offsets.values.push(found.map_or(ABSENT, |found| found.offset));
            match (spec.name, found) {
                ("NET_DEATH_ROW", Some(found)) => offsets.death_row_pointer = found.is_pointer,
                ("DR_COUNT", Some(found)) => offsets.refcount_base = found.alternative == 0,
                _ => {}
            }
        }
        offsets
    }

    /// Required fields that are absent, as BTF paths.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let absent = FIELDS.iter().zip(&self.values).filter(|(spec, value)| spec.required && **value == ABSENT);
        absent.map(|(spec, _)| spec.path).collect()
    }

    /// Optional fields that are absent, as BTF paths: they show as unknown.
    #[must_use]
    pub fn unknown(&self) -> Vec<&'static str> {
        let absent = FIELDS.iter().zip(&self.values).filter(|(spec, value)| !spec.required && **value == ABSENT);
        absent.map(|(spec, _)| spec.path).collect()
    }
}

/// The tables in two maps, and the global that tells how many slots there are: see twtrace-ebpf's table.rs.
pub(super) const SLOTTED: [(&str, &str, &str); 3] = [
    ("CONN_SLOTS", "CONN_REST", "CONN_MASK"),
    ("LIFE_SLOTS", "LIFE_REST", "LIFE_MASK"),
    ("CLOSING_SLOTS", "CLOSING_REST", "CLOSING_MASK"),
];

/// Sizes of such a table.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// A power of two.
    pub slots: u32,
    /// Entries of the map that takes what finds its slot taken.
    pub rest: u32,
}

impl Slots {
    /// For this many keys. A key gets its slot if no other key of that slot is in the table. Of as many keys as slots, which come
    /// and go at random, 1 - 1/e do not: 63 of 100. Kernels give the objects of a page side by side, so small tables are further
    /// from that, either way.
    #[must_use]
    pub fn of(keys: u32) -> Self {
        const SMALL: u32 = 4096;
        let rest = keys.min(keys / 4 * 3 + SMALL).max(1);
        Self { slots: keys.clamp(1, 1 << 31).next_power_of_two(), rest }
    }
}

/// Everything that becomes frozen data of the programs. Lives as long as the loader borrows it.
pub(super) struct Globals {
    pub(super) offsets: Offsets,
    pub(super) functions: Functions,
    pub(super) duties: Duties,
    /// Slots less one, in the order of [`SLOTTED`].
    pub(super) masks: [u32; 3],
    pub(super) filter: Filter,
    pub(super) linger: Linger,
    pub(super) hz: u32,
    pub(super) own_netns: u32,
    pub(super) wake_at: u64,
    pub(super) log_level: u8,
}

impl Globals {
    pub(super) fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        for (spec, value) in FIELDS.iter().zip(&self.offsets.values) {
            loader.override_global(spec.name, value, true);
        }
        for (mask, (_, _, name)) in self.masks.iter().zip(SLOTTED) {
            loader.override_global(name, mask, true);
        }
        loader
            .override_global("FUNCTIONS", &self.functions, true)
            .override_global("DUTIES", &self.duties, true)
            .override_global("FILTER", &self.filter, true)
            .override_global("LINGER", &self.linger, true)
            .override_global("HZ", &self.hz, true)
            .override_global("OWN_NETNS", &self.own_netns, true)
            .override_global("WAKE_AT", &self.wake_at, true)
            .override_global(aya_log::LEVEL, &self.log_level, true);
    }
}

/// Who does what, from the plan. `passive`: a duty that the run asks for, not a capability: its transition is watched on
/// every backend.
pub(super) fn duties(plan: &Plan, offsets: &Offsets, has_stack: bool, passive: bool) -> Duties {
    let tracepoint = |capability| u8::from(plan.is(capability, Backend::Tracepoint));
    Duties {
        tp_birth: tracepoint(Capability::Birth),
        tp_death: tracepoint(Capability::Death),
        tp_rearm: tracepoint(Capability::Rearm),
        close_refusal: match plan.backend(Capability::Refusal) {
            Some(Backend::Kprobe) => 1,
            Some(Backend::Tracepoint) => 2,
            Some(Backend::Fentry) | None => 0,
        },
        death_row_pointer: u8::from(offsets.death_row_pointer),
        refcount_base: u8::from(offsets.refcount_base),
        has_timeo: u8::from(plan.hooks.iter().any(|hook| hook.target == HASHDANCE_SCHEDULE)),
        has_stack: u8::from(has_stack),
        tp_no_port: tracepoint(Capability::NoPort),
        reuse_denied: u8::from(plan.backend(Capability::ReuseDenied).is_some()),
        passive: u8::from(passive),
        ..Duties::NONE
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The most keys in the rest while this many come and go, each at an address at random.
    fn most_in_the_rest(keys: usize, slots: usize) -> usize {
        let mut random = 1_u64;
        let mut slot = || {
            // Knuth's MMIX; its upper bits are the good ones.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % slots
        };
        let mut counts = vec![0_u32; slots];
        let mut lives: Vec<usize> = Vec::new();
        let (mut rest, mut most) = (HashSet::new(), 0);
        for n in 0..keys * 8 {
            let place = n % keys;
            let at = slot();
            if lives.len() == keys {
                counts[lives[place]] -= 1;
                rest.remove(&place);
                lives[place] = at;
            } else {
                lives.push(at);
            }
            if counts[at] > 0 {
                rest.insert(place);
            }
            counts[at] += 1;
            most = most.max(rest.len());
        }
        most
    }

    #[test]
    fn as_many_keys_as_were_asked_for_find_a_place() {
        for keys in [1, 100, 4096, 5000, 1 << 16, (1 << 16) + 1, 100_000] {
            let Slots { slots, rest } = Slots::of(keys);
            let most = most_in_the_rest(keys as usize, slots as usize);
            assert!(most <= rest as usize, "{keys} keys: {most} in a rest of {rest}");
        }
        // What the rule is about: more than half of them go to the rest.
        assert!(most_in_the_rest(1 << 16, 1 << 16) > 1 << 15);
    }
}
