//! How the keys of one slot share it: the part of [`crate::table`] that must be right whatever happens between two of its
//! steps, on this CPU or another.
//!
//! These lines touch memory through [`Place`] only, so `twtrace/tests/table/` runs the same lines on the memory of a model
//! checker (loom), which tries the interleavings and the memory orders that the trait allows.
//!
//! Why it is right: a key is counted before it is anywhere, and until it is nowhere. So whoever counts itself and is alone
//! has the slot to itself, and whoever reads a count of 0 has no key in the rest. The owner empties the slot before it
//! lowers the count, so the next owner's writes come after the last owner's.

/// A slot, and the hash map for the keys that find it taken.
///
/// Events of one key come one after the other (under its socket's lock, or its timer's). Events of different keys come at any
/// time. One exception: the seeding iterator may insert a key while that key's end is on its way.
pub trait Place {
    /// What is kept for a key.
    type Value;
    /// Where a key's value is.
    type Entry;
    /// Proof that the slot's key was read.
    type Seen;

    /// Whose the slot is; 0: nobody's. Whoever reads its own key here finds in [`Place::entry`] what was written before
    /// [`Place::publish`].
    fn key(&self) -> (u64, Self::Seen);
    /// How many keys are counted.
    fn keys(&self) -> u64;
    /// Counts one key more. Returns how many are counted with it. If that is 1, all that earlier keys did in the slot before
    /// [`Place::leave`] is done.
    fn enter(&self) -> u64;
    /// Counts one key less, after all that was done in the slot before.
    fn leave(&self);
    /// The slot's value, for the key that was read.
    fn entry(&self, seen: Self::Seen) -> Self::Entry;
    /// Writes the slot's value. For its owner.
    fn write(&self, value: &Self::Value);
    /// Makes the slot a key's, after [`Place::write`].
    fn publish(&self, key: u64);
    /// Makes the slot nobody's.
    fn clear(&self);
    /// The entry of a key in the rest.
    fn rest(&self, key: u64) -> Option<Self::Entry>;
    /// Enters a key into the rest. `false`: it is there already, or there is no room.
    fn rest_insert_new(&self, key: u64, value: &Self::Value) -> bool;
    /// Writes over a key's entry in the rest. `false`: it has none.
    fn rest_overwrite(&self, key: u64, value: &Self::Value) -> bool;
    /// Takes a key out of the rest. `false`: it was not there.
    fn rest_remove(&self, key: u64) -> bool;
}

/// The entry of a key.
#[inline(always)]
pub fn find<P: Place>(place: &P, key: u64) -> Option<P::Entry> {
    let ((held, seen), keys) = (place.key(), place.keys());
    if held == key {
        return Some(place.entry(seen));
    }
    if keys == 0 { None } else { place.rest(key) }
}

/// Enters a key. Where it has an entry: writes over that if `overwrite`, else returns `false`. Also `false`: there is no room.
#[inline(always)]
pub fn put<P: Place>(place: &P, key: u64, value: &P::Value, overwrite: bool) -> bool {
    let (held, _) = place.key();
    if held == key {
        if overwrite {
            place.write(value);
        }
        return overwrite;
    }
    // Kernels before 5.12 have no compare-and-exchange. Two keys that meet here may both count two, and both go to the rest.
    if place.enter() == 1 && held == 0 {
        place.write(value);
        place.publish(key);
        return true;
    }
    if place.rest_insert_new(key, value) {
        return true;
    }
    // It is there already, or there is no room.
    place.leave();
    overwrite && place.rest_overwrite(key, value)
}

/// Takes a key's entry away, if it has one.
#[inline(always)]
pub fn remove<P: Place>(place: &P, key: u64) {
    let ((held, _), keys) = (place.key(), place.keys());
    if held == key {
        place.clear();
    } else if keys == 0 || !place.rest_remove(key) {
        return;
    }
    place.leave();
}
