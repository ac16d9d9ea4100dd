//! The connection to `uvd`.
//!
//! Rule: what the ultravisor is asked is answered within the time to wait; what `uvd` does by
//! itself takes as long as it takes, and its news is shown meanwhile.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use pv_abi::uv::command::{Answer, Body, Heap};
use uvd_protocol::{
    Answered, Ask, Asked, Defined, Frames, MAX_TIMEOUT_MS, Service, ServiceAnswer, Told, write,
};

use crate::progress::Steps;
use crate::source::{self, Error, Source};
use crate::view::undone::Undone;

/// A connection to `uvd`.
pub struct Uvd {
    stream: UnixStream,
    frames: Frames,
    timeout: Duration,
    /// The time was given, so it holds for everything.
    strict: bool,
    id: u64,
}

impl Uvd {
    /// Connects to the socket. `timeout` bounds queries; with `strict`, all else, too.
    pub fn connect(path: &Path, timeout: Duration, strict: bool) -> Result<Self, Error> {
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Self { stream, frames: Frames::default(), timeout, strict, id: 0 }),
            Err(error) => Err(Error::Unreachable { path: path.into(), error }),
        }
    }

    /// Has `uvd` do something, showing its news; the last answer.
    pub fn service(&mut self, service: Service) -> Result<ServiceAnswer, Error> {
        let id = self.begin(service)?;
        let mut steps = Steps::default();
        loop {
            match self.answer(id, self.strict.then_some(self.timeout))? {
                Answered::Service(answer) => return Ok(answer),
                Answered::Progress(progress) => steps.show(&progress),
                _ => return Err(Error::Other("what uvd was asked")),
            }
        }
    }

    /// What is defined.
    pub fn definitions(&mut self) -> Result<Vec<Defined>, Error> {
        match self.service(Service::Definitions)? {
            ServiceAnswer::Definitions(all) => Ok(all),
            _ => Err(Error::Other("definitions")),
        }
    }

    /// Applies the inverse of a record.
    pub fn undo(&mut self, sequence: u64, reason: &str) -> Result<Undone, Error> {
        let body = Body::Undo { sequence, reason: reason.into() };
        let answered = self.request(body)?;
        match answered.answer {
            Answer::Applied(outcomes) => Ok(Undone::new(sequence, answered.version, &outcomes)),
            _ => Err(Error::Other("that it is undone")),
        }
    }

    /// Sends a request to the service; its id.
    pub fn begin(&mut self, service: Service) -> Result<u64, Error> {
        let timeout = if self.strict { self.timeout.as_millis() } else { MAX_TIMEOUT_MS.into() };
        self.send(Asked::Service(service), timeout)
    }

    /// The next answer of those that were received.
    pub fn buffered(&mut self) -> Result<Option<Told>, Error> {
        Ok(self.frames.next_message()?)
    }

    /// Waits for bytes and takes them.
    pub fn receive(&mut self) -> Result<(), Error> {
        let mut bytes = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(closed().into()),
                Ok(count) => {
                    self.frames.push(bytes.get(..count).unwrap_or_default());
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(uvd_protocol::FrameError::from(error).into()),
            }
        }
    }

    /// What to wait on for answers.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn send(&mut self, body: Asked, timeout_ms: u128) -> Result<u64, Error> {
        self.id += 1;
        let timeout_ms = u32::try_from(timeout_ms).ok();
        write(&self.stream, &Ask { id: self.id, timeout_ms, body })?;
        Ok(self.id)
    }

    /// The next answer to a request.
    fn answer(&mut self, id: u64, timeout: Option<Duration>) -> Result<Answered, Error> {
        // Longer than uvd waits itself, so that its own words arrive.
        let patience = timeout.map(|timeout| timeout + Duration::from_secs(2));
        self.stream.set_read_timeout(patience).map_err(uvd_protocol::FrameError::from)?;
        loop {
            if let Some(told) = self.buffered()? {
                // 0: a message of ours that uvd could not read.
                if told.id == id || told.id == 0 {
                    return Ok(told.result?);
                }
                continue;
            }
            self.receive().map_err(|error| match (error, timeout) {
                (Error::Conversation(uvd_protocol::FrameError::Io(error)), Some(timeout))
                    if error.kind() == io::ErrorKind::WouldBlock =>
                {
                    Error::Silent(timeout)
                }
                (other, _) => other,
            })?;
        }
    }
}

fn closed() -> uvd_protocol::FrameError {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection").into()
}

impl Source for Uvd {
    fn request(&mut self, body: Body) -> Result<source::Answered, Error> {
        let id = self.send(Asked::Ultravisor(body), self.timeout.as_millis())?;
        match self.answer(id, Some(self.timeout))? {
            Answered::Ultravisor { version, answer } => Ok(source::Answered { version, answer }),
            _ => Err(Error::Other("what the ultravisor was asked")),
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
