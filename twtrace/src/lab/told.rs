//! What the tracer told while the lab ran, by namespace.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    decode::decode,
    host::netns::Netns,
    model::event::{Event, Kind},
};

/// Events kept of one namespace: far more than a scenario makes.
const MOST_EVENTS: usize = 1 << 20;

/// What was told, by namespace.
#[derive(Debug, Default)]
pub struct Told {
    events: Mutex<HashMap<u32, Vec<Event>>>,
    /// Records of no use: what cannot be decoded, names no namespace, or is one too many.
    unusable: AtomicU64,
}

impl Told {
    /// How many records were of no use.
    #[must_use]
    pub fn unusable(&self) -> u64 {
        self.unusable.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Vec<Event>>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a record of the ring.
    pub fn read(&self, bytes: &[u8]) {
        match decode(bytes) {
            Ok(event) if event.self_test => {}
            Ok(event) => self.keep(event),
            Err(error) => {
                self.unusable.fetch_add(1, Ordering::Relaxed);
                log::warn!("the ring: {error}");
            }
        }
    }

    /// Keeps an event, under its namespace.
    pub fn keep(&self, event: Event) {
        let mut told = self.lock();
        match event.life.netns.map(|netns| told.entry(netns).or_default()) {
            Some(events) if events.len() < MOST_EVENTS => events.push(event),
            _ => drop(self.unusable.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// How many lives of these namespaces were told of without their birth.
    #[must_use]
    pub fn unborn(&self, namespaces: &[&Netns]) -> u64 {
        let told = self.lock();
        let events = namespaces.iter().filter_map(|netns| told.get(&netns.inum())).flatten();
        events.filter(|event| event.kind() == Kind::Died && event.life.id.is_none()).count() as u64
    }

    /// What was told of these namespaces, in order.
    #[must_use]
    pub fn of(&self, namespaces: &[u32]) -> Vec<Event> {
        let told = self.lock();
        let mut events: Vec<Event> = namespaces.iter().filter_map(|netns| told.get(netns)).flatten().copied().collect();
        events.sort_by_key(|event| event.mono_ns);
        events
    }
}
