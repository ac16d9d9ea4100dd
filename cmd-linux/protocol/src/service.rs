//! What `uvd` does by itself: it keeps definitions, and takes partitions through their lives.
//!
//! ```text
//! uvtool                                     uvd
//!   Ask { id, Service(Create { .. }) } ----->
//!   <-------------------- Told { id, Progress }     as often as there is news
//!   <-------------------- Told { id, Ok | Err }     the last one
//! ```
//!
//! A console that is attached ([`Service::Console`]) is answered with [`Answered::Attached`], then
//! with [`Answered::Output`] as long as there is output, and ends with [`ServiceAnswer::Ended`].
//! Input goes the other way with requests of their own. Each is answered when the partition's
//! kernel has read all of it, so a client that waits for the answer loses nothing.

use definition::{Definition, FieldChange, Policy};
use pv_abi::uv::command::{Heap, LogRow, PartitionRow};
use serde::{Deserialize, Serialize};

use crate::{Definitions, MAX_MESSAGE, frame};

/// What is asked of `uvd` itself. Partitions are named by name, or by number in decimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Service {
    /// What [`Service::Apply`] of these definitions would do; changes nothing.
    Plan {
        /// What should be.
        definitions: Definitions,
        /// Partitions that were defined by an earlier apply and are not among them go.
        prune: bool,
    },
    /// Make these definitions true, all of them or none: create, change live, or refuse what
    /// needs a restart.
    Apply {
        /// What should be.
        definitions: Definitions,
        /// As in [`Service::Plan`].
        prune: bool,
        /// The version that the plan shown to a person was made at; refused when it is stale.
        planned_at: Option<u64>,
        /// Why, for the audit log.
        reason: String,
    },
    /// Create one partition and start it.
    Create {
        /// What it is.
        definition: Definition,
        /// Leave it paused before its first instruction.
        paused: bool,
    },
    /// Start what is defined and does not run.
    Start {
        /// Which.
        name: String,
    },
    /// Ask its kernel to power off, or to reboot.
    Shutdown {
        /// Which.
        name: String,
        /// Reboot rather than power off.
        reboot: bool,
    },
    /// Give back all it has, running or not. Its definition stays unless `forget`.
    Destroy {
        /// Which.
        name: String,
        /// Forget the definition, too.
        forget: bool,
    },
    /// Stop running it, keeping everything.
    Pause {
        /// Which.
        name: String,
    },
    /// Let a paused one run on.
    Unpause {
        /// Which.
        name: String,
    },
    /// Give it another name.
    Rename {
        /// Which.
        name: String,
        /// The new name.
        to: String,
    },
    /// Change it live, and its definition.
    Set {
        /// Which.
        name: String,
        /// What to change; what is `None` stays.
        settings: Settings,
    },
    /// What is defined, whether it runs or not, by name; as many as an answer has room for.
    Definitions {
        /// Go on after this name.
        after: Option<String>,
    },
    /// Wait until the partition is in one of these states, or is gone.
    Wait {
        /// Which.
        name: String,
        /// What for.
        until: Until,
    },
    /// Attach to a console.
    Console {
        /// Which.
        name: String,
        /// Where its output begins.
        from: From,
        /// End when there is no more of the history, rather than when the partition stops.
        once: bool,
    },
    /// Type on a console that this connection is attached to. The answer comes when the
    /// partition's kernel has read it; until then no more is taken from this attachment.
    Input {
        /// Id of the [`Service::Console`] request.
        console: u64,
        /// What was typed; at most [`MAX_INPUT`] bytes.
        bytes: Vec<u8>,
    },
    /// Detach.
    Detach {
        /// Id of the [`Service::Console`] request.
        console: u64,
    },
    /// Records of the audit log about a partition, of those `uvd` stored: those that led to its
    /// present state, by sequence number. Also of one that is gone, by its last name.
    Why {
        /// Which.
        name: String,
    },
    /// The audit log of this boot as `uvd` stored it, which goes further back than the
    /// ultravisor's.
    Log {
        /// Records at most, the newest.
        most: u64,
    },
    /// Compare the replica of the database with the master.
    Replica,
    /// How much of its heap the boot partition uses.
    BootHeap,
    /// The time that `uvd` spent on the consoles of partitions.
    ConsoleTimes,
}

