//! The terminal itself: into the view and out of it again, whatever happens, and keys from it.

use std::{
    io::{self, Write as _},
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread,
};

use crossterm::{
    Command as _,
    cursor::{Hide, Show},
    event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    terminal::{self, EnterAlternateScreen, LeaveAlternateScreen},
};
use tokio::sync::Notify;

use super::{keys::Key, update::Input};

/// The view has the terminal: somebody has to give it back, once.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Keys that may wait: more than anybody types while a frame is drawn.
const KEYS: usize = 256;

/// The terminal while the view has it. Dropping this gives it back, as does a panic of any thread.
pub struct Taken(());

impl Taken {
    /// Takes the terminal of standard output: keys one by one, the other screen, no cursor.
    ///
    /// # Errors
    /// If there is no terminal to be had.
    pub fn take() -> io::Result<Self> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
        }));
        terminal::enable_raw_mode()?;
        TAKEN.store(true, SeqCst);
        let taken = Self(());
        put(&ansi(&[&EnterAlternateScreen, &Hide]))?;
        Ok(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back at once, past whatever still waits to be written.
pub fn give_back() {
    if let Some(bytes) = leave() {
        let _gone = put(&bytes);
    }
}

/// Forgets what the terminal has not shown yet. If it has stopped, what comes last finds room.
pub fn discard() {
    let _gone = rustix::termios::tcflush(io::stdout(), rustix::termios::QueueSelector::OFlush);
}

/// Gives the keyboard back, and returns what has to be written to leave the view; `None` if that has been done.
pub fn leave() -> Option<Vec<u8>> {
    TAKEN.swap(false, SeqCst).then(|| {
        // A terminal that is gone has no mode to be set.
        let _gone = terminal::disable_raw_mode();
        ansi(&[&Show, &LeaveAlternateScreen])
    })
}

/// Takes the terminal again after the process was stopped, and returns what has to be written to enter the view. Whoever had the
/// terminal meanwhile may have changed its settings.
#[must_use]
pub fn enter() -> Vec<u8> {
    let was_left = !TAKEN.swap(true, SeqCst);
    // A terminal that is gone has no mode to be set. What crossterm believes to be set need not be set any more.
    let _gone = terminal::disable_raw_mode();
    let _gone = terminal::enable_raw_mode();
    if was_left { ansi(&[&EnterAlternateScreen, &Hide]) } else { ansi(&[&Hide]) }
}

/// A command of crossterm's that writes itself.
trait Ansi {
    fn write(&self, text: &mut String);
}

impl<C: crossterm::Command> Ansi for C {
    fn write(&self, text: &mut String) {
        // A string takes whatever is written to it.
        let _ = self.write_ansi(text);
    }
}

fn ansi(commands: &[&dyn Ansi]) -> Vec<u8> {
    let mut text = String::new();
    commands.iter().for_each(|command| command.write(&mut text));
    text.into_bytes()
}

fn put(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// The bytes that put a text into the terminal's clipboard (OSC 52).
#[must_use]
pub fn clipboard(text: &str) -> Vec<u8> {
    let mut bytes = String::new();
    let _ = crossterm::clipboard::CopyToClipboard::to_clipboard_from(text).write_ansi(&mut bytes);
    bytes.into_bytes()
}

/// Columns and lines of the terminal.
///
/// # Errors
/// If it does not tell.
pub fn size() -> io::Result<(u16, u16)> {
    terminal::size()
}

/// What comes from the terminal, in order.
pub struct Inputs {
    /// Where it is taken from.
    pub from: mpsc::Receiver<Input>,
    /// Told of each.
    pub typed: Arc<Notify>,
}

/// Keys and changes of size, from a thread of their own: crossterm waits for them.
///
/// # Errors
/// If there is no room for one more thread.
pub fn inputs() -> io::Result<Inputs> {
    let (to, from) = mpsc::sync_channel(KEYS);
    let typed = Arc::new(Notify::new());
    let wake = Arc::clone(&typed);
    thread::Builder::new().name("twtrace-keys".to_owned()).spawn(move || {
        loop {
            let input = match event::read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => read(key).map(Input::Key),
                Ok(Event::Resize(columns, lines)) => Some(Input::Resize(columns, lines)),
                Ok(_) => None,
                Err(_) => Some(Input::Gone),
            };
            let Some(input) = input else { continue };
            let is_over = to.send(input).is_err() || input == Input::Gone;
            wake.notify_one();
            if is_over {
                return;
            }
        }
    })?;
    Ok(Inputs { from, typed })
}

fn read(key: KeyEvent) -> Option<Key> {
    Some(match key.code {
        KeyCode::Char(c) if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Control(c.to_ascii_lowercase()),
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}
