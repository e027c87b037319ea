//! What a change must keep: ratios of things measured side by side, never times, so that a slow or busy machine says the
//! same as a quick one.

use std::collections::BTreeMap;

use crate::tally::Tally;

/// A ratio and how far it may go.
struct Bound {
    name: &'static str,
    what: &'static str,
    limit: Limit,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    Most(f64),
    Least(f64),
}

impl Limit {
    fn keeps(self, value: f64) -> bool {
        match self {
            Self::Most(limit) => value <= limit,
            Self::Least(limit) => value >= limit,
        }
    }
}

/// Names of the ratios, shared by who measures them and who bounds them.
pub mod name {
    /// See [`super::BOUNDS`].
    pub const COST: &str = "cost";
    /// See [`super::BOUNDS`].
    pub const KERNEL: &str = "kernel";
    /// See [`super::BOUNDS`].
    pub const USER: &str = "user";
    /// See [`super::BOUNDS`].
    pub const JSON: &str = "json";
    /// See [`super::BOUNDS`].
    pub const LIVE: &str = "live";
    /// See [`super::BOUNDS`].
    pub const DESTINATIONS: &str = "destinations";
}

/// Each about twice as wide as what was seen, for machines that are kept busy by others meanwhile.
const BOUNDS: [Bound; 6] = [
    Bound {
        name: name::COST,
        what: "CPU of a connection untraced / traced, everything that twtrace adds included",
        limit: Limit::Least(0.65),
    },
    Bound {
        name: name::KERNEL,
        what: "eBPF time of a birth, twtrace / tcplife under the same load",
        limit: Limit::Most(0.30),
    },
    Bound {
        name: name::USER,
        what: "CPU of the process, twtrace json / tcplife under the same load",
        limit: Limit::Most(0.20),
    },
    Bound { name: name::JSON, what: "CPU of a record, JSON / aggregates", limit: Limit::Most(8.0) },
    Bound {
        name: name::LIVE,
        what: "CPU of a record, 1,000,000 live / 1,000 live, kernel and reader",
        limit: Limit::Most(2.5),
    },
    Bound {
        name: name::DESTINATIONS,
        what: "CPU of a record, 100,000 destinations / 1, kernel and reader",
        limit: Limit::Most(5.0),
    },
];

/// Holds what was measured against the bounds; a ratio is skipped if it is not there, for the reason.
pub fn check(measured: &BTreeMap<&'static str, Result<f64, String>>) -> Tally {
    let mut tally = Tally::default();
    for Bound { name, what, limit } in BOUNDS {
        tally += match measured.get(name) {
            Some(Ok(value)) if limit.keeps(*value) => {
                println!("passed: bench: {what}: {value:.2} ({})", show(limit));
                Tally::PASSED
            }
            Some(Ok(value)) => {
                println!("failed: bench: {what}: {value:.2}, not {}", show(limit));
                Tally::FAILED
            }
            Some(Err(reason)) => {
                println!("skipped: bench: {what}: {reason}");
                Tally::SKIPPED
            }
            None => {
                println!("failed: bench: {what}: nobody measured it");
                Tally::FAILED
            }
        };
    }
    tally
}

fn show(limit: Limit) -> String {
    match limit {
        Limit::Most(limit) => format!("at most {limit:.2}"),
        Limit::Least(limit) => format!("at least {limit:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_keeps_no_bound() {
        assert!(!Limit::Most(1.0).keeps(f64::NAN) && !Limit::Least(1.0).keeps(f64::NAN));
    }

    #[test]
    fn every_bound_is_looked_at() {
        assert_eq!(check(&BTreeMap::new()).failed, BOUNDS.len() as u64);
        let mut measured: BTreeMap<_, _> = BOUNDS.iter().map(|bound| (bound.name, Err("no".to_owned()))).collect();
        measured.insert(name::KERNEL, Ok(0.0));
        measured.insert(name::COST, Ok(0.0));
        let rest = BOUNDS.len() as u64 - 2;
        assert_eq!(check(&measured), Tally { passed: 1, failed: 1, skipped: rest });
    }
}