/// Live changes; see [`definition::Definition`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Bytes its kernel is to use.
    pub memory: Option<u64>,
    /// Virtual CPUs up.
    pub vcpus: Option<u32>,
    /// CPU weight.
    pub weight: Option<u32>,
    /// CPU cap in percent of one CPU.
    pub cap: Option<u32>,
    /// Physical CPUs; empty: all.
    pub affinity: Option<Vec<u32>>,
    /// Nothing else runs on them.
    pub dedicated: Option<bool>,
    /// What happens when it ends by itself.
    pub on: PolicySettings,
}

/// Changes to [`definition::Policies`]; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySettings {
    /// When it powers off.
    pub poweroff: Option<Policy>,
    /// When it reboots.
    pub reboot: Option<Policy>,
    /// When it crashes.
    pub crash: Option<Policy>,
}

/// Where the output of a console begins for a client that attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum From {
    /// The oldest byte that is kept.
    Oldest,
    /// The first byte of the partition with this number, not of an earlier one with its name.
    Partition(u32),
    /// The next byte that is printed.
    Now,
}

/// Bytes of one [`Service::Input`] at most.
pub const MAX_INPUT: usize = 4096;

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// It runs.
    Running,
    /// It has powered off, crashed, or is gone.
    Stopped,
    /// There is no such partition.
    Gone,
    /// It is paused.
    Paused,
}

/// How far a request is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The partition it is about.
    pub name: String,
    /// What is being done: `unpacking kernel`, `allocating`, `building`, `starting`.
    pub step: String,
    /// Done, in bytes or steps.
    pub done: u64,
    /// Of how many; 0: not known.
    pub of: u64,
}

/// Answers to [`Service`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceAnswer {
    /// Nothing to tell.
    Done,
    /// The partition's number.
    Partition(u32),
    /// To plan and apply: the version it was planned at, or is in now, and what changes.
    Changes {
        /// Version of the database.
        version: u64,
        /// A line for each partition.
        changes: Vec<Planned>,
    },
    /// To [`Service::Definitions`].
    Definitions {
        /// By name.
        defined: Vec<Defined>,
        /// Ask again after the last one.
        more: bool,
    },
    /// To [`Service::Wait`]: the row as it was last seen, and how it ended.
    Waited {
        /// The row; `None`: there is no such partition any more.
        row: Option<PartitionRow>,
        /// How it ended, where it did.
        end: Option<End>,
    },
    /// A console has no more output.
    Ended {
        /// How its partition ended; `None`: it runs, and the console was detached.
        end: Option<End>,
    },
    /// To [`Service::Log`].
    Log(Vec<LogRow>),
    /// To [`Service::Why`].
    Why {
        /// The records, by sequence number.
        rows: Vec<LogRow>,
        /// The boot that they are of, where it is not the one that the host is in.
        earlier: Option<EarlierBoot>,
    },
    /// To [`Service::ConsoleTimes`]: partitions by number, and nanoseconds since each began.
    ConsoleTimes(Vec<(u32, u64)>),
    /// To [`Service::BootHeap`]; `None`: it is busy.
    BootHeap(Option<Heap>),
    /// To [`Service::Replica`].
    Replica {
        /// Version of the copy, and of the master.
        versions: (u64, u64),
        /// Pages that differ although the versions are the same.
        differences: Vec<u32>,
    },
}

/// Bytes that a list in an answer takes at most; the rest of a message is for what is around it.
const PIECE_BYTES: usize = MAX_MESSAGE / 4;

/// The first ones of a list that an answer has room for; at least one.
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

    /// The answer whose next piece is this one.
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

/// A boot of the host that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierBoot {
    /// Its number among those that `uvd` met, from 1; 0: before boots were told apart.
    pub number: u64,
    /// The number of the boot that the host is in.
    pub now: u64,
    /// When `uvd` met it first, in seconds since 1970; `None`: that was not written down.
    pub met: Option<u64>,
}

/// How a partition ended; see [`pv_abi::uv::calls::cause`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The cause.
    pub cause: u32,
    /// Its detail.
    pub detail: u32,
}

/// A partition that is defined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defined {
    /// What it is.
    pub definition: Definition,
    /// Its number, where it is there.
    pub number: Option<u32>,
    /// The console's bytes that are kept.
    pub console_bytes: u64,
    /// How its last run ended, where it did.
    pub last_end: Option<End>,
}

/// What a plan does about one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Planned {
    /// Created and started.
    Create {
        /// What it will be.
        definition: Definition,
    },
    /// Changed live.
    Change {
        /// Which.
        name: String,
        /// Fields that change.
        fields: Vec<FieldChange>,
    },
    /// Destroyed and forgotten.
    Destroy {
        /// Which.
        name: String,
    },
    /// As it should be.
    Same {
        /// Which.
        name: String,
    },
}
