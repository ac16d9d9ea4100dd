//! The messages on a command channel: requests with transactions or queries, and their replies.
//!
//! Messages are encoded in postcard, one per frame of the [`pv_abi::uv::channel`]. A request has an
//! id, so that a retry is answered and not repeated. It may name the version of the database it was
//! planned against, so that a stale plan is refused. A transaction applies as a whole or not at
//! all; a refusal names object, field, limit and a way out.

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Version of these messages, sent first in a [`Request`].
pub const PROTOCOL: u16 = 8;

/// A message from a client to the ultravisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL`].
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
    /// Plan a transaction and change nothing: answers what it would do, or why it would be refused.
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

/// Operations that apply together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Version of the database it was planned against, if that matters.
    pub planned_at: Option<u64>,
    /// Leave it pending under the caller: it rolls back if the caller fails before
    /// [`Operation::Complete`].
    pub pending: bool,
    /// The reason, for the audit log.
    pub reason: String,
    /// The operations, in order; at most [`MAX_OPERATIONS`]. A receiver keeps at most one more, so
    /// that it can refuse them: a frame has room for thousands of small ones.
    #[serde(deserialize_with = "operations")]
    pub operations: Vec<Operation>,
}

/// Maximum number of operations of a transaction.
pub const MAX_OPERATIONS: usize = 4096;

/// Maximum number of transactions that a client may have pending at once. The list of those rolled
/// back fits in an answer.
pub const MAX_PENDING: usize = 64;

/// Reads a list of operations to its end, and keeps the first ones.
fn operations<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Operation>, D::Error> {
    struct First;
    impl<'de> serde::de::Visitor<'de> for First {
        type Value = Vec<Operation>;

        fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            f.write_str("operations")
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            mut list: A,
        ) -> Result<Self::Value, A::Error> {
            let mut first = Vec::new();
            while let Some(operation) = list.next_element()? {
                if first.len() <= MAX_OPERATIONS {
                    first.push(operation);
                }
            }
            Ok(first)
        }
    }
    from.deserialize_seq(First)
}

/// One change of the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Create a partition in state *building*, with no memory of its own but its instance.
    CreatePartition {
        /// The wanted number; `None` for the next free one.
        number: Option<u32>,
        /// See [`pv_abi::uv::database::kind`].
        kind: u32,
        /// See [`pv_abi::uv::database::rights`].
        rights: u32,
        /// Unique; 1 to 31 bytes.
        name: String,
        /// Virtual CPUs.
        vcpus: u32,
        /// Relative CPU share.
        cpu_weight: u32,
        /// CPU cap in percent of one CPU; 0 for none.
        cpu_cap: u32,
        /// Physical CPUs it may use; empty for all.
        cpu_affinity: Vec<u32>,
        /// Whether the CPUs of its affinity are reserved for it alone; the affinity must not be
        /// empty then.
        cpu_dedicated: bool,
        /// Grant frames.
        grant_frames: u32,
    },
    /// Assign free memory.
    AssignMemory {
        /// The partition that gets it (see [`Target`]).
        partition: Target,
        /// Frames of 4 KiB.
        frames: u64,
    },
    /// Release memory (nothing may refer to the ranges).
    ReleaseMemory {
        /// The partition that releases it.
        partition: Target,
        /// The ranges.
        ranges: Vec<Range>,
    },
    /// Create a channel between a partition and the ultravisor or another partition, at the next
    /// free ports.
    CreateChannel {
        /// The partition that owns the shared frames.
        partition: Target,
        /// The other partition: [`pv_abi::uv::database::ULTRAVISOR`], or the command partition,
        /// which binds the port at its end by itself (see
        /// [`pv_abi::uv::database::ChannelEntry::port_b`]).
        peer: u32,
        /// See [`pv_abi::uv::database::channel_kind`].
        kind: u32,
        /// First shared frame, owned by the partition.
        frame: u64,
        /// Number of shared frames.
        frames: u32,
        /// First grant reference.
        grant: u32,
    },
    /// Set the start state of virtual CPU 0.
    SetStart {
        /// The partition.
        partition: Target,
        /// Its start state.
        start: Start,
    },
    /// Change the state: running, paused, shut down, dying.
    SetState {
        /// The partition.
        partition: Target,
        /// See [`pv_abi::uv::database::state`].
        state: u32,
    },
    /// Change its limits of CPU time, with immediate effect if it runs. A field that is `None`
    /// stays the same.
    SetCpu {
        /// The partition.
        partition: Target,
        /// Relative CPU share, 1 to 65535.
        weight: Option<u32>,
        /// CPU cap in percent of one CPU; 0 for none.
        cap: Option<u32>,
        /// Physical CPUs it may use; empty for all.
        affinity: Option<Vec<u32>>,
        /// Whether the CPUs of its affinity are reserved for it alone.
        dedicated: Option<bool>,
    },
    /// Change its name.
    Rename {
        /// The partition.
        partition: Target,
        /// Unique; 1 to 31 bytes.
        name: String,
    },
    /// Tell its balloon driver how many of its frames to use. Frames that it does not use stay its
    /// own.
    SetMemoryTarget {
        /// The partition.
        partition: Target,
        /// Frames of 4 KiB, at most those it has.
        frames: u64,
    },
    /// Tell its kernel how many virtual CPUs to bring up.
    SetVcpusOnline {
        /// The partition.
        partition: Target,
        /// A number from 1 to its number of virtual CPUs.
        vcpus: u32,
    },
    /// Ask its kernel to shut down.
    Ask {
        /// The partition, which must be running.
        partition: Target,
        /// See [`pv_abi::uv::database::asked`].
        what: u32,
    },
    /// Release all its resources and remove the partition.
    DestroyPartition {
        /// The partition.
        partition: Target,
    },
    /// Complete the caller's pending transaction with this id.
    Complete {
        /// Id of the pending request.
        request: u64,
    },
}

