//! Rows of answers about the audit log.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

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
    /// `committed`, `refused`, `pending`, `rolled back`, `monitor`.
    pub outcome: String,
    /// What was done, as text.
    pub what: String,
    /// The reason, as the client gave it.
    pub reason: String,
    /// The partitions it concerns, by number.
    pub partitions: Vec<u32>,
}

/// An audit log record with its changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordRow {
    /// The record.
    pub row: LogRow,
    /// Its changes, each a postcard message of the database's own change type. The list is empty if
    /// they do not fit in an answer; then a replica must be read anew.
    pub changes: Vec<ByteBuf>,
}
