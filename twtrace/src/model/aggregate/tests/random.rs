//! Whatever happens: what is true of tables with room for all, and of those without.

use super::*;

/// Any event about few sockets, so that rows meet.
fn any_event() -> impl Strategy<Value = Event> {
    let role =
        prop_oneof![Just(None), Just(Some(Role::Client)), Just(Some(Role::Server)), Just(Some(Role::Unknown(9)))];
    let substate = prop_oneof![Just(None), Just(Some(Substate::TimeWait)), Just(Some(Substate::FinWait2))];
    let detail = prop_oneof![
        Just(Detail::Born { timeout_ms: Some(60_000), connection: connection() }),
        any::<Option<u64>>().prop_map(|after_ns| Detail::Turned { after_ns }),
        any::<Option<u32>>().prop_map(|timeout_ms| Detail::Rearmed { timeout_ms }),
        (any::<u8>(), any::<Option<u64>>()).prop_map(|(cause, life_ns)| Detail::Died {
            cause: Cause::from_raw(cause % 12),
            life_ns,
            taker: None
        }),
        Just(Detail::Refused { reason: Refusal::Buckets, used: None, limit: None, connection: connection() }),
        Just(Detail::NoPort { took_ns: None, holder: None }),
        Just(Detail::NoBind { call: Call::Bind, holder: None }),
    ];
    (role, substate, detail, 0..4_u16, 0..4_u16, any::<bool>(), any::<bool>()).prop_map(
        |(role, substate, detail, lport, rport, has_tuple, has_closer)| {
            let mut life = life(role, lport, rport);
            life.substate = substate;
            life.tuple = life.tuple.filter(|_| has_tuple);
            life.closer = life.closer.filter(|_| has_closer);
            event(life, detail)
        },
    )
}

/// Counts over all rows of each table and what evicted ones held: alive, born, refused, failed, and so on.
fn sums(all: &Aggregates) -> [[i64; 5]; 4] {
    fn over<'a, K: 'a + std::hash::Hash + Eq, V: 'a + Fold>(
        table: &'a Bounded<K, V>,
        counts: fn(&V) -> [i64; 5],
    ) -> [i64; 5] {
        let rows = table.iter().map(|(_, row)| row).chain(table.other());
        rows.map(counts).fold([0; 5], |sum, row| std::array::from_fn(|at| sum[at] + row[at]))
    }
    let owner = |row: &Owner| {
        let n = u64::cast_signed;
        [row.live, n(row.born.count), n(row.refused), n(row.no_port), 0]
    };
    [
        over(&all.ports, |row| {
            let n = u64::cast_signed;
            let ends: u64 = row.died.iter().sum();
            [row.live, n(row.born.count), n(row.refused), n(ends), n(row.age.count())]
        }),
        over(&all.destinations, |row| {
            let n = u64::cast_signed;
            let failed = row.no_port + u64::from(row.no_port_bound);
            [row.minisocks, n(row.born.count), n(row.refused), n(failed), n(row.timestamps.0 + row.timestamps.1)]
        }),
        over(&all.processes, owner),
        over(&all.cgroups, owner),
    ]
}

proptest! {
    #[test]
    fn no_stream_breaks_the_tables(events in prop::collection::vec(any_event(), 0..200), most in 1..4_usize) {
        let mut all = Aggregates::new(Limits { ports: most, destinations: most, owners: most });
        for (n, event) in events.iter().enumerate() {
            all.event(event);
            if n % 7 == 0 {
                all.tick(n as u64 * SECOND);
            }
        }
        prop_assert!(all.port_rows().len() <= most);
        prop_assert!(all.destination_rows().len() <= most);
        prop_assert!(all.process_rows().len() <= most);
        let shares = all.port_rows().into_iter().filter_map(|row| row.closes_first);
        prop_assert!(shares.into_iter().all(|share| (0.0..=1.0).contains(&share)));
    }

    /// Whichever rows had to go: with what they held, the sums are those of tables that have room for all.
    #[test]
    fn evicted_rows_leave_the_sums_true(events in prop::collection::vec(any_event(), 0..300), most in 1..4_usize) {
        let mut all = Aggregates::default();
        let mut few = Aggregates::new(Limits { ports: most, destinations: most, owners: most });
        for event in &events {
            all.event(event);
            few.event(event);
        }
        prop_assert_eq!(sums(&few), sums(&all));
        prop_assert_eq!(all.others(), Others::default());
        prop_assert_eq!(few.others().ports.is_some(), few.evicted().ports > 0);
    }

    #[test]
    fn with_room_for_all_the_rows_add_up(events in prop::collection::vec(any_event(), 0..200)) {
        let mut all = Aggregates::default();
        events.iter().for_each(|event| all.event(event));
        let count = |wanted: fn(&Detail) -> bool| {
            events.iter().filter(|event| event.life.tuple.is_some() && wanted(&event.detail)).count() as u64
        };
        let rows = all.port_rows();
        prop_assert_eq!(rows.iter().map(|row| row.born).sum::<u64>(), count(|detail| matches!(detail, Detail::Born { .. })));
        prop_assert_eq!(rows.iter().map(|row| row.died.all()).sum::<u64>(), count(|detail| matches!(detail, Detail::Died { .. })));
        prop_assert_eq!(rows.iter().map(|row| row.refused).sum::<u64>(), count(|detail| matches!(detail, Detail::Refused { .. })));
    }
}
