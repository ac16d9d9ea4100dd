//! What travels on a command channel: requests with transactions or queries, and their replies.
//!
//! Messages are postcard, one per frame of the [`super::channel`]. A request carries an id, so
//! that a retry is answered and not repeated, and may carry the version of the database it was
//! planned against, so that a stale plan is refused. A transaction applies as a whole or not at
//! all; a refusal names object, field, limit and a way out.

use alloc::{string::String, vec::Vec};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Version of these messages, the first thing a [`Request`] carries.
pub const PROTOCOL: u16 = 8;

/// From a client to the ultravisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL`].
    pub protocol: u16,
    /// Chosen by the client, increasing; the same id again is a retry.
    pub id: u64,
    /// What is asked.
    pub body: Body,
}

/// What a request asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Change the database.
    Transaction(Transaction),
    /// Read it.
    Query(Query),
    /// Begin anew: what the caller left pending in earlier sessions is rolled back.
    Open,
    /// Plan a transaction and change nothing: what it would do, or why it would be refused.
    Plan(Transaction),
    /// Apply the inverse of the committed transaction with this sequence number in the log, as a
    /// transaction of its own. Refused where the world has moved on.
    Undo {
        /// Sequence number of its record.
        sequence: u64,
        /// Why, for the audit log.
        reason: String,
    },
    /// Roll back what the caller left pending under these ids, and nothing else. Ids under which
    /// nothing is pending are passed over.
    RollBack {
        /// Ids of the requests.
        requests: Vec<u64>,
    },
}

/// Operations that apply together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Version of the database it was planned against, where that matters.
    pub planned_at: Option<u64>,
    /// Leave it pending under the caller: it rolls back when the caller fails before
    /// [`Operation::Complete`].
    pub pending: bool,
    /// Why, for the audit log.
    pub reason: String,
    /// What to do, in this order; at most [`MAX_OPERATIONS`]. A receiver keeps one more, so that
    /// it can refuse them, and no more: a frame has room for thousands of small ones.
    #[serde(deserialize_with = "operations")]
    pub operations: Vec<Operation>,
}

/// Operations of a transaction at most.
pub const MAX_OPERATIONS: usize = 4096;

/// Transactions that a client may have pending at once. The list of those that were rolled back
/// fits an answer.
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

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Create a partition in state *building*, with no memory of its own but its instance.
    CreatePartition {
        /// Number wanted; `None`: the next free one.
        number: Option<u32>,
        /// See [`super::database::kind`].
        kind: u32,
        /// See [`super::database::rights`].
        rights: u32,
        /// Unique; 1 to 31 bytes.
        name: String,
        /// Virtual CPUs.
        vcpus: u32,
        /// Relative CPU share.
        cpu_weight: u32,
        /// CPU cap in percent of one CPU, 0: none.
        cpu_cap: u32,
        /// Physical CPUs it may use; empty: all.
        cpu_affinity: Vec<u32>,
        /// Nothing else runs on the CPUs of its affinity, which must not be empty then.
        cpu_dedicated: bool,
        /// Grant frames.
        grant_frames: u32,
    },
    /// Assign free memory.
    AssignMemory {
        /// To which partition (see [`Target`]).
        partition: Target,
        /// Frames of 4 KiB.
        frames: u64,
    },
    /// Give memory back (the ranges must be unreferenced).
    ReleaseMemory {
        /// From which partition.
        partition: Target,
        /// The ranges.
        ranges: Vec<Range>,
    },
    /// Create a channel between a partition and the ultravisor or another partition, at the next
    /// free ports.
    CreateChannel {
        /// The partition that owns the shared frames.
        partition: Target,
        /// Who shares them: [`super::database::ULTRAVISOR`], or the command partition, which binds
        /// the port at its end by itself (see [`super::database::ChannelEntry::port_b`]).
        peer: u32,
        /// See [`super::database::channel_kind`].
        kind: u32,
        /// First shared frame, owned by the partition.
        frame: u64,
        /// Shared frames.
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
        /// See [`super::database::state`].
        state: u32,
    },
    /// Change what is said of its CPU time; at once when it runs. `None` leaves a field.
    SetCpu {
        /// The partition.
        partition: Target,
        /// Relative CPU share, 1 to 65535.
        weight: Option<u32>,
        /// CPU cap in percent of one CPU, 0: none.
        cap: Option<u32>,
        /// Physical CPUs it may use; empty: all.
        affinity: Option<Vec<u32>>,
        /// Nothing else runs on the CPUs of its affinity.
        dedicated: Option<bool>,
    },
    /// Give it another name.
    Rename {
        /// The partition.
        partition: Target,
        /// Unique; 1 to 31 bytes.
        name: String,
    },
    /// Tell its balloon driver how many of its frames to use. What it does not use stays its own.
    SetMemoryTarget {
        /// The partition.
        partition: Target,
        /// Frames of 4 KiB, at most those it has.
        frames: u64,
    },
    /// Tell its kernel how many virtual CPUs to have up.
    SetVcpusOnline {
        /// The partition.
        partition: Target,
        /// 1 to those it may bring up.
        vcpus: u32,
    },
    /// Ask its kernel to end itself.
    Ask {
        /// The partition, running.
        partition: Target,
        /// See [`super::database::asked`].
        what: u32,
    },
    /// Give everything back and forget the partition.
    DestroyPartition {
        /// The partition.
        partition: Target,
    },
    /// Complete the caller's pending transaction of this id.
    Complete {
        /// Id of the request that was left pending.
        request: u64,
    },
}

