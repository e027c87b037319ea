//! A memory as weak as a machine's, a slot in it, and the threads that live there.

use std::sync::atomic::{
    AtomicBool,
    Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst},
};

use crate::slot::{self, find, put, remove};
use loom::{
    cell::UnsafeCell,
    model::Builder,
    sync::{Arc, Mutex, atomic::AtomicU64},
    thread,
};

/// Two words: a value is torn if they differ.
pub type Value = [u64; 2];

/// Keys are 1 and up.
pub const KEYS: usize = 3;

/// How weak memory is, and what is wrong with it.
#[derive(Clone, Copy)]
pub struct Machine {
    /// Loads of the key, whose value is read next.
    pub key: Ordering,
    /// Loads of the count.
    pub keys: Ordering,
    /// The store that makes the slot a key's.
    pub publish: Ordering,
    /// The store that makes it nobody's.
    pub clear: Ordering,
    pub enter: Ordering,
    pub leave: Ordering,
    /// The addition returns what was there; else the count is loaded behind it.
    pub fetches: bool,
    /// What is done in the wrong order.
    pub wrong: Wrong,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    Nothing,
    /// The key is written before the value.
    ValueLast,
    /// The count is lowered before the slot is emptied.
    ClearLast,
    /// The count is raised after the slot was taken.
    CountLast,
    /// The count is not asked: a slot without a key is free.
    CountIgnored,
}

/// Loads in order, stores in order, additions a full barrier. (x86 is stronger still.)
pub const X86: Machine = Machine {
    key: Acquire,
    keys: Acquire,
    publish: Release,
    clear: Release,
    enter: AcqRel,
    leave: AcqRel,
    fetches: false,
    wrong: Wrong::Nothing,
};

/// As `order.rs` has it for arm64. `key` is Acquire, for its value's address depends on it.
pub const ARM64: Machine = Machine { keys: Relaxed, publish: AcqRel, clear: Relaxed, fetches: true, ..X86 };

/// What the programs for x86 would be on arm64: additions that order nothing.
pub const X86_ON_ARM64: Machine = Machine {
    key: Relaxed,
    keys: Relaxed,
    publish: Relaxed,
    clear: Relaxed,
    enter: Relaxed,
    leave: Relaxed,
    fetches: false,
    wrong: Wrong::Nothing,
};

/// One slot and its rest.
pub struct Place {
    machine: Machine,
    keys: AtomicU64,
    key: AtomicU64,
    /// loom fails a test that may write it while another thread reads or writes it.
    pub value: UnsafeCell<Value>,
    /// The kernel's hash map, a lock for each key: its locks must not order what other keys do.
    rest: [Mutex<Option<Value>>; KEYS],
    /// The rest takes nothing.
    is_full: bool,
    /// Where each key is, for the tests' own eyes: no thread of the model runs while it is looked at.
    whereabouts: [Whereabouts; KEYS],
}

#[derive(Default)]
pub struct Whereabouts {
    in_slot: AtomicBool,
    in_rest: AtomicBool,
}

impl Place {
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            keys: AtomicU64::new(0),
            key: AtomicU64::new(0),
            value: UnsafeCell::new([0; 2]),
            rest: std::array::from_fn(|_| Mutex::new(None)),
            is_full: false,
            whereabouts: Default::default(),
        }
    }

    fn rest_of(&self, key: u64) -> &Mutex<Option<Value>> {
        &self.rest[key as usize - 1]
    }

    /// A slot changes hands as its value does: by one owner at a time, after all that the last one did.
    fn as_owner(&self) {
        self.value.with_mut(|_| ());
    }

    fn whereabouts(&self, key: u64) -> &Whereabouts {
        &self.whereabouts[key as usize - 1]
    }

    fn empty(&self) {
        self.as_owner();
        self.whereabouts.iter().for_each(|key| key.in_slot.store(false, SeqCst));
        self.key.store(0, self.machine.clear);
    }
}

/// Where a value is.
#[derive(Clone, Copy)]
pub enum Entry {
    Slot,
    Rest,
}

impl slot::Place for Place {
    type Value = Value;
    type Entry = Entry;
    type Seen = ();

    fn key(&self) -> (u64, ()) {
        (self.key.load(self.machine.key), ())
    }

    fn keys(&self) -> u64 {
        self.keys.load(self.machine.keys)
    }

    fn enter(&self) -> u64 {
        if self.machine.wrong == Wrong::CountLast {
            return slot::Place::keys(self) + 1;
        }
        let before = self.keys.fetch_add(1, self.machine.enter);
        match self.machine {
            Machine { wrong: Wrong::CountIgnored, .. } => 1,
            Machine { fetches: true, .. } => before + 1,
            _ => slot::Place::keys(self),
        }
    }

    fn leave(&self) {
        self.keys.fetch_sub(1, self.machine.leave);
        if self.machine.wrong == Wrong::ClearLast && self.key.load(Relaxed) != 0 {
            self.empty();
        }
    }

