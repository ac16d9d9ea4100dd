//! Requests to the ultravisor partition: transactions and queries.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::operations::Transaction;

/// A message from a client to the ultravisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL`](super::PROTOCOL).
    pub protocol: u16,
    /// The id, chosen by the client in ascending order; the same id again is a retry.
    pub id: u64,
    /// The request itself.
    pub body: Body,
}

/// The request itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Change the database.
    Transaction(Transaction),
    /// Read the database.
    Query(Query),
    /// Open a new session: everything that the caller left pending in earlier sessions is rolled
    /// back.
    Open,
    /// Plan a transaction and change nothing. The answer has the changes that it would make, or the
    /// reason why it would be refused.
    Plan(Transaction),
    /// Apply the inverse of the committed transaction with this sequence number in the log, as a
    /// transaction of its own. Refused if later changes conflict with that.
    Undo {
        /// Sequence number of its record.
        sequence: u64,
        /// The reason, for the audit log.
        reason: String,
    },
    /// Roll back the caller's pending requests with these ids, and nothing else. Ids of requests
    /// that are not pending are skipped.
    RollBack {
        /// Ids of the requests.
        requests: Vec<u64>,
    },
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Versions of the parts.
    Version,
    /// All partitions with a number above `after`.
    Partitions {
        /// Continue after this number.
        after: u32,
    },
    /// Memory by owner and tier, CPUs.
    Resources,
    /// The page map as ranges, from this frame on.
    PageMap {
        /// First frame.
        first: u64,
        /// Maximum number of ranges in the answer.
        most: u32,
    },
    /// The arena as whole pages, for a replica.
    Arena {
        /// First page.
        first: u32,
        /// Maximum number of pages in the answer; there are fewer if a reply has no room.
        most: u32,
    },
    /// Log records with their changes, from this sequence number on, with which a replica is
    /// brought up to date.
    Records {
        /// First record wanted.
        from: u64,
        /// Maximum number of records in the answer.
        most: u32,
    },
    /// Log records from this sequence number on. The channel's event signals new ones.
    Log {
        /// First record wanted.
        from: u64,
        /// Maximum number of records in the answer.
        most: u32,
    },
    /// Compare the page map with the monitor's record of each frame, from this frame on; one query
    /// covers a part.
    Compare {
        /// First frame.
        first: u64,
    },
    /// One partition: the one with this name, or else the one with this decimal number. If there is
    /// none, the answer has no row.
    Partition {
        /// Name or number.
        name: String,
    },
    /// The known leaks of the CPU, and their mitigations.
    Issues,
    /// The partition's ranges of RAM that start at this frame or later, as rows of the page map.
    Memory {
        /// The partition.
        partition: u32,
        /// First frame.
        first: u64,
        /// Maximum number of ranges in the answer.
        most: u32,
    },
    /// A short row for each partition with a number above `after`.
    List {
        /// Continue after this number.
        after: u32,
    },
    /// The PCI functions from this index on.
    Devices {
        /// First index.
        first: u32,
    },
    /// The disks of partitions, from this index of the endpoint table on.
    Disks {
        /// First index.
        first: u32,
    },
}
