//! The differences that a front end can find between a back end's behaviour and the protocol.

use crate::Cookie;
use crate::model::Known;
use core::fmt;

/// A mistake of the back end, or an effect that only a mistake of the back end can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The ring claims more answers than there are requests in flight, or its index went back.
    Answers {
        /// The ring.
        ring: usize,
        /// The index in the ring.
        produced: u32,
        /// Answers taken so far.
        taken: u32,
        /// Requests in flight.
        in_flight: u32,
    },
    /// An answer names an id that no request has.
    NoSuchId {
        /// The ring.
        ring: usize,
        /// The id.
        id: u64,
    },
    /// A second answer to a request: nothing waits with this id.
    NotWaiting {
        /// The ring.
        ring: usize,
        /// The id.
        id: u64,
    },
    /// An answer names another operation than its request.
    Operation {
        /// The ring.
        ring: usize,
        /// The id.
        id: u64,
        /// The operation that the answer must have.
        asked: u8,
        /// The operation in the answer.
        answered: u8,
    },
    /// A request failed.
    Status {
        /// The ring.
        ring: usize,
        /// The operation.
        operation: u8,
        /// The first sector.
        sector: u64,
        /// The status.
        status: i16,
    },
    /// A grant is still in use when the answer is seen.
    InUse {
        /// The ring.
        ring: usize,
        /// The operation.
        operation: u8,
        /// The page.
        page: usize,
    },
    /// A read shows other contents than the last write left.
    Contents {
        /// The sector.
        sector: u64,
        /// The expected contents of the sector.
        known: Known,
        /// The cookie in the sector; `None` if the sector holds no cookie.
        found: Option<Cookie>,
    },
    /// A request changed bytes outside of its segments.
    Beside {
        /// The operation.
        operation: u8,
        /// The page.
        page: usize,
        /// The first changed word.
        word: usize,
    },
    /// A page changed after its request was answered.
    Late {
        /// The page.
        page: usize,
        /// The first changed word.
        word: usize,
        /// The word.
        found: u32,
    },
    /// A request was not answered for too long.
    Silent {
        /// The ring.
        ring: usize,
        /// The operation.
        operation: u8,
        /// The first sector.
        sector: u64,
        /// How long the request has waited, in nanoseconds.
        waited: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answers { ring, produced, taken, in_flight } => write!(
                f,
                "ring {ring}: rsp_prod is {produced} after {taken} answers, with {in_flight} in flight"
            ),
            Self::NoSuchId { ring, id } => write!(f, "ring {ring}: an answer to id {id:#x}"),
            Self::NotWaiting { ring, id } => {
                write!(
                    f,
                    "ring {ring}: a second answer to id {id}, which does not wait for an answer"
                )
            }
            Self::Operation { ring, id, asked, answered } => write!(
                f,
                "ring {ring}: id {id} with operation {asked} is answered with operation {answered}"
            ),
            Self::Status { ring, operation, sector, status } => write!(
                f,
                "ring {ring}: operation {operation} at sector {sector} ended with status {status}"
            ),
            Self::InUse { ring, operation, page } => write!(
                f,
                "ring {ring}: the grant of page {page} is in use after the answer to operation {operation}"
            ),
            Self::Contents { sector, known, found } => {
                write!(f, "sector {sector} must hold {known}; it holds ")?;
                match found {
                    Some(cookie) => cookie.fmt(f),
                    None => f.write_str("no cookie"),
                }
            }
            Self::Beside { operation, page, word } => write!(
                f,
                "operation {operation} changed word {word} of page {page}, which the operation \
                must not change"
            ),
            Self::Late { page, word, found } => {
                write!(f, "word {word} of page {page} became {found:#x} after the answer")
            }
            Self::Silent { ring, operation, sector, waited } => write!(
                f,
                "ring {ring}: operation {operation} at sector {sector} is not answered after {waited} ns"
            ),
        }
    }
}
