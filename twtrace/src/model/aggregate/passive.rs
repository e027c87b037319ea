//! Connections that the peer closed first: no event tells of them, they come as counts.

use std::collections::HashMap;

use super::{Aggregates, Destination, DestinationKey, PortKey, Side};
use crate::model::occupancy::{self, Passive, Service};

impl Aggregates {
    /// Connections that the peer closed first since the last time. A client's are of one destination each, and all
    /// destinations of a service together are its port's.
    pub fn passive(&mut self, counted: &[Passive]) {
        self.counts_passive = true;
        let mut by_key: HashMap<PortKey, u64> = HashMap::new();
        for &Passive { service, closes } in counted {
            let port = match service {
                Service::Accepted { port } => PortKey { side: Side::Server, port },
                Service::Opened { netns, to: occupancy::Destination { laddr, raddr, rport } } => {
                    let key = DestinationKey { netns, laddr, raddr, rport };
                    self.destinations.touch(key, Destination::new).passive += closes;
                    PortKey { side: Side::Client, port: rport }
                }
            };
            *by_key.entry(port).or_default() += closes;
        }
        for (key, row) in self.ports.iter_mut() {
            row.passive(by_key.remove(key).unwrap_or(0));
        }
        for (key, closes) in by_key {
            self.port(key).passive(closes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::model::{
        event::{Connection, Detail, Event, Life, Role, Substate, Tuple},
        occupancy::Destination as To,
    };

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    /// A connection that this side closed first.
    fn born() -> Event {
        let life = Life {
            id: Some(1),
            netns: Some(7),
            tuple: Some(Tuple { laddr: LOCAL, lport: 30_001, raddr: PEER, rport: 443 }),
            substate: Some(Substate::TimeWait),
            role: Some(Role::Client),
            closer: None,
            preexisting: Some(false),
        };
        let connection = Connection { conn_ns: Some(5_000_000), ..Connection::default() };
        Event { mono_ns: 0, life, detail: Detail::Born { timeout_ms: None, connection }, self_test: false }
    }

    fn opened(raddr: IpAddr) -> Service {
        Service::Opened { netns: 7, to: To { laddr: LOCAL, raddr, rport: 443 } }
    }

    #[test]
    fn a_port_has_the_closes_of_all_its_peers_and_each_peer_its_own() {
        let mut all = Aggregates::default();
        let other: IpAddr = [10, 0, 0, 3].into();
        all.event(&born());
        assert_eq!(all.destination_rows()[0].passive, None, "nobody counts");
        let accepted = Passive { service: Service::Accepted { port: 443 }, closes: 100 };
        let (first, second) =
            (Passive { service: opened(PEER), closes: 3 }, Passive { service: opened(other), closes: 4 });
        all.passive(&[first, second, accepted]);
        all.passive(&[]);
        all.passive(&[Passive { closes: 1, ..second }]);
        let mut rows: Vec<_> = all.destination_rows().iter().map(|row| (row.raddr, row.born, row.passive)).collect();
        rows.sort();
        assert_eq!(rows, [(PEER, 1, Some(3)), (other, 0, Some(5))]);
        let first = |side| all.port_of(&PortKey { side, port: 443 }).unwrap().first;
        assert_eq!((first(Side::Client), first(Side::Server)), ((1, 8), (0, 100)));
    }

    #[test]
    fn the_same_peer_from_two_places_is_two_destinations() {
        let mut all = Aggregates::default();
        let to = To { laddr: LOCAL, raddr: PEER, rport: 443 };
        let places = [(7, to), (8, to), (7, To { laddr: [10, 0, 0, 9].into(), ..to })];
        all.passive(&places.map(|(netns, to)| Passive { service: Service::Opened { netns, to }, closes: 2 }));
        let rows = all.destination_rows();
        assert!(rows.len() == 3 && rows.iter().all(|row| row.passive == Some(2)), "{rows:?}");
        assert_eq!(all.port_of(&PortKey { side: Side::Client, port: 443 }).unwrap().first.1, 6);
    }
}
