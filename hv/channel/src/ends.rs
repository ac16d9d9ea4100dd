//! Requests and replies over a memory channel: the rings, the messages and the event.
//!
//! ```text
//! client                    server
//!   send(body)  -- frame, bell -->  request()
//!   poll()     <-- frame, bell --   reply(&reply)
//! ```
//!
//! [`Client`] and [`Server`] exchange messages of `control::command`; [`End`] carries any
//! messages, in postcard. Neither end makes a hypercall itself: a [`Bell`] raises the event.

use crate::ring::{Endpoint, RingError};
use alloc::string::String;
use alloc::vec::Vec;
use control::command::{Body, Code, PROTOCOL, Refusal, Reply, Request};
use core::fmt;

/// Raises the event at the other end of a channel.
pub trait Bell {
    /// Raises the event. If the other end is closed, nothing happens.
    fn ring(&mut self);
}

/// Why a message was not sent or received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelError {
    /// The ring failed, for the inner reason.
    Ring(RingError),
    /// A frame does not contain a message of this protocol.
    Message,
    /// A message has another protocol version, which is this number.
    Protocol(u16),
}

impl From<RingError> for ChannelError {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(error) => error.fmt(f),
            Self::Message => f.write_str("channel frame that holds no message"),
            Self::Protocol(version) => {
                write!(f, "message of protocol {version}, this side speaks {PROTOCOL}")
            }
        }
    }
}

impl core::error::Error for ChannelError {}

/// One end of a channel, for messages of any protocol.
#[derive(Debug)]
pub struct End<'a, B> {
    ring: Endpoint<'a>,
    bell: B,
    buffer: Vec<u8>,
}

impl<'a, B: Bell> End<'a, B> {
    /// Makes the end at this side of a channel.
    pub fn new(ring: Endpoint<'a>, bell: B) -> Self {
        Self { ring, bell, buffer: Vec::new() }
    }

    /// Sends a message. If the ring is full, the caller keeps the message and tries again at the
    /// other end's next event.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub fn send(&mut self, message: &impl serde::Serialize) -> Result<(), ChannelError> {
        let bytes = postcard::to_allocvec(message).map_err(|_| ChannelError::Message)?;
        self.ring.send(&bytes)?;
        self.bell.ring();
        Ok(())
    }

    /// Receives a message, if there is one.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub fn receive<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>, ChannelError> {
        if !self.receive_frame()? {
            return Ok(None);
        }
        postcard::from_bytes(&self.buffer).map(Some).map_err(|_| ChannelError::Message)
    }

    /// Receives a message, if there is one, and decodes only its first fields.
    fn receive_start<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>, ChannelError> {
        if !self.receive_frame()? {
            return Ok(None);
        }
        let start = postcard::take_from_bytes(&self.buffer);
        start.map(|(start, _)| Some(start)).map_err(|_| ChannelError::Message)
    }

    /// Reads a frame into the buffer. Returns whether there was one.
    fn receive_frame(&mut self) -> Result<bool, ChannelError> {
        let crowded = self.ring.readable()? > self.ring.ring_bytes() / 2;
        let received = self.ring.receive(&mut self.buffer)?;
        if received && crowded {
            // The other end may wait for room in the ring.
            self.bell.ring();
        }
        Ok(received)
    }
}

/// The end that sends requests.
#[derive(Debug)]
pub struct Client<'a, B> {
    end: End<'a, B>,
    next_id: u64,
}

impl<'a, B: Bell> Client<'a, B> {
    /// Makes a client whose requests are numbered from `first_id`. The number must be new on this
    /// channel: if the server has answered that number before, it repeats its answer.
    pub fn new(ring: Endpoint<'a>, bell: B, first_id: u64) -> Self {
        Self { end: End::new(ring, bell), next_id: first_id }
    }