impl Operation {
    /// The partition that it names; `None` where it creates one, or is about requests.
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
    /// The one that operation `n` (from 0) of the same transaction creates.
    CreatedBy(u32),
}

/// Machine frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First frame.
    pub first: u64,
    /// Frames.
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
    /// Frame of the console ring, 0: none.
    pub console_frame: u64,
    /// Frame of the store ring, 0: none.
    pub store_frame: u64,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Versions of the parts.
    Version,
    /// All partitions, by number above `after`.
    Partitions {
        /// Continue after this number.
        after: u32,
    },
    /// Memory by owner and tier, CPUs, PCI functions.
    Resources,
    /// Page map as ranges, from this frame.
    PageMap {
        /// First frame.
        first: u64,
        /// Ranges at most.
        most: u32,
    },
    /// The arena as it is, for a replica: whole pages.
    Arena {
        /// First page.
        first: u32,
        /// Pages at most; fewer come where a reply has no room.
        most: u32,
    },
    /// Log records with what they changed, from this sequence number: a replica is brought up to
    /// date with them.
    Records {
        /// First record wanted.
        from: u64,
        /// Records at most.
        most: u32,
    },
    /// Log records from this sequence number. The caller's event tells of new ones.
    Log {
        /// First record wanted.
        from: u64,
        /// Records at most.
        most: u32,
    },
    /// Compare the page map with what the monitor holds of each frame, from this frame on; one
    /// question looks at a part.
    Compare {
        /// First frame.
        first: u64,
    },
    /// One partition: that of this name, or else that with this number in decimal. No row comes
    /// where there is none.
    Partition {
        /// Name or number.
        name: String,
    },
    /// What the CPU leaks, and what is done against it.
    Issues,
    /// The ranges of RAM that a partition has, those that start at this frame or later, as rows of the
    /// page map.
    Memory {
        /// The partition.
        partition: u32,
        /// First frame.
        first: u64,
        /// Ranges at most.
        most: u32,
    },
    /// All partitions in short, by number above `after`.
    List {
        /// Continue after this number.
        after: u32,
    },
}

/// From the ultravisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's id.
    pub id: u64,
    /// Version of the database after the request.
    pub version: u64,
    /// The answer, or why not.
    pub result: Result<Answer, Refusal>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The transaction was applied: an outcome per operation.
    Applied(Vec<Outcome>),
    /// To [`Query::Version`].
    Version(VersionAnswer),
    /// To [`Query::Partitions`] and [`Query::Partition`]; `more` when there are further ones.
    Partitions {
        /// Rows by number.
        rows: Vec<PartitionRow>,
        /// Ask again after the last one.
        more: bool,
    },
    /// To [`Query::Resources`].
    Resources(ResourcesAnswer),
    /// To [`Query::PageMap`].
    PageMap(Vec<MapRow>),
    /// To [`Query::Log`].
    Log {
        /// Records by sequence number.
        rows: Vec<LogRow>,
        /// Oldest sequence number still kept.
        oldest: u64,
        /// Sequence number the next record will get.
        next: u64,
    },
    /// To [`Body::Open`]: ids of the requests that were rolled back.
    Opened {
        /// In the order of their rollback.
        rolled_back: Vec<u64>,
    },
    /// To [`Body::Plan`]: what the transaction would do, a sentence for each operation.
    Planned {
        /// For people. Where an answer does not hold all, the last says how many more there are.
        what: Vec<String>,
    },
    /// To [`Query::Arena`].
    Arena {
        /// First page.
        first: u32,
        /// Pages of the arena in all.
        pages: u32,
        /// Bytes of the pages, each without the zeros at its end.
        contents: Vec<ByteBuf>,
    },
    /// To [`Query::Records`].
    Records {
        /// Records by sequence number.
        rows: Vec<RecordRow>,
        /// Oldest sequence number still kept.
        oldest: u64,
        /// Sequence number the next record will get.
        next: u64,
    },
    /// To [`Query::Compare`].
    Compared {
        /// First frame that was not looked at; the number of frames where all were.
        next: u64,
        /// Where database and monitor disagree; the rest of the part when there are very many is
        /// left to the next question.
        differences: Vec<Difference>,
    },
    /// To [`Body::RollBack`]: ids of the requests that were rolled back.
    RolledBack {
        /// In the order of their rollback.
        requests: Vec<u64>,
    },
    /// To [`Query::Issues`].
    Issues(IssuesAnswer),
    /// To [`Query::List`]; `more` when there are further ones.
    List {
        /// Rows by number.
        rows: Vec<ListRow>,
        /// Ask again after the last one.
        more: bool,
    },
}

