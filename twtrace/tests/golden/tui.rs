//! The live view: what every tab shows of a recorded run, and what keys make of it.

use std::time::Duration;

use insta::assert_snapshot;
use proptest::prelude::*;
use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};
use serde_json::Value;
use twtrace::{
    filter::resolve::Resolver,
    model::{
        aggregate::Aggregates,
        cgroup::Named,
        event::Event,
        happening::{Happening, Lost, Tick},
        report::{Start, Summary},
    },
    show::Clock,
    sink::{
        JsonSink, Lines as _, Observer,
        by::{Group, Reporter},
    },
    tui::{
        keys::{KEYS, Key},
        sieve::Sieve,
        state::{About, State},
        update::{self, Effect, Input},
        view,
    },
};

use crate::{fixture, stream};

/// A screen without a terminal: the state, fed as the real screen feeds it, and the tables that it shows.
pub struct Rig(pub State, pub Aggregates);

impl Rig {
    pub fn new(size: (u16, u16)) -> Self {
        Self::with(size, |_| {})
    }

    fn with(size: (u16, u16), change: impl FnOnce(&mut About)) -> Self {
        let mut about =
            About { host: "web-1".to_owned(), own_netns: stream::NETNS, filtered: false, ascii: false, plain: false };
        change(&mut about);
        Self(
            State::new(about, fixture::CLOCK, jiff::tz::TimeZone::UTC, Duration::from_secs(1), size),
            Aggregates::default(),
        )
    }

    /// After the whole recorded run.
    pub fn played(size: (u16, u16)) -> Self {
        let mut rig = Self::new(size);
        rig.play(stream::SECONDS);
        rig
    }

    /// Tells the screen what happened; the tables have been told.
    pub fn happening(&mut self, happening: &Happening, tables: &Aggregates) {
        Told(&mut self.0).happening(happening, tables);
    }

    pub fn play(&mut self, seconds: u64) {
        stream::play(&mut self.1, &mut Told(&mut self.0), seconds);
    }

    pub fn press(&mut self, keys: &str) -> Vec<Effect> {
        keys.chars().filter_map(|c| self.key(Key::Char(c))).collect()
    }

    pub fn key(&mut self, key: Key) -> Option<Effect> {
        let effect = update::update(&mut self.0, Input::Key(key), &self.1);
        if let Some(Effect::Filter(words)) = &effect {
            let read = Sieve::read(words, &Resolver::default());
            update::filter(&mut self.0, read, &self.1);
        }
        effect
    }

    fn buffer(&self) -> Buffer {
        let (width, height) = self.0.size;
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view::draw(frame, &self.0, &self.1)).unwrap();
        terminal.backend().buffer().clone()
    }

    /// The screen as lines.
    pub fn screen(&self) -> String {
        let buffer = self.buffer();
        let width = usize::from(buffer.area.width);
        let lines = buffer.content.chunks(width).map(|cells| {
            let line: String = cells.iter().map(|cell| cell.symbol()).collect();
            line.trim_end().to_owned() + "\n"
        });
        lines.collect()
    }
}

/// The state as an observer.
struct Told<'a>(&'a mut State);

impl Observer for Told<'_> {
    fn start(&mut self, mono_ns: u64, start: &Start) {
        self.0.start(mono_ns, start);
    }
    fn event(&mut self, event: &Event) {
        self.0.event(event);
    }
    fn lost(&mut self, _: u64, lost: &Lost) {
        self.0.lost(lost);
    }
    fn tick(&mut self, mono_ns: u64, tick: &Tick, tables: &Aggregates) {
        self.0.tick(mono_ns, tick, tables);
    }
    fn summary(&mut self, _: u64, _: &Summary) {}
    fn set_clock(&mut self, _: Clock) {}
}

#[test]
fn every_tab_at_120x30() {
    let mut rig = Rig::played((120, 30));
    for tab in ["1", "2", "3", "4", "5"] {
        rig.press(tab);
        assert_snapshot!(format!("tab_{tab}"), rig.screen());
    }
}

/// A difference is an alarm only once it has held; before that the header says that it is being looked into.
#[test]
fn a_difference_that_may_be_none_is_no_alarm() {
    let mut rig = Rig::played((120, 30));
    assert!(rig.screen().contains("kernel: diff 0"), "{}", rig.screen());
    rig.0.numbers.comparing = true;
    let screen = rig.screen();
    assert!(screen.contains("kernel: comparing") && !screen.contains("diff"), "{screen}");
    if let Some(row) = rig.0.numbers.reconcile.first_mut() {
        row.diff = 3;
    }
    assert!(rig.screen().contains("kernel: DIFF 3!"), "{}", rig.screen());
}

