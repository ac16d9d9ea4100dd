//! The requests that `uvd` serves by itself: it keeps definitions, and takes partitions through
//! their lives.
//!
//! ```text
//! uvtool                                     uvd
//!   Ask { id, Service(Create { .. }) } ----->
//!   <-------------------- Told { id, Progress }     as often as there is news
//!   <-------------------- Told { id, Ok | Err }     the last one
//! ```
//!
//! The first answer to a request for a console ([`Service::Console`]) is [`Answered::Attached`].
//! Then [`Answered::Output`] follows as long as there is output, and [`ServiceAnswer::Ended`] ends
//! the answers. The client sends input in requests of their own. Each is answered when the
//! partition's kernel has read all of its input, so a client that waits for the answer loses
//! nothing.

use control::command::{Heap, LogRow, PartitionRow};
use definition::{Definition, Disk, FieldChange, Policy};
use serde::{Deserialize, Serialize};

use crate::{Definitions, MAX_MESSAGE, frame};

/// A request to `uvd` itself. Partitions are named by name, or by number in decimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Service {
    /// Plan: report the changes that [`Service::Apply`] of these definitions would make, and change
    /// nothing.
    Plan {
        /// The wanted definitions.
        definitions: Definitions,
        /// Destroy the partitions that an earlier apply defined, if these definitions no longer
        /// have them.
        prune: bool,
    },
    /// Apply these definitions, all of them or none: create, change live, or refuse what needs a
    /// restart.
    Apply {
        /// The wanted definitions.
        definitions: Definitions,
        /// See [`Service::Plan`].
        prune: bool,
        /// The version of the plan that a person saw; the apply is refused if the database has
        /// changed since.
        planned_at: Option<u64>,
        /// The reason, for the audit log.
        reason: String,
    },
    /// Create one partition and start it.
    Create {
        /// The partition's definition.
        definition: Definition,
        /// Leave the partition paused before its first instruction.
        paused: bool,
    },
    /// Start a partition that is defined and does not run.
    Start {
        /// The partition's name.
        name: String,
    },
    /// Ask the partition's kernel to power off, or to reboot.
    Shutdown {
        /// The partition's name.
        name: String,
        /// Reboot rather than power off.
        reboot: bool,
    },
    /// Destroy a partition, running or not, and release all its resources. Its definition stays
    /// unless `forget` is set.
    Destroy {
        /// The partition's name.
        name: String,
        /// Forget the definition, too.
        forget: bool,
    },
    /// Stop a partition from running, and keep everything else.
    Pause {
        /// The partition's name.
        name: String,
    },
    /// Let a paused partition run again.
    Unpause {
        /// The partition's name.
        name: String,
    },
    /// Rename a partition.
    Rename {
        /// The partition's name.
        name: String,
        /// The new name.
        to: String,
    },
    /// Change a partition live, and its definition.
    Set {
        /// The partition's name.
        name: String,
        /// The changes; a value of `None` stays.
        settings: Settings,
    },
    /// Attach a disk to a partition, and put it into its definition.
    AttachDisk {
        /// The partition's name.
        name: String,
        /// The disk.
        disk: Disk,
    },
    /// Detach a disk from a partition, and remove the disk from the definition.
    DetachDisk {
        /// The partition's name.
        name: String,
        /// The number of the disk's virtual device.
        device: u32,
    },
    /// The definitions, whether their partitions run or not, by name; as many as fit into an
    /// answer.
    Definitions {
        /// List the names after this one.
        after: Option<String>,
    },
    /// Wait until the partition is in one of these states, or no longer exists.
    Wait {
        /// The partition's name.
        name: String,
        /// The awaited state.
        until: Until,
    },
    /// Attach to a console.
    Console {
        /// The partition's name.
        name: String,
        /// Where the output begins.
        from: From,
        /// End at the end of the history, rather than when the partition stops.
        once: bool,
    },
    /// Type on the console to which this connection is attached. The answer comes when the
    /// partition's kernel has read the input; until then this attachment accepts no more input.
    Input {
        /// Id of the [`Service::Console`] request.
        console: u64,
        /// The typed bytes, at most [`MAX_INPUT`].
        bytes: Vec<u8>,
    },
    /// Detach from a console.
    Detach {
        /// Id of the [`Service::Console`] request.
        console: u64,
    },
    /// The stored records of the audit log that led to a partition's present state, by sequence
    /// number. A partition that is gone can be named, too, by its last name.
    Why {
        /// The partition's name.
        name: String,
    },
    /// The audit log of this boot as `uvd` stored it, which reaches further back than the
    /// ultravisor's.
    Log {
        /// The most records to return; the newest are returned.
        most: u64,
    },
    /// Compare the replica of the database with the master.
    Replica,
    /// Ask how much of its heap the boot partition uses.
    BootHeap,
    /// Ask how much time `uvd` spent on the consoles of partitions.
    ConsoleTimes,
    /// Move PCI functions between I/O partitions that run, while their disks are used. The answer
    /// comes when the functions have moved.
    Io(IoChange),
}

