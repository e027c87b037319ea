//! The table of lives, from outside: what it holds, and what a test plants there.

use std::{fs, ptr};

use aya::maps::{Array, HashMap, Map, MapData, MapInfo};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use twtrace::bpf::Slots;
use twtrace_common::state::{Alive, LifeSlot, alive, met};

use super::{Outcome, text};

/// The table of lives of the one tracer of this process that has so many slots: more than any other here, so that the whole
/// machine's minisocks have room.
pub(super) struct Lives {
    slots: Array<MapData, LifeSlot>,
    rest: HashMap<MapData, u64, Alive>,
    size: u32,
    /// The slots' own memory: a call for each would take long.
    memory: *const LifeSlot,
}

impl Lives {
    pub(super) fn open(size: u32) -> Result<Self, String> {
        let find = |name: &str, entries: u32| {
            let is_it = |info: &MapInfo| info.name_as_str() == Some(name) && info.max_entries() == entries;
            let id = held().into_iter().filter_map(|id| MapInfo::from_id(id).ok()).find(is_it).map(|info| info.id());
            let data = MapData::from_id(id.ok_or_else(|| format!("no map {name} of {entries} entries"))?);
            data.map_err(|error| error.to_string())
        };
        let slots = find("LIFE_SLOTS", size)?;
        let length = size as usize * size_of::<LifeSlot>();
        // SAFETY: a new mapping, where the kernel finds room.
        let memory = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, slots.fd(), 0) };
        Ok(Self {
            slots: Map::Array(slots).try_into().map_err(text)?,
            rest: Map::HashMap(find("LIFE_REST", Slots::of(size).rest)?).try_into().map_err(text)?,
            size,
            memory: memory.map_err(text)?.cast(),
        })
    }

    /// Every entry that is not over: its key, and what it holds.
    pub(super) fn all(&self) -> Result<Vec<(u64, Alive)>, String> {
        let mut all = Vec::new();
        for index in 0..self.size as usize {
            // SAFETY: within the mapping.
            let LifeSlot { key, value, .. } = unsafe { self.memory.add(index).read_volatile() };
            if key != 0 {
                all.push((key, value));
            }
        }
        for entry in self.rest.iter() {
            let (key, value) = entry.map_err(text)?;
            all.push((key, value));
        }
        all.retain(|(_, life)| life.met != met::OVER | life.id);
        Ok(all)
    }

    /// Lives that the filters let through: of the test's namespace, whatever else goes on.
    pub(super) fn ours(&self) -> Result<Vec<(u64, Alive)>, String> {
        Ok(self.all()?.into_iter().filter(|(_, life)| life.state & alive::MATCHED != 0).collect())
    }

    pub(super) fn place(&self, key: u64) -> u32 {
        (key >> 8) as u32 & (self.size - 1)
    }

    /// Enters a life, as the programs do. `false`: its address has been born again, in this namespace or another. Nothing of this
    /// key may happen meanwhile.
    pub(super) fn plant(&mut self, key: u64, value: Alive) -> Result<bool, String> {
        let index = self.place(key);
        let mut slot = self.slots.get(&index, 0).map_err(text)?;
        if slot.key == key || self.rest.get(&key, 0).is_ok() {
            return Ok(false);
        }
        slot.keys += 1;
        if slot.key == 0 && slot.keys == 1 {
            (slot.key, slot.value) = (key, value);
        } else {
            self.rest.insert(key, value, 0).map_err(text)?;
        }
        self.slots.set(index, slot, 0).map_err(text)?;
        Ok(true)
    }

    /// Takes a life away, as if its birth had been missed.
    pub(super) fn hide(&mut self, key: u64) -> Outcome {
        let index = self.place(key);
        let mut slot = self.slots.get(&index, 0).map_err(text)?;
        if slot.key == key {
            slot.key = 0;
        } else {
            self.rest.remove(&key).map_err(text)?;
        }
        slot.keys -= 1;
        self.slots.set(index, slot, 0).map_err(text)
    }
}

impl Drop for Lives {
    fn drop(&mut self) {
        // SAFETY: what was mapped, to which no reference is left.
        let _ = unsafe { munmap(self.memory.cast_mut().cast(), self.size as usize * size_of::<LifeSlot>()) };
    }
}

/// Ids of the maps whose descriptors this process holds.
fn held() -> Vec<u32> {
    let entries = fs::read_dir("/proc/self/fdinfo").into_iter().flatten().filter_map(Result::ok);
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts.filter_map(|text| text.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse().ok())).collect()
}
