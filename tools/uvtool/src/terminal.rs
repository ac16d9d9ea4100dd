//! The terminal that uvtool runs on: whether there is one, and taking it over for a while.
//!
//! Rule: what was changed is changed back, however the program ends that can still act.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// The modes of the terminal before it was taken, while it is.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
/// Whether the other screen is shown.
static OTHER_SCREEN: AtomicBool = AtomicBool::new(false);

/// Gives the terminal back where it is taken, before this process ends from another thread.
pub fn give_back() {
    if OTHER_SCREEN.swap(false, Ordering::SeqCst) {
        Screen::write(LEAVE);
    }
    if let Ok(mut before) = BEFORE.lock()
        && let Some(before) = before.take()
    {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &before);
    }
}

/// Whether a person sits at both ends.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks a question that is answered with yes or no; anything but `y` and `yes` is no.
pub fn confirm(question: &str) -> bool {
    let mut error = std::io::stderr();
    let _ = write!(error, "{question} [y/N] ");
    let _ = error.flush();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Standard input without line editing and signals; as it was when this is dropped.
pub struct Raw(bool);

impl Raw {
    /// Takes the terminal; does nothing where standard input is none.
    pub fn take() -> Self {
        let input = std::io::stdin();
        let Ok(before) = tcgetattr(&input) else {
            return Self(false);
        };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        if tcsetattr(&input, SetArg::TCSANOW, &raw).is_err() {
            return Self(false);
        }
        if let Ok(mut kept) = BEFORE.lock() {
            kept.get_or_insert(before);
        }
        Self(true)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        give_back();
    }
}

/// Switches back from the other screen.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// The other screen of the terminal, without a cursor; the first one again when this is dropped.
pub struct Screen(Raw);

impl Screen {
    /// Switches to it.
    pub fn take() -> Self {
        let raw = Raw::take();
        OTHER_SCREEN.store(true, Ordering::SeqCst);
        Self::write("\x1b[?1049h\x1b[?25l");
        Self(raw)
    }

    /// Whether there is a terminal that keys can be read from.
    pub const fn has_keys(&self) -> bool {
        self.0.0
    }

    /// Shows this text in place of what is there.
    pub fn show(&self, text: &str) {
        let lines = text.replace('\n', "\x1b[K\r\n");
        Self::write(&format!("\x1b[H{lines}\x1b[J"));
    }

    fn write(text: &str) {
        let mut output = std::io::stdout();
        let _ = output.write_all(text.as_bytes());
        let _ = output.flush();
    }
}
