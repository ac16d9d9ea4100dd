//! The protocol between `uvd` and its clients in the command partition.
//!
//! ```text
//! uvtool                     /run/uvd.sock                     uvd
//!   Ask { id, body } -------------------------------------->   puts it on the command channel
//!   Told { id, result } <----------------------------------    what the ultravisor replied
//! ```
//!
//! A message is a little-endian u32 length and that many bytes: [`VERSION`], and the message in
//! postcard, as on the command channel, so that `uvd` can pass on an answer of the ultravisor
//! unchanged ([`encode_carried`]). A client may have several requests under way; answers carry the
//! id of their request and come in any order. Rule: a message is never longer than [`MAX_MESSAGE`],
//! and a refusal of the ultravisor reaches the client whole.
#![forbid(unsafe_code)]

mod definitions;
mod frame;
mod service;
pub mod way_out;

pub use definitions::{Definitions, Packed, Unclear, packed};
pub use frame::{FrameError, Frames, VERSION, encode, encode_carried, read, write};
pub use service::{
    Defined, EarlierBoot, End, From, FunctionMove, IoChange, MAX_INPUT, Planned, PolicySettings,
    Progress, Service, ServiceAnswer, Settings, Until, fitting,
};

use std::fmt;

use control::command::{Answer, Body, Refusal};
use serde::{Deserialize, Serialize};

/// The socket on which `uvd` listens.
pub const SOCKET: &str = "/run/uvd.sock";
/// Bytes of one message at most (1 MiB), without its length.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// The time limit of a request without one of its own, in milliseconds.
pub const DEFAULT_TIMEOUT_MS: u32 = 10_000;
/// The longest time limit in milliseconds that a request may give (10 minutes).
pub const MAX_TIMEOUT_MS: u32 = 600_000;

/// A client's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Chosen by the client; comes back in the answer.
    pub id: u64,
    /// The time limit in milliseconds. `None` means [`DEFAULT_TIMEOUT_MS`] for a request to the
    /// ultravisor, and no limit for a request that `uvd` serves itself.
    pub timeout_ms: Option<u32>,
    /// The request itself.
    pub body: Asked,
}

/// A request to the ultravisor or to `uvd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    /// A request to the ultravisor, which `uvd` passes on unchanged.
    Ultravisor(Body),
    /// To `uvd`.
    Service(Service),
}

/// An answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Id of the request; 0 if the request could not be decoded.
    pub id: u64,
    /// The outcome.
    pub result: Result<Answered, Failure>,
}

/// An answer. All answers to a request but the last are [`Answered::Progress`],
/// [`Answered::Attached`], [`Answered::Output`] or [`Answered::Piece`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answered {
    /// The ultravisor's.
    Ultravisor {
        /// Version of the database after the request.
        version: u64,
        /// The answer.
        answer: Answer,
    },
    /// The service's.
    Service(ServiceAnswer),
    /// A piece of a service's answer that is too long for one message; more follows. See
    /// [`ServiceAnswer::followed_by`].
    Piece(ServiceAnswer),
    /// The request is under way; more follows.
    Progress(Progress),
    /// A console is attached. From now on the partition gets the typed bytes; more answers follow.
    Attached,
    /// Output of a console; more follows.
    Output(Vec<u8>),
}

/// The reason why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The ultravisor refused.
    Refused(Box<Refusal>),
    /// `uvd` has no command channel.
    NoChannel(String),
    /// The ultravisor did not answer within the time, in milliseconds.
    Timeout(u32),
    /// The request does not fit a frame of the channel.
    TooLarge {
        /// The request's bytes.
        bytes: u64,
        /// The most bytes that a request may have.
        limit: u64,
    },
    /// `uvd` could not decode the message.
    Malformed(String),
    /// `uvd` is ending.
    ShuttingDown,
}

impl Failure {
    /// The failure for people.
    #[must_use]
    pub fn sentence(&self) -> Sentence {
        match self {
            Self::Refused(refusal) => sentence(refusal),
            Self::NoChannel(why) => Sentence::new(
                format!("command channel: {why}"),
                "uvd tries again by itself, see `dmesg | grep uvd`",
            ),
            Self::Timeout(milliseconds) => Sentence::new(
                format!("ultravisor: no answer within {}", seconds(*milliseconds)),
                "the request may still be carried out, ask again with a longer --timeout",
            ),
            Self::TooLarge { bytes, limit } => Sentence::new(
                format!("request: takes {bytes} bytes, the limit is {limit}"),
                "split it",
            ),
            Self::Malformed(why) => {
                Sentence::new(format!("request: {why}"), "use a uvtool of uvd's version")
            }
            Self::ShuttingDown => {
                Sentence::new("uvd: is shutting down", "ask again when it is back")
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sentence().fmt(f)
    }
}

impl std::error::Error for Failure {}

/// A message for people, in its two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// The object, the field, and the mistake.
    pub problem: String,
    /// The way out, or empty.
    pub way_out: String,
}

impl Sentence {
    /// A problem and the way out.
    pub fn new(problem: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { problem: problem.into(), way_out: way_out.into() }
    }
}

impl fmt::Display for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        if self.way_out.is_empty() { Ok(()) } else { write!(f, "; {}", self.way_out) }
    }
}

/// Milliseconds in seconds, as a person writes them: `10 s`, `0.5 s`.
#[must_use]
pub fn seconds(milliseconds: u32) -> String {
    format!("{} s", f64::from(milliseconds) / 1000.0)
}

/// The refusal for people: `object: field: reason; way out`, without the parts that are empty.
#[must_use]
pub fn sentence(refusal: &Refusal) -> Sentence {
    let parts = [&refusal.object, &refusal.field, &refusal.reason];
    let parts: Vec<&str> =
        parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    Sentence::new(parts.join(": "), refusal.way_out.as_str())
}

#[cfg(test)]
mod tests;