    /// Sends a request. Returns its id.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub fn send(&mut self, body: Body) -> Result<u64, ChannelError> {
        let id = self.next_id;
        self.end.send(&Request { protocol: PROTOCOL, id, body })?;
        self.next_id += 1;
        Ok(id)
    }

    /// Receives a reply, if there is one.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub fn poll(&mut self) -> Result<Option<Reply>, ChannelError> {
        self.end.receive()
    }

    /// Sends a request and receives its reply; calls `wait` whenever there is none yet. Replies to
    /// other requests are dropped.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub fn call(&mut self, body: Body, mut wait: impl FnMut()) -> Result<Reply, ChannelError> {
        let id = self.send(body)?;
        loop {
            match self.poll()? {
                Some(reply) if reply.id == id => return Ok(reply),
                Some(_) => {}
                None => wait(),
            }
        }
    }
}

/// The end that answers requests.
#[derive(Debug)]
pub struct Server<'a, B> {
    end: End<'a, B>,
}

impl<'a, B: Bell> Server<'a, B> {
    /// Makes a server at this side of a channel.
    pub fn new(ring: Endpoint<'a>, bell: B) -> Self {
        Self { end: End::new(ring, bell) }
    }

    /// Receives a request, if there is one.
    ///
    /// # Errors
    /// See [`ChannelError`]. A request of another protocol version is an error too: its meaning is
    /// not known.
    pub fn request(&mut self) -> Result<Option<Request>, ChannelError> {
        match self.end.receive::<Request>()? {
            Some(request) if request.protocol != PROTOCOL => {
                Err(ChannelError::Protocol(request.protocol))
            }
            request => Ok(request),
        }
    }

    /// Receives a request, if there is one. If a frame does not contain a request of this protocol
    /// but its id can be read, returns the id, so that the client gets an answer.
    ///
    /// # Errors
    /// The ring's errors, and [`ChannelError::Message`] for a frame without an id.
    pub fn request_or_id(&mut self) -> Result<Option<Result<Request, u64>>, ChannelError> {
        match self.request() {
            Err(ChannelError::Message | ChannelError::Protocol(_)) => {
                let start = postcard::take_from_bytes::<(u16, u64)>(&self.end.buffer);
                let id = start.map(|((_, id), _)| id).map_err(|_| ChannelError::Message)?;
                Ok(Some(Err(id)))
            }
            request => request.map(|request| request.map(Ok)),
        }
    }

    /// Receives only the id of a request, if there is one. It is for a server that has no memory
    /// for the rest of the request.
    ///
    /// # Errors
    /// The same as [`Self::request`].
    pub fn request_id(&mut self) -> Result<Option<u64>, ChannelError> {
        match self.end.receive_start::<(u16, u64)>()? {
            Some((PROTOCOL, id)) => Ok(Some(id)),
            Some((protocol, _)) => Err(ChannelError::Protocol(protocol)),
            None => Ok(None),
        }
    }

    /// Sends a reply. If no frame can hold it, sends a short refusal instead. If the ring is full,
    /// the caller keeps the reply and tries again at the client's next event.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub fn reply(&mut self, reply: &Reply) -> Result<(), ChannelError> {
        match self.end.send(reply) {
            Err(ChannelError::Ring(RingError::TooLarge(_))) => {
                let Reply { id, version, .. } = *reply;
                self.end.send(&Reply { id, version, result: Err(too_large()) })
            }
            sent => sent,
        }
    }
}

