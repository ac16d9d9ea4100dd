//! The requests that are under way on the command channel.
//!
//! ```text
//! submit(body, ..) -> waiting [+ unsent while the ring is full] -> ring, event
//! turn(now)        <- answers by id, failures of those whose time is up
//! ```
//!
//! Rule: every submitted request ends in exactly one answer or failure. When the ultravisor
//! re-creates the channel (it was restarted), waiting requests are sent again under the same ids,
//! so that the ultravisor answers them and does not repeat them.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use channels::ring::{self, Endpoint, RingError, Side};
use control::command::{Body, PROTOCOL, Refusal, Request};
use pv_abi::uv::channel::MAX_PAYLOAD;
use uvd_protocol::Failure;

/// The time between two looks at whether the ultravisor has re-created the channel.
const REMAKING: Duration = Duration::from_millis(20);

/// An event port, which is the bell of a channel.
pub trait Port {
    /// The descriptor, which is readable when there is an event.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Takes the events; true if there were any.
    fn take(&mut self) -> bool;
    /// Raises the event at the other end.
    fn ring(&mut self);
}

impl Port for Box<dyn Port> {
    fn fd(&self) -> BorrowedFd<'_> {
        (**self).fd()
    }

    fn take(&mut self) -> bool {
        (**self).take()
    }

    fn ring(&mut self) {
        (**self).ring();
    }
}

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// A client, and the id of its request.
    Client(u64, u64),
    /// A job, by the id of the request on the channel. the client that sent the request decodes it.
    Job(u64),
}

/// An answer of the ultravisor in its encoded form; the client that sent the request decodes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Carried {
    /// Version of the database after the request.
    pub version: u64,
    /// The [`Answer`](control::command::Answer), in postcard.
    pub answer: Vec<u8>,
}

/// An answer or a failure, and the sender of the request.
pub type Outcome = (Tag, Result<Carried, Failure>);

/// Asks the owner of a channel to re-create it, if no other way repairs this error.
pub fn ask_anew(error: RingError, words: &[AtomicU32], port: &mut (impl Port + ?Sized)) {
    if !matches!(error, RingError::Full | RingError::TooLarge(_)) {
        ring::ask_anew(words);
        port.ring();
    }
}

/// The client's end of a command channel.
pub struct Link<'a, P> {
    words: &'a [AtomicU32],
    ring: Endpoint<'a>,
    port: P,
    waiting: BTreeMap<u64, Waiting>,
    unsent: VecDeque<u64>,
    /// The time at which to look whether the channel has been re-created.
    reopen: Option<Instant>,
    buffer: Vec<u8>,
}

struct Waiting {
    tag: Tag,
    bytes: Vec<u8>,
    timeout_ms: u32,
    deadline: Instant,
}

impl<'a, P: Port> Link<'a, P> {
    /// Opens the channel in `words`. If the channel is invalid, this asks the ultravisor to
    /// re-create it, and a later try may succeed.
    pub fn open(words: &'a [AtomicU32], mut port: P) -> Result<Self, RingError> {
        let opened = Endpoint::open(words, Side::Client);
        let ring = opened.inspect_err(|error| ask_anew(*error, words, &mut port))?;
        Ok(Self {
            words,
            ring,
            port,
            waiting: BTreeMap::new(),
            unsent: VecDeque::new(),
            reopen: None,
            buffer: Vec::new(),
        })
    }

    /// The port, to wait for its events.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// Takes a request, which the next turn sends. Ids must rise, also from link to link, because
    /// the ultravisor takes a known id for a retry.
    pub fn submit(
        &mut self,
        tag: Tag,
        id: u64,
        body: Body,
        timeout_ms: u32,
        now: Instant,
    ) -> Result<(), Failure> {
        let request = Request { protocol: PROTOCOL, id, body };
        let bytes = postcard::to_allocvec(&request)
            .map_err(|error| Failure::Malformed(error.to_string()))?;
        if bytes.len() > MAX_PAYLOAD {
            return Err(Failure::TooLarge { bytes: bytes.len() as u64, limit: MAX_PAYLOAD as u64 });
        }
        let deadline = now + Duration::from_millis(timeout_ms.into());
        self.waiting.insert(id, Waiting { tag, bytes, timeout_ms, deadline });
        self.unsent.push_back(id);
        Ok(())
    }

    /// Sends the requests that fit, takes the answers that arrived, and gives up late requests;
    /// also returns whether the bell had rung. An error means that the channel cannot be used any
    /// more.
    pub fn turn(&mut self, now: Instant) -> Result<(bool, Vec<Outcome>), RingError> {
        let rung = self.port.take();
        let mut outcomes = Vec::new();
        let moved = match self.reopen {
            None => self.receive(&mut outcomes).and_then(|()| self.send()),
            Some(_) => Err(RingError::Remade),
        };
        match moved {
            Ok(()) => {}
            Err(RingError::Remade) => self.open_again(now)?,
            Err(error) => self.leave(error, now)?,
        }
        self.expire(now, &mut outcomes);
        Ok((rung, outcomes))
    }

