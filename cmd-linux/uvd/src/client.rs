//! A client on the Unix socket.
//!
//! Rule: nothing here blocks, and the memory held for a client is bounded: a client that does not
//! read its answers, or has [`MOST_ASKED`] requests under way, is not read from.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use control::command::Code;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use uvd_protocol::{Ask, Failure, FrameError, Frames, MAX_MESSAGE, Told, encode, encode_carried};

use crate::context::refusal::refused;
use crate::link::Carried;

/// The most requests that a client may have under way.
const MOST_ASKED: usize = 32;
/// The most bytes of answers that may wait for a client.
const MOST_WAITING: usize = 4 * 1024 * 1024;
/// Bytes of waiting answers above which console output waits.
const ENOUGH_WAITING: usize = 128 * 1024;

/// A connected client.
pub struct Client {
    stream: UnixStream,
    frames: Frames,
    out: VecDeque<u8>,
    asked: usize,
    /// The client sends no more requests; it is dropped when it has its answers.
    finished: bool,
    /// The time of its last request or last answer.
    active: Instant,
}

impl Client {
    /// A client on a stream, which is made non-blocking.
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (frames, out) = (Frames::default(), VecDeque::new());
        Ok(Self { stream, frames, out, asked: 0, finished: false, active: Instant::now() })
    }

    /// The time since which the client has been idle, without a request under way; `None` if it is
    /// not idle.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.asked == 0 && self.out.is_empty()).then_some(self.active)
    }

    /// The descriptor and events to wait for, if any. For a client that sends no more requests, no
    /// events are set, and poll still reports a hang-up. With events, a client that hung up with
    /// unread requests would end every wait at once.
    pub fn poll_fd(&self) -> Option<PollFd<'_>> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, self.takes_more());
        flags.set(PollFlags::POLLOUT, !self.out.is_empty());
        (self.finished || !flags.is_empty()).then(|| PollFd::new(self.stream.as_fd(), flags))
    }

    /// Whether the client has hung up, so that nobody reads the answers.
    pub fn has_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        self.finished
            && poll(&mut fds, PollTimeout::ZERO).is_ok()
            && fds[0].revents().is_some_and(|events| events.intersects(gone))
    }

    /// Whether the client takes more console output.
    pub fn has_room(&self) -> bool {
        self.out.len() < ENOUGH_WAITING
    }

    /// The next request, if one has arrived.
    pub fn next_ask(&mut self) -> Option<Ask> {
        while self.takes_more() {
            match self.frames.next_message() {
                Ok(Some(ask)) => {
                    self.asked += 1;
                    self.active = Instant::now();
                    return Some(ask);
                }
                Ok(None) if self.fill() => {}
                Ok(None) => break,
                Err(error) => {
                    self.finished = !matches!(error, FrameError::Unclear);
                    self.reject(&error.to_string());
                }
            }
        }
        None
    }

    /// Answers a request; `last` marks the last answer to it.
    pub fn tell(&mut self, told: &Told, last: bool) {
        if last {
            self.is_answered();
        }
        self.put(told.id, encode(told));
    }

    /// Passes on the ultravisor's answer to a request.
    pub fn carry(&mut self, id: u64, reply: &Carried) {
        self.is_answered();
        self.put(id, encode_carried(id, reply.version, &reply.answer));
    }

    fn is_answered(&mut self) {
        self.active = Instant::now();
        self.asked = self.asked.saturating_sub(1);
    }

    /// Writes as much as the client takes; false if the client is gone or has all its answers.
    pub fn flush(&mut self) -> bool {
        while !self.out.is_empty() {
            match self.stream.write(self.out.as_slices().0) {
                Ok(written) => drop(self.out.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        !(self.finished && self.asked == 0)
    }

    fn takes_more(&self) -> bool {
        !self.finished && self.asked < MOST_ASKED && self.out.len() < MOST_WAITING
    }

    /// Reads the available bytes; false if none came.
    fn fill(&mut self) -> bool {
        loop {
            match self.frames.read_from(&self.stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    self.finished = true;
                    return false;
                }
                Ok(_) => return true,
            }
        }
    }

    fn reject(&mut self, why: &str) {
        let told = Told { id: 0, result: Err(Failure::Malformed(why.into())) };
        self.put(0, encode(&told));
    }

    /// Queues an answer; an answer too long for a message becomes a short refusal.
    fn put(&mut self, id: u64, encoded: Result<Vec<u8>, FrameError>) {
        let bytes = encoded.or_else(|_| {
            let reason = format!("takes more than {MAX_MESSAGE} bytes");
            let refusal =
                refused(Code::TooLarge, "answer", "bytes", &reason, "ask for less at a time");
            encode(&Told { id, result: Err(refusal) })
        });
        self.out.extend(bytes.unwrap_or_default());
    }
}
