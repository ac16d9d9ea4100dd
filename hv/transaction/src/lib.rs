//! Transactions on the resource database: all or nothing, written ahead, undone when refused.
//!
//! ```text
//! request -> plan (validate everything, on an overlay) -> write-ahead record (redo, undo, CRC)
//!         -> apply to the database -> the monitor activates, action by action
//!         -> settled: committed | refused: undo, activate what was -> reply
//! ```
//!
//! The crate decides and writes; it makes no call to the machine. What the monitor must do is
//! asked of a [`Monitor`] that is passed in, and the time is a parameter. A record that was begun
//! and never settled is undone by [`Engine::recover`].
//!
//! Rule: after a request the database is either what the request asked for, or what it was.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![expect(
    clippy::result_large_err,
    reason = "a refusal is the answer itself, made at most once a request"
)]

extern crate alloc;

use pv_abi::uv::command::Range;

mod carry;
mod change;
mod channels;
mod cpus;
mod create;
mod describe;
mod engine;
mod failure;
mod index;
mod log;
mod operations;
mod pending;
mod plan;
mod query;
mod reap;
mod recover;
mod refusal;
mod refused;
mod replica;
mod settings;
mod space;
mod under_way;
mod undo;
mod unscrubbed;

pub use change::{Change, Part};
pub use engine::{Engine, Limits};
pub use log::{Record, Settled};
pub use query::{Facts, Gauges, query};
pub use refusal::{name_of, refusal};
pub use space::{choose, contiguous};
pub use under_way::Begun;

/// Something the monitor is to do about what the database says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Re-read a descriptor.
    Partition(u32),
    /// Re-read the page map for frames.
    Pages {
        /// First frame.
        first: u64,
        /// Frames.
        frames: u64,
    },
    /// Re-read a channel entry.
    Channel(u32),
    /// Let a partition run.
    Start(u32),
    /// Keep a partition from running.
    Stop(u32),
    /// Drop what a partition references, beside its page tables ([`Monitor::drop_tables`]).
    Destroy(u32),
}

/// What the monitor answers, an errno of the Xen ABI, where an action takes more than this turn.
pub const AGAIN: i32 = 11;

/// Who enforces the database. Each call may be repeated and must then do nothing more.
pub trait Monitor {
    /// Does it, or refuses with an errno of the Xen ABI (positive).
    ///
    /// # Errors
    /// The errno; nothing was done then.
    fn perform(&mut self, action: Action) -> Result<(), i32>;

    /// Does an action that a request asks for, and that may be refused, as far as this turn goes.
    /// Those that take something back, or give up what was destroyed, are performed.
    ///
    /// # Errors
    /// As [`Self::perform`]; [`AGAIN`]: the action is begun, and is to be resumed.
    fn attempt(&mut self, action: Action) -> Result<(), i32> {
        self.perform(action)
    }

    /// Goes on with an action that was attempted, as far as this turn goes.
    ///
    /// # Errors
    /// As [`Self::attempt`].
    fn resume(&mut self, action: Action) -> Result<(), i32> {
        self.perform(action)
    }

    /// Drops what the page tables of a partition in a range of its memory refer to, as far as this
    /// turn goes; returns whether that was all. Comes before [`Action::Destroy`], for each range of
    /// the partition's memory; the ranges rise.
    ///
    /// # Errors
    /// As [`Self::perform`].
    fn drop_tables(&mut self, partition: u32, range: Range) -> Result<bool, i32> {
        let _ = (partition, range);
        Ok(true)
    }

    /// Drops what else a partition refers to, as far as this turn goes; returns whether that was all.
    ///
    /// # Errors
    /// As [`Self::perform`].
    fn give_up(&mut self, partition: u32) -> Result<bool, i32> {
        self.perform(Action::Destroy(partition)).map(|()| true)
    }

    /// Whether the turn of the ultravisor's loop is over: what is left is done in the next.
    fn turn_over(&mut self) -> bool {
        false
    }

    /// Whose it holds a frame for, and whether as I/O memory; `None` where it keeps nothing. What
    /// it was given of a range that it refused is the part before the frame it refused for.
    fn frame_owner(&mut self, frame: u64) -> Option<(u32, bool)>;

    /// Whether anything refers to a frame.
    fn in_use(&mut self, frame: u64) -> bool;
}
