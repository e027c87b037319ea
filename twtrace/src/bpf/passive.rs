//! What the programs counted of connections that the peer closed first.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use aya::maps::{self, MapError};
use twtrace_common::{
    knob::Words,
    record::role,
    state::{PassiveCloses, PassiveKey},
};

use super::attach::{Attached, BpfError};
use crate::model::occupancy::{Destination, Passive, Service};

/// Services and peers whose passive closes the kernel counts between two reads, one second apart. With more, counts are evicted
/// before they are read. A full table takes 0.5 MB, and its read some 8,000 system calls.
pub const PEERS: u32 = 1 << 12;

/// Entries that each CPU may keep to itself, free and of no use to others (`LOCAL_FREE_TARGET` of kernel/bpf/bpf_lru_list.c):
/// so many are evicted at once as well.
const FREE_OF_CPU: u32 = 128;

/// What has been read of the table. It holds the entries of the last read, so it is no larger than the table.
#[derive(Debug, Default)]
pub(super) struct Memory {
    entries: HashMap<PassiveKey, PassiveCloses>,
    /// Closes that were told.
    told: u64,
    /// Closes whose counts were evicted before they were read.
    evicted: u64,
}

impl Memory {
    /// Takes a walk over the table in, and adds what is new to `news`. An entry with another time is another entry: the
    /// one before was evicted, and the count began at 0 again.
    fn take(&mut self, walk: HashMap<PassiveKey, PassiveCloses>, news: &mut HashMap<PassiveKey, u64>) {
        for (key, entry) in &walk {
            let before = self.entries.get(key).filter(|before| before.since_ns == entry.since_ns);
            let more = entry.closes.saturating_sub(before.map_or(0, |before| before.closes));
            if more > 0 {
                *news.entry(*key).or_default() += more;
                self.told += more;
            }
        }
        self.entries = walk;
    }

    /// True if of `counted` closes not all were told or are known to be evicted.
    fn lacks(&self, counted: u64) -> bool {
        counted > self.told + self.evicted
    }

    /// What of `counted` closes was not told has been evicted.
    fn settle(&mut self, counted: u64) {
        self.evicted = self.evicted.max(counted.saturating_sub(self.told));
    }
}

/// Entries of the table that has room for `peers` of them on this machine; one, the least, if none are counted.
pub(super) fn entries(peers: u32) -> u32 {
    if peers == 0 {
        return 1;
    }
    let cpus = aya::util::nr_cpus().ok().and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(1);
    peers.saturating_add(cpus.saturating_mul(FREE_OF_CPU))
}

impl Attached {
    /// Passive closes since the last call, by service and peer, in no order.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn passive(&mut self) -> Result<Vec<Passive>, BpfError> {
        // Before the walk: a close that is counted now has its entry, unless that was evicted.
        let counted = self.counters()?.passive;
        let mut news = HashMap::new();
        let walk = self.walk_passive()?;
        self.passive.take(walk, &mut news);
        if self.passive.lacks(counted) {
            // A walk goes astray where an entry is evicted and used anew under its feet. What it left out is still there.
            let walk = self.walk_passive()?;
            self.passive.take(walk, &mut news);
            self.passive.settle(counted);
        }
        Ok(news.into_iter().map(|(key, closes)| Passive { service: service(&key), closes }).collect())
    }

    /// Passive closes whose counts were evicted before they could be read, as of the last [`Attached::passive`]. Exact once
    /// the programs are stopped; before that, it may lack those of this moment.
    #[must_use]
    pub fn passive_evicted(&self) -> u64 {
        self.passive.evicted
    }

    fn walk_passive(&self) -> Result<HashMap<PassiveKey, PassiveCloses>, BpfError> {
        let map = self.ebpf.map("PASSIVE").ok_or(BpfError::Missing("map PASSIVE"))?;
        let wrong = |source| BpfError::Map { name: "PASSIVE", source };
        let table: maps::HashMap<_, PassiveKey, PassiveCloses> = maps::HashMap::try_from(map).map_err(wrong)?;
        let mut walk = table.iter().collect::<Result<HashMap<_, _>, _>>().map_err(wrong)?;
        // Whatever the walk left out is asked for before it is forgotten: else it would be told again.
        for key in self.passive.entries.keys() {
            if !walk.contains_key(key) {
                match table.get(key, 0) {
                    Ok(entry) => drop(walk.insert(*key, entry)),
                    Err(MapError::KeyNotFound) => {}
                    Err(source) => return Err(wrong(source)),
                }
            }
        }
        Ok(walk)
    }
}