impl Operation {
    /// The partition that it names. Returns `None` if it creates one, or concerns requests.
    #[must_use]
    pub const fn target(&self) -> Option<Target> {
        match self {
            Self::CreatePartition { .. } | Self::Complete { .. } => None,
            Self::AssignMemory { partition, .. }
            | Self::ReleaseMemory { partition, .. }
            | Self::CreateChannel { partition, .. }
            | Self::SetStart { partition, .. }
            | Self::SetState { partition, .. }
            | Self::SetCpu { partition, .. }
            | Self::Rename { partition, .. }
            | Self::SetMemoryTarget { partition, .. }
            | Self::SetVcpusOnline { partition, .. }
            | Self::Ask { partition, .. }
            | Self::DestroyPartition { partition } => Some(*partition),
        }
    }
}

/// A partition named in an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// By number.
    Number(u32),
    /// The partition that operation `n` (from 0) of the same transaction creates.
    CreatedBy(u32),
}

/// A range of machine frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First frame.
    pub first: u64,
    /// Number of frames.
    pub frames: u64,
}

/// Start state of virtual CPU 0; see the descriptor's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Instruction pointer.
    pub entry: u64,
    /// Stack pointer.
    pub stack: u64,
    /// Start info (rsi).
    pub start_info: u64,
    /// Frame of the level-4 table.
    pub page_table: u64,
    /// Frame of the console ring; 0 if there is none.
    pub console_frame: u64,
    /// Frame of the store ring; 0 if there is none.
    pub store_frame: u64,
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
    /// Memory by owner and tier, CPUs, PCI functions.
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
}

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
    /// Answer to [`Query::Version`].
    Version(VersionAnswer),
    /// Answer to [`Query::Partitions`] and [`Query::Partition`].
    Partitions {
        /// Rows by number.
        rows: Vec<PartitionRow>,
        /// Whether there are more; then query again after the last one.
        more: bool,
    },
    /// Answer to [`Query::Resources`].
    Resources(ResourcesAnswer),
    /// Answer to [`Query::PageMap`].
    PageMap(Vec<MapRow>),
    /// Answer to [`Query::Log`].
    Log {
        /// Records by sequence number.
        rows: Vec<LogRow>,
        /// Oldest sequence number still kept.
        oldest: u64,
        /// Sequence number of the next record.
        next: u64,
    },
    /// Answer to [`Body::Open`]: ids of the requests that were rolled back.
    Opened {
        /// In the order of their rollback.
        rolled_back: Vec<u64>,
    },
    /// Answer to [`Body::Plan`]: what the transaction would do, in one sentence for each operation.
    Planned {
        /// The sentences, for people. If some do not fit in the answer, the last one says how many.
        what: Vec<String>,
    },
    /// Answer to [`Query::Arena`].
    Arena {
        /// First page.
        first: u32,
        /// Number of pages in the arena.
        pages: u32,
        /// Bytes of the pages, each without its trailing zeros.
        contents: Vec<ByteBuf>,
    },
    /// Answer to [`Query::Records`].
    Records {
        /// Records by sequence number.
        rows: Vec<RecordRow>,
        /// Oldest sequence number still kept.
        oldest: u64,
        /// Sequence number of the next record.
        next: u64,
    },
    /// Answer to [`Query::Compare`].
    Compared {
        /// The first frame that was not compared, or the number of frames if all were.
        next: u64,
        /// The frames on which database and monitor disagree. If there are too many, the next query
        /// continues with the rest.
        differences: Vec<Difference>,
    },
    /// Answer to [`Body::RollBack`]: ids of the requests that were rolled back.
    RolledBack {
        /// In the order of their rollback.
        requests: Vec<u64>,
    },
    /// Answer to [`Query::Issues`].
    Issues(IssuesAnswer),
    /// Answer to [`Query::List`].
    List {
        /// Rows by number.
        rows: Vec<ListRow>,
        /// Whether there are more; then query again after the last one.
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

/// Why a request was not carried out. It is shown as one sentence:
/// `object: field: reason; way out`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A short, stable code for programs: `no-memory`, `no-such-partition`, `stale-plan`, …
    pub code: String,
    /// The operation of the transaction (from 0) that caused it, if one did.
    pub operation: Option<u32>,
    /// The object: `partition "web"`, `memory`, …
    pub object: String,
    /// The field or quantity.
    pub field: String,
    /// The requested value and the limit.
    pub reason: String,
    /// What would work instead.
    pub way_out: String,
}

