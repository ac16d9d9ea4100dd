//! Command channels: requests in, replies out.
//!
//! Rule: the server reads a request only once the reply to the one before it is in the ring. So a
//! client that does not read delays nobody else, and costs the memory of one reply.

use alloc::collections::VecDeque;
use core::sync::atomic::AtomicU32;

use channel::ends::{Bell, ChannelError, Server};
use channel::ring::{Endpoint, RingError, Side};
use control::command::{Reply, Request};
use partition_runtime::events::Port;
use partition_runtime::log;
use pv_abi::uv::channel::NO_ID;

/// The server's end of a command channel.
#[derive(Debug)]
pub struct CommandChannel {
    /// The client.
    pub client: u32,
    words: &'static [AtomicU32],
    port: Port,
    /// Whether the pages are this partition's own, so that only this partition can reset the
    /// channel.
    own: bool,
    server: Option<Server<'static, Port>>,
    /// Replies that had no room: that of the last request, and that of an earlier request that was
    /// under way.
    waiting: VecDeque<Reply>,
    /// Errors of this channel so far.
    errors: u32,
}

/// Why only the id of a request could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// There is no memory to read the request.
    NoMemory(u64),
    /// The message is not a request of this protocol.
    NotUnderstood(u64),
}

impl CommandChannel {
    /// A channel whose pages the client made, or will make.
    #[must_use]
    pub const fn of_client(client: u32, words: &'static [AtomicU32], port: Port) -> Self {
        Self { client, words, port, own: false, server: None, waiting: VecDeque::new(), errors: 0 }
    }

    /// A channel whose pages are this partition's own.
    ///
    /// # Errors
    /// The pages cannot hold a channel.
    pub fn own(client: u32, words: &'static [AtomicU32], port: Port) -> Result<Self, RingError> {
        let ring = Endpoint::create(words, Side::Server)?;
        let server = Some(Server::new(ring, port));
        Ok(Self { client, words, port, own: true, server, waiting: VecDeque::new(), errors: 0 })
    }

    /// Returns the next request, once the replies to earlier requests are in the ring. If `room` is
    /// false, there is no memory for the request's body, and only its id is read.
    pub fn next(&mut self, room: bool) -> Option<Result<Request, Unread>> {
        for reply in core::mem::take(&mut self.waiting) {
            self.answer(reply);
        }
        if !self.waiting.is_empty() {
            return None;
        }
        self.open();
        let server = self.server.as_mut()?;
        let request = if room {
            let request = server.request_or_id();
            request.map(|request| request.map(|request| request.map_err(Unread::NotUnderstood)))
        } else {
            server.request_id().map(|id| id.map(|id| Err(Unread::NoMemory(id))))
        };
        match request {
            Ok(request) => request,
            // The bad frame is read; the frames after it may be valid requests.
            Err(error @ (ChannelError::Message | ChannelError::Protocol(_))) => {
                self.count(error);
                Some(Err(Unread::NotUnderstood(NO_ID)))
            }
            Err(error) => {
                self.give_up(error);
                None
            }
        }
    }

    /// Sends a reply, or keeps it until the ring has room.
    pub fn answer(&mut self, reply: Reply) {
        let Some(server) = self.server.as_mut() else {
            return;
        };
        match server.reply(&reply) {
            Ok(()) => {}
            Err(ChannelError::Ring(RingError::Full)) => self.waiting.push_back(reply),
            Err(error) => self.give_up(error),
        }
    }

    fn open(&mut self) {
        if self.server.is_none() {
            let opened = Endpoint::open(self.words, Side::Server);
            self.server = opened.ok().map(|ring| Server::new(ring, self.port));
        }
    }

    /// Resets a channel in our own pages; the client notices this by the channel's epoch. Leaves
    /// another channel alone until the client's next event, by when the client may have reset it.
    fn give_up(&mut self, error: ChannelError) {
        self.count(error);
        self.server = None;
        self.waiting.clear();
        if self.own {
            let ring = Endpoint::create(self.words, Side::Server);
            self.server = ring.ok().map(|ring| Server::new(ring, self.port));
            self.port.ring();
        }
    }

    /// Counts an error. Logs only some of them, since a client can cause as many as it likes.
    fn count(&mut self, error: ChannelError) {
        self.errors = self.errors.saturating_add(1);
        if self.errors.is_power_of_two() {
            log!("command channel of partition {}: error {}: {error}", self.client, self.errors);
        }
    }
}
