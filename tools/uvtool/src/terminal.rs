//! The terminal of `uvtool`: detects it, and changes its modes for a while.
//!
//! Rule: however the program ends, if it can still act, it undoes its changes.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// The terminal's modes before raw mode; set while raw mode lasts.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
/// Whether the alternate screen is shown.
static OTHER_SCREEN: AtomicBool = AtomicBool::new(false);

/// Restores the terminal before another thread ends this process.
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

/// Whether standard input and standard output are both a terminal.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks a question; `y` and `yes` mean yes, and any other answer means no.
pub fn confirm(question: &str) -> bool {
    let mut error = std::io::stderr();
    let _ = write!(error, "{question} [y/N] ");
    let _ = error.flush();
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Standard input without line editing and signals; dropping this restores it.
pub struct Raw(bool);

impl Raw {
    /// Switches to raw mode; does nothing if standard input is no terminal.
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

/// Switches back from the alternate screen.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// The alternate screen of the terminal, without a cursor; dropping this shows the normal screen
/// again.
pub struct Screen(Raw);

impl Screen {
    /// Switches to the alternate screen.
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

    /// Replaces the contents of the screen by this text.
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
