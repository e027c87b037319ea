//! The steps of the eBPF programs' tables (`twtrace-ebpf/src/table/slot.rs`: those very lines) on the memory of a model
//! checker. loom runs a test once for each interleaving of its threads, up to a number of preemptions, and for each value that
//! a load may return in the C11 memory model. It takes half a minute.
//!
//! All keys here share one slot. A thread is a CPU, or an interrupt on top of another program. Loads and additions are as
//! weak as those of a machine (`Machine`), and the last tests weaken them further: then the model must find the fault.

#![expect(clippy::unwrap_used, clippy::panic, reason = "all of this is tests")]

#[path = "../../twtrace-ebpf/src/table/slot.rs"]
mod slot;

use std::sync::atomic::{
    AtomicBool,
    Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst},
};

use loom::{
    cell::UnsafeCell,
    model::Builder,
    sync::{Arc, Mutex, atomic::AtomicU64},
    thread,
};
use slot::{find, put, remove};

/// Two words: a value is torn if they differ.
type Value = [u64; 2];

/// Keys are 1 and up.
const KEYS: usize = 3;

/// How weak memory is, and what is wrong with it.
#[derive(Clone, Copy)]
struct Machine {
    /// Loads of the key, whose value is read next.
    key: Ordering,
    /// Loads of the count.
    keys: Ordering,
    /// The store that makes the slot a key's.
    publish: Ordering,
    /// The store that makes it nobody's.
    clear: Ordering,
    enter: Ordering,
    leave: Ordering,
    /// The addition returns what was there; else the count is loaded behind it.
    fetches: bool,
    /// What is done in the wrong order.
    wrong: Wrong,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
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
const X86: Machine = Machine {
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
const ARM64: Machine = Machine { keys: Relaxed, publish: AcqRel, clear: Relaxed, fetches: true, ..X86 };

/// What the programs for x86 would be on arm64: additions that order nothing.
const X86_ON_ARM64: Machine = Machine {
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
struct Place {
    machine: Machine,
    keys: AtomicU64,
    key: AtomicU64,
    /// loom fails a test that may write it while another thread reads or writes it.
    value: UnsafeCell<Value>,
    /// The kernel's hash map, a lock for each key: its locks must not order what other keys do.
    rest: [Mutex<Option<Value>>; KEYS],
    /// The rest takes nothing.
    is_full: bool,
    /// Where each key is, for the tests' own eyes: no thread of the model runs while it is looked at.
    whereabouts: [Whereabouts; KEYS],
}

#[derive(Default)]
struct Whereabouts {
    in_slot: AtomicBool,
    in_rest: AtomicBool,
}

impl Place {
    fn new(machine: Machine) -> Self {
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
enum Entry {
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
fn first(key: u64) -> Value {
    [key << 8; 2]
}

/// What it is changed to.
fn second(key: u64) -> Value {
    [key << 8 | 1; 2]
}

fn read(place: &Place, key: u64) -> Option<Value> {
    find(place, key).map(|entry| match entry {
        // SAFETY: loom checks that nobody writes it.
        Entry::Slot => place.value.with(|value| unsafe { *value }),
        Entry::Rest => place.rest_of(key).lock().unwrap().expect("a key in the rest has gone"),
    })
}

/// The value of a key that is there, in one place only.
fn expect(place: &Place, key: u64, value: Value) {
    assert_eq!(read(place, key), Some(value), "key {key}");
    let Whereabouts { in_slot, in_rest } = place.whereabouts(key);
    assert_ne!(in_slot.load(SeqCst), in_rest.load(SeqCst), "key {key} is in both places, or in neither");
}

/// Writes to the entry as the programs do, through a pointer.
fn change(place: &Place, key: u64) {
    match find(place, key) {
        // SAFETY: loom checks that nobody else has it.
        Some(Entry::Slot) => place.value.with_mut(|value| unsafe { *value = second(key) }),
        Some(Entry::Rest) => *place.rest_of(key).lock().unwrap() = Some(second(key)),
        None => panic!("key {key} is gone"),
    }
}

/// A key from its first event to its last.
fn live(place: &Place, key: u64) {
    assert!(put(place, key, &first(key), false));
    change(place, key);
    expect(place, key, second(key));
    remove(place, key);
    assert_eq!(read(place, key), None, "key {key} is there after it was removed");
}

/// Nothing is left.
fn expect_empty(place: &Place) {
    assert_eq!(place.keys.load(Relaxed), 0, "the count");
    assert_eq!(place.key.load(Relaxed), 0, "the slot's key");
    assert!(place.whereabouts.iter().all(|key| !key.in_rest.load(SeqCst)), "something is left in the rest");
}

/// Runs these threads in every order, with at most this many changes from one to another before it has to wait.
fn model(machine: Machine, preemptions: usize, is_full: bool, threads: &[fn(&Place)], last: fn(&Place)) {
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

/// Two keys.
fn two(machine: Machine) {
    model(machine, 3, false, &[|place| live(place, 1), |place| live(place, 2)], expect_empty);
}

/// Two keys, one of which comes twice.
fn two_and_again(machine: Machine) {
    let again: [fn(&Place); 2] = [|place| (0..2).for_each(|_| live(place, 1)), |place| live(place, 2)];
    model(machine, 2, false, &again, expect_empty);
}

/// Three keys, which do no more than come and go.
fn three(machine: Machine) {
    fn visit(place: &Place, key: u64) {
        assert!(put(place, key, &first(key), false));
        expect(place, key, first(key));
        remove(place, key);
    }
    model(
        machine,
        2,
        false,
        &[|place| visit(place, 1), |place| visit(place, 2), |place| visit(place, 3)],
        expect_empty,
    );
}

/// The seeding iterator enters a key whose end comes at the same time, beside another key.
fn seed_and_end(machine: Machine) {
    fn seed(place: &Place) {
        if read(place, 1).is_none() {
            assert!(put(place, 1, &first(1), false));
        }
    }
    fn end(place: &Place) {
        if let Some(value) = read(place, 1) {
            assert_eq!(value, first(1), "torn, or another's");
            remove(place, 1);
            assert_eq!(read(place, 1), None, "ended, and still there");
        }
    }
    // Seeded behind its end, it stays: its address's next birth takes it over.
    fn last(place: &Place) {
        end(place);
        expect_empty(place);
    }
    model(machine, 3, false, &[seed, end, |place| live(place, 2)], last);
}

/// Runs all of it on a machine.
fn all(machine: Machine) {
    two(machine);
    two_and_again(machine);
    seed_and_end(machine);
    three(machine);
}

#[test]
fn keys_of_one_slot_do_not_disturb_each_other_on_x86() {
    all(X86);
}

#[test]
fn keys_of_one_slot_do_not_disturb_each_other_on_arm64() {
    all(ARM64);
}

/// One CPU enters the key, another writes over it, a third removes it, as its lock is handed on; others come and go.
#[test]
fn a_key_is_found_wherever_its_next_event_comes() {
    /// What has happened to key 1; the model's word for the socket's lock.
    fn event(place: &Place, step: &Mutex<usize>) {
        let mut step = step.lock().unwrap();
        match *step {
            0 => assert!(put(place, 1, &first(1), true)),
            1 => {
                expect(place, 1, first(1));
                assert!(!put(place, 1, &second(1), false), "it is there already");
                assert!(put(place, 1, &second(1), true));
            }
            _ => {
                expect(place, 1, second(1));
                remove(place, 1);
            }
        }
        *step += 1;
    }
    for machine in [X86, ARM64] {
        let mut builder = Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let shared = Arc::new((Place::new(machine), Mutex::new(0)));
            let others: Vec<_> = (0..2)
                .map(|number| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || {
                        event(&shared.0, &shared.1);
                        if number == 0 {
                            live(&shared.0, 2);
                        }
                    })
                })
                .collect();
            event(&shared.0, &shared.1);
            others.into_iter().for_each(|other| other.join().unwrap());
            expect_empty(&shared.0);
        });
    }
}

#[test]
fn a_key_that_finds_no_room_leaves_nothing_behind() {
    fn try_to_live(place: &Place, key: u64, overwrite: bool) {
        if put(place, key, &first(key), overwrite) {
            expect(place, key, first(key));
            remove(place, key);
        }
        assert_eq!(read(place, key), None);
    }
    for machine in [X86, ARM64] {
        let threads: [fn(&Place); 3] = [
            |place| try_to_live(place, 1, false),
            |place| try_to_live(place, 2, true),
            |place| try_to_live(place, 3, false),
        ];
        model(machine, 2, true, &threads, expect_empty);
    }
}

/// What the steps do not promise: an entry that a program holds by its address is another key's once its own key has ended. A
/// stray segment may arm a timer anew (`rearm.rs`) while that timer runs out on another CPU.
#[test]
#[should_panic(expected = "Causality violation")]
fn an_entry_that_is_held_beyond_its_keys_end_may_be_anothers() {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let place = Arc::new(Place::new(X86));
        assert!(put(&*place, 1, &first(1), false));
        let other = Arc::clone(&place);
        let ending = thread::spawn(move || {
            remove(&*other, 1);
            live(&other, 2);
        });
        if let Some(Entry::Slot) = find(&*place, 1) {
            // SAFETY: loom checks that nobody else has it, and finds that somebody may.
            place.value.with_mut(|value| unsafe { *value = second(1) });
        }
        ending.join().unwrap();
    });
}

/// The additions that x86's programs use order nothing on arm64.
#[test]
#[should_panic(expected = "Causality violation")]
fn additions_that_order_nothing_are_found() {
    two(X86_ON_ARM64);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn lowering_the_count_without_order_is_found() {
    two(Machine { leave: Relaxed, ..ARM64 });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn raising_the_count_without_order_is_found() {
    two(Machine { enter: Relaxed, ..ARM64 });
}

/// Loading the count again behind an addition that orders, with a load that does not.
#[test]
#[should_panic(expected = "Causality violation")]
fn loading_the_count_without_order_is_found() {
    two(Machine { fetches: false, ..ARM64 });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_seed_published_without_order_is_found() {
    seed_and_end(Machine { publish: Relaxed, ..ARM64 });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_seed_read_without_order_is_found() {
    seed_and_end(Machine { key: Relaxed, ..ARM64 });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_key_written_before_its_value_is_found() {
    seed_and_end(Machine { wrong: Wrong::ValueLast, ..X86 });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_count_lowered_before_the_slot_is_empty_is_found() {
    two(Machine { wrong: Wrong::ClearLast, ..X86 });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_count_raised_too_late_is_found() {
    two(Machine { wrong: Wrong::CountLast, ..X86 });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_count_that_is_not_asked_is_found() {
    two(Machine { wrong: Wrong::CountIgnored, ..X86 });
}