/// The refusal in place of an answer that is too large.
fn too_large() -> Refusal {
    let text = |text: &str| String::from(text);
    Refusal {
        code: Code::TooLarge,
        operation: None,
        object: text("answer"),
        field: text("bytes"),
        reason: text("it does not fit a frame of the channel"),
        way_out: text("ask for less at a time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Side;
    use alloc::vec;
    use control::command::{Answer, Query};
    use core::cell::Cell;
    use core::sync::atomic::AtomicU32;
    use pv_abi::PAGE_SIZE;

    struct Count<'a>(&'a Cell<u32>);

    impl Bell for Count<'_> {
        fn ring(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    fn pages() -> Vec<AtomicU32> {
        (0..17 * PAGE_SIZE / 4).map(|_| AtomicU32::new(0)).collect()
    }

    #[test]
    fn a_call_gets_its_own_reply() {
        let (words, bells) = (pages(), Cell::new(0));
        let ring = Endpoint::create(&words, Side::Client).unwrap();
        let mut client = Client::new(ring, Count(&bells), 7);
        let ring = Endpoint::open(&words, Side::Server).unwrap();
        let mut server = Server::new(ring, Count(&bells));
        let answer = |id| Reply { id, version: 3, result: Ok(Answer::Applied(Vec::new())) };
        server.reply(&answer(6)).unwrap();
        let reply = client
            .call(Body::Query(Query::Version), || {
                let request = server.request().unwrap().unwrap();
                server.reply(&answer(request.id)).unwrap();
            })
            .unwrap();
        assert_eq!(reply.id, 7);
        assert_eq!(bells.get(), 3);
    }

    #[test]
    fn an_answer_that_no_frame_holds_becomes_a_refusal() {
        let (words, bells) = (pages(), Cell::new(0));
        let ring = Endpoint::create(&words, Side::Client).unwrap();
        let mut client = Client::new(ring, Count(&bells), 7);
        let ring = Endpoint::open(&words, Side::Server).unwrap();
        let mut server = Server::new(ring, Count(&bells));
        let what = vec!["x".repeat(30_000)];
        let reply = Reply { id: 7, version: 3, result: Ok(Answer::Planned { what }) };
        server.reply(&reply).unwrap();
        let told = client.poll().unwrap().unwrap();
        assert_eq!((told.id, told.version), (7, 3));
        assert_eq!(told.result.unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn a_request_that_is_not_read_still_has_an_id() {
        let (words, bells) = (pages(), Cell::new(0));
        let ring = Endpoint::create(&words, Side::Client).unwrap();
        let mut client = Client::new(ring, Count(&bells), 1 << 40);
        let id = client.send(Body::Query(Query::Version)).unwrap();
        let ring = Endpoint::open(&words, Side::Server).unwrap();
        let mut server = Server::new(ring, Count(&bells));
        assert_eq!(server.request_id(), Ok(Some(id)));
        assert_eq!(server.request_id(), Ok(None));
    }

    #[test]
    fn a_frame_that_is_no_message_is_an_error() {
        let (words, bells) = (pages(), Cell::new(0));
        let mut ring = Endpoint::create(&words, Side::Client).unwrap();
        ring.send(&[0xff; 3]).unwrap();
        let open = Endpoint::open(&words, Side::Server).unwrap();
        let mut server = Server::new(open, Count(&bells));
        assert_eq!(server.request(), Err(ChannelError::Message));
    }

    #[test]
    fn a_frame_that_is_no_message_and_has_an_id_can_be_answered() {
        let (words, bells) = (pages(), Cell::new(0));
        let mut ring = Endpoint::create(&words, Side::Client).unwrap();
        let open = Endpoint::open(&words, Side::Server).unwrap();
        let mut server = Server::new(open, Count(&bells));
        let other = postcard::to_allocvec(&(PROTOCOL + 1, 300_u64, 7_u8)).unwrap();
        let wild = postcard::to_allocvec(&(PROTOCOL, 301_u64, 200_u8)).unwrap();
        let request = Request { protocol: PROTOCOL, id: 302, body: Body::Query(Query::Version) };
        let good = postcard::to_allocvec(&request).unwrap();
        for bytes in [&other[..], &wild, &[0xff; 3], &good] {
            ring.send(bytes).unwrap();
        }
        assert_eq!(server.request_or_id(), Ok(Some(Err(300))));
        assert_eq!(server.request_or_id(), Ok(Some(Err(301))));
        assert_eq!(server.request_or_id(), Err(ChannelError::Message));
        assert_eq!(server.request_or_id(), Ok(Some(Ok(request))));
        assert_eq!(server.request_or_id(), Ok(None));
    }
}