/// What one operation gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Nothing to tell.
    Done,
    /// The partition's number.
    Partition(u32),
    /// Memory assigned.
    Memory(Vec<Range>),
    /// A channel.
    Channel {
        /// Index in the channel table.
        index: u32,
        /// Event port at the partition's end.
        port: u32,
    },
}

/// Why a request was not done. Shown as one sentence: `object: field: reason; way out`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Short, stable, for programs: `no-memory`, `no-such-partition`, `stale-plan`, …
    pub code: String,
    /// Which operation of the transaction (from 0), where one is to blame.
    pub operation: Option<u32>,
    /// The object: `partition "web"`, `memory`, …
    pub object: String,
    /// The field or quantity.
    pub field: String,
    /// What was asked and what the limit is.
    pub reason: String,
    /// What would work.
    pub way_out: String,
}

/// What the CPU leaks, and what is done against it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuesAnswer {
    /// Vendor, family, model and stepping of the CPU.
    pub cpu: String,
    /// Revision of its microcode.
    pub microcode: u32,
    /// Where that is from, for people.
    pub microcode_update: String,
    /// Two threads of a core run.
    pub smt: bool,
    /// Devices reach memory through an IOMMU.
    pub iommu: bool,
    /// Guests may start.
    pub guests_start: bool,
    /// All issues that are known.
    pub issues: Vec<IssueRow>,
}

/// How this machine stands with an issue of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssueRow {
    /// Short and stable.
    pub name: String,
    /// The verdict.
    pub state: IssueState,
    /// The verdict and what it rests on, for people.
    pub verdict: String,
    /// What would change it, where it is open.
    pub way_out: String,
}

/// A verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IssueState {
    /// The CPU does not have the issue.
    NotAffected,
    /// It has, and it is stopped.
    Mitigated,
    /// It has, and nothing stops it.
    Open,
}

/// Bytes of each text of a refusal at most: whatever a client's names are, its refusal fits a
/// frame of a channel, and a message of `uvd` with every character escaped.
pub const MAX_REFUSAL_TEXT: usize = 1000;

impl Refusal {
    /// The refusal with each text cut to [`MAX_REFUSAL_TEXT`] bytes; a text that was cut ends with
    /// an ellipsis.
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
    /// [`PROTOCOL`] it speaks.
    pub protocol: u16,
    /// Version of our part of the monitor's ABI.
    pub abi: u32,
    /// Layout version of the arena.
    pub arena: u32,
    /// What the monitor answers for the Xen ABI, `major << 16 | minor`.
    pub xen: u32,
    /// The monitor's command line.
    pub command_line: String,
}

/// A partition in short: a list of a thousand of them costs each what its row costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRow {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// See [`super::database::kind`].
    pub kind: u32,
    /// See [`super::database::state`].
    pub state: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Virtual CPUs that are up.
    pub vcpus_up: u32,
    /// Frames assigned to it.
    pub memory_frames: u64,
    /// Nanoseconds that it ran.
    pub cpu_time: u64,
}

