use std::{io::Read as _, net::Ipv4Addr};

use jiff::tz::TimeZone;
use twtrace_common::record::{Death, flag, kind};

use super::*;
use crate::{
    model::{
        aggregate::Aggregates,
        event::{Connection, Detail, Life, Role, Substate, Tuple},
        report::Totals,
    },
    sink::{
        JsonSink, TextSink, Tick,
        by::{Group, Reporter},
    },
};

/// Records made up beforehand.
struct Made(std::collections::VecDeque<Vec<u8>>);

impl Source for Made {
    fn drain(&mut self, most: usize, take: &mut dyn FnMut(&[u8])) -> usize {
        let count = most.min(self.0.len());
        self.0.drain(..count).for_each(|bytes| take(&bytes));
        count
    }
}

fn death(flags: u8) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<Death>()];
    bytes[8] = kind::DIED;
    bytes[9] = twtrace_common::ABI;
    bytes[16 + std::mem::offset_of!(twtrace_common::record::Life, flags)] = flags;
    bytes
}

#[test]
fn garbage_is_counted_and_the_rest_goes_on() {
    let garbage = [Vec::new(), b"garbage".to_vec(), vec![0xff; 4096], death(0)[..50].to_vec(), vec![0; 136]];
    let mut records = vec![death(0)];
    records.extend(garbage.clone());
    records.push(death(0));
    let (mut source, mut sink) = (Made(records.into()), JsonSink::new(Clock { offset_ns: 0 }));
    let (mut counted, mut uncertain) = (0, Vec::new());
    assert_eq!(intake(&mut source, &mut |event| sink.event(event), &mut counted, &mut uncertain), 2 + garbage.len());
    assert_eq!((counted, uncertain.len()), (garbage.len() as u64, 0));
    assert_eq!(sink.take().lines(), 2);
    assert_eq!(intake(&mut source, &mut |event| sink.event(event), &mut counted, &mut uncertain), 0);
}

#[test]
fn the_self_test_is_for_nobody_s_eyes_and_order_is_kept() {
    let records = vec![death(flag::SELF_TEST), death(0), death(flag::UNKNOWN_BIRTH), death(0)];
    let (mut source, mut sink) = (Made(records.into()), JsonSink::new(Clock { offset_ns: 0 }));
    let (mut counted, mut uncertain) = (0, Vec::new());
    intake(&mut source, &mut |event| sink.event(event), &mut counted, &mut uncertain);
    assert_eq!((sink.take().lines(), uncertain.len(), counted), (1, 2, 0));
}

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
fn tables() -> Reporter {
    let mut aggregates = Aggregates::default();
    (0..200).for_each(|number| aggregates.event(&born(number)));
    Reporter { aggregates, groups: vec![Group::Destination], top: 200 }
}

/// The way out, as [`Pipeline::serve`] uses it.
struct Way<'a> {
    sink: &'a mut dyn Sink,
    writer: Writer,
    waiting: Option<Batch>,
    due: Due,
    told: u64,
    largest: usize,
    most: usize,
}

impl<'a> Way<'a> {
    /// Into a pipe, with a queue of four batches.
    fn new(sink: &'a mut dyn Sink) -> io::Result<(io::PipeReader, Self)> {
        let (reader, pipe) = io::pipe()?;
        let writer = Writer::with_queue(pipe, 4)?;
        Ok((reader, Self { sink, writer, waiting: None, due: Due::default(), told: 0, largest: 0, most: 0 }))
    }

    fn flush(&mut self) {
        hand_over(self.sink, &mut self.writer, &mut self.waiting);
    }

    /// One turn of the loop.
    fn turn(&mut self, now_ns: u64) {
        self.flush();
        if self.due.is_due() && self.waiting.is_none() {
            self.tell(now_ns);
        }
        self.flush();
    }

    fn tell(&mut self, mono_ns: u64) {
        let Some(report) = self.due.take() else { return };
        let totals = Totals { ticks_skipped: self.due.untold(), ..Totals::default() };
        let tick = Tick {
            own: None,
            buckets: None,
            totals: &totals,
            born_per_s: None,
            died_per_s: None,
            reconcile: &[],
            comparing: false,
            report,
        };
        let before = self.sink.pending();
        self.sink.tick(mono_ns, &tick);
        self.told += 1;
        self.largest = self.largest.max(self.sink.pending() - before);
        self.most = self.most.max(self.sink.pending() + self.waiting.as_ref().map_or(0, |batch| batch.bytes().len()));
    }
}

/// Nobody reads for ten minutes of ticks with tables; then somebody does.
#[test]
fn a_reader_that_stops_takes_no_memory_and_then_gets_the_last_tick() -> io::Result<()> {
    const S: u64 = 1_000_000_000;
    let clock = Clock { offset_ns: 0 };
    let sinks: [Box<dyn Sink>; 2] = [
        Box::new(JsonSink::with_tables(clock, tables())),
        Box::new(TextSink::with_tables(clock, TimeZone::UTC, tables())),
    ];
    for mut sink in sinks {
        let (mut reader, mut way) = Way::new(sink.as_mut())?;
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
        while way.told == told || way.waiting.is_some() {
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