/// The known leaks of the CPU, and their mitigations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuesAnswer {
    /// Vendor, family, model and stepping of the CPU.
    pub cpu: String,
    /// Revision of its microcode.
    pub microcode: u32,
    /// Source of that revision, as text.
    pub microcode_update: String,
    /// Whether two threads of a core run.
    pub smt: bool,
    /// Whether devices access memory through an IOMMU.
    pub iommu: bool,
    /// Whether guests may start.
    pub guests_start: bool,
    /// All known issues.
    pub issues: Vec<IssueRow>,
}

/// The verdict on one issue of the CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueRow {
    /// Its short, stable name.
    pub name: String,
    /// The verdict.
    pub state: IssueState,
    /// The verdict and its reason, as text.
    pub verdict: String,
    /// What would resolve the issue, if it is open.
    pub way_out: String,
}

/// A verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IssueState {
    /// The CPU does not have the issue.
    NotAffected,
    /// The CPU has the issue, and it is mitigated.
    Mitigated,
    /// The CPU has the issue, and it is not mitigated.
    Open,
}

/// Maximum number of bytes of each text of a refusal: whatever a client's names are, its refusal
/// fits a frame of a channel, and a message of `uvd` with every character escaped.
pub const MAX_REFUSAL_TEXT: usize = 1000;

impl Refusal {
    /// The refusal with each text cut to [`MAX_REFUSAL_TEXT`] bytes; a cut text ends with an
    /// ellipsis.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        const ELLIPSIS: &str = "…";
        let texts = [&mut self.code, &mut self.object, &mut self.field];
        for text in texts.into_iter().chain([&mut self.reason, &mut self.way_out]) {
            if text.len() > MAX_REFUSAL_TEXT {
                text.truncate(text.floor_char_boundary(MAX_REFUSAL_TEXT - ELLIPSIS.len()));
                text.push_str(ELLIPSIS);
            }
        }
        self
    }
}

/// Versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionAnswer {
    /// Version of the ultravisor partition (the workspace's).
    pub ultravisor: String,
    /// The [`PROTOCOL`] that it speaks.
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

/// A partition in short, so that a list of a thousand partitions costs little for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRow {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// See [`pv_abi::uv::database::kind`].
    pub kind: u32,
    /// See [`pv_abi::uv::database::state`].
    pub state: u32,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Number of virtual CPUs that are up.
    pub vcpus_up: u32,
    /// Number of frames assigned to it.
    pub memory_frames: u64,
    /// Nanoseconds in which it ran.
    pub cpu_time: u64,
}

