//! The inner end of the harness line: runs one command at a time for whoever booted the machine.
//!
//! ```text
//! line --> Decoder --> Running: stdin          turn() does all that can be done now without
//! line <-- out     <-- Running: stdout/stderr  blocking; poll_fds() says what to wait for
//! ```
//!
//! Rule: memory held is bounded. While [`OUT_LIMIT`] bytes wait for the line, the command's output
//! is not read; while [`IN_LIMIT`] bytes wait for the command, the line is not read.

mod command;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use harness_protocol::{DecodeError, Decoder, Packet, Words};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::unistd::Pid;

use crate::warning;
pub use command::PATH;
use command::Running;

/// Bytes that may wait for the line before the command's output is left in its pipes.
pub const OUT_LIMIT: usize = 512 * 1024;
/// Bytes that may wait for the command's standard input before this module stops reading the line.
pub const IN_LIMIT: usize = 8 * 1024 * 1024;
/// Bytes read from the line at a time.
const PIECE: usize = 4096;

/// The harness line and the command that runs for it.
pub struct Session {
    line: OwnedFd,
    decoder: Decoder,
    out: VecDeque<u8>,
    command: Option<Running>,
    home: PathBuf,
}

/// The result of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing more can be done now.
    Idle,
    /// The other end asks to power off the machine.
    PowerOff,
    /// The line is lost.
    Lost(Errno),
}

impl Session {
    /// Serves a line that is already raw. Commands run in the directory `home`. Sends the ready
    /// packet with the kernel's release.
    pub fn new(line: OwnedFd, release: &str, home: PathBuf) -> nix::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&line, FcntlArg::F_GETFL)?);
        fcntl(&line, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let out = Packet::Ready(release.into()).encode().into();
        Ok(Self { line, decoder: Decoder::new(), out, command: None, home })
    }

    /// Adds the descriptors to wait for before the next turn.
    pub fn poll_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        let mut line = PollFlags::empty();
        line.set(PollFlags::POLLIN, self.takes_packets());
        line.set(PollFlags::POLLOUT, !self.out.is_empty());
        fds.push(PollFd::new(self.line.as_fd(), line));
        let Some(command) = &self.command else { return };
        if let Some(input) = command.wants_input() {
            fds.push(PollFd::new(input, PollFlags::POLLOUT));
        }
        if self.out.len() < OUT_LIMIT {
            let outputs = command.outputs();
            fds.extend(outputs.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        }
    }

    /// Does all that can be done without blocking.
    pub fn turn(&mut self) -> Turn {
        let end = self.take_packets();
        if let Some(command) = &mut self.command {
            command.feed();
        }
        self.take_output();
        match (end, self.flush()) {
            (Turn::Idle, Err(error)) => Turn::Lost(error),
            (end, _) => end,
        }
    }

    /// Notes that a process ended; false if it is not the command's.
    pub fn child_ended(&mut self, pid: Pid, status: i32) -> bool {
        match &mut self.command {
            Some(command) if command.pid() == pid => {
                command.ended(status);
                true
            }
            _ => false,
        }
    }

    /// The process of the running command.
    #[cfg(test)]
    pub fn command(&self) -> Option<Pid> {
        self.command.as_ref().map(Running::pid)
    }

    /// Ends the running command, because the line is lost.
    pub fn hang_up(&self) {
        if let Some(command) = &self.command {
            let _ = command.signal(nix::libc::SIGHUP);
            let _ = command.signal(nix::libc::SIGCONT);
        }
    }

    fn takes_packets(&self) -> bool {
        self.command.as_ref().is_none_or(|command| command.backlog() < IN_LIMIT)
    }

    fn take_packets(&mut self) -> Turn {
        let mut bytes = [0; PIECE];
        while self.takes_packets() {
            match nix::unistd::read(&self.line, &mut bytes) {
                Ok(0) => return Turn::Lost(Errno::EPIPE),
                Ok(read) => self.decoder.push(&bytes[..read]),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(error) => return Turn::Lost(error),
            }
            if self.obey_all() {
                return Turn::PowerOff;
            }
        }
        Turn::Idle
    }

    /// Obeys the packets that arrived; true means power off. A stretch of noise gives one message,
    /// however long it is.
    fn obey_all(&mut self) -> bool {
        let mut noise: Option<(DecodeError, u32)> = None;
        let power_off = loop {
            match self.decoder.next_packet() {
                Ok(None) => break false,
                Ok(Some(Packet::PowerOff)) => break true,
                Ok(Some(packet)) => self.obey(packet),
                Err(error) => noise = Some((error, noise.map_or(1, |(_, count)| count + 1))),
            }
        };
        if let Some((error, count)) = noise {
            warning!("harness line: {count} times noise, last: {error}");
        }
        power_off
    }

    fn obey(&mut self, packet: Packet) {
        match (packet, &mut self.command) {
            (Packet::Command(words), None) => self.start(&words),
            (Packet::Command(_), Some(_)) => {
                self.say(&Packet::Error(b"uv-init: a command is running already\n".into()));
            }
            (Packet::Input(bytes), Some(command)) => command.give(&bytes),
            (Packet::Signal(number), Some(command)) => {
                if let Err(error) = command.signal(number) {
                    let text = format!("uv-init: signal {number}: {}\n", error.desc());
                    self.say(&Packet::Error(text.into()));
                }
            }
            // Input and signals for a command that has just ended.
            (Packet::Input(_) | Packet::Signal(_), None) => {}
            (other, _) => warning!("harness line: not for this end: {other:?}"),
        }
    }

    fn start(&mut self, words: &Words) {
        match Running::start(words, &self.home) {
            Ok(command) => self.command = Some(command),
            Err(problem) => {
                self.say(&Packet::Error(problem.message.into()));
                self.say(&Packet::Exit(problem.status));
            }
        }
    }

    /// Moves the command's output to the line, and reports the command's end after all of its
    /// output.
    fn take_output(&mut self) {
        let Some(command) = &mut self.command else {
            return;
        };
        let out = &mut self.out;
        let mut room = out.len() < OUT_LIMIT;
        if room {
            command.read_output(|packet| {
                out.extend(packet.encode());
                room = out.len() < OUT_LIMIT;
                room
            });
        }
        // If there is room left, the pipes are empty.
        if let Some(status) = command.status().filter(|_| room) {
            self.command = None;
            self.say(&Packet::Exit(status));
        }
    }

    fn say(&mut self, packet: &Packet) {
        self.out.extend(packet.encode());
    }

    /// Writes as much as the line takes.
    fn flush(&mut self) -> nix::Result<()> {
        while !self.out.is_empty() {
            match nix::unistd::write(&self.line, self.out.as_slices().0) {
                Ok(written) => drop(self.out.drain(..written)),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
