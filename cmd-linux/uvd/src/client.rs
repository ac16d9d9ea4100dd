//! A client on the Unix socket.
//!
//! Rule: nothing here blocks, and memory held for a client is bounded: one that does not read its
//! answers, or has [`MOST_ASKED`] requests under way, is not read from.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use uvd_protocol::{Ask, Failure, FrameError, Frames, MAX_MESSAGE, Told, encode, encode_carried};

use crate::hub::refused;
use crate::link::Carried;

/// Requests that a client may have under way.
const MOST_ASKED: usize = 32;
/// Bytes of answers that may wait for a client.
const MOST_WAITING: usize = 4 * 1024 * 1024;
/// Bytes of answers after which output of consoles waits.
const ENOUGH_WAITING: usize = 128 * 1024;

/// A connected client.
pub struct Client {
    stream: UnixStream,
    frames: Frames,
    out: VecDeque<u8>,
    asked: usize,
    /// It said all it will; it goes when it has its answers.
    finished: bool,
    /// When it last asked, or was last answered.
    active: Instant,
}

impl Client {
    /// A client on a stream, which becomes non-blocking.
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (frames, out) = (Frames::default(), VecDeque::new());
        Ok(Self { stream, frames, out, asked: 0, finished: false, active: Instant::now() })
    }

    /// Since when it has asked for nothing and waited for nothing, where that is so.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.asked == 0 && self.out.is_empty()).then_some(self.active)
    }

    /// What to wait for, if anything. One that has said all it will is waited for with no flags:
    /// that it has hung up is told with none. Else one that has hung up with requests unread
    /// would wake every wait at once.
    pub fn poll_fd(&self) -> Option<PollFd<'_>> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, self.takes_more());
        flags.set(PollFlags::POLLOUT, !self.out.is_empty());
        (self.finished || !flags.is_empty()).then(|| PollFd::new(self.stream.as_fd(), flags))
    }

    /// Whether there is nobody any more who could be told anything.
    pub fn has_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        self.finished
            && poll(&mut fds, PollTimeout::ZERO).is_ok()
            && fds[0].revents().is_some_and(|events| events.intersects(gone))
    }

    /// Whether it takes more output of consoles.
    pub fn has_room(&self) -> bool {
        self.out.len() < ENOUGH_WAITING
    }

    /// The next request, if one is there.
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

    /// Answers a request that was taken; `last`: that is all there is to it.
    pub fn tell(&mut self, told: &Told, last: bool) {
        if last {
            self.is_answered();
        }
        self.put(told.id, encode(told));
    }

    /// Answers a request with what the ultravisor answered.
    pub fn carry(&mut self, id: u64, reply: &Carried) {
        self.is_answered();
        self.put(id, encode_carried(id, reply.version, &reply.answer));
    }

    fn is_answered(&mut self) {
        self.active = Instant::now();
        self.asked = self.asked.saturating_sub(1);
    }

    /// Writes what the client takes; false: it is gone, or has all it wanted.
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

    /// Reads what is there; false: nothing came.
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

    /// An answer that no message holds becomes a refusal of a few words.
    fn put(&mut self, id: u64, encoded: Result<Vec<u8>, FrameError>) {
        let bytes = encoded.or_else(|_| {
            let reason = format!("takes more than {MAX_MESSAGE} bytes");
            let refusal =
                refused("too-large", "answer", "bytes", &reason, "ask for less at a time");
            encode(&Told { id, result: Err(refusal) })
        });
        self.out.extend(bytes.unwrap_or_default());
    }
}
