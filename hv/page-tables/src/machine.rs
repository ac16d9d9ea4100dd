//! What the rules need of the machine, and the state they keep per partition.

use crate::{ENTRIES, Error, walk};
use core::sync::atomic::AtomicU64;
use frames::Frame;

/// A page table: the CPU reads it, and sets accessed and dirty bits in it, at any time.
pub type Table = [AtomicU64; ENTRIES];

/// The machine as the rules see it. The monitor implements it; tests have a small one.
pub trait Machine {
    /// The state of frame `mfn`; `None`: no such frame. The answer for a frame never changes.
    fn frame(&self, mfn: u64) -> Option<&Frame>;

    /// The contents of a frame for which [`Machine::frame`] answered.
    fn table(&self, mfn: u64) -> &Table;

    /// Returns once every CPU that may hold translations of partition `owner` has flushed all of
    /// them after flush clock `stamp`: those whose last flush began at or before `stamp` flush
    /// now. [`frames::FLUSH_ALWAYS`]: all of them flush now.
    fn flush_before_retype(&self, owner: u32, stamp: u32);

    /// The flush clock now. A flush that begins later has a greater stamp.
    fn stamp(&self) -> u32;

    /// Values of level-4 entries 256 to 271 in the tables of `partition`: the monitor's part of every
    /// address space.
    fn monitor_slots(&self, partition: u32) -> [u64; 16];

    /// Whether long work should stop here. At least one step is made per call regardless.
    fn should_yield(&self) -> bool;

    /// Address of the end of memory, where entries that are not present may name none below it but
    /// address 0; 0 where they may hold anything.
    fn memory_end(&self) -> u64 {
        0
    }

    /// Whether `partition` may map `mfn`, for which there is no [`Frame`], as device memory.
    fn device_memory(&self, partition: u32, mfn: u64) -> bool {
        let _ = (partition, mfn);
        false
    }

    /// A reference was to be given back that was never taken: the monitor is broken. Not to
    /// return on a real machine.
    fn broken(&self, mfn: u64);
}

/// The page tables of one partition. Keep it inside the lock that serializes all operations on
/// them.
#[derive(Debug)]
pub struct Space {
    pub(crate) partition: u32,
    pub(crate) io: bool,
    /// A partial table nobody refers to, whose entries are still to be dropped.
    pub(crate) pending: Option<u64>,
}

impl Space {
    /// Of partition number `partition`. `io`: it may map device memory, and choose the
    /// cacheability of such mappings.
    #[must_use]
    pub const fn new(partition: u32, io: bool) -> Self {
        Self { partition, io, pending: None }
    }

    /// Number of the partition.
    #[must_use]
    pub const fn partition(&self) -> u32 {
        self.partition
    }

    /// Whether work is left for [`Space::finish`].
    #[must_use]
    pub const fn is_unfinished(&self) -> bool {
        self.pending.is_some()
    }

    /// Carries on with work that an earlier operation left. Call it before returning to the
    /// partition, so that frames it has given back are free when it looks.
    ///
    /// # Errors
    /// [`Error::Again`]: not finished yet.
    #[inline]
    pub fn finish<M: Machine>(&mut self, machine: &M) -> Result<(), Error> {
        walk::finish(machine, self)
    }
}
