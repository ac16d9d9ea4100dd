//! The connection to `uvd`.
//!
//! Rule: a request to the ultravisor is answered within the time limit. Requests that `uvd` serves
//! itself take as long as they need, and their progress is shown meanwhile. A given time limit
//! bounds all requests of a command together.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use control::command::{Answer, Body, Heap};
use uvd_protocol::{
    Answered, Ask, Asked, Defined, Frames, MAX_TIMEOUT_MS, Service, ServiceAnswer, Told, write,
};

use crate::progress::Steps;
use crate::source::{self, Error, Source};
use crate::view::undone::Undone;

/// How much longer than `uvd` itself to wait for `uvd`, so that its own message arrives.
const GRACE: Duration = Duration::from_secs(2);

/// A connection to `uvd`.
pub struct Uvd {
    stream: UnixStream,
    frames: Frames,
    timeout: Duration,
    /// The time by which all requests must be answered, if a time limit was given.
    deadline: Option<Instant>,
    id: u64,
}

impl Uvd {
    /// Connects to the socket. `timeout` bounds each query; with `strict`, it bounds all requests
    /// together.
    pub fn connect(path: &Path, timeout: Duration, strict: bool) -> Result<Self, Error> {
        let deadline = strict.then(|| Instant::now() + timeout);
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Self { stream, frames: Frames::default(), timeout, deadline, id: 0 }),
            Err(error) => Err(Error::Unreachable { path: path.into(), error }),
        }
    }

    /// Sends a request to `uvd` and shows its progress; returns the last answer.
    pub fn service(&mut self, service: Service) -> Result<ServiceAnswer, Error> {
        let id = self.begin(service)?;
        let mut steps = Steps::default();
        let mut begun: Option<ServiceAnswer> = None;
        let joined = |begun: Option<ServiceAnswer>, next| match begun {
            Some(begun) => begun.followed_by(next),
            None => next,
        };
        loop {
            match self.answer(id, self.deadline)? {
                Answered::Service(answer) => return Ok(joined(begun, answer)),
                Answered::Piece(piece) => begun = Some(joined(begun, piece)),
                Answered::Progress(progress) => steps.show(&progress),
                _ => return Err(Error::Other("the result of the request")),
            }
        }
    }

    /// Reads all definitions.
    pub fn definitions(&mut self) -> Result<Vec<Defined>, Error> {
        let mut all: Vec<Defined> = Vec::new();
        loop {
            let after = all.last().map(|one| one.definition.name.clone());
            let answer = self.service(Service::Definitions { after: after.clone() })?;
            let ServiceAnswer::Definitions { defined, more } = answer else {
                return Err(Error::Other("definitions"));
            };
            let names = defined.iter().map(|one| &one.definition.name);
            if !after.iter().chain(names).is_sorted_by(|a, b| a < b) || (more && defined.is_empty())
            {
                return Err(Error::Stuck("definitions"));
            }
            all.extend(defined);
            if !more {
                return Ok(all);
            }
        }
    }

    /// Applies the inverse of a record.
    pub fn undo(&mut self, sequence: u64, reason: &str) -> Result<Undone, Error> {
        let body = Body::Undo { sequence, reason: reason.into() };
        let answered = self.request(body)?;
        match answered.answer {
            Answer::Applied(outcomes) => Ok(Undone::new(sequence, answered.version, &outcomes)),
            _ => Err(Error::Other("the outcome of the undo")),
        }
    }

    /// Sends a request to the service; returns its id.
    pub fn begin(&mut self, service: Service) -> Result<u64, Error> {
        self.send(Asked::Service(service), self.left())
    }

    /// The time by which all requests must be answered, if a time limit was given.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The rest of the time limit, if one was given.
    fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Takes the next answer out of the received bytes. Returns `None` if no answer is complete.
    pub fn buffered(&mut self) -> Result<Option<Told>, Error> {
        Ok(self.frames.next_message()?)
    }

    /// Waits for bytes and reads them.
    pub fn receive(&mut self) -> Result<(), Error> {
        loop {
            match self.frames.read_from(&self.stream) {
                Ok(0) => return Err(closed().into()),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(uvd_protocol::FrameError::from(error).into()),
            }
        }
    }

    /// The descriptor to wait on for answers.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn send(&mut self, body: Asked, timeout: Option<Duration>) -> Result<u64, Error> {
        self.id += 1;
        let most = |timeout: Duration| u32::try_from(timeout.as_millis()).unwrap_or(MAX_TIMEOUT_MS);
        let timeout_ms = timeout.map(most);
        write(&self.stream, &Ask { id: self.id, timeout_ms, body })?;
        Ok(self.id)
    }

    /// Waits until `until` for the next answer to a request.
    fn answer(&mut self, id: u64, until: Option<Instant>) -> Result<Answered, Error> {
        loop {
            let left = until.map(|until| (until + GRACE).saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(Error::Silent(self.timeout));
            }
            if let Some(told) = self.buffered()? {
                // The id 0 means a message of ours that `uvd` could not decode.
                if told.id == id || told.id == 0 {
                    return Ok(told.result?);
                }
                continue;
            }
            self.stream.set_read_timeout(left).map_err(uvd_protocol::FrameError::from)?;
            match self.receive() {
                Err(Error::Conversation(uvd_protocol::FrameError::Io(error)))
                    if error.kind() == io::ErrorKind::WouldBlock => {}
                received => received?,
            }
        }
    }
}

fn closed() -> uvd_protocol::FrameError {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection").into()
}

impl Source for Uvd {
    fn request(&mut self, body: Body) -> Result<source::Answered, Error> {
        let timeout = self.left().unwrap_or(self.timeout);
        let id = self.send(Asked::Ultravisor(body), Some(timeout))?;
        match self.answer(id, Some(Instant::now() + timeout))? {
            Answered::Ultravisor { version, answer } => Ok(source::Answered { version, answer }),
            _ => Err(Error::Other("the result of the request")),
        }
    }

    fn console_times(&mut self) -> Vec<(u32, u64)> {
        match self.service(Service::ConsoleTimes) {
            Ok(ServiceAnswer::ConsoleTimes(times)) => times,
            _ => Vec::new(),
        }
    }

    fn boot_heap(&mut self) -> Option<Heap> {
        match self.service(Service::BootHeap) {
            Ok(ServiceAnswer::BootHeap(heap)) => heap,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
