//! Attaches to a console: the partition's output goes to standard output, and standard input goes
//! to the partition.
//!
//! ```text
//! standard input --> typing --Input--> uvd --> ring --> the partition's kernel
//!                       ^------------ answer --------------------+
//! ```
//!
//! Rules: `uvtool` reads input once the console is attached, and has one piece of it under way at a
//! time, so the program that writes to standard input is slowed to the partition's pace. The
//! console is left when the partition has read all input; otherwise, the number of bytes that the
//! partition may not have read is reported. The terminal is in raw mode while the console is
//! attached, and restored before anything else is printed.

mod typing;

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use control::command::Code;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use uvd_protocol::{Answered, End, Failure, MAX_INPUT, Service, ServiceAnswer, Told};

use crate::answer;
use crate::connection::Uvd;
use crate::source::Error;
use crate::terminal::{self, Raw};
use typing::{Keys, Typing};

/// Why a console was left.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    /// The user typed the detach key.
    Detached,
    /// The partition has read all input, and the input has ended.
    InputEnded,
    /// The reader of standard output closed it.
    OutputClosed,
    /// The command's time limit has passed.
    TimeIsUp,
    /// Its partition ended, or has no more output to show.
    Ended(Option<End>),
}

/// How a console was left.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed {
    /// The reason.
    pub left: Left,
    /// Bytes of input that the partition may not have read.
    pub unread: usize,
}

/// How a console uses standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Standard input is not read.
    Ignored,
    /// Standard input is typed; when it ends, the console stays attached.
    Typed,
    /// Standard input is typed; when it ends, the console is left.
    TypedToTheEnd,
}

/// Shows a console until it ends or is left.
pub fn attach(uvd: &mut Uvd, request: Service, input: Input) -> Result<Closed, Error> {
    let id = uvd.begin(request)?;
    let typing = Typing::new(input, std::io::stdin().is_terminal());
    // This file has no buffer of the standard library, because poll does not report buffered bytes.
    let stdin = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut console = Console { id, input, stdin, typing, raw: None, active: Instant::now() };
    let left = match console.run(uvd) {
        Err(Error::Terminal(error)) if error.kind() == ErrorKind::BrokenPipe => Left::OutputClosed,
        left => left?,
    };
    Ok(Closed { left, unread: console.typing.unread() })
}

struct Console {
    /// Id of the request.
    id: u64,
    input: Input,
    stdin: File,
    typing: Typing,
    /// Raw mode of the terminal, while it lasts.
    raw: Option<Raw>,
    /// The last time that something was printed, or read by the partition.
    active: Instant,
}

impl Console {
    fn run(&mut self, uvd: &mut Uvd) -> Result<Left, Error> {
        loop {
            while let Some(told) = uvd.buffered()? {
                if let Some(end) = self.take(told)? {
                    return Ok(Left::Ended(end));
                }
            }
            self.send(uvd)?;
            let now = Instant::now();
            if let Some(left) = self.typing.is_to_leave(now, self.active) {
                return Ok(left);
            }
            if uvd.deadline().is_some_and(|deadline| deadline <= now) {
                return Ok(Left::TimeIsUp);
            }
            let (answer, key) = self.wait(uvd, now)?;
            if answer {
                uvd.receive()?;
            }
            if key && self.read_keys()? {
                return Ok(Left::Detached);
            }
        }
    }

    /// Handles a message of `uvd`; returns how the console ended, if it did.
    fn take(&mut self, told: Told) -> Result<Option<Option<End>>, Error> {
        if self.typing.answered(told.id, told.result.is_ok()) {
            self.active = Instant::now();
            return told
                .result
                .err()
                .map_or(Ok(()), |failure| self.not_read(failure))
                .map(|()| None);
        }
        if told.id != self.id && told.id != 0 {
            return Ok(None);
        }
        match told.result? {
            Answered::Output(bytes) => {
                show(&bytes)?;
                self.active = Instant::now();
            }
            Answered::Attached => self.attached(),
            Answered::Service(ServiceAnswer::Ended { end }) => return Ok(Some(end)),
            Answered::Progress(_) => {}
            _ => return Err(Error::Other("a console")),
        }
        Ok(None)
    }

    fn attached(&mut self) {
        self.typing.attached();
        if self.input == Input::Ignored {
            return;
        }
        if terminal::is_interactive() && !answer::is_json() {
            eprintln!("uvtool: attached; Ctrl-] detaches");
        }
        self.raw = Some(Raw::take());
    }

    /// Handles input that the partition did not read. Another message reports a partition's end; a
    /// user at a terminal sees the reason and goes on typing.
    fn not_read(&self, failure: Failure) -> Result<(), Error> {
        match &failure {
            Failure::Refused(refusal) if refusal.code == Code::ConsoleEnded => Ok(()),
            _ if self.stdin.is_terminal() => show(format!("\r\n[{failure}]\r\n").as_bytes()),
            _ => Err(failure.into()),
        }
    }

    /// Sends the next piece of input, if none is under way.
    fn send(&mut self, uvd: &mut Uvd) -> Result<(), Error> {
        if let Some(bytes) = self.typing.next_piece() {
            let count = bytes.len();
            let request = uvd.begin(Service::Input { console: self.id, bytes })?;
            self.typing.sent(request, count);
        }
        Ok(())
    }

    /// Waits for an answer and for keys. Returns whether an answer came, and whether keys came.
    fn wait(&self, uvd: &Uvd, now: Instant) -> Result<(bool, bool), Error> {
        let output = std::io::stdout();
        // Poll reports that nobody reads a pipe any more, even if no event is requested.
        let mut fds = vec![
            PollFd::new(uvd.fd(), PollFlags::POLLIN),
            PollFd::new(output.as_fd(), PollFlags::empty()),
        ];
        if self.typing.takes_keys() {
            fds.push(PollFd::new(self.stdin.as_fd(), PollFlags::POLLIN));
        }
        let until = uvd.deadline().into_iter().chain(self.typing.leave_at(self.active)).min();
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(now).as_millis() + 1;
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
        let ready = |n: usize| fds.get(n).is_some_and(|fd| fd.any().unwrap_or(false));
        if ready(1) {
            return Err(std::io::Error::from(ErrorKind::BrokenPipe).into());
        }
        Ok((ready(0), ready(2)))
    }

    /// Reads keys; returns whether the user leaves at once.
    fn read_keys(&mut self) -> Result<bool, Error> {
        let mut bytes = [0; MAX_INPUT];
        let count = self.stdin.read(&mut bytes)?;
        match self.typing.keys(bytes.get(..count).unwrap_or_default()) {
            Keys::Typed => {}
            Keys::Dropped => show(b"\x07")?,
            Keys::LeaveNow => return Ok(true),
            Keys::LeaveLater(bytes) => show(
                format!("\r\n[{bytes} bytes are not read yet; Ctrl-] again leaves at once]\r\n")
                    .as_bytes(),
            )?,
        }
        Ok(false)
    }
}

fn show(bytes: &[u8]) -> Result<(), Error> {
    let line = serde_json::json!({ "output": String::from_utf8_lossy(bytes) });
    let line = answer::is_json().then(|| answer::json_line(&line));
    let bytes = line.as_ref().map_or(bytes, String::as_bytes);
    let mut output = std::io::stdout();
    output.write_all(bytes)?;
    Ok(output.flush()?)
}