/// Changes of which I/O partition has which functions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IoChange {
    /// Move all functions of an I/O partition to the others.
    Drain {
        /// The partition's name.
        name: String,
    },
    /// Drain an I/O partition, destroy it, and move what it had to the one that the boot partition
    /// builds in its place, with another number.
    Restart {
        /// The partition's name.
        name: String,
        /// Destroy it at once, without draining it: the others take over as if it had died.
        now: bool,
    },
    /// Move functions so that the I/O partitions have equally many.
    Balance,
}

/// A PCI function that moved from one I/O partition to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionMove {
    /// Its index in the device table.
    pub function: u32,
    /// The partition that had it.
    pub from: u32,
    /// The partition that has it.
    pub to: u32,
}

/// Live changes; see [`definition::Definition`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Bytes that the partition's kernel is to use.
    pub memory: Option<u64>,
    /// Virtual CPUs that are to be up.
    pub vcpus: Option<u32>,
    /// CPU weight.
    pub weight: Option<u32>,
    /// CPU cap in percent of one CPU.
    pub cap: Option<u32>,
    /// Physical CPUs; an empty list means all.
    pub affinity: Option<Vec<u32>>,
    /// Whether nothing else runs on these CPUs.
    pub dedicated: Option<bool>,
    /// What happens when the partition ends by itself.
    pub on: PolicySettings,
}

/// Changes to [`definition::Policies`]; a value of `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySettings {
    /// When the partition powers off.
    pub poweroff: Option<Policy>,
    /// When the partition reboots.
    pub reboot: Option<Policy>,
    /// When the partition crashes.
    pub crash: Option<Policy>,
}

/// Where the output of a console begins for a client that attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum From {
    /// At the oldest byte that is kept.
    Oldest,
    /// At the first byte of the partition with this number, and not of an earlier partition with
    /// its name.
    Partition(u32),
    /// At the next byte that is printed.
    Now,
}

/// The most bytes of one [`Service::Input`].
pub const MAX_INPUT: usize = 4096;

/// The state to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// The partition runs.
    Running,
    /// The partition has powered off, crashed, or is gone.
    Stopped,
    /// The partition does not exist.
    Gone,
    /// The partition is paused.
    Paused,
}

/// The progress of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The partition that the request is about.
    pub name: String,
    /// The current step: `unpacking kernel`, `allocating`, `building`, `starting`.
    pub step: String,
    /// The bytes or steps that are done.
    pub done: u64,
    /// The total of bytes or steps; 0 if it is not known.
    pub of: u64,
}

