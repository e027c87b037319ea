//! The live view as a sink: frames are bytes like any other, so a slow terminal misses frames and holds nobody up.

use std::{
    fs::File,
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ratatui::{Terminal, TerminalOptions, Viewport, backend::CrosstermBackend, layout::Rect};

use tokio::sync::Notify;

use super::{
    sieve::Sieve,
    state::{State, Tab},
    terminal::{self, Inputs},
    update::{self, Effect, Input},
    view,
};
use crate::{
    filter::resolve::Resolver,
    model::{
        aggregate::Aggregates,
        event::Event,
        happening::{Lost, Tick},
        report::{Start, Summary},
    },
    show::Clock,
    sink::{Batch, Lines, Live, Observer, Steer, notes},
};

/// Between two frames: at most 20 a second.
const FRAME: Duration = Duration::from_millis(50);
/// Between two frames of events that scroll by: nobody reads faster.
const SCROLL: Duration = Duration::from_millis(250);

/// Bytes that may wait for the terminal before a copy is refused: nobody copies as much while it takes nothing.
const COPIES: usize = 64 * 1024;

/// Bytes on their way to the terminal; ratatui writes, [`Lines::take`] takes.
#[derive(Clone, Default)]
struct Bytes(Arc<Mutex<Vec<u8>>>);

impl Bytes {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|waiting| waiting.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The screen.
pub struct Screen {
    state: State,
    inputs: Inputs,
    terminal: Terminal<CrosstermBackend<Bytes>>,
    bytes: Bytes,
    /// What is drawn differs from the state.
    stale: bool,
    /// What is drawn differs from the state, but only by events that scroll by.
    scrolled: bool,
    drawn: Option<Instant>,
    notes: String,
    is_over: bool,
    /// The terminal is somebody else's.
    is_away: bool,
}

impl Screen {
    /// A screen for this state, steered by these inputs.
    ///
    /// # Errors
    /// None that a buffer in memory can have.
    pub fn new(state: State, inputs: Inputs) -> io::Result<Self> {
        let bytes = Bytes::default();
        let viewport = Viewport::Fixed(area(state.size));
        let backend = CrosstermBackend::new(bytes.clone());
        let terminal = Terminal::with_options(backend, TerminalOptions { viewport })?;
        Ok(Self {
            state,
            inputs,
            terminal,
            bytes,
            stale: true,
            scrolled: false,
            drawn: None,
            notes: String::new(),
            is_over: false,
            is_away: false,
        })
    }

    fn is_due(&self) -> bool {
        if self.is_over || self.is_away {
            return false;
        }
        let since = self.drawn.map_or(Duration::MAX, |drawn| drawn.elapsed());
        (self.stale && since >= FRAME) || (self.scrolled && since >= SCROLL)
    }

    fn draw(&mut self, tables: &Aggregates) {
        // Memory takes whatever is written to it.
        let _ = self.terminal.draw(|frame| view::draw(frame, &self.state, tables));
        (self.stale, self.scrolled, self.drawn) = (false, false, Some(Instant::now()));
    }

    fn input(&mut self, input: Input, tables: &Aggregates) -> Option<Steer> {
        self.stale = true;
        if let Input::Resize(width, height) = input {
            // As above: nothing but memory is written to.
            let _ = self.terminal.resize(area((width, height)));
        }
        let effect = update::update(&mut self.state, input, tables)?;
        self.carry_out(effect, tables)
    }

    fn carry_out(&mut self, effect: Effect, tables: &Aggregates) -> Option<Steer> {
        match effect {
            Effect::Quit => return Some(Steer::End),
            Effect::Suspend => return Some(Steer::Suspend),
            Effect::Interval(interval) => return Some(Steer::Interval(interval)),
            Effect::Measure(whether) => return Some(Steer::Measure(whether)),
            Effect::Copy(text) => {
                let fits = self.bytes.with(|bytes| {
                    let fits = bytes.len() < COPIES;
                    if fits {
                        bytes.extend(terminal::clipboard(&text));
                    }
                    fits
                });
                if !fits {
                    self.state.message = Some("not copied: the terminal takes nothing".to_owned());
                }
            }
            Effect::Write(name, json) => {
                let message = write(name, &json).map_or_else(
                    |error| format!("cannot write the table: {error}"),
                    |path| format!("table written to {}", path.display()),
                );
                self.state.message = Some(message);
            }
            Effect::Filter(words) => {
                update::filter(&mut self.state, Sieve::read(&words, &Resolver::default()), tables);
            }
        }
        None
    }
}

fn area((width, height): (u16, u16)) -> Rect {
    Rect { x: 0, y: 0, width, height }
}

/// Writes a table into a new file of the working directory.
fn write(name: &str, json: &str) -> io::Result<PathBuf> {
    let now = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S");
    let path = std::env::current_dir()?.join(format!("twtrace-{name}-{now}.json"));
    File::create_new(&path)?.write_all(json.as_bytes())?;
    Ok(path)
}

impl Observer for Screen {
    fn start(&mut self, mono_ns: u64, start: &Start) {
        self.state.start(mono_ns, start);
        self.stale = true;
    }

    fn event(&mut self, event: &Event) {
        self.state.event(event);
        self.scrolled |= self.state.tab == Tab::Events && !self.state.paused;
    }

    fn lost(&mut self, _: u64, lost: &Lost) {
        self.state.lost(lost);
        self.stale = true;
    }

    fn tick(&mut self, mono_ns: u64, tick: &Tick, tables: &Aggregates) {
        self.state.tick(mono_ns, tick, tables);
        self.stale = true;
    }

    fn summary(&mut self, _: u64, summary: &Summary) {
        self.is_over = true;
        self.notes = notes::summary(summary);
        if let Some(bytes) = terminal::leave() {
            self.bytes.with(|waiting| waiting.extend(bytes));
        }
    }

    fn set_clock(&mut self, clock: Clock) {
        self.state.clock = clock;
    }
}

impl Lines for Screen {
    fn pending(&self) -> usize {
        let waiting = self.bytes.with(|bytes| bytes.len());
        if self.is_due() { waiting + 1 } else { waiting }
    }

    fn take(&mut self, tables: &Aggregates) -> Batch {
        if self.is_due() {
            self.draw(tables);
        }
        self.bytes.with(std::mem::take).into()
    }

    fn notes(&mut self) -> String {
        std::mem::take(&mut self.notes)
    }

    fn live(&mut self) -> Option<&mut dyn Live> {
        Some(self)
    }

    fn is_live(&self) -> bool {
        true
    }
}

impl Live for Screen {
    fn typed(&self) -> Arc<Notify> {
        Arc::clone(&self.inputs.typed)
    }

    fn asked(&mut self, tables: &Aggregates) -> Option<Steer> {
        while let Ok(input) = self.inputs.from.try_recv() {
            let steer = self.input(input, tables);
            if steer.is_some() {
                return steer;
            }
        }
        None
    }

    fn discard(&mut self) {
        terminal::discard();
    }

    fn leave(&mut self) {
        self.is_away = true;
        if let Some(bytes) = terminal::leave() {
            self.bytes.with(|waiting| waiting.extend(bytes));
        }
    }

    fn come_back(&mut self) {
        self.is_away = false;
        let bytes = terminal::enter();
        self.bytes.with(|waiting| waiting.extend(bytes));
        if let Ok(size) = terminal::size() {
            self.state.size = size;
        }
        // As above. Resizing also forgets what was drawn, so that all of it is drawn again.
        let _ = self.terminal.resize(area(self.state.size));
        self.stale = true;
    }
}
