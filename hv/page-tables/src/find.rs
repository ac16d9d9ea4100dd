//! Finds the entry that maps an address, in a partition's tables.
//!
//! The rule: before the monitor reads a frame as a table, the frame's word must say that the
//! partition owns it and that it is a validated table of that level. So whatever address a
//! partition names, and whatever an entry contains, only validated tables are read: neither the
//! monitor's own, which have large pages, nor an ordinary page as a table.

use crate::entry::{MONITOR_SLOTS, bits};
use crate::{Machine, Mfn, Space};
use core::sync::atomic::Ordering;
use frames::Type;

/// Returns whether `va` is canonical.
#[must_use]
#[inline]
pub const fn is_canonical(va: u64) -> bool {
    va.wrapping_add(1 << 47) >> 48 == 0
}

/// The place of an entry: a table, and the index in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Frame of the table.
    pub table: Mfn,
    /// Index of the entry.
    pub index: usize,
}

/// The place of the level-1 entry for `va` under level-4 table `root` of the partition. Returns
/// `None` if the tables do not lead that far, or if the address is the monitor's or not canonical.
#[must_use]
#[inline]
pub fn find_entry<M: Machine>(machine: &M, space: &Space, root: Mfn, va: u64) -> Option<Place> {
    if !is_canonical(va) || MONITOR_SLOTS.contains(&index(va, 39)) {
        return None;
    }
    let mut table = root;
    for (ty, shift) in [(Type::L4, 39), (Type::L3, 30), (Type::L2, 21)] {
        if !machine.frame(table)?.is_table_of(space.partition, ty) {
            return None;
        }
        let entry = machine.table(table).get(index(va, shift))?.load(Ordering::Relaxed);
        if entry & (bits::P | bits::PAT_PS) != bits::P {
            return None;
        }
        table = Mfn::of_entry(entry);
    }
    let found = machine.frame(table)?.is_table_of(space.partition, Type::L1);
    found.then_some(Place { table, index: index(va, 12) })
}

/// The index in bits `shift` to `shift + 8` of an address.
#[inline]
const fn index(va: u64, shift: u32) -> usize {
    (va >> shift & 511) as usize
}