fn service(key: &PassiveKey) -> Service {
    let &PassiveKey { laddr, raddr, netns, port, role, family } = key;
    if role == role::SERVER {
        return Service::Accepted { port };
    }
    let to = Destination { laddr: address(laddr, family), raddr: address(raddr, family), rport: port };
    Service::Opened { netns, to }
}

fn address(words: Words, family: u8) -> IpAddr {
    let mut bytes = [0; 16];
    for (bytes, word) in bytes.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    match (family, bytes) {
        (4, [a, b, c, d, ..]) => Ipv4Addr::new(a, b, c, d).into(),
        (_, bytes) => Ipv6Addr::from(bytes).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> PassiveKey {
        PassiveKey { port, role: role::SERVER, ..PassiveKey::default() }
    }

    /// One read: `counted` closes by the programs, and these entries (port, closes, time).
    fn read(memory: &mut Memory, counted: u64, entries: &[(u16, u64, u64)]) -> Vec<(u16, u64)> {
        let entry = |&(port, closes, since_ns): &(u16, u64, u64)| (key(port), PassiveCloses { closes, since_ns });
        let mut news = HashMap::new();
        memory.take(entries.iter().map(entry).collect(), &mut news);
        memory.settle(counted);
        let mut news: Vec<_> = news.into_iter().map(|(key, closes)| (key.port, closes)).collect();
        news.sort_unstable();
        news
    }

    #[test]
    fn each_close_is_told_once() {
        let mut memory = Memory::default();
        assert_eq!(read(&mut memory, 5, &[(1, 3, 10), (2, 2, 11)]), [(1, 3), (2, 2)]);
        assert_eq!(read(&mut memory, 5, &[(1, 3, 10), (2, 2, 11)]), []);
        assert_eq!(read(&mut memory, 9, &[(1, 4, 10), (2, 5, 11)]), [(1, 1), (2, 3)]);
        assert_eq!(memory.evicted, 0);
    }

    #[test]
    fn an_entry_that_was_evicted_and_came_again_starts_at_zero() {
        let mut memory = Memory::default();
        read(&mut memory, 3, &[(1, 3, 10)]);
        // More than before, and yet all of it is new.
        assert_eq!(read(&mut memory, 7, &[(1, 4, 20)]), [(1, 4)]);
        assert_eq!(memory.evicted, 0, "all was read before it was evicted");
        assert_eq!(read(&mut memory, 7, &[]), []);
        assert_eq!(read(&mut memory, 8, &[(1, 1, 30)]), [(1, 1)]);
        assert_eq!(memory.evicted, 0);
    }

    #[test]
    fn what_was_evicted_unread_is_counted_and_never_taken_back() {
        let mut memory = Memory::default();
        assert_eq!(read(&mut memory, 10, &[(1, 3, 10)]), [(1, 3)]);
        assert_eq!(memory.evicted, 7);
        // Closes that came after the programs' counter was read.
        assert_eq!(read(&mut memory, 10, &[(1, 5, 10)]), [(1, 2)]);
        assert_eq!(memory.evicted, 7);
    }

    #[test]
    fn addresses_keep_their_bytes() {
        let words = |bytes: [u8; 16]| {
            let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
            [word(0), word(8)]
        };
        let v6: Ipv6Addr = "2001:db8::1:2".parse().unwrap();
        assert_eq!(address(words(v6.octets()), 6), IpAddr::V6(v6));
        let mut v4 = [0; 16];
        v4[..4].copy_from_slice(&[10, 1, 2, 3]);
        assert_eq!(address(words(v4), 4), IpAddr::from([10, 1, 2, 3]));
    }
}