    fn entry(&self, (): ()) -> Entry {
        Entry::Slot
    }

    fn write(&self, value: &Value) {
        if self.machine.wrong != Wrong::ValueLast {
            // SAFETY: loom checks that nobody else has it.
            self.value.with_mut(|place| unsafe { *place = *value });
        }
    }

    fn publish(&self, key: u64) {
        self.as_owner();
        self.whereabouts(key).in_slot.store(true, SeqCst);
        match self.machine.publish {
            AcqRel => {
                self.key.fetch_add(key, AcqRel);
            }
            order => self.key.store(key, order),
        }
        if self.machine.wrong == Wrong::ValueLast {
            // SAFETY: as in `write`.
            self.value.with_mut(|place| unsafe { *place = first(key) });
        }
        if self.machine.wrong == Wrong::CountLast {
            self.keys.fetch_add(1, self.machine.enter);
        }
    }

    fn clear(&self) {
        if self.machine.wrong != Wrong::ClearLast {
            self.empty();
        }
    }

    fn rest(&self, key: u64) -> Option<Entry> {
        self.rest_of(key).lock().unwrap().is_some().then_some(Entry::Rest)
    }

    fn rest_insert_new(&self, key: u64, value: &Value) -> bool {
        let mut entry = self.rest_of(key).lock().unwrap();
        if entry.is_some() || self.is_full {
            return false;
        }
        *entry = Some(*value);
        self.whereabouts(key).in_rest.store(true, SeqCst);
        if self.machine.wrong == Wrong::CountLast {
            self.keys.fetch_add(1, self.machine.enter);
        }
        true
    }

    fn rest_overwrite(&self, key: u64, value: &Value) -> bool {
        let mut entry = self.rest_of(key).lock().unwrap();
        let is_there = entry.is_some();
        if is_there {
            *entry = Some(*value);
        }
        is_there
    }

    fn rest_remove(&self, key: u64) -> bool {
        let mut entry = self.rest_of(key).lock().unwrap();
        self.whereabouts(key).in_rest.store(false, SeqCst);
        entry.take().is_some()
    }
}

/// What a key is entered with.
pub fn first(key: u64) -> Value {
    [key << 8; 2]
}

/// What it is changed to.
pub fn second(key: u64) -> Value {
    [key << 8 | 1; 2]
}

pub fn read(place: &Place, key: u64) -> Option<Value> {
    find(place, key).map(|entry| match entry {
        // SAFETY: loom checks that nobody writes it.
        Entry::Slot => place.value.with(|value| unsafe { *value }),
        Entry::Rest => place.rest_of(key).lock().unwrap().expect("a key in the rest has gone"),
    })
}

/// The value of a key that is there, in one place only.
pub fn expect(place: &Place, key: u64, value: Value) {
    assert_eq!(read(place, key), Some(value), "key {key}");
    let Whereabouts { in_slot, in_rest } = place.whereabouts(key);
    assert_ne!(in_slot.load(SeqCst), in_rest.load(SeqCst), "key {key} is in both places, or in neither");
}

/// Writes to the entry as the programs do, through a pointer.
pub fn change(place: &Place, key: u64) {
    match find(place, key) {
        // SAFETY: loom checks that nobody else has it.
        Some(Entry::Slot) => place.value.with_mut(|value| unsafe { *value = second(key) }),
        Some(Entry::Rest) => *place.rest_of(key).lock().unwrap() = Some(second(key)),
        None => panic!("key {key} is gone"),
    }
}

/// A key from its first event to its last.
pub fn live(place: &Place, key: u64) {
    assert!(put(place, key, &first(key), false));
    change(place, key);
    expect(place, key, second(key));
    remove(place, key);
    assert_eq!(read(place, key), None, "key {key} is there after it was removed");
}

/// Nothing is left.
pub fn expect_empty(place: &Place) {
    assert_eq!(place.keys.load(Relaxed), 0, "the count");
    assert_eq!(place.key.load(Relaxed), 0, "the slot's key");
    assert!(place.whereabouts.iter().all(|key| !key.in_rest.load(SeqCst)), "something is left in the rest");
}

/// Runs these threads in every order, with at most this many changes from one to another before it has to wait.
pub fn model(machine: Machine, preemptions: usize, is_full: bool, threads: &[fn(&Place)], last: fn(&Place)) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    let threads = threads.to_vec();
    builder.check(move || {
        let place = Arc::new(Place { is_full, ..Place::new(machine) });
        let others: Vec<_> = threads[1..]
            .iter()
            .map(|&work| {
                let place = Arc::clone(&place);
                thread::spawn(move || work(&place))
            })
            .collect();
        threads[0](&place);
        others.into_iter().for_each(|other| other.join().unwrap());
        last(&place);
    });
}
