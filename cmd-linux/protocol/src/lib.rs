//! What `uvd` and its clients in the command partition say to each other.
//!
//! ```text
//! uvtool                     /run/uvd.sock                     uvd
//!   Ask { id, body } -------------------------------------->   puts it on the command channel
//!   Told { id, result } <----------------------------------    what the ultravisor replied
//! ```
//!
//! A message is a little-endian u32 length and that many bytes: [`VERSION`], and the message in
//! postcard, as on the command channel, so that `uvd` passes an answer of the ultravisor on as it
//! came ([`encode_carried`]). A client may have several requests under way; answers carry the id of
//! their request and come in any order. The rule kept here: a message is never longer than
//! [`MAX_MESSAGE`], and a refusal of the ultravisor reaches the client whole.
#![forbid(unsafe_code)]

mod definitions;
mod frame;
mod service;
pub mod way_out;

pub use definitions::{Definitions, Packed, Unclear, packed};
pub use frame::{FrameError, Frames, VERSION, encode, encode_carried, read, write};
pub use service::{
    Defined, EarlierBoot, End, From, MAX_INPUT, Planned, PolicySettings, Progress, Service,
    ServiceAnswer, Settings, Until, fitting,
};

use pv_abi::uv::command::{Answer, Body, Refusal};
use serde::{Deserialize, Serialize};

/// Where `uvd` listens.
pub const SOCKET: &str = "/run/uvd.sock";
/// Bytes of one message at most (1 MiB), without its length.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// Milliseconds that a request may take when it does not say.
pub const DEFAULT_TIMEOUT_MS: u32 = 10_000;
/// Milliseconds that a request may ask for at most (10 minutes).
pub const MAX_TIMEOUT_MS: u32 = 600_000;

/// Code of a refusal: what was waited for did not come within the time that the client gave.
pub const TIME_IS_UP: &str = "time-is-up";

/// A client's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Chosen by the client; comes back in the answer.
    pub id: u64,
    /// Milliseconds to wait. `None`: [`DEFAULT_TIMEOUT_MS`] for the ultravisor; what `uvd` does by
    /// itself takes as long as it takes.
    pub timeout_ms: Option<u32>,
    /// What is asked.
    pub body: Asked,
}

/// What is asked, and of whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    /// Of the ultravisor; `uvd` carries it as it is.
    Ultravisor(Body),
    /// Of `uvd`.
    Service(Service),
}

/// An answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Id of the request; 0 where the request could not be read.
    pub id: u64,
    /// What came of it.
    pub result: Result<Answered, Failure>,
}

/// An answer. Those but the last one to a request are [`Answered::Progress`],
/// [`Answered::Attached`], [`Answered::Output`] and [`Answered::Piece`].
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
    /// A piece of the service's answer that no message holds; more follows. See
    /// [`ServiceAnswer::followed_by`].
    Piece(ServiceAnswer),
    /// The request is under way; more follows.
    Progress(Progress),
    /// A console is attached: what is typed from now on reaches it; more follows.
    Attached,
    /// Output of a console; more follows.
    Output(Vec<u8>),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// The ultravisor refused.
    #[error("{}", sentence(.0))]
    Refused(Box<Refusal>),
    /// `uvd` has no command channel.
    #[error("command channel: {0}; uvd tries again by itself, see `dmesg | grep uvd`")]
    NoChannel(String),
    /// The ultravisor did not answer within the time, in milliseconds.
    #[error(
        "ultravisor: no answer within {}; the request may still be carried out, \
         ask again with a longer --timeout",
        seconds(*.0)
    )]
    Timeout(u32),
    /// The request does not fit a frame of the channel: its bytes and the limit.
    #[error("request: takes {bytes} bytes, the limit is {limit}; split it")]
    TooLarge {
        /// Bytes it takes.
        bytes: u64,
        /// Bytes it may take.
        limit: u64,
    },
    /// `uvd` could not make sense of the message.
    #[error("request: {0}; use a uvtool of uvd's version")]
    Malformed(String),
    /// `uvd` ends.
    #[error("uvd: is shutting down; ask again when it is back")]
    ShuttingDown,
}

/// Milliseconds as a person writes seconds: `10 s`, `0.5 s`.
#[must_use]
pub fn seconds(milliseconds: u32) -> String {
    format!("{} s", f64::from(milliseconds) / 1000.0)
}

/// One sentence: `object: field: reason; way out`, without the parts that are empty.
#[must_use]
pub fn sentence(refusal: &Refusal) -> String {
    let parts = [&refusal.object, &refusal.field, &refusal.reason];
    let parts: Vec<&str> =
        parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    let mut text = parts.join(": ");
    if !refusal.way_out.is_empty() {
        text.push_str("; ");
        text.push_str(&refusal.way_out);
    }
    text
}

#[cfg(test)]
mod tests;
