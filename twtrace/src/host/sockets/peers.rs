//! How many different peers a service has, without a set of all of them.

use std::{collections::HashSet, fmt, net::IpAddr};

/// The most addresses that are told apart at one service.
const MOST: usize = 1 << 10;

/// How many different addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// So many, up to 1,024.
    pub count: u64,
    /// There are more that were not told apart.
    pub at_least: bool,
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.at_least { "at least " } else { "" }, self.count)
    }
}

/// Tells addresses apart until there are too many.
#[derive(Debug, Default)]
pub(super) struct Distinct {
    /// The kernel's hash lists sockets in no order, but a service with one peer has it each time.
    last: Option<IpAddr>,
    seen: HashSet<IpAddr>,
    more: bool,
}

impl Distinct {
    pub(super) fn add(&mut self, address: IpAddr) {
        if self.more || self.last == Some(address) {
            return;
        }
        self.last = Some(address);
        if self.seen.len() < MOST {
            self.seen.insert(address);
        } else {
            self.more = !self.seen.contains(&address);
        }
    }

    pub(super) fn peers(&self) -> Peers {
        Peers { count: self.seen.len() as u64, at_least: self.more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(addresses: impl Iterator<Item = u32>) -> Peers {
        let mut distinct = Distinct::default();
        addresses.for_each(|number| distinct.add(std::net::Ipv4Addr::from(number).into()));
        distinct.peers()
    }

    #[test]
    fn peers_are_counted_up_to_a_bound_that_is_told() {
        assert_eq!(of([1, 1, 2, 1, 2, 3].into_iter()), Peers { count: 3, at_least: false });
        assert_eq!(of((0..MOST as u32).chain(0..10)), Peers { count: 1024, at_least: false });
        assert_eq!(of(0..MOST as u32 + 1), Peers { count: 1024, at_least: true });
        assert_eq!(of((0..5000).chain(0..10)).to_string(), "at least 1024");
        assert_eq!(of(std::iter::empty()), Peers::default());
    }
}