#[test]
fn names_do_not_turn_the_screen_round() {
    let mut rig = Rig::with((140, 30), |about| about.host = "web\u{202e}-1".to_owned());
    rig.play(stream::SECONDS);
    for event in rig.0.log.shown().copied().collect::<Vec<_>>() {
        let mut event = event;
        if let Some(closer) = &mut event.life.closer {
            closer.task.comm = fixture::comm("\u{202e}ab\u{2028}\u{9b}");
        }
        rig.1.event(&event);
        rig.0.event(&event);
    }
    let named = Named { path: "/a\u{200f}b\u{1b}.service".to_owned(), name: Some("c\u{202e}d\u{7}".to_owned()) };
    rig.1.cgroup_names(vec![(9001, Some(named))]);
    for keys in ["1", "2", "3", "o", "4", "5"] {
        rig.press(keys);
        rig.0.refresh(&rig.1);
        let screen = rig.screen();
        assert!(!screen.chars().any(|c| c != '\n' && twtrace::model::name::is_hidden(c)), "{screen:?}");
        assert!(screen.contains(r"web\u{202e}-1"), "{screen}");
    }
    rig.press("3o");
    assert!(rig.screen().contains(r"\u{202e}ab\u{2028}"), "{}", rig.screen());
}

#[test]
fn the_smallest_terminal_and_a_large_one() {
    for size in [(80, 24), (200, 60)] {
        let mut rig = Rig::played(size);
        for tab in ["1", "2", "3", "5"] {
            rig.press(tab);
            assert_snapshot!(format!("size_{}x{}_tab_{tab}", size.0, size.1), rig.screen());
        }
    }
}

#[test]
fn a_terminal_that_is_too_small_is_told_so() {
    assert_snapshot!(Rig::played((79, 24)).screen());
    assert!(Rig::played((10, 1)).screen().contains("twtrace"));
}

#[test]
fn before_anything_has_happened() {
    assert_snapshot!(Rig::new((80, 24)).screen());
}

#[test]
fn a_row_is_looked_into() {
    let mut rig = Rig::played((120, 40));
    for (name, keys) in [("histograms", "1"), ("fields", "2"), ("targets", "3")] {
        rig.press(keys);
        rig.key(Key::Enter);
        assert_snapshot!(format!("detail_{name}"), rig.screen());
    }
    rig.key(Key::Escape);
    rig.press("o");
    assert_snapshot!("cgroups", rig.screen());
    rig.press("1");
    rig.key(Key::Down);
    rig.key(Key::Enter);
    assert!(rig.screen().contains("ended by"), "the second port has ends: {}", rig.screen());
}

#[test]
fn what_it_costs_is_on_one_key() {
    let mut rig = Rig::played((80, 24));
    assert_eq!(rig.press("i"), [Effect::Measure(true)]);
    assert_snapshot!("own_unknown", rig.screen());
    rig.0.numbers.own = Some(fixture::own());
    assert_snapshot!("own", rig.screen());
    assert_eq!(rig.press("i"), [Effect::Measure(false)]);
}

#[test]
fn keys_help_filter_and_hold() {
    let mut rig = Rig::played((80, 24));
    rig.press("?");
    assert_snapshot!("help", rig.screen());
    rig.press("j");
    assert_snapshot!("help_scrolled", rig.screen());
    rig.press("?/rport:443 comm:ng");
    assert_snapshot!("filter_typed", rig.screen());
    rig.key(Key::Control('u'));
    rig.press("role:server");
    rig.key(Key::Enter);
    assert_snapshot!("filter_ports", rig.screen());
    rig.press("4");
    assert_snapshot!("filter_events", rig.screen());
    rig.press("3");
    assert!(rig.screen().contains("filter role:server (ignored in this table: role)"), "{}", rig.screen());
    rig.press("4/x");
    rig.key(Key::Enter);
    assert_snapshot!("filter_wrong", rig.screen());
    rig.key(Key::Escape);
    rig.press("p");
    let before = rig.screen();
    rig.play(3);
    let held = rig.screen();
    assert!(held.contains("HELD") && held.contains("/50000 new"), "{held}");
    let content = |screen: &str| screen.lines().skip(4).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(content(&held), content(&before));
    rig.press(" ");
    assert_ne!(content(&rig.screen()), content(&before));
}

#[test]
fn sorting_turns_and_steps() {
    let mut rig = Rig::played((120, 30));
    let first =
        |rig: &Rig| rig.screen().lines().nth(5).unwrap_or_default().split_whitespace().nth(1).map(str::to_owned);
    assert_eq!(first(&rig).as_deref(), Some("5432"), "most minisocks first");
    rig.press("S");
    assert_ne!(first(&rig).as_deref(), Some("5432"));
    rig.press("Ssss");
    assert!(rig.screen().contains("EXPIRED▼"), "{}", rig.screen());
    // A selected row stays selected wherever it goes.
    rig.press("1G");
    let id = rig.0.place().id.clone();
    rig.press("S");
    assert_eq!(rig.0.place().id, id);
}

#[test]
fn colour_is_never_the_only_sign() {
    let mut plain = Rig::with((120, 30), |about| about.plain = true);
    let mut ascii = Rig::with((120, 30), |about| about.ascii = true);
    let mut usual = Rig::new((120, 30));
    for rig in [&mut plain, &mut ascii, &mut usual] {
        rig.play(stream::SECONDS);
    }
    for tab in ["1", "2", "3", "5"] {
        for rig in [&mut plain, &mut ascii, &mut usual] {
            rig.press(tab);
        }
        assert_eq!(plain.screen(), usual.screen(), "the words are the same");
        assert!(plain.buffer().content.iter().all(|cell| cell.fg == ratatui::style::Color::Reset));
        assert!(usual.buffer().content.iter().any(|cell| cell.fg != ratatui::style::Color::Reset));
        assert!(ascii.screen().is_ascii(), "{}", ascii.screen());
    }
    ascii.press("2");
    assert_snapshot!("ascii", ascii.screen());
}

