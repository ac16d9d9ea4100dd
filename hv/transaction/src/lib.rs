//! Transactions on the resource database: all or nothing, written ahead, undone when refused.
//!
//! ```text
//! request -> plan (validate everything, on an overlay) -> write-ahead record (redo, undo, CRC)
//!         -> apply to the database -> the monitor activates, action by action
//!         -> settled: committed | refused: undo, activate what was -> reply
//! ```
//!
//! The crate decides and writes; it never calls the machine. The caller passes in a [`Monitor`],
//! which performs the actions, and the time. [`Engine::recover`] undoes a record that was begun and
//! never settled.
//!
//! Rule: after a request, the database has either all of the requested changes or none.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![expect(
    clippy::result_large_err,
    reason = "a refusal is the answer itself, made at most once a request"
)]

extern crate alloc;

use control::command::Range;

mod carry;
mod change;
mod channels;
mod cpus;
mod create;
mod describe;
mod devices;
mod disks;
mod engine;
mod failure;
mod index;
mod log;
mod moves;
mod operations;
mod pending;
mod plan;
mod planning;
mod query;
mod reap;
mod recover;
mod refusal;
mod refused;
mod replica;
mod replies;
mod settings;
mod space;
mod takeover;
mod under_way;
mod undo;
mod unscrubbed;

pub use change::{Change, Part};
pub use control::command::Settled;
pub use disks::functions_of;
pub use engine::{Engine, Limits};
pub use log::Record;
pub use query::{Facts, Gauges, query};
pub use refusal::{name_of, refusal};
pub use space::{choose, contiguous};
pub use takeover::Hung;
pub use under_way::Begun;

/// An action by which the monitor follows the present database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Re-read a descriptor.
    Partition(u32),
    /// Re-read the page map for frames.
    Pages {
        /// First frame.
        first: u64,
        /// Number of frames.
        frames: u64,
    },
    /// Re-read a channel entry.
    Channel(u32),
    /// Re-read a device entry.
    Device(u32),
    /// Let a partition run.
    Start(u32),
    /// Stop a partition from running.
    Stop(u32),
    /// Drop the references that a partition holds, except those of its page tables
    /// ([`Monitor::drop_tables`]).
    Destroy(u32),
}

/// The monitor's answer, an errno of the Xen ABI, if an action takes more than this turn.
pub const AGAIN: i32 = 11;

/// How far the monitor has dropped the references that a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// The partition refers to nothing any more.
    Done,
    /// More turns are needed.
    NotYet,
    /// The partition had PCI functions whose reset is not confirmed yet: they may still write its
    /// memory, and the memory that it pinned. The monitor has silenced the functions. It keeps all
    /// this memory as it is until the next owner of each function confirms a reset.
    ResetOwed,
}

/// The interface to the monitor, which enforces the database. Each call may be repeated, and has no
/// further effect then.
pub trait Monitor {
    /// Performs an action.
    ///
    /// # Errors
    /// A positive errno of the Xen ABI; nothing was done then.
    fn perform(&mut self, action: Action) -> Result<(), i32>;

    /// Performs, as far as this turn goes, an action that a request asks for and that may be
    /// refused. An action that undoes another, or that belongs to a partition being given up, uses
    /// [`Self::perform`] instead.
    ///
    /// # Errors
    /// As [`Self::perform`]; [`AGAIN`] if the action has begun and must be resumed.
    fn attempt(&mut self, action: Action) -> Result<(), i32> {
        self.perform(action)
    }

    /// Continues an attempted action, as far as this turn goes.
    ///
    /// # Errors
    /// The same as [`Self::attempt`].
    fn resume(&mut self, action: Action) -> Result<(), i32> {
        self.perform(action)
    }

    /// Drops the references of a partition's page tables in a range of its memory, as far as this
    /// turn goes. Returns whether all are dropped. The caller does this before [`Action::Destroy`],
    /// for each range of the partition's memory, in ascending order.
    ///
    /// # Errors
    /// The same as [`Self::perform`].
    fn drop_tables(&mut self, partition: u32, range: Range) -> Result<bool, i32> {
        let _ = (partition, range);
        Ok(true)
    }

    /// Drops all other references that a partition holds, as far as this turn goes.
    ///
    /// # Errors
    /// The same as [`Self::perform`].
    fn give_up(&mut self, partition: u32) -> Result<GivenUp, i32> {
        self.perform(Action::Destroy(partition)).map(|()| GivenUp::Done)
    }

    /// The present system time in nanoseconds, if the caller has a clock; else `time`, which is when
    /// the turn began.
    fn now(&mut self, time: u64) -> u64 {
        time
    }

    /// Returns whether no partition serves an endpoint that is detaching any more, so that no
    /// request of its client can reach the medium or memory.
    fn drained(&mut self, endpoint: u32) -> bool {
        let _ = endpoint;
        true
    }

    /// Returns whether the turn of the ultravisor's loop is over; the rest is done in the next.
    fn turn_over(&mut self) -> bool {
        false
    }

    /// The owner that the monitor has for a frame, and whether the frame is I/O memory. Returns
    /// `None` if the monitor has no record. After the refusal of a range, the monitor has taken
    /// over the part before the refused frame.
    fn frame_owner(&mut self, frame: u64) -> Option<(u32, bool)>;

    /// Returns whether anything refers to a frame.
    fn in_use(&mut self, frame: u64) -> bool;
}
