//! Changing one entry.

use crate::{Error, Machine, Space};

/// An entry was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Updated {
    /// What it held, accessed and dirty bits included.
    pub old: u64,
    /// Level of the table, 1 to 4; 0: the frame is no table, and the value was stored unchecked.
    pub level: u8,
}

/// What a trapped instruction does to a level-1 entry. All but the plain store are atomic against
/// accessed and dirty bits set by CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Write the value.
    Store(u64),
    /// Write the value; the old one is wanted.
    Exchange(u64),
    /// Keep the bits of the mask. (A byte operation: a mask with ones elsewhere.)
    And(u64),
    /// Set the bits of the mask.
    Or(u64),
    /// Clear this bit (modulo 64).
    BitReset(u8),
    /// Set this bit (modulo 64).
    BitSet(u8),
    /// Write `new` where the entry is `expected`.
    CompareExchange {
        /// What the entry must hold, accessed and dirty bits included.
        expected: u64,
        /// What to write.
        new: u64,
    },
}

/// Writes `new` to entry `index` of frame `table`, which is a page table of the partition, or any
/// writable page of it (kernels fill tables this way before they pin them).
///
/// `preserve_ad`: accessed and dirty bits that are set in the old entry stay set.
///
/// A present value names a frame of the partition itself; see [`crate::map_foreign`] for others.
/// The caller owes no flush; the partition asks for those it needs.
///
/// # Errors
/// See [`Error`]; nothing is changed.
pub fn update_entry<M: Machine>(
    machine: &M,
    space: &mut Space,
    table: u64,
    index: usize,
    new: u64,
    preserve_ad: bool,
) -> Result<Updated, Error> {
    let _ = (machine, space, table, index, new, preserve_ad);
    todo!()
}

/// Does a trapped instruction's `operation` on entry `index` of the validated level-1 table
/// `table` and returns the old entry, from which the caller makes registers and flags.
///
/// # Errors
/// [`Error::WrongType`] where `table` is no validated level-1 table: let the instruction fault.
/// Else see [`Error`]; nothing is changed. ([`Error::Again`]: run the instruction again.)
pub fn update_entry_emulated<M: Machine>(
    machine: &M,
    space: &mut Space,
    table: u64,
    index: usize,
    operation: Operation,
) -> Result<u64, Error> {
    let _ = (machine, space, table, index, operation);
    todo!()
}