/// The screen and the JSON of the same stream say the same.
#[test]
fn the_numbers_are_those_of_json() {
    let reporter = Reporter { groups: Group::ALL.to_vec(), top: 100 };
    let mut json = JsonSink::with_tables(fixture::CLOCK, reporter);
    let mut all = Aggregates::default();
    stream::play(&mut all, &mut json, stream::SECONDS);
    let batch = json.take(&all);
    let last = String::from_utf8_lossy(batch.bytes()).lines().last().map(str::to_owned).unwrap();
    let tick: Value = serde_json::from_str(&last).unwrap();
    let mut rig = Rig::played((200, 60));
    let mut compared = 0;
    for (keys, table) in [("1", "ports"), ("2", "destinations"), ("3", "processes"), ("o", "cgroups")] {
        rig.press(keys);
        let rows = rig.0.rows.as_ref().unwrap();
        assert_eq!(rows.name(), table);
        assert_eq!(rows.json(), tick["by"][table]["rows"], "{table}");
        let screen = rig.screen();
        for row in tick["by"][table]["rows"].as_array().unwrap() {
            let count = row.get("in_use").unwrap_or(&row["born"]).to_string();
            assert!(screen.contains(&format!(" {count} ")), "{table}: {count} in {screen}");
            compared += 1;
        }
        let Some(Effect::Write(name, written)) = rig.key(Key::Char('w')) else { panic!("no table is written") };
        assert_eq!(
            (name, serde_json::from_str::<Value>(&written).unwrap()),
            (table, tick["by"][table]["rows"].clone())
        );
    }
    assert!(compared >= 9, "{compared}");
    assert!(rig.screen().contains(&format!("live {}", tick["live"])));
}

#[test]
fn what_keys_ask_of_others() {
    let mut rig = Rig::played((120, 30));
    let effects = rig.press("c+-q");
    let millis = Duration::from_millis;
    let [Effect::Copy(line), slower, faster, Effect::Quit] = effects.as_slice() else { panic!("{effects:?}") };
    assert!(line.starts_with("client 5432 160 "), "{line}");
    assert_eq!((slower, faster), (&Effect::Interval(millis(2000)), &Effect::Interval(millis(1000))));
    rig.press("4");
    let Some(Effect::Copy(line)) = rig.key(Key::Char('c')) else { panic!("no event is copied") };
    assert!(line.contains("born") && line.contains("198.51.100.7"), "{line}");
    assert_eq!(rig.key(Key::Control('c')), Some(Effect::Quit));
    assert_eq!(update::update(&mut rig.0, Input::Gone, &rig.1), Some(Effect::Quit));
}

#[test]
fn reset_counts_anew_and_keeps_what_is_alive() {
    let mut rig = Rig::played((120, 30));
    rig.press("r");
    let shown = rig.0.baseline.ports(&rig.1).into_iter().find(|row| row.port == 5432).unwrap();
    assert_eq!((shown.live, shown.born, shown.age_p50_ns), (160, 0, None));
    // Others read the tables too: those go on counting.
    let counted = rig.1.port_rows().into_iter().find(|row| row.port == 5432).unwrap();
    assert_eq!((counted.live, counted.born), (160, 160));
}

fn any_input() -> impl Strategy<Value = Input> {
    let bound: Vec<Key> = KEYS.iter().flat_map(|binding| binding.keys).copied().collect();
    let key = prop_oneof![
        8 => prop::sample::select(bound),
        2 => any::<char>().prop_map(Key::Char),
        1 => Just(Key::Enter),
        1 => Just(Key::Backspace),
        1 => Just(Key::Control('u')),
    ];
    prop_oneof![
        20 => key.prop_map(Input::Key),
        1 => (0..250_u16, 0..80_u16).prop_map(|(width, height)| Input::Resize(width, height)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is pressed and whatever happens meanwhile: no panic, and the selection is on a row.
    #[test]
    fn no_keys_and_events_break_the_screen(steps in prop::collection::vec((any_input(), 0..20_u8), 0..60)) {
        let mut rig = Rig::new((80, 24));
        for (input, chance) in steps {
            match chance {
                0 => rig.play(2),
                _ => if let Some(Effect::Filter(words)) = update::update(&mut rig.0, input, &rig.1) {
                    let read = Sieve::read(&words, &Resolver::default());
                    update::filter(&mut rig.0, read, &rig.1);
                },
            }
            let state = &rig.0;
            prop_assert!(state.is_empty() || state.selected() < state.len());
            prop_assert_eq!(state.log.waiting() == 0 || state.paused, true);
            if state.size.0 > 0 && state.size.1 > 0 {
                rig.screen();
            }
        }
    }
}
