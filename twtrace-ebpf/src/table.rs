//! Tables whose common case is one load. An operation of the kernel's hash map is a call, a hash, a lock, a free list, and
//! for most of them a line of memory that is in no cache: 60 to 400 ns.
//!
//! A key has one slot in an array. If that is another's, the key goes to the `rest`, a hash map, and as long as any key of a
//! slot is there, so do all that come: a key is never in both. The slot counts its keys, wherever they are, so that an empty
//! one says no without a look into the hash map. Events of one key come one after the other (under its socket's lock, or its
//! timer's), those of others at any time: who counts itself first and then reads one is alone. (Kernels before 5.12 have no
//! compare-and-exchange.) Two who meet may both read two, and both go to the rest.

use aya_ebpf::maps::{Array, HashMap};

use crate::{
    kernel::lower_half,
    maps::{BPF_EXIST, BPF_NOEXIST, add},
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
    /// Their number less one.
    pub mask: fn() -> u32,
    /// Bits of a key that tell nothing: the size of the object whose address it is. Objects that lie side by side, as those
    /// that are made one after the other do, have slots that lie side by side: a mixed key would find every slot cold.
    pub cell: u32,
}

impl<V: Plain> Table<V> {
    #[inline(always)]
    fn slot(&self, key: u64) -> Option<*mut Slot<V>> {
        self.slots.get_ptr_mut((lower_half(key) >> self.cell) as u32 & (self.mask)())
    }

    /// The entry of a key.
    #[inline(always)]
    pub fn get_ptr_mut(&self, key: u64) -> Option<*mut V> {
        let slot = self.slot(key)?;
        // SAFETY: a map value. Other keys may come and go meanwhile, this one not.
        let (held, keys) =
            unsafe { ((&raw const (*slot).key).read_volatile(), (&raw const (*slot).keys).read_volatile()) };
        if held == key {
            // SAFETY: as above.
            return Some(unsafe { &raw mut (*slot).value });
        }
        if keys == 0 { None } else { self.rest.get_ptr_mut(key) }
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
        self.put(key, value, 0)
    }

    /// Enters a key that has no entry. `false`: it has one, or there is no room.
    #[inline(always)]
    pub fn insert_new(&self, key: u64, value: &V) -> bool {
        self.put(key, value, BPF_NOEXIST)
    }

    #[inline(always)]
    fn put(&self, key: u64, value: &V, flags: u64) -> bool {
        let Some(slot) = self.slot(key) else { return false };
        // SAFETY: a map value, its words aligned.
        let (slot, held) = unsafe { (&mut *slot, (&raw const (*slot).key).read_volatile()) };
        if held == key {
            if flags == 0 {
                copy(&mut slot.value, value);
            }
            return flags == 0;
        }
        add(&slot.keys, 1);
        // SAFETY: as above.
        if held == 0 && unsafe { (&raw const slot.keys).read_volatile() } == 1 {
            copy(&mut slot.value, value);
            // SAFETY: as above.
            unsafe { (&raw mut slot.key).write_volatile(key) };
            return true;
        }
        if self.rest.insert(key, value, BPF_NOEXIST).is_ok() {
            return true;
        }
        // It is there already, or there is no room.
        add(&slot.keys, -1);
        flags == 0 && self.rest.insert(key, value, BPF_EXIST).is_ok()
    }

    /// Takes a key's entry away, if it has one.
    #[inline(always)]
    pub fn remove(&self, key: u64) {
        let Some(slot) = self.slot(key) else { return };
        // SAFETY: as in `put`.
        let slot = unsafe { &mut *slot };
        // SAFETY: as in `put`.
        let (held, keys) = unsafe { ((&raw const slot.key).read_volatile(), (&raw const slot.keys).read_volatile()) };
        if held == key {
            // SAFETY: as in `put`.
            unsafe { (&raw mut slot.key).write_volatile(0) };
        } else if keys == 0 || self.rest.remove(key).is_err() {
            return;
        }
        add(&slot.keys, -1);
    }
}