/// Answers to [`Service`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceAnswer {
    /// The request was carried out; there is nothing else to say.
    Done,
    /// The partition's number.
    Partition(u32),
    /// To plan and apply: the version of the plan, or after the apply, and the changes.
    Changes {
        /// Version of the database.
        version: u64,
        /// A line for each partition.
        changes: Vec<Planned>,
    },
    /// To [`Service::Definitions`].
    Definitions {
        /// The definitions, by name.
        defined: Vec<Defined>,
        /// There are more; ask again after the last one.
        more: bool,
    },
    /// To [`Service::Wait`]: the row as it was last read, and how the partition ended.
    Waited {
        /// The row; `None` if the partition does not exist any more.
        row: Option<PartitionRow>,
        /// How the partition ended, if it did.
        end: Option<End>,
    },
    /// A console has no more output.
    Ended {
        /// How the console's partition ended; `None` if it still runs and the console was detached.
        end: Option<End>,
    },
    /// To [`Service::Log`].
    Log(Vec<LogRow>),
    /// To [`Service::Why`].
    Why {
        /// The records, by sequence number.
        rows: Vec<LogRow>,
        /// The boot that the records belong to, if it is not the host's current boot.
        earlier: Option<EarlierBoot>,
    },
    /// To [`Service::ConsoleTimes`]: the number of each partition, and the nanoseconds spent on it
    /// since it began.
    ConsoleTimes(Vec<(u32, u64)>),
    /// To [`Service::BootHeap`]; `None` while a job changes the system.
    BootHeap(Option<Heap>),
    /// To [`Service::Replica`].
    Replica {
        /// Version of the copy, and of the master.
        versions: (u64, u64),
        /// Pages that differ although the versions are the same.
        differences: Vec<u32>,
    },
    /// To [`Service::Io`]: the functions that moved, in order.
    Moved(Vec<FunctionMove>),
}

/// The most bytes of a list in an answer; the rest of a message is for the parts around the list.
const PIECE_BYTES: usize = MAX_MESSAGE / 4;

/// The first items of a list that fit into an answer, but at least one.
pub fn fitting<T: Serialize>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let (mut fits, mut bytes) = (Vec::new(), 0);
    for one in all {
        bytes += frame::size(&one);
        if bytes > PIECE_BYTES && !fits.is_empty() {
            break;
        }
        fits.push(one);
    }
    fits
}

impl ServiceAnswer {
    /// The answer in pieces, each of which fits a message: all but the last are sent as
    /// [`crate::Answered::Piece`].
    #[must_use]
    pub fn pieces(self) -> Vec<Self> {
        let Self::Changes { version, mut changes } = self else {
            return vec![self];
        };
        let mut pieces = Vec::new();
        loop {
            let count = fitting(&changes).len();
            let rest = changes.split_off(count);
            pieces.push(Self::Changes { version, changes });
            if rest.is_empty() {
                return pieces;
            }
            changes = rest;
        }
    }

    /// Joins the answer and its next piece.
    #[must_use]
    pub fn followed_by(self, next: Self) -> Self {
        match (self, next) {
            (Self::Changes { mut changes, .. }, Self::Changes { version, changes: more }) => {
                changes.extend(more);
                Self::Changes { version, changes }
            }
            (_, next) => next,
        }
    }
}

/// An earlier boot of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierBoot {
    /// The number of the boot among the boots that `uvd` saw, from 1; 0 for records from before
    /// `uvd` distinguished boots.
    pub number: u64,
    /// The number of the host's current boot.
    pub now: u64,
    /// The time at which `uvd` first saw it, in seconds since 1970; `None` if it was not stored.
    pub met: Option<u64>,
}

/// How a partition ended; see [`pv_abi::uv::calls::cause`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The cause.
    pub cause: u32,
    /// The detail of the cause.
    pub detail: u32,
}

/// A partition that is defined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defined {
    /// The definition.
    pub definition: Definition,
    /// The partition's number, if it exists.
    pub number: Option<u32>,
    /// The bytes of the partition's console output that are kept.
    pub console_bytes: u64,
    /// How its last run ended, if it did.
    pub last_end: Option<End>,
}

/// What a plan does about one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Planned {
    /// The partition is created and started.
    Create {
        /// The partition's definition; most rows of a plan have none.
        definition: Box<Definition>,
    },
    /// The partition is changed live.
    Change {
        /// The partition's name.
        name: String,
        /// Fields that change.
        fields: Vec<FieldChange>,
    },
    /// The partition is destroyed and its definition forgotten.
    Destroy {
        /// The partition's name.
        name: String,
    },
    /// The partition is already as wanted.
    Same {
        /// The partition's name.
        name: String,
    },
}