/// A partition as a query shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRow {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// See [`super::database::kind`].
    pub kind: u32,
    /// See [`super::database::state`].
    pub state: u32,
    /// See [`super::database::rights`].
    pub rights: u32,
    /// Who asked for it.
    pub owner: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Virtual CPUs that are up.
    pub vcpus_up: u32,
    /// CPU weight.
    pub cpu_weight: u32,
    /// CPU cap, percent of one CPU, 0: none.
    pub cpu_cap: u32,
    /// Physical CPUs that were asked for; empty: all.
    pub cpu_affinity: Vec<u32>,
    /// Nothing else runs on them.
    pub cpu_dedicated: bool,
    /// Virtual CPUs that its kernel was told to have up.
    pub vcpus_online: u32,
    /// Frames that its balloon driver was told to use.
    pub memory_target: u64,
    /// What its kernel was asked to do; see [`super::database::asked`].
    pub asked: u32,
    /// Event port of its console, 0: none.
    pub console_port: u32,
    /// Nanoseconds its virtual CPUs were runnable and did not run.
    pub wait_time: u64,
    /// Nanoseconds that the ultravisor spent on what it asked: store, console, transactions.
    pub service_time: u64,
    /// Frames of RAM assigned for its own use.
    pub memory_frames: u64,
    /// Frames of its monitor instance.
    pub instance_frames: u64,
    /// CPU time in nanoseconds.
    pub cpu_time: u64,
    /// Hypercalls of its kernel that were refused: each cause, an errno without its sign, and how
    /// many. 0 stands for the causes that are not told apart.
    pub refusals: Vec<(u32, u64)>,
    /// See [`super::calls::cause`].
    pub cause: u32,
    /// Detail of the cause.
    pub cause_detail: u32,
    /// Version of the database it was created at.
    pub created_at: u64,
}

/// What the machine has and who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourcesAnswer {
    /// Frames the page map describes.
    pub frames: u64,
    /// Memory by owner.
    pub memory: Vec<MemoryRow>,
    /// The firmware's memory map: type (see `MachineRegion`) and frames.
    pub firmware: Vec<(u32, u64)>,
    /// Physical CPUs.
    pub cpus: Vec<CpuRow>,
    /// PCI functions.
    pub pci: Vec<PciRow>,
    /// Arena pages: all, and those in use.
    pub arena: (u32, u32),
    /// Channels in use.
    pub channels: u32,
    /// The heap of the ultravisor partition.
    pub heap: Heap,
    /// Free frames that may have to be scrubbed yet, at most.
    pub unscrubbed: u64,
    /// The loop of the ultravisor partition.
    pub turns: Turns,
}

/// The turns of an event loop since it started: the times between two looks at the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turns {
    /// Nanoseconds of the longest, without those that others had the CPU.
    pub longest: u64,
    /// Turns above 5 ms.
    pub long: u64,
}

/// What a Rust partition uses of its heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heap {
    /// Bytes that it has.
    pub bytes: u64,
    /// Bytes in use.
    pub in_use: u64,
    /// Bytes in use at most since it started.
    pub most: u64,
}

/// Memory of one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRow {
    /// Partition number; 0: free.
    pub owner: u32,
    /// I/O memory or a hole rather than RAM.
    pub io: bool,
    /// Entries of each tier (4 GiB, 4 MiB, 4 KiB) that name this owner.
    pub tiers: [u64; 3],
    /// Frames in all.
    pub frames: u64,
}

/// A physical CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuRow {
    /// Index.
    pub index: u32,
    /// Local APIC id.
    pub apic_id: u32,
    /// Online.
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
    /// Owner; 0: free.
    pub owner: u32,
}

/// A range of the page map with one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapRow {
    /// First frame.
    pub first: u64,
    /// Frames.
    pub frames: u64,
    /// Owner; 0: free.
    pub owner: u32,
    /// I/O memory or a hole.
    pub io: bool,
}

/// A frame of which the monitor holds something else than the database says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The frame.
    pub frame: u64,
    /// Its owner by the database, and whether it is I/O memory.
    pub database: (u32, bool),
    /// The same as the monitor holds it; `None`: it holds nothing of it.
    pub monitor: Option<(u32, bool)>,
}

/// An audit log record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRow {
    /// Sequence number.
    pub sequence: u64,
    /// System time in nanoseconds.
    pub time: u64,
    /// Who asked: a partition number ([`super::database::MONITOR`]: the monitor by itself).
    pub who: u32,
    /// Id of the request.
    pub request: u64,
    /// Version of the database after it.
    pub version: u64,
    /// `committed`, `refused`, `pending`, `rolled back`, `monitor`.
    pub outcome: String,
    /// What was done, for people.
    pub what: String,
    /// Why, as given by who asked.
    pub reason: String,
    /// Partitions it was about, by number.
    pub partitions: Vec<u32>,
}

/// An audit log record with what it changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordRow {
    /// The record.
    pub row: LogRow,
    /// Its changes, each a postcard message of the database's own change type; none where they do
    /// not fit an answer, and a replica has to be read anew.
    pub changes: Vec<ByteBuf>,
}
