//! `cargo xtask exec`: runs one command in the command partition of a fresh host.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use harness_protocol::{Packet, Words};

use crate::machine::qemu;
use crate::machine::{Event, Machine, NoEvent};
use crate::options::MachineOptions;

/// The status of `exec` when its time is up.
pub const STATUS_TIMED_OUT: u8 = 124;
/// The status of `exec` when it could not run the command to its end.
pub const STATUS_FAILED: u8 = 125;

/// How the command ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command ended with this status.
    Exited(i32),
    /// The command did not end in time; the message says how far it got.
    TimedOut(String),
}

/// The sources and sinks of the command's streams.
pub trait Streams {
    /// Takes bytes of the command's standard output.
    ///
    /// # Errors
    /// Nobody reads them any more.
    fn output(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Takes bytes of the command's standard error.
    ///
    /// # Errors
    /// Nobody reads them any more.
    fn error(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Starts to send the command's standard input, in packets, on this line.
    fn start_input(&mut self, line: File);
}

/// The streams of this process.
pub struct OwnStreams;

impl Streams for OwnStreams {
    fn output(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }

    fn error(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::stderr().write_all(bytes)
    }

    fn start_input(&mut self, mut line: File) {
        // The thread ends with the process, or earlier if the line is closed.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let count = io::stdin().read(&mut buffer).unwrap_or(0);
                let packet = Packet::Input(buffer[..count].to_vec());
                if line.write_all(&packet.encode()).is_err() || count == 0 {
                    return;
                }
            }
        });
    }
}

/// Boots `image` on `options`, runs `words` and powers off.
///
/// # Errors
/// The machine does not start, stops by itself, or breaks the protocol.
pub fn exec(
    options: &MachineOptions,
    image: &Path,
    words: Vec<String>,
    timeout: Option<Duration>,
    show_console: bool,
) -> Result<Outcome> {
    let words = Words::new(words)?;
    let deadline = timeout.map(|limit| Instant::now() + limit);
    let mut machine = Machine::start(options, image)?;
    machine.show_console = show_console;
    let outcome = match wait_ready(&mut machine, deadline)? {
        Outcome::Exited(_) => run_command(&mut machine, words, deadline, &mut OwnStreams)?,
        late => return Ok(late),
    };
    if outcome != Outcome::TimedOut(String::new()) && !machine.power_off() {
        eprintln!("xtask: the host did not power off; it was ended");
    }
    Ok(outcome)
}

/// Waits until the command partition accepts commands, and then returns status 0.
///
/// # Errors
/// The machine stopped.
pub fn wait_ready(machine: &mut Machine, deadline: Option<Instant>) -> Result<Outcome> {
    loop {
        match machine.next_event(deadline) {
            Ok(Event::Packet(Packet::Ready(_))) => return Ok(Outcome::Exited(0)),
            Ok(Event::Packet(_) | Event::Noise(_) | Event::Console(_)) => {}
            Err(NoEvent::TimedOut) => {
                return Ok(late(machine, "the command partition was not ready in time"));
            }
            Ok(Event::Closed) | Err(NoEvent::Ended) => {
                return Err(stopped(machine, "before the command partition was ready"));
            }
        }
    }
}

/// Runs a command on a machine that is ready.
///
/// # Errors
/// The machine stopped, or a stream of this process is closed.
pub fn run_command(
    machine: &mut Machine,
    words: Words,
    deadline: Option<Instant>,
    streams: &mut impl Streams,
) -> Result<Outcome> {
    machine.send(&Packet::Command(words))?;
    streams.start_input(machine.line()?);
    loop {
        match machine.next_event(deadline) {
            Ok(Event::Packet(Packet::Output(bytes))) => streams.output(&bytes)?,
            Ok(Event::Packet(Packet::Error(bytes))) => streams.error(&bytes)?,
            Ok(Event::Packet(Packet::Exit(status))) => return Ok(Outcome::Exited(status)),
            Ok(Event::Packet(Packet::Ready(_))) => {
                bail!("the command partition started anew while the command ran")
            }
            Ok(Event::Noise(what)) => bail!("bytes were lost on the harness line: {what}"),
            Ok(Event::Packet(_) | Event::Console(_)) => {}
            Err(NoEvent::TimedOut) => return Ok(late(machine, "the command did not end in time")),
            Ok(Event::Closed) | Err(NoEvent::Ended) => {
                return Err(stopped(machine, "before the command ended"));
            }
        }
    }
}

fn late(machine: &mut Machine, what: &str) -> Outcome {
    Outcome::TimedOut(format!("{what}; {}", machine.console_tail()))
}

fn stopped(machine: &mut Machine, when: &str) -> anyhow::Error {
    let how = match machine.ended().map(|status| status.code()) {
        Ok(Some(0 | qemu::STATUS_POWER_OFF)) => "the host powered off".to_owned(),
        Ok(Some(qemu::STATUS_STOPPED)) => "the monitor stopped the host".to_owned(),
        Ok(Some(code)) => format!("QEMU ended with status {code}"),
        Ok(None) => "QEMU was killed".to_owned(),
        Err(error) => error.to_string(),
    };
    anyhow::anyhow!("{how} {when}; {}", machine.console_tail())
}
