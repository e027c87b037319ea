//! A table with a ceiling: whoever has not been touched for longest makes room, and that is counted.

use std::hash::Hash;

use lru::LruCache;

/// At most so many rows, by key.
#[derive(Debug)]
pub struct Bounded<K: Hash + Eq, V> {
    rows: LruCache<K, V>,
    most: usize,
    evicted: u64,
}

impl<K: Hash + Eq, V> Bounded<K, V> {
    /// A table with room for `most` rows, at least one. Memory is taken as rows come.
    #[must_use]
    pub fn new(most: usize) -> Self {
        // A bounded LruCache takes the memory for all rows at once, and drops what it evicts untold.
        Self { rows: LruCache::unbounded(), most: most.max(1), evicted: 0 }
    }

    /// The row of a key, made by `fresh` if it is not there, which is told whether a row had to go before: then this one
    /// may have been it.
    pub fn touch(&mut self, key: K, fresh: impl FnOnce(bool) -> V) -> &mut V {
        if self.rows.len() >= self.most && !self.rows.contains(&key) {
            self.rows.pop_lru();
            self.evicted += 1;
        }
        let evicted = self.evicted > 0;
        self.rows.get_or_insert_mut(key, || fresh(evicted))
    }

    /// The row of a key, if it is there; its age is left as it is.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.peek(key)
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter()
    }

    /// All rows, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.rows.iter_mut()
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
    fn who_was_not_touched_for_longest_makes_room() {
        let mut table = Bounded::new(2);
        for key in [1, 2, 1, 3] {
            *table.touch(key, |_| 0) += 1;
        }
        assert_eq!((table.get(&1), table.get(&2), table.get(&3)), (Some(&2), None, Some(&1)));
        assert_eq!((table.len(), table.evicted()), (2, 1));
        // Back again, and it is known that it may have been here before.
        assert_eq!(*table.touch(2, |may_have_been| if may_have_been { 9 } else { 0 }), 9);
    }

    proptest! {
        #[test]
        fn there_are_never_more_and_none_goes_uncounted(keys in prop::collection::vec(0..20_u8, 0..200), most in 0..10_usize) {
            let mut table = Bounded::new(most);
            let mut made = 0;
            for key in keys {
                table.touch(key, |_| made += 1);
                prop_assert!(table.len() <= most.max(1));
            }
            prop_assert_eq!(table.len() as u64 + table.evicted(), made);
        }
    }
}
