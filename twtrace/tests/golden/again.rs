//! A run told again: from its happenings, and from a copy of them that was written down, comes the same.

use proptest::prelude::*;
use twtrace::{
    model::{
        aggregate::{Aggregates, Limits},
        event::{Cause, Denial, Detail, Event, Kind, Refusal},
        happening::{Happening, Loss, Lost},
        holder::{HeldBy, Holder},
    },
    sink::{
        JsonSink, Lines as _, Observer,
        by::{Group, Reporter},
    },
};

use crate::{fixture, stream, tui};

/// What was written, read back.
fn copies(run: &[Happening]) -> Vec<Happening> {
    let copy = |happening| serde_json::from_str(&serde_json::to_string(happening)?);
    run.iter().map(copy).collect::<serde_json::Result<_>>().unwrap_or_else(|error| unreachable!("{error}"))
}

/// All that observers make of a run: JSON with tables, and every tab of the screen.
fn observed(happenings: &[Happening], limits: Limits) -> (String, Vec<String>) {
    let mut tables = Aggregates::new(limits);
    let mut json = JsonSink::with_tables(fixture::CLOCK, Reporter { groups: Group::ALL.to_vec(), top: 1000 });
    let mut rig = tui::Rig::new((160, 50));
    for happening in happenings {
        tables.happened(happening);
        json.happening(happening, &tables);
        rig.happening(happening, &tables);
    }
    rig.1 = tables;
    let screens = ["1", "2", "3", "o", "4", "5"].map(|keys| {
        rig.press(keys);
        rig.screen()
    });
    (String::from_utf8_lossy(json.take(&rig.1).bytes()).into_owned(), screens.into())
}

#[test]
fn a_recorded_run_is_told_again_as_it_was() {
    let mut run = stream::happenings(stream::SECONDS);
    let lost = Lost { place: Loss::Output, observer: Some("json:events.jsonl".to_owned()), count: 7 };
    run.push(Happening::Clock { offset_ns: -5 });
    run.push(Happening::Lost { mono_ns: 9, lost });
    run.push(Happening::Seeds(vec![fixture::all_events()[0].1[0].life]));
    run.push(Happening::Over(vec![fixture::all_events()[0].1[0].life]));
    for summary in [fixture::exact(), fixture::inexact(), fixture::uncompared()] {
        run.push(Happening::Summary { mono_ns: 10, summary: Box::new(summary) });
    }
    let copies = copies(&run);
    assert_eq!(copies, run);
    let first = observed(&run, Limits::default());
    assert!(first.0.lines().count() > 100 && first.1.iter().all(|screen| screen.contains("twtrace")));
    assert_eq!(observed(&run, Limits::default()), first);
    assert_eq!(observed(&copies, Limits::default()), first);
}

/// Any event, with integers that have no word too.
fn any_event() -> impl Strategy<Value = Event> {
    let all: Vec<Event> = fixture::all_events().into_iter().flat_map(|(_, events)| events).collect();
    let holder = Holder { by: HeldBy::from_raw(77), task: None, held_ms: Some(1), expires_in_ms: None };
    (prop::sample::select(all), any::<u64>(), 0..20_u8, 0..4_u16).prop_map(move |(mut event, mono_ns, raw, port)| {
        event.mono_ns = mono_ns;
        if let Some(tuple) = &mut event.life.tuple {
            tuple.rport = tuple.rport.wrapping_add(port);
        }
        match &mut event.detail {
            Detail::Died { cause, .. } => *cause = Cause::from_raw(raw),
            Detail::Refused { reason, .. } => *reason = Refusal::from_raw(raw),
            Detail::ReuseDenied { reason, .. } => *reason = Denial::from_raw(raw),
            Detail::NoPort { holder: place, .. } if raw > 10 => *place = Some(holder),
            _ => {}
        }
        event
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens, and however small the tables are: what is in them follows from the happenings alone.
    #[test]
    fn tables_follow_from_happenings_alone(events in prop::collection::vec(any_event(), 1..120), most in 1..5_usize) {
        let mut run = Vec::new();
        for (number, event) in events.into_iter().enumerate() {
            prop_assert!(Kind::ALL.contains(&event.kind()));
            run.push(Happening::Event(event));
            if number % 17 == 0 {
                run.push(Happening::Interval { mono_ns: number as u64 * 1_000_000_000 });
                run.push(Happening::Tick { mono_ns: number as u64 * 1_000_000_000, tick: Box::default() });
            }
        }
        let copies = copies(&run);
        prop_assert_eq!(&copies, &run);
        let limits = || Limits { ports: most, destinations: most, owners: most };
        let first = observed(&run, limits());
        prop_assert_eq!(&observed(&run, limits()), &first);
        prop_assert_eq!(&observed(&copies, limits()), &first);
    }
}
