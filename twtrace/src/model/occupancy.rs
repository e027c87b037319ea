//! Which ports are taken by connections that are alive: what TIME_WAITs alone do not tell of how near a destination is
//! to having none left. Pure; `host::occupancy` looks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    ops::RangeInclusive,
};

use serde::{Deserialize, Serialize};

/// One look at the sockets of some network namespaces: with many of them, each look is at a few.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Occupancy {
    /// When it began, nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// How long it took, nanoseconds.
    pub took_ns: u64,
    /// Namespaces that were looked into, by inode number.
    pub namespaces: BTreeMap<u32, Namespace>,
    /// Namespaces that were not looked into: what the look before has shown of them stands.
    pub others: BTreeSet<u32>,
    /// Open connections that were left out, by inode number of those namespaces that have too many destinations.
    pub left_out: BTreeMap<u32, u64>,
}

impl Occupancy {
    /// Takes a later look in. The time becomes that of both together, for it is not told which namespace was looked into when.
    pub fn follow(&mut self, later: Self) {
        self.took_ns = later.at_ns.saturating_add(later.took_ns).saturating_sub(self.at_ns);
        let exists = |inum: &u32| later.namespaces.contains_key(inum) || later.others.contains(inum);
        self.namespaces.retain(|inum, _| exists(inum));
        self.left_out.retain(|inum, _| exists(inum) && !later.namespaces.contains_key(inum));
        self.namespaces.extend(later.namespaces);
        self.left_out.extend(later.left_out);
        self.others = later.others;
        self.others.retain(|inum| !self.namespaces.contains_key(inum));
    }
}

/// One network namespace: its limits, and who holds what of its ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// `net.ipv4.ip_local_port_range`, in which connect() looks for a port. `IP_LOCAL_PORT_RANGE` of a single socket
    /// lies within it.
    pub range: RangeInclusive<u16>,
    /// Ports of it that connect() may choose, towards each destination: see [`choosable`].
    pub available: u32,
    /// `net.ipv4.tcp_max_tw_buckets`.
    pub tw_limit: Option<u64>,
    /// `net.ipv4.tcp_tw_reuse`: 0 never, 1 always, 2 on loopback.
    pub tw_reuse: Option<u8>,
    /// Ports that somebody listens on, in the range or not.
    pub listeners: BTreeSet<u16>,
    /// Ports of the range that are held by this host's own connections.
    #[serde(with = "pairs")]
    pub held: HashMap<Destination, Held>,
}

/// Towards what a port is taken: the kernel gives the same port out again for another remote end or local address.
/// v4-mapped addresses are IPv4 here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Destination {
    /// Local address.
    pub laddr: IpAddr,
    /// Remote address.
    pub raddr: IpAddr,
    /// Remote port.
    pub rport: u16,
}

/// Ports held towards one destination by full sockets. Minisocks are not among them: events tell of those.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// By connections in ESTABLISHED.
    pub established: u32,
    /// By those on their way there or from there: SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING.
    pub other: u32,
}

impl Held {
    /// One of them has closed: it was established, if any was.
    pub fn release(&mut self) {
        let from = if self.established > 0 { &mut self.established } else { &mut self.other };
        *from = from.saturating_sub(1);
    }
}

/// How many ports of a range one search of connect() can find, if no connection holds any.
///
/// `__inet_hash_connect` (net/ipv4/inet_hashtables.c, 5.10 to 7.2) passes over `ip_local_reserved_ports`, and for every
/// destination over a port whose bind bucket a bind() or listen() made (`fastreuse >= 0`). It looks at `remaining` ports,
/// the length of the range made even (`remaining &= ~1U`, unless that is 1): of an odd number one port of the range's
/// first parity, the one before the start of the search, is not looked at. Which one that is moves with every success, so
/// in time all of them may be held; a search may fail once this many are, and it must with one more.
#[must_use]
pub fn choosable(range: &RangeInclusive<u16>, reserved: &[RangeInclusive<u16>], listeners: &BTreeSet<u16>) -> u32 {
    let length = range.clone().count();
    let free = range
        .clone()
        .filter(|port| !listeners.contains(port) && !reserved.iter().any(|ports| ports.contains(port)))
        .count();
    let unseen = usize::from(length > 1 && length % 2 == 1);
    u32::try_from(free.saturating_sub(unseen)).unwrap_or(u32::MAX)
}

