//! QEMU's prompt, which takes commands as a user would type them and returns answers as text.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const PROMPT: &str = "(qemu) ";
/// The longest time for an answer of QEMU; a page-table dump has many lines.
const LIMIT: Duration = Duration::from_secs(60);

/// The connection to QEMU's prompt.
pub struct Prompt {
    stream: UnixStream,
    greeted: bool,
}

impl Prompt {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, greeted: false }
    }

    /// Sends QEMU a command and returns its output.
    ///
    /// # Errors
    /// QEMU ended, or does not answer.
    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.stream.set_read_timeout(Some(LIMIT))?;
        if !self.greeted {
            self.until_prompt()?;
            self.greeted = true;
        }
        self.stream.write_all(format!("{command}\n").as_bytes())?;
        let answer = self.until_prompt()?;
        // The first line is the command, echoed in the form in which QEMU's editor shows it.
        let (_, answer) = answer.split_once("\r\n").unwrap_or(("", ""));
        Ok(answer.replace('\r', ""))
    }

    fn until_prompt(&mut self) -> Result<String> {
        let mut text = Vec::new();
        let mut buffer = [0; 64 * 1024];
        while !text.ends_with(PROMPT.as_bytes()) {
            let count = match self.stream.read(&mut buffer) {
                // The kernel does not restart a read with a time limit after a signal, or a stop
                // and a SIGCONT, interrupts it (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.context("QEMU's prompt does not answer")?,
            };
            ensure!(count > 0, "QEMU ended instead of answering");
            text.extend_from_slice(&buffer[..count]);
        }
        text.truncate(text.len() - PROMPT.len());
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn the_answer_is_what_stands_between_the_echo_and_the_prompt() {
        let (ours, mut qemus) = UnixStream::pair().expect("sockets");
        let qemu = thread::spawn(move || {
            qemus.write_all(b"QEMU 7.2\r\n(qemu) ").expect("open");
            let mut command = [0; 10];
            qemus.read_exact(&mut command).expect("a command");
            qemus.write_all(b"info x\x1b[K\r\none\r\ntwo\r\n(qe").expect("open");
            qemus.write_all(b"mu) ").expect("open");
            command
        });
        assert_eq!(Prompt::new(ours).ask("info extra").map_or("".into(), |a| a), "one\ntwo\n");
        assert_eq!(&qemu.join().expect("no panic"), b"info extra");
    }
}
