//! The messages on a command channel: requests with transactions or queries, and their replies.
//!
//! Messages are encoded in postcard, one per frame of the [`pv_abi::uv::channel`]. A request has an
//! id, so that a retry is answered and not repeated. It may name the version of the database it was
//! planned against, so that a stale plan is refused. A transaction applies as a whole or not at
//! all; a refusal names object, field, limit and a way out.

mod devices;
mod disks;
mod issues;
mod log;
mod name;
mod operations;
mod partitions;
mod refusals;
mod replies;
mod requests;
mod resources;

pub use devices::{BarRow, DeviceRow, PciAddress, refused_words};
pub use disks::{
    DiskLimits, DiskNumber, DiskRow, DiskState, DiskStatus, Extent, MAX_DISK_CAUSE, Medium, Rate,
};
pub use issues::{IssueRow, IssueState, IssuesAnswer};
pub use log::{LogRow, RecordRow, Settled};
pub use name::ShortName;
pub use operations::{MAX_OPERATIONS, MAX_PENDING, Operation, Range, Start, Target, Transaction};
pub use partitions::{ListRow, PartitionRow};
pub use refusals::{Code, MAX_REFUSAL_TEXT, Refusal};
pub use replies::{Answer, Outcome, Reply, VersionAnswer};
pub use requests::{Body, Query, Request};
pub use resources::{CpuRow, Difference, Heap, MapRow, MemoryRow, ResourcesAnswer, Turns};

/// Version of these messages, sent first in a [`Request`].
pub const PROTOCOL: u16 = 12;
