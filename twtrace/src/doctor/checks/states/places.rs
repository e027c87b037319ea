//! Where sockets of one state are: the places that they share.

use std::{cmp::Reverse, collections::BTreeMap, fmt, net::SocketAddr};

use crate::host::sockets::Sample;

/// Where sockets are: a service here, or one elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Accepted(SocketAddr),
    Opened(SocketAddr),
}

impl Place {
    fn of(sample: &Sample) -> Self {
        let tuple = sample.tuple;
        if sample.accepted {
            Self::Accepted((tuple.laddr, tuple.lport).into())
        } else {
            Self::Opened((tuple.raddr, tuple.rport).into())
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(service) => write!(f, "accepted at {service}"),
            Self::Opened(service) => write!(f, "opened to {service}"),
        }
    }
}

/// Places with how many of these sockets each has, the most first.
pub(super) fn places<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Vec<(Place, u64)> {
    let mut counts: BTreeMap<Place, u64> = BTreeMap::new();
    for sample in samples {
        *counts.entry(Place::of(sample)).or_default() += 1;
    }
    let mut places: Vec<_> = counts.into_iter().collect();
    places.sort_by_key(|(place, count)| (Reverse(*count), *place));
    places
}

/// The place that has most of them, if that is more than half; how many places otherwise.
pub(super) fn mostly(places: &[(Place, u64)]) -> String {
    let all: u64 = places.iter().map(|(_, count)| count).sum();
    match places {
        [(place, count), ..] if count * 2 > all => place.to_string(),
        _ => format!("at {} places", places.len()),
    }
}
