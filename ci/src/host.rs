//! The typed harness: a booted host, and the answers of its command partition.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness_protocol::{Packet, Words};
use rig::image::host::Destination;
use rig::image::{boot_image, host, state_disk};
use rig::machine::exec::{self, Outcome, Streams};
use rig::machine::{Event, Machine};
use rig::options::{BootOptions, MachineOptions};

/// The time limit of a boot on a slow machine.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// The time limit of a command, unless the check sets another.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// The key that detaches from a console: Ctrl-].
pub const DETACH: &str = "\x1d";

/// A running host.
pub struct Host {
    /// The machine.
    pub machine: Machine,
    /// The options of the machine.
    pub options: MachineOptions,
}

/// The result of a command.
#[derive(Debug, Default)]
pub struct Output {
    /// Its exit status.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Collects output and sends the given input.
#[derive(Default)]
struct Collected {
    input: Vec<u8>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Streams for Collected {
    fn output(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stdout.extend_from_slice(bytes);
        Ok(())
    }

    fn error(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stderr.extend_from_slice(bytes);
        Ok(())
    }

    fn start_input(&mut self, mut line: File) {
        let end = Packet::Input(Vec::new());
        let data = Packet::Input(std::mem::take(&mut self.input));
        // A closed line shows later as the end of the machine.
        let _ = line.write_all(&data.encode());
        if data != end {
            let _ = line.write_all(&end.encode());
        }
    }
}

/// Types an answer whenever the output has the expected text.
struct Dialogue {
    /// The expected texts, in this order, with their answers.
    turns: VecDeque<(&'static str, &'static str)>,
    /// The offset at which the search for the next text begins.
    from: usize,
    line: Option<File>,
    all: String,
}

impl Streams for Dialogue {
    fn output(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.all.push_str(&String::from_utf8_lossy(bytes));
        while let Some((expected, answer)) = self.turns.front()
            && let Some(at) = self.all[self.from..].find(expected)
        {
            self.from += at + expected.len();
            if let Some(line) = &mut self.line
                && !answer.is_empty()
            {
                line.write_all(&Packet::Input(answer.as_bytes().to_vec()).encode())?;
            }
            self.turns.pop_front();
        }
        Ok(())
    }

    fn error(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.all.push_str(&String::from_utf8_lossy(bytes));
        Ok(())
    }

    fn start_input(&mut self, line: File) {
        self.line = Some(line);
    }
}

impl Host {
    /// Builds and boots a host, and waits until it accepts commands.
    ///
    /// # Errors
    /// The host does not come up; the message has the console's last lines.
    pub fn boot(options: &MachineOptions, boot: &BootOptions) -> Result<Self> {
        let boot = state_disk::options(boot, options)?;
        let image = boot_image::make(&host::payload(&boot, Destination::Qemu)?)?;
        let mut machine = Machine::start(options, &image)?;
        match exec::wait_ready(&mut machine, Some(Instant::now() + BOOT_LIMIT))? {
            Outcome::Exited(_) => Ok(Self { machine, options: options.clone() }),
            Outcome::TimedOut(message) => bail!(message),
        }
    }

    /// Runs a command with this input and time limit.
    ///
    /// # Errors
    /// The command does not end in time, or the machine ends.
    pub fn run(&mut self, words: &[&str], input: &[u8], limit: Duration) -> Result<Output> {
        let mut streams = Collected { input: input.to_vec(), ..Collected::default() };
        let deadline = Some(Instant::now() + limit);
        let line = words.join(" ");
        let words = Words::new(words.iter().copied())?;
        match exec::run_command(&mut self.machine, words, deadline, &mut streams)? {
            Outcome::TimedOut(message) => {
                self.end_command();
                bail!("`{line}`: {message}")
            }
            Outcome::Exited(status) => Ok(Output {
                status,
                stdout: String::from_utf8_lossy(&streams.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&streams.stderr).into_owned(),
            }),
        }
    }

    /// Runs a command, and types the next answer whenever its output has the next expected text;
    /// returns the whole output.
    ///
    /// # Errors
    /// An expected text did not come, the command failed or does not end, or the machine ends.
    pub fn converse(
        &mut self,
        words: &[&str],
        turns: &[(&'static str, &'static str)],
        limit: Duration,
    ) -> Result<String> {
        let turns = turns.iter().copied().collect();
        let mut dialogue = Dialogue { turns, from: 0, line: None, all: String::new() };
        let deadline = Some(Instant::now() + limit);
        let line = words.join(" ");
        let words = Words::new(words.iter().copied())?;
        let ended = exec::run_command(&mut self.machine, words, deadline, &mut dialogue)?;
        let all = dialogue.all;
        if matches!(ended, Outcome::TimedOut(_)) {
            self.end_command();
        }
        if let Some((expected, _)) = dialogue.turns.front() {
            bail!("`{line}` did not print {expected:?}: {all:?}");
        }
        match ended {
            Outcome::Exited(0) => Ok(all),
            Outcome::Exited(status) => bail!("`{line}` ended with status {status}: {all:?}"),
            Outcome::TimedOut(message) => bail!("`{line}`: {message}: {all:?}"),
        }
    }

    /// Kills the running command, so that the machine can take another.
    fn end_command(&mut self) {
        const SIGKILL: i32 = 9;
        let deadline = Some(Instant::now() + COMMAND_LIMIT);
        // If the machine does not answer, the next command fails.
        let _ = self.machine.send(&Packet::Signal(SIGKILL));
        while let Ok(event) = self.machine.next_event(deadline) {
            if matches!(event, Event::Packet(Packet::Exit(_)) | Event::Closed) {
                return;
            }
        }
    }

    /// Runs a shell command that must succeed, and returns its output without the last newline.
    ///
    /// # Errors
    /// The command fails, does not end, or the machine ends.
    pub fn sh(&mut self, command: &str) -> Result<String> {
        let output = self.run(&["sh", "-c", command], b"", COMMAND_LIMIT)?;
        ensure!(
            output.status == 0,
            "`{command}` ended with status {}: {}{}",
            output.status,
            output.stdout,
            output.stderr
        );
        Ok(output.stdout.trim_end().to_owned())
    }

    /// Powers the host off. The machine must end by itself.
    ///
    /// # Errors
    /// The machine had to be killed.
    pub fn power_off(mut self) -> Result<()> {
        let off = self.machine.power_off();
        ensure!(off, "the host did not power off; {}", self.machine.console_tail());
        Ok(())
    }

    /// Runs a shell command, as [`Self::sh`] does, and returns its output as a number.
    ///
    /// # Errors
    /// As [`Self::sh`], or the output is not a number.
    pub fn number(&mut self, command: &str) -> Result<u64> {
        let text = self.sh(command)?;
        text.parse().with_context(|| format!("`{command}` printed {text:?}, not a number"))
    }
}
