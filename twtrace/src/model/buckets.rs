//! How full `tcp_max_tw_buckets` is, and where: each network namespace has a limit and a count of its own. Pure;
//! `host::buckets` looks.

use serde::{Deserialize, Serialize};

/// The namespace whose buckets are the fullest: the JSON field `buckets` of `tick`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buckets {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// What people call it: a name under /run/netns, a container, a process in it; `None` if none was found.
    pub name: Option<String>,
    /// Minisocks that hold a bucket there, TIME_WAIT and FIN_WAIT2 (`tw` of /proc/net/sockstat).
    pub used: u64,
    /// `net.ipv4.tcp_max_tw_buckets` there.
    pub limit: u64,
    /// How many namespaces were looked into: all that can be found and that the filters let through.
    pub namespaces: u64,
}

impl Buckets {
    /// The fullest of these namespaces: inode number, used, limit. Of two that are equally full, the one with more minisocks,
    /// then the first. `None` if there is none.
    #[must_use]
    pub fn fullest(all: &[(u32, u64, u64)]) -> Option<Self> {
        // By cross-multiplication: shares of large limits differ in digits that a float does not have.
        let share = |&(_, used, limit): &(u32, u64, u64)| (u128::from(used), u128::from(limit.max(1)));
        let fuller = |a: &(u32, u64, u64), b: &(u32, u64, u64)| {
            let ((used_a, limit_a), (used_b, limit_b)) = (share(a), share(b));
            (used_a * limit_b).cmp(&(used_b * limit_a)).then(a.1.cmp(&b.1)).then(b.0.cmp(&a.0))
        };
        let &(netns, used, limit) = all.iter().max_by(|a, b| fuller(a, b))?;
        Some(Self { netns, name: None, used, limit, namespaces: all.len() as u64 })
    }

    /// The share of the limit that is used, 0 to 1. A limit of 0 is full.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.limit == 0 { 1.0 } else { self.used as f64 / self.limit as f64 }
    }

    /// What to call the namespace.
    #[must_use]
    pub fn whose(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("namespace {}", self.netns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_is_by_share_and_not_by_number() {
        let of = |all: &[(u32, u64, u64)]| Buckets::fullest(all).map(|found| (found.netns, found.used, found.limit));
        assert_eq!(of(&[(1, 2_000, 131_072), (2, 90, 100)]), Some((2, 90, 100)));
        assert_eq!(of(&[(1, 2_000, 131_072), (2, 3, 131_072)]), Some((1, 2_000, 131_072)));
        assert_eq!(of(&[(3, 0, 10), (1, 0, 20), (2, 0, 30)]), Some((1, 0, 20)), "empty ones: the first");
        assert_eq!(of(&[(1, 5, 0), (2, 7, 100)]), Some((1, 5, 0)), "nothing fits into a limit of 0");
        assert_eq!(of(&[]), None);
        assert_eq!(Buckets::fullest(&[(1, 5, 10), (2, 0, 0)]).map(|found| found.namespaces), Some(2));
    }

    #[test]
    fn it_is_called_what_people_call_it() {
        let mut buckets = Buckets::fullest(&[(4_026_531_840, 5, 10)]).unwrap();
        assert_eq!((buckets.whose().as_str(), buckets.share()), ("namespace 4026531840", 0.5));
        buckets.name = Some("blue".to_owned());
        assert_eq!(buckets.whose(), "blue");
    }
}