    /// The time at which the next turn is due without an event.
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|one| one.deadline).chain(self.reopen).min()
    }

    /// Ends all requests under way with a failure.
    pub fn fail_all(self, failure: &Failure) -> Vec<Outcome> {
        self.waiting.into_values().map(|one| (one.tag, Err(failure.clone()))).collect()
    }

    fn receive(&mut self, outcomes: &mut Vec<Outcome>) -> Result<(), RingError> {
        loop {
            // The other side may be waiting for space for its largest frame.
            let room = self.ring.ring_bytes().saturating_sub(self.ring.readable()?);
            if !self.ring.receive(&mut self.buffer)? {
                return Ok(());
            }
            if room < MAX_PAYLOAD as u32 + 8 {
                self.port.ring();
            }
            // The reply cannot be decoded, or no one waits for it any more.
            let Some((id, result)) = carried(&self.buffer) else {
                crate::log("a reply of the ultravisor was not understood");
                continue;
            };
            if let Some(one) = self.waiting.remove(&id) {
                outcomes.push((one.tag, result));
            }
        }
    }

    fn send(&mut self) -> Result<(), RingError> {
        let mut sent = false;
        while let Some(id) = self.unsent.front() {
            // A request whose time is up is not sent any more.
            if let Some(one) = self.waiting.get(id) {
                match self.ring.send(&one.bytes) {
                    Ok(()) => sent = true,
                    Err(RingError::Full) => break,
                    Err(error) => return Err(error),
                }
            }
            self.unsent.pop_front();
        }
        if sent {
            self.port.ring();
        }
        Ok(())
    }

    /// Opens the re-created channel and sends waiting requests again; if it is not ready yet, sets
    /// the time of the next look.
    fn open_again(&mut self, now: Instant) -> Result<(), RingError> {
        match Endpoint::open(self.words, Side::Client) {
            Ok(ring) => {
                self.ring = ring;
                self.reopen = None;
                self.unsent = self.waiting.keys().copied().collect();
                match self.send() {
                    Err(RingError::Remade) => self.reopen = Some(now + REMAKING),
                    sent => sent?,
                }
            }
            Err(RingError::NotReady) => self.reopen = Some(now + REMAKING),
            Err(error) => self.leave(error, now)?,
        }
        Ok(())
    }

    /// Leaves an invalid channel until the ultravisor has re-created it.
    fn leave(&mut self, error: RingError, now: Instant) -> Result<(), RingError> {
        if matches!(error, RingError::TooLarge(_)) {
            return Err(error);
        }
        crate::log(&format!("command channel: {error}; the ultravisor is asked to make it anew"));
        ask_anew(error, self.words, &mut self.port);
        self.reopen = Some(now + REMAKING);
        Ok(())
    }

    fn expire(&mut self, now: Instant, outcomes: &mut Vec<Outcome>) {
        let late = self.waiting.extract_if(.., |_, one| one.deadline <= now);
        outcomes.extend(late.map(|(_, one)| (one.tag, Err(Failure::Timeout(one.timeout_ms)))));
    }
}

/// Takes a [`Reply`](control::command::Reply) apart: its id, and its answer, which stays encoded,
/// or its refusal. Returns `None` if the bytes are no reply.
fn carried(reply: &[u8]) -> Option<(u64, Result<Carried, Failure>)> {
    /// Number of `Ok` on the wire.
    const OK: u32 = 0;
    let ((id, version, tag), rest) = postcard::take_from_bytes::<(u64, u64, u32)>(reply).ok()?;
    if tag == OK {
        return Some((id, Ok(Carried { version, answer: rest.to_vec() })));
    }
    let refusal = postcard::from_bytes::<Refusal>(rest).ok()?;
    Some((id, Err(Failure::Refused(refusal.into()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::command::{Answer, Reply};

    #[test]
    fn a_reply_is_taken_apart_without_reading_its_answer() {
        let answer = Answer::Opened { rolled_back: vec![3, u64::MAX] };
        let bytes = postcard::to_allocvec(&answer).unwrap();
        let reply = Reply { id: 1 << 60, version: 300, result: Ok(answer) };
        let expected = (1 << 60, Ok(Carried { version: 300, answer: bytes }));
        assert_eq!(carried(&postcard::to_allocvec(&reply).unwrap()), Some(expected));
        let Failure::Refused(refusal) = crate::context::refusal::unexpected("a test") else {
            panic!()
        };
        let reply = Reply { id: 2, version: 1, result: Err(*refusal.clone()) };
        let expected = (2, Err(Failure::Refused(refusal)));
        assert_eq!(carried(&postcard::to_allocvec(&reply).unwrap()), Some(expected));
        for cut in [&[][..], &[0x80], &[1, 1], &[1, 1, 1]] {
            assert_eq!(carried(cut), None);
        }
    }
}
