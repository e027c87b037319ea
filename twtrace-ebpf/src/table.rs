//! Tables whose common case is one load. An operation of the kernel's hash map is a call, a hash, a lock, a free list, and
//! for most of them a line of memory that is in no cache: 60 to 400 ns.
//!
//! A key has one slot in an array. If another key has the slot, the key goes to the `rest`, a hash map. As long as any key of
//! a slot is there, all that come go there: a key is never in both. The slot counts its keys, wherever they are, so an empty
//! slot says no without a look into the hash map. [`slot`] has the steps, and why they are right.

mod order;
mod slot;

use aya_ebpf::maps::{Array, HashMap};

use crate::{
    kernel::lower_half,
    maps::{BPF_EXIST, BPF_NOEXIST},
    plain::{Plain, copy},
};

/// A key's place in the array.
#[repr(C)]
pub struct Slot<V> {
    /// Keys that have this slot, here and in the rest; more for a moment while one tries.
    keys: u64,
    /// Whose it is; 0: nobody's. Written last, and cleared first.
    key: u64,
    value: V,
}

// User space reads the table of lives.
const _: () = {
    use core::mem::offset_of;
    use twtrace_common::state::{Alive, LifeSlot};
    assert!(size_of::<Slot<Alive>>() == size_of::<LifeSlot>());
    assert!(offset_of!(Slot<Alive>, key) == offset_of!(LifeSlot, key));
    assert!(offset_of!(Slot<Alive>, value) == offset_of!(LifeSlot, value));
};

/// A table by 64-bit keys, none of which is 0.
pub struct Table<V: 'static> {
    /// As many as a power of two.
    pub slots: &'static Array<Slot<V>>,
    /// What finds its slot taken.
    pub rest: &'static HashMap<u64, V>,
    /// The number of slots, less one.
    pub mask: fn() -> u32,
    /// Bits of a key that tell nothing: the size of the object whose address it is. Objects that lie side by side, as those
    /// that are made one after the other do, have slots that lie side by side: a mixed key would find every slot cold.
    pub cell: u32,
}

impl<V: Plain> Table<V> {
    #[inline(always)]
    fn place(&self, key: u64) -> Option<Place<V>> {
        let slot = self.slots.get_ptr_mut((lower_half(key) >> self.cell) as u32 & (self.mask)())?;
        Some(Place { slot, rest: self.rest })
    }

    /// The entry of a key.
    #[inline(always)]
    pub fn get_ptr_mut(&self, key: u64) -> Option<*mut V> {
        slot::find(&self.place(key)?, key)
    }

    /// As [`Table::get_ptr_mut`].
    #[inline(always)]
    pub fn get_ptr(&self, key: u64) -> Option<*const V> {
        self.get_ptr_mut(key).map(<*mut V>::cast_const)
    }

    /// Copies the entry of a key. `false`: it has none, and `value` is left as it is.
    ///
    /// For whoever does much with it: the two places where an entry may be are different things to the verifier, which
    /// would go through all of that twice.
    #[inline(always)]
    pub fn read(&self, key: u64, value: &mut V) -> bool {
        let Some(entry) = self.get_ptr(key) else { return false };
        // SAFETY: a map value, which its key's events alone change.
        copy(value, unsafe { &*entry });
        true
    }

    /// Enters a key, or writes over its entry. `false`: there is no room.
    #[inline(always)]
    pub fn insert(&self, key: u64, value: &V) -> bool {
        match self.place(key) {
            Some(place) => slot::put(&place, key, value, true),
            None => false,
        }
    }

    /// Enters a key that has no entry. `false`: it has one, or there is no room.
    #[inline(always)]
    pub fn insert_new(&self, key: u64, value: &V) -> bool {
        match self.place(key) {
            Some(place) => slot::put(&place, key, value, false),
            None => false,
        }
    }

    /// Takes a key's entry away, if it has one.
    #[inline(always)]
    pub fn remove(&self, key: u64) {
        if let Some(place) = self.place(key) {
            slot::remove(&place, key);
        }
    }
}

/// A slot and its rest, in maps.
struct Place<V: 'static> {
    slot: *mut Slot<V>,
    rest: &'static HashMap<u64, V>,
}

impl<V: Plain> slot::Place for Place<V> {
    type Value = V;
    type Entry = *mut V;
    type Seen = order::Seen;

    #[inline(always)]
    fn key(&self) -> (u64, order::Seen) {
        // SAFETY: a map value, its words aligned. Other keys may come and go meanwhile.
        order::load(unsafe { &raw const (*self.slot).key })
    }

    #[inline(always)]
    fn keys(&self) -> u64 {
        // SAFETY: as in `key`.
        unsafe { (&raw const (*self.slot).keys).read_volatile() }
    }

    #[inline(always)]
    fn enter(&self) -> u64 {
        // SAFETY: as in `key`.
        order::raise(unsafe { &raw mut (*self.slot).keys })
    }

    #[inline(always)]
    fn leave(&self) {
        // SAFETY: as in `key`.
        order::lower(unsafe { &raw mut (*self.slot).keys });
    }

    #[inline(always)]
    fn entry(&self, seen: order::Seen) -> *mut V {
        // SAFETY: as in `key`.
        order::after(unsafe { &raw mut (*self.slot).value }, seen)
    }

    #[inline(always)]
    fn write(&self, value: &V) {
        // SAFETY: as in `key`, and the slot is this key's.
        copy(unsafe { &mut (*self.slot).value }, value);
    }

    #[inline(always)]
    fn publish(&self, key: u64) {
        // SAFETY: as in `write`.
        order::set(unsafe { &raw mut (*self.slot).key }, key);
    }

    #[inline(always)]
    fn clear(&self) {
        // SAFETY: as in `write`.
        unsafe { (&raw mut (*self.slot).key).write_volatile(0) };
    }

    #[inline(always)]
    fn rest(&self, key: u64) -> Option<*mut V> {
        self.rest.get_ptr_mut(key)
    }

    #[inline(always)]
    fn rest_insert_new(&self, key: u64, value: &V) -> bool {
        self.rest.insert(key, value, BPF_NOEXIST).is_ok()
    }

    #[inline(always)]
    fn rest_overwrite(&self, key: u64, value: &V) -> bool {
        self.rest.insert(key, value, BPF_EXIST).is_ok()
    }

    #[inline(always)]
    fn rest_remove(&self, key: u64) -> bool {
        self.rest.remove(key).is_ok()
    }
}