/// Connections whose remote end closed first, so that this host has no TIME_WAIT of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Passive {
    /// Which connections.
    pub service: Service,
    /// How many since the last time that this was told; a sum of these never goes back.
    pub closes: u64,
}

/// What connections are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Service {
    /// This host opened them.
    Opened {
        /// Inode number of the network namespace; 0: not known.
        netns: u32,
        /// From where, and to where.
        to: Destination,
    },
    /// This host accepted them, whoever the clients were.
    Accepted {
        /// The connections' local port.
        port: u16,
    },
}

/// A map as a list of its entries, in order: keys of JSON objects can only be strings.
mod pairs {
    use std::{collections::HashMap, hash::Hash};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<K: Serialize + Ord, V: Serialize, S: Serializer>(
        map: &HashMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut entries: Vec<(&K, &V)> = map.iter().collect();
        entries.sort_unstable_by(|a, b| a.0.cmp(b.0));
        serializer.collect_seq(entries)
    }

    pub fn deserialize<'de, K: Deserialize<'de> + Eq + Hash, V: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<HashMap<K, V>, D::Error> {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(ports: &[u16]) -> BTreeSet<u16> {
        ports.iter().copied().collect()
    }

    #[test]
    fn a_later_look_is_taken_in() {
        let space = |tw_limit| Namespace {
            range: 1..=2,
            available: 2,
            tw_limit: Some(tw_limit),
            tw_reuse: None,
            listeners: BTreeSet::new(),
            held: HashMap::new(),
        };
        let mut look = Occupancy {
            at_ns: 100,
            took_ns: 10,
            namespaces: [1, 2, 3].map(|inum| (inum, space(1))).into(),
            others: [4, 5].into(),
            left_out: [(1, 7), (2, 7), (3, 7)].into(),
        };
        // 2 is gone, 3 was looked into again, 4 for the first time.
        look.follow(Occupancy {
            at_ns: 200,
            took_ns: 20,
            namespaces: [3, 4].map(|inum| (inum, space(2))).into(),
            others: [1, 5].into(),
            left_out: [(4, 9)].into(),
        });
        let limits: Vec<_> = look.namespaces.iter().map(|(inum, space)| (*inum, space.tw_limit)).collect();
        assert_eq!(limits, [(1, Some(1)), (3, Some(2)), (4, Some(2))]);
        assert_eq!((look.others, look.left_out), ([5].into(), [(1, 7), (4, 9)].into()));
        assert_eq!((look.at_ns, look.took_ns), (100, 120));
    }

    #[test]
    fn an_even_range_is_searched_whole() {
        assert_eq!(choosable(&(32_768..=60_999), &[], &ports(&[])), 28_232);
        assert_eq!(choosable(&(20_000..=20_001), &[], &ports(&[])), 2);
    }

    #[test]
    fn of_an_odd_range_one_port_is_not_looked_at() {
        assert_eq!(choosable(&(20_000..=20_002), &[], &ports(&[])), 2);
        assert_eq!(choosable(&(1..=65_535), &[], &ports(&[])), 65_534);
        // Only a range of one is left as it is.
        assert_eq!(choosable(&(20_000..=20_000), &[], &ports(&[])), 1);
    }

    #[test]
    fn reserved_ports_and_listeners_count_once_and_only_within_the_range() {
        let listeners = ports(&[80, 20_003, 20_005, 30_000]);
        let reserved = [20_005..=20_006, 20_006..=20_007, 1..=1];
        assert_eq!(choosable(&(20_000..=20_009), &reserved, &listeners), 6);
        assert_eq!(choosable(&(20_000..=20_002), &[0..=65_535], &ports(&[])), 0);
    }
}
