//! Transactions, and the operations that apply together in one.

use super::disks::{DiskLimits, Medium};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

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
        /// The partition that releases the memory.
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
    /// Tell its balloon driver how many of its frames to use. The partition keeps the frames that
    /// it does not use.
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
    /// Give a PCI function that nobody has to an I/O partition.
    AssignDevice {
        /// Its index in the device table.
        function: u32,
        /// The partition.
        partition: Target,
    },
    /// Take a PCI function from its partition, which must not run.
    ReleaseDevice {
        /// Its index in the device table.
        function: u32,
        /// The partition that has it.
        partition: Target,
    },
    /// Give a partition a disk.
    AttachDisk {
        /// The partition, a guest or the command partition.
        partition: Target,
        /// The number of its virtual device; see [`DiskNumber`](super::DiskNumber).
        device: u32,
        /// The sectors.
        medium: Medium,
        /// Whether the partition may only read the disk.
        read_only: bool,
        /// Whether disks that are shared, too, may have the same sectors.
        shared: bool,
        /// Its limits.
        limits: DiskLimits,
    },
    /// Take a disk from a partition.
    DetachDisk {
        /// The partition.
        partition: Target,
        /// The number of its virtual device.
        device: u32,
    },
    /// Move a PCI function from the I/O partition that has it to another one. Both run, and clients
    /// notice a stall at most. The function changes its owner by a later record, once the first
    /// partition has let go of it.
    MoveDevice {
        /// Its index in the device table.
        function: u32,
        /// The partition that gets it. If it is the owner, a move that goes on is called off.
        partition: Target,
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
            | Self::AssignDevice { partition, .. }
            | Self::ReleaseDevice { partition, .. }
            | Self::AttachDisk { partition, .. }
            | Self::DetachDisk { partition, .. }
            | Self::MoveDevice { partition, .. }
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
