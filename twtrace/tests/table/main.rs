//! The steps of the eBPF programs' tables (`twtrace-ebpf/src/table/slot.rs`: those very lines) on the memory of a model
//! checker. loom runs a test once for each interleaving of its threads, up to a number of preemptions, and for each value that
//! a load may return in the C11 memory model. It takes half a minute.
//!
//! All keys here share one slot. A thread is a CPU, or an interrupt on top of another program. Loads and additions are as
//! weak as those of a machine (`Machine`), and the last tests weaken them further: then the model must find the fault.

#![expect(clippy::unwrap_used, clippy::panic, reason = "all of this is tests")]

mod memory;
#[path = "../../../twtrace-ebpf/src/table/slot.rs"]
mod slot;

use std::sync::atomic::Ordering::Relaxed;

use loom::{
    model::Builder,
    sync::{Arc, Mutex},
    thread,
};
use memory::*;
use slot::{find, put, remove};

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
