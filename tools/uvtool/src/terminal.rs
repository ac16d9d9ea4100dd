//! The terminal that uvtool runs on: whether there is one, and taking it over for a while.
//!
//! Rule: what was changed is changed back, however the program ends that can still act.

use std::io::{IsTerminal, Write};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

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
pub struct Raw(Option<Termios>);

impl Raw {
    /// Takes the terminal; does nothing where standard input is none.
    pub fn take() -> Self {
        let input = std::io::stdin();
        let Ok(before) = tcgetattr(&input) else {
            return Self(None);
        };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        match tcsetattr(&input, SetArg::TCSANOW, &raw) {
            Ok(()) => Self(Some(before)),
            Err(_) => Self(None),
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

/// The other screen of the terminal, without a cursor; the first one again when this is dropped.
pub struct Screen(Raw);

impl Screen {
    /// Switches to it.
    pub fn take() -> Self {
        let raw = Raw::take();
        Self::write("\x1b[?1049h\x1b[?25l");
        Self(raw)
    }

    /// Whether there is a terminal that keys can be read from.
    pub const fn has_keys(&self) -> bool {
        self.0.0.is_some()
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

impl Drop for Screen {
    fn drop(&mut self) {
        Self::write("\x1b[?25h\x1b[?1049l");
    }
}
