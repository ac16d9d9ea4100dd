//! The interface from the rules to the machine, and the state they keep per partition.

use crate::{ENTRIES, Error, Mfn, walk};
use core::sync::atomic::AtomicU64;
use frames::Frame;

/// A page table. The CPU may read it, and set accessed and dirty bits in it, at any time.
pub type Table = [AtomicU64; ENTRIES];

/// The machine as the rules use it. The monitor implements it; tests have a small model.
pub trait Machine {
    /// The state of frame `mfn`. Returns `None` if there is no such frame. The answer for a frame
    /// never changes.
    fn frame(&self, mfn: Mfn) -> Option<&Frame>;

    /// The contents of a frame for which [`Machine::frame`] returned a state.
    fn table(&self, mfn: Mfn) -> &Table;

    /// Returns once every CPU that may hold translations of partition `owner` has flushed all of
    /// them later than `stamp` of the flush clock. CPUs whose last flush began at or before `stamp`
    /// flush now. With [`frames::FLUSH_ALWAYS`], all of them flush now.
    fn flush_before_retype(&self, owner: u32, stamp: u32);

    /// The present time of the flush clock. A flush that begins later has a greater stamp.
    fn stamp(&self) -> u32;

    /// Values of level-4 entries 256 to 271: the monitor's part of every address space. Entry 256
    /// is each partition's own, see [`Space::new`].
    fn monitor_slots(&self) -> &[u64; 16];

    /// Returns whether long work should stop here. Each call makes at least one step regardless.
    fn should_yield(&self) -> bool;

    /// The end of memory, for CPUs on which an entry that is not present may name no address below
    /// it except 0. Returns 0 if such entries may hold anything.
    fn memory_end(&self) -> u64 {
        0
    }

    /// Notes that an entry which [`crate::map_device`] made for `device` is there, or is gone.
    fn count_device_entry(&self, device: u8, there: bool);

    /// Reports that a reference was to be released that was never taken: the monitor is broken. On
    /// a real machine this must not return.
    fn broken(&self, mfn: Mfn);
}

/// The page tables of one partition. Keep it inside the lock that serializes all operations on
/// them.
#[derive(Debug)]
pub struct Space {
    pub(crate) partition: u32,
    /// Level-4 entry 256 of its tables.
    pub(crate) own_slot: u64,
    /// A partial table that nothing refers to, whose entries are still to be dropped.
    pub(crate) pending: Option<Mfn>,
    /// Frames that are validated or partial page tables.
    pub(crate) tables: u64,
}

impl Space {
    /// Makes the space of partition `partition`. `own_slot` is level-4 entry 256 of its tables.
    #[must_use]
    pub const fn new(partition: u32, own_slot: u64) -> Self {
        Self { partition, own_slot, pending: None, tables: 0 }
    }

    /// Number of the partition.
    #[must_use]
    pub const fn partition(&self) -> u32 {
        self.partition
    }

    /// Number of frames of the partition that are page tables, validated or partial. While it is
    /// not 0, entries of the partition hold references.
    #[must_use]
    pub const fn tables(&self) -> u64 {
        self.tables
    }

    /// Continues work that an earlier operation left. Call it before returning to the partition, so
    /// that frames it has released are free when it looks.
    ///
    /// # Errors
    /// [`Error::Again`] if the work is not finished yet.
    #[inline]
    pub fn finish<M: Machine>(&mut self, machine: &M) -> Result<(), Error> {
        walk::finish(machine, self)
    }
}