/// A partition as a query shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRow {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// See [`pv_abi::uv::database::kind`].
    pub kind: u32,
    /// See [`pv_abi::uv::database::state`].
    pub state: u32,
    /// See [`pv_abi::uv::database::rights`].
    pub rights: u32,
    /// The partition that asked for it.
    pub owner: u32,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Number of virtual CPUs that are up.
    pub vcpus_up: u32,
    /// CPU weight.
    pub cpu_weight: u32,
    /// CPU cap in percent of one CPU; 0 for none.
    pub cpu_cap: u32,
    /// Requested physical CPUs; empty for all.
    pub cpu_affinity: Vec<u32>,
    /// Whether these CPUs are reserved for it alone.
    pub cpu_dedicated: bool,
    /// Number of virtual CPUs that its kernel was told to bring up.
    pub vcpus_online: u32,
    /// Number of frames that its balloon driver was told to use.
    pub memory_target: u64,
    /// The request made to its kernel; see [`pv_abi::uv::database::asked`].
    pub asked: u32,
    /// Event port of its console; 0 if there is none.
    pub console_port: u32,
    /// Nanoseconds in which its virtual CPUs were runnable but did not run.
    pub wait_time: u64,
    /// Nanoseconds that the ultravisor spent on its requests: store, console, transactions.
    pub service_time: u64,
    /// Frames of RAM assigned for its own use.
    pub memory_frames: u64,
    /// Frames of its monitor instance.
    pub instance_frames: u64,
    /// CPU time in nanoseconds.
    pub cpu_time: u64,
    /// Refused hypercalls of its kernel, as pairs of a cause (an errno without its sign) and a
    /// count. The cause 0 stands for all that are not counted separately.
    pub refusals: Vec<(u32, u64)>,
    /// See [`pv_abi::uv::calls::cause`].
    pub cause: u32,
    /// Detail of the cause.
    pub cause_detail: u32,
    /// Version of the database it was created at.
    pub created_at: u64,
}

/// The resources of the machine, and their owners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourcesAnswer {
    /// Number of frames that the page map describes.
    pub frames: u64,
    /// Memory by owner.
    pub memory: Vec<MemoryRow>,
    /// The firmware's memory map: pairs of a type (see `MachineRegion`) and a number of frames.
    pub firmware: Vec<(u32, u64)>,
    /// Physical CPUs.
    pub cpus: Vec<CpuRow>,
    /// PCI functions.
    pub pci: Vec<PciRow>,
    /// Number of arena pages: all, and those in use.
    pub arena: (u32, u32),
    /// Number of channels in use.
    pub channels: u32,
    /// The heap of the ultravisor partition.
    pub heap: Heap,
    /// Maximum number of free frames that may still have to be scrubbed.
    pub unscrubbed: u64,
    /// The loop of the ultravisor partition.
    pub turns: Turns,
}

/// Statistics of an event loop's turns since it started. A turn is the time between two checks for
/// events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turns {
    /// Nanoseconds of the longest turn, without the time in which others had the CPU.
    pub longest: u64,
    /// Number of turns above 5 ms.
    pub long: u64,
}

/// The usage of a Rust partition's heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heap {
    /// Size in bytes.
    pub bytes: u64,
    /// Bytes in use.
    pub in_use: u64,
    /// Maximum number of bytes in use since it started.
    pub most: u64,
}

/// Memory of one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRow {
    /// Partition number; 0 if free.
    pub owner: u32,
    /// Whether it is I/O memory or a hole rather than RAM.
    pub io: bool,
    /// Number of entries of each tier (4 GiB, 4 MiB, 4 KiB) that name this owner.
    pub tiers: [u64; 3],
    /// Total number of frames.
    pub frames: u64,
}

/// A physical CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuRow {
    /// Index.
    pub index: u32,
    /// Local APIC id.
    pub apic_id: u32,
    /// Whether it is online.
    pub online: bool,
    /// Nanoseconds busy.
    pub busy: u64,
    /// Nanoseconds idle.
    pub idle: u64,
}

/// A PCI function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciRow {
    /// Segment << 16 | bus << 8 | device << 3 | function.
    pub address: u32,
    /// Vendor | device << 16.
    pub id: u32,
    /// Class << 8 | revision.
    pub class: u32,
    /// Owner; 0 if free.
    pub owner: u32,
}

/// A range of the page map with one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapRow {
    /// First frame.
    pub first: u64,
    /// Number of frames.
    pub frames: u64,
    /// Owner; 0 if free.
    pub owner: u32,
    /// Whether it is I/O memory or a hole.
    pub io: bool,
}

/// A frame on which the monitor's record and the database differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The frame.
    pub frame: u64,
    /// Its owner in the database, and whether it is I/O memory there.
    pub database: (u32, bool),
    /// The same in the monitor. `None` if the monitor has no record of the frame.
    pub monitor: Option<(u32, bool)>,
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
