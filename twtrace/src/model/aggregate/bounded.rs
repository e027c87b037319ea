//! A table with a ceiling: who has not been touched for long makes room, and that is counted.

use std::hash::Hash;

use foldhash::fast::RandomState;
use indexmap::IndexMap;

/// At most so many rows, by key.
///
/// A hand goes round the rows and takes the first that was not touched since it last passed (the clock algorithm, second
/// chance): an event touches one row, where a list in the order of touches would have it write to three.
#[derive(Debug)]
pub struct Bounded<K: Hash + Eq, V: Fold> {
    rows: IndexMap<K, Row<V>, RandomState>,
    most: usize,
    hand: usize,
    evicted: u64,
    /// All that rows held when they had to go.
    other: Option<Box<V>>,
}

/// Something whose counts can be added up.
pub trait Fold: Default {
    /// Adds all that a row counted that had to go.
    fn fold(&mut self, gone: Self);
}

impl Fold for u64 {
    fn fold(&mut self, gone: Self) {
        *self += gone;
    }
}

#[derive(Debug)]
struct Row<V> {
    value: V,
    touched: bool,
}

impl<K: Hash + Eq, V: Fold> Bounded<K, V> {
    /// A table with room for `most` rows, at least one. Memory is taken as rows come.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { rows: IndexMap::default(), most: most.max(1), hand: 0, evicted: 0, other: None }
    }

    /// An empty table with the addresses for all rows taken at once: the kernel gives a page of it when a row comes there. A large
    /// table that grows by copying leaves half of itself behind in the heap.
    #[must_use]
    pub fn reserved(most: usize) -> Self {
        let rows = IndexMap::with_capacity_and_hasher(most, RandomState::default());
        Self { rows, ..Self::new(most) }
    }

    /// The row of a key, made by `fresh` if it is not there, which is told whether a row had to go before: then this one
    /// may have been it.
    pub fn touch(&mut self, key: K, fresh: impl FnOnce(bool) -> V) -> &mut V {
        self.touch_beside(key, fresh).0
    }

    /// As [`Bounded::touch`], and all that rows held when they had to go; `None`: none had to.
    pub fn touch_beside(&mut self, key: K, fresh: impl FnOnce(bool) -> V) -> (&mut V, Option<&mut V>) {
        let place = match self.rows.get_index_of(&key) {
            Some(place) => place,
            None => self.enter(key, fresh),
        };
        let row = &mut self.rows[place];
        row.touched = true;
        (&mut row.value, self.other.as_deref_mut())
    }

    #[cold]
    fn enter(&mut self, key: K, fresh: impl FnOnce(bool) -> V) -> usize {
        let freed = (self.rows.len() >= self.most).then(|| self.evict());
        let row = Row { value: fresh(self.evicted > 0), touched: false };
        let (last, _) = self.rows.insert_full(key, row);
        // The row that stood last is where one was evicted: they change places, or the newest would be the next to go.
        let Some(place) = freed else { return last };
        self.rows.swap_indices(place, last);
        place
    }

    /// Frees a place, and says which.
    fn evict(&mut self) -> usize {
        loop {
            let place = self.hand % self.rows.len();
            self.hand = place + 1;
            let row = &mut self.rows[place];
            if !std::mem::take(&mut row.touched) {
                if let Some((_, gone)) = self.rows.swap_remove_index(place) {
                    self.other.get_or_insert_default().fold(gone.value);
                }
                self.evicted += 1;
                return place;
            }
        }
    }

    /// The row of a key, if it is there. Looking does not touch it.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key).map(|row| &row.value)
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter().map(|(key, row)| (key, &row.value))
    }

    /// All rows, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.rows.iter_mut().map(|(key, row)| (key, &mut row.value))
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All that rows held when they had to go, so that sums over the table stay true; `None`: none had to.
    #[must_use]
    pub fn other(&self) -> Option<&V> {
        self.other.as_deref()
    }

    /// How many rows had to go.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_was_not_touched_for_long_makes_room() {
        let mut table = Bounded::new(3);
        let mut touch = |key: u8| *table.touch(key, |may_have_been| if may_have_been { 10 } else { 0 }) += 1;
        // The first round of the hand finds all touched, and the second takes the first.
        [1, 2, 3, 4].into_iter().for_each(&mut touch);
        // 2 has not been touched since the hand passed.
        [3, 5].into_iter().for_each(&mut touch);
        // Back again, and it is known that it may have been here before.
        touch(2);
        let rows: Vec<_> = (1..=5).map(|key| table.get(&key).copied()).collect();
        assert_eq!(rows, [None, Some(11), None, Some(11), Some(11)]);
        assert_eq!((table.len(), table.evicted()), (3, 3));
    }

    #[test]
    fn who_is_touched_between_any_two_others_stays() {
        let mut table = Bounded::new(8);
        for key in 0..1000 {
            *table.touch(key, |_| 0) += 1;
            *table.touch(5000, |_| 0) += 1;
        }
        assert_eq!(table.get(&5000), Some(&1000));
    }

    proptest! {
        #[test]
        fn there_are_never_more_and_none_goes_uncounted(keys in prop::collection::vec(0..20_u8, 0..200), most in 0..10_usize) {
            let mut table = Bounded::new(most);
            let mut made = 0;
            for key in keys {
                *table.touch(key, |_| {
                    made += 1;
                    0_u64
                }) += 1;
                prop_assert!(table.len() <= most.max(1));
            }
            prop_assert_eq!(table.len() as u64 + table.evicted(), made);
        }
    }
}
