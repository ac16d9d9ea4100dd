//! Messages for clients. The event loop takes them to the clients' sockets.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use uvd_protocol::{Answered, Failure, ServiceAnswer, Told};

use crate::link::Carried;

/// See [`Outbox::quiet`].
const QUIET: Duration = Duration::from_millis(200);

/// A message for a client.
#[derive(Debug)]
pub struct Letter {
    /// The client.
    pub client: u64,
    /// The message.
    pub contents: Contents,
}

/// The contents of a message for a client.
#[derive(Debug)]
pub enum Contents {
    /// A message of `uvd`.
    Told {
        /// The message.
        told: Told,
        /// Whether it is the last answer to its request.
        last: bool,
    },
    /// The ultravisor's answer to the request with this id.
    Carried(u64, Carried),
}

/// See the module's head.
pub struct Outbox {
    letters: RefCell<VecDeque<Letter>>,
    /// The time after which a client is told the progress of its request.
    pub quiet: Cell<Duration>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { letters: RefCell::default(), quiet: Cell::new(QUIET) }
    }
}

impl Outbox {
    /// Sends a message to a client.
    pub fn send(&self, client: u64, id: u64, result: Result<Answered, Failure>, last: bool) {
        let contents = Contents::Told { told: Told { id, result }, last };
        self.letters.borrow_mut().push_back(Letter { client, contents });
    }

    /// Passes an answer of the ultravisor on to a client.
    pub fn pass_on(&self, client: u64, id: u64, reply: Carried) {
        let contents = Contents::Carried(id, reply);
        self.letters.borrow_mut().push_back(Letter { client, contents });
    }

    /// Sends a client the last answer to a request.
    pub fn finish(&self, client: u64, id: u64, result: Result<ServiceAnswer, Failure>) {
        let mut pieces = match result {
            Ok(answer) => answer.pieces(),
            Err(failure) => return self.send(client, id, Err(failure), true),
        };
        let last = pieces.pop().unwrap_or(ServiceAnswer::Done);
        for piece in pieces {
            self.send(client, id, Ok(Answered::Piece(piece)), false);
        }
        self.send(client, id, Ok(Answered::Service(last)), true);
    }

    /// Takes the messages.
    pub fn letters(&self) -> VecDeque<Letter> {
        self.letters.take()
    }
}
