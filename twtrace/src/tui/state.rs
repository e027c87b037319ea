//! What the screen shows, all of it: changed by [`super::update`], drawn by [`super::view`].

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    advice::{Note, advise},
    baseline::Baseline,
    listing::{Id, Listing},
    log::Log,
    sieve::Sieve,
};
use crate::{
    model::{
        aggregate::{Aggregates, DestinationRow, Live, PortKey, PortRow, Process},
        buckets::Buckets,
        event::Event,
        happening::{Loss, Lost, Tick},
        own::Own,
        report::{Reconciled, Start, Totals},
    },
    show::{Clock, columns::Row},
};

/// Births per second that the sparkline remembers: one a tick.
const HISTORY: usize = 256;

/// A tab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tab {
    /// By service port.
    Ports,
    /// By destination.
    Destinations,
    /// By process or cgroup.
    Owners,
    /// One line an event.
    Events,
    /// What is worth knowing now.
    Notes,
}

impl Tab {
    /// All of them, as their keys count.
    pub const ALL: [Self; 5] = [Self::Ports, Self::Destinations, Self::Owners, Self::Events, Self::Notes];

    /// What stands on it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Ports => "Ports",
            Self::Destinations => "Destinations",
            Self::Owners => "Owners",
            Self::Events => "Events",
            Self::Notes => "Notes",
        }
    }

    /// The tab's place in [`Tab::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        Self::ALL.iter().position(|&tab| tab == self).unwrap_or(0)
    }
}

/// How owners are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// By process.
    Process,
    /// By cgroup.
    Cgroup,
}

/// Where somebody is in a tab.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The selected row; with nothing to select, the first line shown.
    pub selected: usize,
    /// The selected row's identity: rows move when they are sorted anew.
    pub id: Option<Id>,
    /// The column it is sorted by; `None`: as the table has it.
    pub sort: Option<usize>,
    /// The least first.
    pub ascending: bool,
}

/// What a row was opened for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Histograms of a service port.
    Histograms(PortKey),
    /// Every column of a row, by its identity.
    Fields(Id),
    /// Where the connections led that a process closed.
    OfProcess(Process),
    /// Where the connections led that were closed in a cgroup, by its number.
    OfCgroup(u64),
}

/// What the run is, for the header; known before its first event.
#[derive(Clone, Debug)]
pub struct About {
    /// Name of the host.
    pub host: String,
    /// Inode number of the network namespace whose counters are compared with the kernel's.
    pub own_netns: u32,
    /// The command line filters: what the screen shows is not everything.
    pub filtered: bool,
    /// Draw with ASCII alone.
    pub ascii: bool,
    /// Draw without colour.
    pub plain: bool,
}

/// The numbers of the header, as of the last tick.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    /// The counters.
    pub totals: Totals,
    /// Births per second.
    pub born_per_s: Option<f64>,
    /// Ends per second.
    pub died_per_s: Option<f64>,
    /// The kernel's word on them.
    pub reconcile: Vec<Reconciled>,
    /// There may be a difference that has not held long enough to be shown.
    pub comparing: bool,
    /// Minisocks alive that the filters of the command line let through.
    pub live: Live,
    /// The namespace whose buckets are the fullest.
    pub buckets: Option<Buckets>,
    /// What twtrace itself costs, if that is measured.
    pub own: Option<Own>,
    /// Other outputs of the run that have lost something, by their names.
    pub outputs: BTreeMap<String, Output>,
}

/// What another output of the run has lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Lines.
    pub lines: u64,
    /// Nothing can be written any more.
    pub is_over: bool,
}

/// The state of the screen.
pub struct State {
    /// What the run is.
    pub about: About,
    /// What is watched, once it is known.
    pub start: Option<Start>,
    /// What the counts were when they were reset.
    pub baseline: Baseline,
    /// The last events.
    pub log: Log,
    /// For the times of the events.
    pub clock: Clock,
    /// The time zone that they are shown in.
    pub zone: jiff::tz::TimeZone,
    /// When the run began, and the last tick, nanoseconds of `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// The last tick.
    pub now_ns: u64,
    /// The header.
    pub numbers: Numbers,
    /// Births per second at each tick, the latest last.
    pub history: VecDeque<u64>,
    /// The tab that is shown.
    pub tab: Tab,
    /// Owners by process or cgroup.
    pub grouping: Grouping,
    /// Where somebody is in each tab, by [`Tab::index`].
    pub places: [Place; Tab::ALL.len()],
    /// The rows of the tab that is shown, if it is a table.
    pub rows: Option<Box<dyn Listing>>,
    /// The row that is looked into, and how far down.
    pub detail: Option<(Detail, usize)>,
    /// What is worth knowing now.
    pub notes: Vec<Note>,
    /// The filter of the screen.
    pub sieve: Sieve,
    /// A filter that is being typed.
    pub prompt: Option<String>,
    /// The keys are shown, from this line on.
    pub help: Option<usize>,
    /// What twtrace itself costs is shown in place of the tab.
    pub shows_own: bool,
    /// The screen is held.
    pub paused: bool,
    /// Between ticks.
    pub interval: Duration,
    /// Columns and lines of the terminal.
    pub size: (u16, u16),
    /// The last answer to a key, until the next key.
    pub message: Option<String>,
}

