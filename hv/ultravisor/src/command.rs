//! Command channels: requests in, replies out.
//!
//! Rule: a request is taken only when the reply to the one before it is in the ring, so a client
//! that does not read makes nobody else wait and keeps nothing here but one reply.

use core::sync::atomic::AtomicU32;

use partition_runtime::channel::{ChannelError, Server};
use partition_runtime::events::Port;
use partition_runtime::log;
use partition_runtime::ring::{Endpoint, RingError, Side};
use pv_abi::uv::command::{Reply, Request};

/// A command channel that is served.
#[derive(Debug)]
pub struct CommandChannel {
    /// The client.
    pub client: u32,
    words: &'static [AtomicU32],
    port: Port,
    server: Option<Server<'static, Port>>,
    waiting: Option<Reply>,
}

impl CommandChannel {
    /// A channel whose pages the client made, or will make.
    #[must_use]
    pub const fn of_client(client: u32, words: &'static [AtomicU32], port: Port) -> Self {
        Self { client, words, port, server: None, waiting: None }
    }

    /// A channel whose pages are this partition's own.
    ///
    /// # Errors
    /// The pages cannot be a channel.
    pub fn own(client: u32, words: &'static [AtomicU32], port: Port) -> Result<Self, RingError> {
        let ring = Endpoint::create(words, Side::Server)?;
        let server = Some(Server::new(ring, port));
        Ok(Self { client, words, port, server, waiting: None })
    }

    /// The next request, once the reply to the one before is in the ring. Without `room` for what a
    /// request may say, its id alone.
    pub fn next(&mut self, room: bool) -> Option<Result<Request, u64>> {
        if let Some(reply) = self.waiting.take() {
            self.answer(reply);
            if self.waiting.is_some() {
                return None;
            }
        }
        self.open();
        let server = self.server.as_mut()?;
        let request = if room {
            server.request().map(|request| request.map(Ok))
        } else {
            server.request_id().map(|id| id.map(Err))
        };
        match request {
            Ok(request) => request,
            Err(error) => {
                self.give_up(error);
                None
            }
        }
    }

    /// Sends a reply, or keeps it until there is room.
    pub fn answer(&mut self, reply: Reply) {
        let Some(server) = self.server.as_mut() else {
            return;
        };
        match server.reply(&reply) {
            Ok(()) => {}
            Err(ChannelError::Ring(RingError::Full)) => self.waiting = Some(reply),
            Err(error) => self.give_up(error),
        }
    }

    fn open(&mut self) {
        if self.server.is_none() {
            let opened = Endpoint::open(self.words, Side::Server);
            self.server = opened.ok().map(|ring| Server::new(ring, self.port));
        }
    }

    /// Leaves the channel until the client's next event; it may have been made anew by then.
    fn give_up(&mut self, error: ChannelError) {
        log!("command channel of partition {}: {error}", self.client);
        (self.server, self.waiting) = (None, None);
    }
}
