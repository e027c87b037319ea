//! The hub and its outlets, and what becomes of a reader that stops.

use std::{io::Read as _, net::Ipv4Addr};

use jiff::tz::TimeZone;

use super::*;
use crate::{
    model::{
        aggregate::Aggregates,
        event::{Connection, Detail, Event, Life, Role, Substate, Tuple},
        happening::{Happening, Tick},
        report::Totals,
    },
    show::Clock,
    sink::{
        JsonSink, Lines, TextSink, Writer,
        by::{Group, Reporter},
    },
};

fn born(number: u16) -> Event {
    let [high, low] = number.to_be_bytes();
    let tuple = Tuple {
        laddr: Ipv4Addr::LOCALHOST.into(),
        lport: 40_000,
        raddr: Ipv4Addr::new(10, 0, high, low).into(),
        rport: 443,
    };
    let life = Life {
        id: Some(number.into()),
        netns: Some(7),
        tuple: Some(tuple),
        substate: Some(Substate::TimeWait),
        role: Some(Role::Client),
        closer: None,
        preexisting: Some(false),
    };
    Event {
        mono_ns: number.into(),
        life,
        detail: Detail::Born { timeout_ms: Some(60_000), connection: Connection::default() },
        self_test: false,
    }
}

/// Tables of 200 destinations, all of them shown.
fn tables() -> (Aggregates, Reporter) {
    let mut aggregates = Aggregates::default();
    (0..200).for_each(|number| aggregates.event(&born(number)));
    (aggregates, Reporter { groups: vec![Group::Destination], top: 200 })
}

/// A pipe, and a writer to it with a queue of four batches.
fn pipe() -> io::Result<(io::PipeReader, Writer)> {
    let (reader, pipe) = io::pipe()?;
    Ok((reader, Writer::with_queue(pipe, 4)?))
}

/// The way out, as [`Run::serve`] uses it.
struct Way {
    hub: Hub,
    due: Due,
    told: u64,
    largest: usize,
    most: usize,
}

impl Way {
    fn new(lines: Box<dyn Lines>, tables: Aggregates) -> io::Result<(io::PipeReader, Self)> {
        let (reader, writer) = pipe()?;
        let outlet = Outlet::new("standard output", lines, writer);
        let hub = Hub::new(vec![outlet]).with_tables(tables);
        Ok((reader, Self { hub, due: Due::default(), told: 0, largest: 0, most: 0 }))
    }

    fn outlet(&self) -> &Outlet {
        self.hub.first().unwrap()
    }

    /// One turn of the loop.
    fn turn(&mut self, now_ns: u64) {
        self.hub.flush();
        if self.due.is_due() && self.hub.has_room() {
            self.tell(now_ns);
        }
        self.hub.flush();
    }

    fn tell(&mut self, mono_ns: u64) {
        let Some(report) = self.due.take() else { return };
        let totals = Totals { ticks_skipped: self.due.untold(), ..Totals::default() };
        let before = self.outlet().lines.pending();
        let tick = Box::new(Tick { totals, report, ..Tick::default() });
        self.hub.happened(&Happening::Tick { mono_ns, tick });
        self.told += 1;
        let pending = self.outlet().lines.pending();
        let waits = self.outlet().waiting.as_ref().map_or(0, |batch| batch.bytes().len());
        self.largest = self.largest.max(pending - before);
        self.most = self.most.max(pending + waits);
    }
}

