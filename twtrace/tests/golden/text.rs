//! Columns and remarks.

use insta::assert_snapshot;
use jiff::tz::{Offset, TimeZone};
use twtrace::{
    model::{
        aggregate::{Aggregates, Limits},
        happening::{Loss, Lost, Tick},
        own::Own,
        report::Summary,
    },
    sink::{
        Lines, Observer, TextSink,
        by::{Group, Reporter},
        events_doc, notes,
    },
};

use crate::{fixture, stream};

fn sink(zone: TimeZone) -> TextSink {
    TextSink::new(fixture::CLOCK, zone)
}

fn lost(place: Loss, count: u64) -> Lost {
    Lost { place, observer: None, count }
}

fn shown(sink: &mut impl Lines) -> String {
    String::from_utf8_lossy(sink.take(&Aggregates::default()).bytes()).into_owned()
}

#[test]
fn every_event() {
    for (name, events) in fixture::all_events() {
        let mut sink = sink(TimeZone::UTC);
        events.iter().for_each(|event| sink.event(event));
        assert_snapshot!(name, shown(&mut sink));
    }
}

#[test]
fn the_header_comes_once_and_first() {
    let mut sink = sink(TimeZone::UTC);
    sink.start(0, &fixture::start());
    let header = shown(&mut sink);
    assert!(header.starts_with("TIME ") && header.lines().count() == 1, "{header}");
    let events = fixture::all_events();
    events.iter().flat_map(|(_, events)| events).for_each(|event| sink.event(event));
    assert!(!shown(&mut sink).contains("TIME "));
    assert_eq!(sink.pending(), 0);
}

#[test]
fn rows_of_ipv4_stand_below_their_header() {
    let mut sink = sink(TimeZone::UTC);
    let events = fixture::all_events();
    events.iter().filter(|(name, _)| *name != "v6").flat_map(|(_, events)| events).for_each(|event| sink.event(event));
    let text = shown(&mut sink);
    let column = text.find("COMM").unwrap_or_default();
    for line in text.lines() {
        assert_eq!(line.as_bytes().get(column - 1), Some(&b' '), "{line}");
        // Who has a port stands behind the columns.
        let most = if line.contains(" port ") { 170 } else { 130 };
        assert!(line.len() <= most, "{line}");
    }
}

#[test]
fn times_are_local() {
    let mut sink = sink(TimeZone::fixed(Offset::constant(-2)));
    fixture::all_events()[0].1.iter().take(1).for_each(|event| sink.event(event));
    assert!(shown(&mut sink).contains("\n20:13:21.001 born "), "two hours behind UTC, cut to the millisecond");
}

#[test]
fn starts() {
    let mut sink = sink(TimeZone::UTC);
    sink.start(0, &fixture::start());
    sink.start(0, &fixture::blind_start());
    assert_snapshot!(sink.notes());
    assert_eq!(sink.notes(), "");
}

#[test]
fn losses() {
    let all = Loss::ALL.map(|place| notes::lost(&lost(place, 1)) + &notes::lost(&lost(place, 1234)));
    assert_snapshot!(all.concat());
}

#[test]
fn summaries() {
    assert_snapshot!("summary_exact", notes::summary(&fixture::exact()));
    assert_snapshot!("summary_inexact", notes::summary(&fixture::inexact()));
    let mut uncompared = fixture::uncompared();
    assert_snapshot!("summary_uncompared", notes::summary(&uncompared));
    uncompared.totals.lost = 7;
    let lost = notes::summary(&uncompared);
    assert_eq!(lost.lines().last(), Some("NOT exact: 7 events lost, seen is not emitted + filtered + lost"));
    let unexplained = Summary { exact: Some(false), ..fixture::exact() };
    assert!(notes::summary(&unexplained).ends_with("NOT exact: counters disagree, cause unknown; please report it\n"));
}

#[test]
fn remarks_are_no_lines() {
    let mut sink = sink(TimeZone::UTC);
    let summary = fixture::exact();
    sink.lost(0, &lost(Loss::Ring, 5));
    let tick = Tick { totals: summary.totals.clone(), report: true, ..Tick::default() };
    sink.tick(0, &tick, &Aggregates::default());
    sink.summary(0, &summary);
    assert!(sink.take(&Aggregates::default()).is_empty());
    assert_eq!(sink.notes(), notes::lost(&lost(Loss::Ring, 5)) + &notes::summary(&summary));
}

#[test]
fn what_it_costs_is_a_remark() {
    let mut sink = sink(TimeZone::UTC);
    let (totals, own) = (fixture::exact().totals, fixture::own());
    for own in [own.clone(), Own { bpf_ns: None, programs: Vec::new(), ring_used: None, ..own }] {
        let tick = Tick { totals: totals.clone(), own: Some(own), report: true, ..Tick::default() };
        sink.tick(0, &tick, &Aggregates::default());
    }
    assert!(sink.take(&Aggregates::default()).is_empty());
    assert_snapshot!("self_stats", sink.notes());
}

#[test]
fn tables_stand_between_the_events() {
    let by = Reporter { groups: Group::ALL.to_vec(), top: 3 };
    let mut sink = TextSink::with_tables(fixture::CLOCK, TimeZone::UTC, by);
    stream::play(&mut Aggregates::default(), &mut sink, 2);
    assert_snapshot!("tables", shown(&mut sink));
}

/// What a file has is all that there is: nothing of it went to standard error.
#[test]
fn a_file_is_whole() {
    let mut sink = sink(TimeZone::UTC).whole();
    let summary = fixture::exact();
    sink.start(0, &fixture::start());
    sink.lost(0, &Lost { observer: Some("json:events.jsonl".to_owned()), ..lost(Loss::Output, 5) });
    sink.summary(0, &summary);
    assert_eq!(sink.notes(), "");
    let text = shown(&mut sink);
    assert!(text.starts_with(&notes::start(&fixture::start())) && text.ends_with(&notes::summary(&summary)), "{text}");
    assert!(
        text.contains("twtrace: json:events.jsonl: 5 lines lost: the output is read too slowly; write to a file"),
        "{text}"
    );
}

/// What rows held that had to go stands below the table.
#[test]
fn evicted_rows_are_summed() {
    let by = Reporter { groups: Group::ALL.to_vec(), top: 3 };
    let mut sink = TextSink::with_tables(fixture::CLOCK, TimeZone::UTC, by);
    let mut all = Aggregates::new(Limits { ports: 1, destinations: 1, owners: 1 });
    stream::play(&mut all, &mut sink, 2);
    let text = shown(&mut sink);
    let others: Vec<_> = text.lines().filter(|line| line.starts_with("other: ")).collect();
    assert!(
        others.len() >= 4 && others.iter().all(|line| line.contains(" live, ") && line.contains(" born, ")),
        "{text}"
    );
}

#[test]
fn the_document() {
    assert_snapshot!("events_md", events_doc::render());
}

/// Where the kernel does not count what it skips, a run is exact as far as is known, in every output.
#[test]
fn exact_as_far_as_is_known() {
    let mut summary = fixture::exact();
    summary.totals.missed.runs = None;
    let text = notes::summary(&summary);
    assert!(text.contains("missed runs     ?\n"), "{text}");
    assert!(
        text.lines().last().unwrap_or_default().starts_with("exact as far as this kernel lets it be known: "),
        "{text}"
    );
    assert_eq!((summary.exactness().word(), summary.exactness().is_exact()), ("as_known", Some(true)));
    // A loss is a loss, whatever else is known.
    summary.exact = Some(false);
    assert_eq!(summary.exactness().is_exact(), Some(false));
}
