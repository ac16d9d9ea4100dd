//! Replies of the ultravisor partition, and its answers.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::devices::DeviceRow;
use super::disks::DiskRow;
use super::issues::IssuesAnswer;
use super::log::{LogRow, RecordRow};
use super::operations::Range;
use super::partitions::{ListRow, PartitionRow};
use super::refusals::Refusal;
use super::resources::{Difference, MapRow, ResourcesAnswer};

/// A message from the ultravisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's id.
    pub id: u64,
    /// Version of the database after the request.
    pub version: u64,
    /// The answer, or the refusal.
    pub result: Result<Answer, Refusal>,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The transaction was applied, with one outcome per operation.
    Applied(Vec<Outcome>),
    /// Answer to [`Query::Version`](super::Query::Version).
    Version(VersionAnswer),
    /// Answer to [`Query::Partitions`](super::Query::Partitions) and
    /// [`Query::Partition`](super::Query::Partition).
    Partitions {
        /// Rows by number.
        rows: Vec<PartitionRow>,
        /// Whether more rows follow; then query again after the last one.
        more: bool,
    },
    /// Answer to [`Query::Resources`](super::Query::Resources).
    Resources(ResourcesAnswer),
    /// Answer to [`Query::PageMap`](super::Query::PageMap).
    PageMap(Vec<MapRow>),
    /// Answer to [`Query::Log`](super::Query::Log).
    Log {
        /// Records by sequence number.
        rows: Vec<LogRow>,
        /// Oldest sequence number still kept.
        oldest: u64,
        /// Sequence number of the next record.
        next: u64,
    },
    /// Answer to [`Body::Open`](super::Body::Open): ids of the requests that were rolled back.
    Opened {
        /// In the order of their rollback.
        rolled_back: Vec<u64>,
    },
    /// Answer to [`Body::Plan`](super::Body::Plan): one sentence for each operation of the
    /// transaction.
    Planned {
        /// The sentences, for people. If some do not fit in the answer, the last one says how many.
        what: Vec<String>,
    },
    /// Answer to [`Query::Arena`](super::Query::Arena).
    Arena {
        /// First page.
        first: u32,
        /// Number of pages in the arena.
        pages: u32,
        /// Bytes of the pages, each without its trailing zeros.
        contents: Vec<ByteBuf>,
    },
    /// Answer to [`Query::Records`](super::Query::Records).
    Records {
        /// Records by sequence number.
        rows: Vec<RecordRow>,
        /// Oldest sequence number still kept.
        oldest: u64,
        /// Sequence number of the next record.
        next: u64,
    },
    /// Answer to [`Query::Compare`](super::Query::Compare).
    Compared {
        /// The first frame that was not compared, or the number of frames if all were.
        next: u64,
        /// The frames on which database and monitor disagree. If there are too many, the next query
        /// continues with the rest.
        differences: Vec<Difference>,
    },
    /// Answer to [`Body::RollBack`](super::Body::RollBack): ids of the requests that were rolled back.
    RolledBack {
        /// In the order of their rollback.
        requests: Vec<u64>,
    },
    /// Answer to [`Query::Issues`](super::Query::Issues).
    Issues(IssuesAnswer),
    /// Answer to [`Query::List`](super::Query::List).
    List {
        /// Rows by number.
        rows: Vec<ListRow>,
        /// Whether more rows follow; then query again after the last one.
        more: bool,
    },
    /// Answer to [`Query::Devices`](super::Query::Devices).
    Devices {
        /// Rows by index.
        rows: Vec<DeviceRow>,
        /// Whether more rows follow; then query again from the next index on.
        more: bool,
    },
    /// Answer to [`Query::Disks`](super::Query::Disks).
    Disks {
        /// Rows by index.
        rows: Vec<DiskRow>,
        /// Whether more rows follow; then query again from the index after the last row's on.
        more: bool,
    },
}

/// The result of one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// There is no further result.
    Done,
    /// The partition's number.
    Partition(u32),
    /// The assigned memory.
    Memory(Vec<Range>),
    /// A new channel.
    Channel {
        /// Index in the channel table.
        index: u32,
        /// Event port at the partition's end.
        port: u32,
    },
}

/// Versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionAnswer {
    /// Version of the ultravisor partition (the workspace's).
    pub ultravisor: String,
    /// The [`PROTOCOL`](super::PROTOCOL) that it speaks.
    pub protocol: u16,
    /// Version of our part of the monitor's ABI.
    pub abi: u32,
    /// Layout version of the arena.
    pub arena: u32,
    /// The version of the Xen ABI that the monitor reports, `major << 16 | minor`.
    pub xen: u32,
    /// The monitor's command line.
    pub command_line: String,
}