impl State {
    /// A screen of this size before anything has happened.
    #[must_use]
    pub fn new(about: About, clock: Clock, zone: jiff::tz::TimeZone, interval: Duration, size: (u16, u16)) -> Self {
        let mut state = Self {
            about,
            start: None,
            baseline: Baseline::default(),
            log: Log::default(),
            clock,
            zone,
            began_ns: 0,
            now_ns: 0,
            numbers: Numbers::default(),
            history: VecDeque::new(),
            tab: Tab::Ports,
            grouping: Grouping::Process,
            places: Default::default(),
            rows: None,
            detail: None,
            notes: Vec::new(),
            sieve: Sieve::default(),
            prompt: None,
            help: None,
            shows_own: false,
            paused: false,
            interval,
            size,
            message: None,
        };
        state.places[Tab::Events.index()].selected = usize::MAX;
        state.refresh(&Aggregates::none());
        state
    }

    /// The run begins.
    pub fn start(&mut self, mono_ns: u64, start: &Start) {
        (self.began_ns, self.now_ns) = (mono_ns, mono_ns);
        self.start = Some(start.clone());
    }

    /// Something happened.
    pub fn event(&mut self, event: &Event) {
        self.log.push(event);
    }

    /// Something was lost. What all of the run lacks, the next tick has.
    pub fn lost(&mut self, lost: &Lost) {
        let Some(observer) = &lost.observer else { return };
        let is_first = !self.numbers.outputs.contains_key(observer);
        let output = self.numbers.outputs.entry(observer.clone()).or_default();
        output.lines += lost.count;
        output.is_over |= lost.place == Loss::Closed;
        if is_first || output.is_over {
            self.message = Some(format!("{observer} has lost lines: see tab Notes"));
        }
    }

    /// An interval is over.
    pub fn tick(&mut self, mono_ns: u64, tick: &Tick, tables: &Aggregates) {
        self.now_ns = mono_ns;
        self.numbers = Numbers {
            totals: tick.totals.clone(),
            born_per_s: tick.born_per_s,
            died_per_s: tick.died_per_s,
            reconcile: tick.reconcile.clone(),
            comparing: tick.comparing,
            live: tables.live(),
            buckets: tick.buckets.clone(),
            own: tick.own.clone(),
            outputs: std::mem::take(&mut self.numbers.outputs),
        };
        if let Some(rate) = tick.born_per_s {
            if self.history.len() >= HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(rate.round() as u64);
        }
        if !self.paused {
            self.refresh(tables);
        }
    }

    /// Where somebody is in the present tab.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.places[self.tab.index()]
    }

    /// Where somebody is in the present tab, to be changed.
    pub fn place_mut(&mut self) -> &mut Place {
        &mut self.places[self.tab.index()]
    }

    /// Takes the rows of the present tab anew from the tables, and finds the selected one again.
    pub fn refresh(&mut self, tables: &Aggregates) {
        // The old rows go before the new ones come: there may be 100,000 of them.
        self.rows = None;
        let since = &self.baseline;
        self.rows = match self.tab {
            Tab::Ports => Some(sifted(since.ports(tables), |row| self.sieve.port(row))),
            Tab::Destinations => Some(sifted(since.destinations(tables), |row| self.sieve.destination(row))),
            Tab::Owners => Some(match self.grouping {
                Grouping::Process => sifted(since.processes(tables), |row| self.sieve.process(row)),
                Grouping::Cgroup => sifted(since.cgroups(tables), |row| self.sieve.cgroup(row)),
            }),
            Tab::Events => None,
            Tab::Notes => {
                self.notes = advise(tables, since, &self.numbers);
                None
            }
        };
        self.sort();
    }

    /// The selected row of the present tab. Of the events it is the newest, until somebody selects another.
    #[must_use]
    pub fn selected(&self) -> usize {
        self.place().selected.min(self.len().saturating_sub(1))
    }

    /// The column that the present tab's table is sorted by.
    #[must_use]
    pub fn sorted_by(&self) -> usize {
        self.place().sort.unwrap_or(match (self.tab, self.grouping) {
            (Tab::Destinations, _) => DestinationRow::SORTED_BY,
            (Tab::Owners, _) => super::listing::OWNERS_SORTED_BY,
            _ => PortRow::SORTED_BY,
        })
    }

    /// Sorts the rows, and keeps the selection on its row.
    pub fn sort(&mut self) {
        let (column, descending) = (self.sorted_by(), !self.place().ascending);
        if let Some(rows) = &mut self.rows {
            rows.sort(column, descending);
        }
        self.find_selected();
    }

    fn find_selected(&mut self) {
        let found = match (&self.rows, &self.place().id) {
            (Some(rows), Some(id)) => (0..rows.len()).find(|&row| rows.id(row).as_ref() == Some(id)),
            _ => None,
        };
        if let Some(row) = found {
            self.place_mut().selected = row;
        }
    }

    /// How many rows the present tab has.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.tab {
            Tab::Events => self.shown_events().count(),
            Tab::Notes => self.notes.len(),
            _ => self.rows.as_ref().map_or(0, |rows| rows.len()),
        }
    }

    /// True if the present tab has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The events that the filter lets through, oldest first.
    pub fn shown_events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.log.shown().filter(|event| self.sieve.event(event))
    }

    /// Selects a row of the present tab, and remembers which it is.
    pub fn select(&mut self, row: usize) {
        let last = self.len().saturating_sub(1);
        let id = self.rows.as_ref().and_then(|rows| rows.id(row.min(last)));
        let newest = self.tab == Tab::Events && row >= last;
        let place = self.place_mut();
        (place.selected, place.id) = (if newest { usize::MAX } else { row.min(last) }, id);
    }

    /// Rows that a page of the present tab has room for.
    #[must_use]
    pub fn page(&self) -> usize {
        super::view::page(self.size.1)
    }
}

fn sifted<R>(mut rows: Vec<R>, passes: impl Fn(&R) -> bool) -> Box<dyn Listing>
where
    Vec<R>: Listing + 'static,
{
    rows.retain(|row| passes(row));
    Box::new(rows)
}
