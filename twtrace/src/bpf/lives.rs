//! The table of lives, read from outside: for lives that no look meets any more.

use std::{collections::HashMap, io, os::fd::AsFd as _, ptr};

use aya::maps::{HashMap as BpfMap, Map, MapData};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use twtrace_common::state::{Alive, LifeSlot, met};

use super::attach::{BpfError, chain};

/// Lives that may be suspected at once; more wait for the next look.
const MOST: usize = 1 << 16;

/// Both maps of the table.
pub(super) struct Table {
    slots: Slots,
    rest: BpfMap<MapData, u64, Alive>,
}

impl Table {
    /// The table behind `LIFE_SLOTS` and `LIFE_REST`.
    pub(super) fn new(slots: &MapData, rest: MapData) -> Result<Self, BpfError> {
        let entries = slots.info().map_err(|source| BpfError::Map { name: "LIFE_SLOTS", source })?.max_entries();
        let slots = Slots::map(slots, entries as usize)
            .map_err(|error| BpfError::Seed(format!("mapping the table of lives: {}", chain(&error))))?;
        let rest =
            BpfMap::try_from(Map::HashMap(rest)).map_err(|source| BpfError::Map { name: "LIFE_REST", source })?;
        Ok(Self { slots, rest })
    }

    /// Shows every entry with its address, as it is at this moment; one that comes or goes meanwhile may be shown torn, or not.
    pub(super) fn each(&self, mut see: impl FnMut(u64, &Alive)) {
        self.slots.each(&mut see);
        // A key that has gone makes the kernel begin anew (htab_map_get_next_key): not more often than it has entries.
        for (key, value) in self.rest.iter().take(self.slots.count).filter_map(Result::ok) {
            see(key, &value);
        }
    }
}

/// The memory of `LIFE_SLOTS`.
struct Slots {
    at: ptr::NonNull<LifeSlot>,
    count: usize,
}

// SAFETY: memory that is only read and belongs to this value.
unsafe impl Send for Slots {}

impl Slots {
    fn map(map: &MapData, count: usize) -> io::Result<Self> {
        let (length, map) = (count * size_of::<LifeSlot>(), map.fd().as_fd());
        // SAFETY: a new mapping, where the kernel finds room; the map was made to be mapped, and has that many entries.
        let at = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, map, 0) }?;
        let at = ptr::NonNull::new(at.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { at, count })
    }

    fn each(&self, see: &mut impl FnMut(u64, &Alive)) {
        for index in 0..self.count {
            // SAFETY: within the mapping. The programs write it meanwhile: what is read is judged by them again.
            unsafe {
                let slot = self.at.as_ptr().add(index);
                let key = (&raw const (*slot).key).read_volatile();
                if key != 0 {
                    see(key, &(&raw const (*slot).value).read_volatile());
                }
            }
        }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: what was mapped, to which no reference is left.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.count * size_of::<LifeSlot>()) };
    }
}

/// What is to be asked about an entry after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The look has just entered it: was it dead already?
    New,
    /// The look did not meet it, though it was born before.
    Unmet,
}

/// Whether an entry is in doubt after the look of this number, which began then.
pub(super) fn doubt(entry: &Alive, look: u64, began_ns: u64) -> Option<Doubt> {
    if entry.met == met::OVER | entry.id {
        return None;
    }
    if entry.met == look | met::NEW {
        return Some(Doubt::New);
    }
    (entry.met & met::LOOK != look && entry.born_ns < began_ns).then_some(Doubt::Unmet)
}

/// Lives that were dead at the last look, by address: they are believed to be if they still are at the next.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    before: HashMap<u64, u64>,
    now: HashMap<u64, u64>,
}

impl Suspects {
    /// True if this life was dead at the last look already.
    pub(super) fn is_known(&self, address: u64, id: u64) -> bool {
        self.before.get(&address) == Some(&id)
    }

    /// Enters a life that is dead at this look.
    pub(super) fn enter(&mut self, address: u64, id: u64) {
        if self.now.len() < MOST {
            self.now.insert(address, id);
        }
    }

    /// The look is over. Returns how many are suspected now.
    pub(super) fn turn(&mut self) -> usize {
        self.before = std::mem::take(&mut self.now);
        self.before.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(born_ns: u64, met: u64) -> Alive {
        Alive {
            id: 7,
            born_ns,
            expires: 0,
            cgroup_id: 0,
            closer_pid: 0,
            closer_comm: [0; 16],
            substate: 6,
            role: 0,
            flags: 0,
            state: 0,
            met,
        }
    }

    #[test]
    fn who_was_met_is_not_in_doubt_and_neither_is_who_came_later() {
        assert_eq!(doubt(&entry(50, 3), 3, 100), None);
        assert_eq!(doubt(&entry(50, 2), 3, 100), Some(Doubt::Unmet));
        assert_eq!(doubt(&entry(50, 0), 3, 100), Some(Doubt::Unmet));
        assert_eq!(doubt(&entry(100, 0), 3, 100), None, "born while the look was under way");
    }

    #[test]
    fn what_a_look_entered_is_asked_for_at_once_and_then_as_any_other() {
        assert_eq!(doubt(&entry(0, 3 | met::NEW), 3, 100), Some(Doubt::New));
        assert_eq!(doubt(&entry(0, 3 | met::NEW), 4, 100), Some(Doubt::Unmet));
        assert_eq!(doubt(&entry(0, 4), 4, 100), None);
    }

    #[test]
    fn what_is_over_is_over_only_with_its_own_id() {
        assert_eq!(doubt(&entry(50, met::OVER | 7), 3, 100), None);
        // Written to an entry that had become another's.
        assert_eq!(doubt(&entry(50, met::OVER | 8), 3, 100), Some(Doubt::Unmet));
    }

    #[test]
    fn twice_dead_is_dead_unless_the_address_is_anothers_by_then() {
        let mut suspects = Suspects::default();
        assert!(!suspects.is_known(0x100, 7));
        suspects.enter(0x100, 7);
        assert!(!suspects.is_known(0x100, 7), "in the same look");
        assert_eq!(suspects.turn(), 1);
        assert!(suspects.is_known(0x100, 7) && !suspects.is_known(0x100, 8) && !suspects.is_known(0x200, 7));
        assert_eq!(suspects.turn(), 0);
        assert!(!suspects.is_known(0x100, 7), "a look in between in which it was not");
    }

    #[test]
    fn suspects_are_bounded() {
        let mut suspects = Suspects::default();
        (0..2 * MOST as u64).for_each(|address| suspects.enter(address, 1));
        assert_eq!(suspects.turn(), MOST);
    }
}
