//! Rows of answers about the audit log.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// The outcome of a record of the audit log. JSON has the outcome as its [word](Self::word).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settled {
    /// Written ahead, and not ended.
    #[serde(rename = "begun")]
    Begun,
    /// Applied and activated.
    #[serde(rename = "committed")]
    Committed,
    /// Not carried out, or undone.
    #[serde(rename = "refused")]
    Refused,
    /// Applied and activated. The client has yet to complete the transaction; if it fails, the
    /// transaction is rolled back.
    #[serde(rename = "pending")]
    Pending,
    /// Was pending and has been undone.
    #[serde(rename = "rolled back")]
    RolledBack,
    /// An act of the monitor by itself.
    #[serde(rename = "monitor")]
    Monitor,
}

impl Settled {
    /// The word for the outcome, for people and programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Committed => "committed",
            Self::Refused => "refused",
            Self::Pending => "pending",
            Self::RolledBack => "rolled back",
            Self::Monitor => "monitor",
        }
    }
}

/// An audit log record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRow {
    /// Sequence number.
    pub sequence: u64,
    /// System time in nanoseconds.
    pub time: u64,
    /// The partition that made the request ([`pv_abi::uv::database::MONITOR`] for the monitor by
    /// itself).
    pub who: u32,
    /// Id of the request.
    pub request: u64,
    /// Version of the database after it.
    pub version: u64,
    /// The outcome of the record.
    pub outcome: Settled,
    /// A sentence about the operations, as text.
    pub what: String,
    /// The reason, as the client gave it.
    pub reason: String,
    /// The numbers of the partitions that the record concerns.
    pub partitions: Vec<u32>,
}

/// An audit log record with its changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordRow {
    /// The record.
    pub row: LogRow,
    /// Its changes, each a postcard message of the database's own change type. The list is empty if
    /// they do not fit in an answer; then a replica must read the database anew.
    pub changes: Vec<ByteBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Settled; 6] = [
        Settled::Begun,
        Settled::Committed,
        Settled::Refused,
        Settled::Pending,
        Settled::RolledBack,
        Settled::Monitor,
    ];

    /// Programs read these words, and a store that an earlier version wrote has them.
    #[test]
    fn an_outcome_is_its_word_in_json() {
        for outcome in ALL {
            let text = serde_json::to_string(&outcome).unwrap();
            assert_eq!(text, alloc::format!("\"{}\"", outcome.word()));
            assert_eq!(serde_json::from_str::<Settled>(&text).unwrap(), outcome);
        }
        let words: Vec<_> = ALL.iter().map(|outcome| outcome.word()).collect();
        assert_eq!(words, ["begun", "committed", "refused", "pending", "rolled back", "monitor"]);
    }
}