/// Nobody reads for ten minutes of ticks with tables; then somebody does.
#[test]
fn a_reader_that_stops_takes_no_memory_and_then_gets_the_last_tick() -> io::Result<()> {
    const S: u64 = 1_000_000_000;
    let clock = Clock { offset_ns: 0 };
    let (_, by) = tables();
    let all: [Box<dyn Lines>; 2] =
        [Box::new(JsonSink::with_tables(clock, by.clone())), Box::new(TextSink::with_tables(clock, TimeZone::UTC, by))];
    for lines in all {
        let (mut reader, mut way) = Way::new(lines, tables().0)?;
        for second in 0..600 {
            way.due.come(true);
            way.turn(second * S);
        }
        // Without the limit, 600 of them wait here: 48 MB of JSON.
        assert!(way.most <= 2 * way.largest, "{} bytes wait, the largest tick has {}", way.most, way.largest);
        assert!(way.told < 100 && way.told + way.due.untold() == 600, "{} told", way.told);
        // The reader reads on, and gets one more tick at once.
        let (mut all, mut page) = (Vec::new(), [0; 4096]);
        let told = way.told;
        while way.told == told || way.outlet().waiting.is_some() {
            let count = reader.read(&mut page)?;
            all.extend_from_slice(&page[..count]);
            way.turn(600 * S);
        }
        let skipped = way.due.untold();
        assert_eq!(way.told + skipped, 600);
        drop(way);
        reader.read_to_end(&mut all)?;
        let text = String::from_utf8_lossy(&all);
        let last = text.lines().rfind(|line| line.contains("\"tick\"") || line.starts_with("-- ")).unwrap();
        if last.starts_with('{') {
            assert!(last.contains(&format!("\"ticks_skipped\":{skipped},")), "{last}");
            assert!(last.contains(&format!("\"mono_ns\":{},", 600 * S)), "{last}");
        } else {
            assert!(last.starts_with("-- 00:10:00"), "{last}");
        }
    }
    Ok(())
}

/// One of two outputs is stuck: the other has every event, and is told under its name what the first one lost.
#[test]
fn an_output_that_is_stuck_costs_the_other_nothing() -> io::Result<()> {
    const EVENTS: u64 = 60_000;
    let clock = Clock { offset_ns: 0 };
    let (stuck_reader, stuck) = pipe()?;
    let (mut reader, good) = pipe()?;
    let json = || Box::new(JsonSink::new(clock));
    let outlets = vec![Outlet::new("standard output", json(), stuck), Outlet::new("json:good", json(), good)];
    let mut hub = Hub::new(outlets);
    let reading = std::thread::spawn(move || {
        let mut all = String::new();
        reader.read_to_string(&mut all).map(|_| all)
    });
    for number in 0..EVENTS {
        while !hub.has_room() {
            hub.flush();
        }
        hub.happened(&Happening::Event(born(number as u16)));
        if number % 512 == 0 {
            hub.flush();
        }
    }
    hub.tell_losses(1);
    while !hub.parts().0[1].is_out() {
        hub.flush();
    }
    let dropped = hub.first().unwrap().writer.tally().dropped;
    hub.parts().0[0].give_up(&Aggregates::default());
    drop(stuck_reader);
    drop(hub);
    let text = reading.join().unwrap()?;
    let (lost, events): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.contains("\"type\":\"lost\""));
    assert_eq!(events.len() as u64, EVENTS);
    assert!(dropped > 0 && lost.len() == 1, "{dropped} dropped, told {lost:?}");
    assert!(
        lost[0].contains(&format!("\"count\":{dropped},\"where\":\"output\",\"observer\":\"standard output\"")),
        "{lost:?}"
    );
    Ok(())
}

/// One of two outputs fails: the other has every event, and is told once that the first one has ended.
#[test]
fn an_output_that_fails_is_told_of_once() -> io::Result<()> {
    let clock = Clock { offset_ns: 0 };
    let (mut reader, good) = pipe()?;
    let full = Writer::spawn(std::fs::File::options().write(true).open("/dev/full")?)?;
    let json = || Box::new(JsonSink::new(clock));
    let mut hub = Hub::new(vec![Outlet::new("standard output", json(), good), Outlet::new("json:full", json(), full)]);
    for number in 0..10 {
        hub.happened(&Happening::Event(born(number)));
    }
    hub.flush();
    while !hub.parts().0[1].writer.is_closed() {
        std::thread::yield_now();
    }
    for number in 10..30 {
        hub.happened(&Happening::Event(born(number)));
        hub.flush();
        hub.tell_losses(u64::from(number));
    }
    while !hub.parts().0[0].is_out() {
        hub.flush();
    }
    assert_eq!(hub.parts().0[1].lines.pending(), 0, "nobody formats what cannot be written");
    drop(hub);
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    let (lost, events): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.contains("\"type\":\"lost\""));
    assert_eq!((events.len(), lost.len()), (30, 1), "{lost:?}");
    assert!(lost[0].contains("\"where\":\"closed\",\"observer\":\"json:full\""), "{lost:?}");
    Ok(())
}
