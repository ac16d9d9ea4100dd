//! Bits of a page-table entry and which of them a partition may set.
//!
//! Partitions run in ring 3, kernels included, so the user bit must be set on every present
//! entry: it is forced. A kernel that reads an entry back sees it set; its own idea of the bit
//! is not kept, since a partition's user and kernel tables are different ones and nothing in it
//! decides by the bit. Software mark bits (9-11, 52-62) are the partition's and are kept.
//!
//! The global bit is accepted in level 1 and cleared: a write to CR3 flushes all of a partition.
//!
//! Entries that are not present are kept as they are: kernels keep swap entries and protected-none
//! entries there. CPUs with the L1 terminal fault speculatively read cached memory at the address in
//! such an entry; on them it may name no memory ([`Machine::memory_end`]). Kernels invert the
//! address in these entries for the same reason (Linux since 4.19, on every CPU).
//!
//! [`Machine::memory_end`]: crate::Machine::memory_end

use crate::Error;

/// Entries of a page table.
pub const ENTRIES: usize = 512;
/// Level-4 entries that belong to the monitor: ignored in a partition's table, overwritten when
/// it becomes one, and never writable after.
pub const MONITOR_SLOTS: core::ops::Range<usize> = 256..272;

/// Bits of an entry (Intel SDM volume 3, section 4.5).
pub mod bits {
    /// Present.
    pub const P: u64 = 1 << 0;
    /// Writable.
    pub const RW: u64 = 1 << 1;
    /// Reachable from ring 3.
    pub const US: u64 = 1 << 2;
    /// Write-through.
    pub const PWT: u64 = 1 << 3;
    /// Cache disable.
    pub const PCD: u64 = 1 << 4;
    /// Accessed.
    pub const A: u64 = 1 << 5;
    /// Dirty.
    pub const D: u64 = 1 << 6;
    /// Level 1: page-attribute-table index. Above: large page.
    pub const PAT_PS: u64 = 1 << 7;
    /// Global.
    pub const G: u64 = 1 << 8;
    /// For software: 9-11, 52-62.
    pub const AVL: u64 = 0x7 << 9 | 0x7FF << 52;
    /// No execute.
    pub const NX: u64 = 1 << 63;
    /// The frame, times 4096.
    pub const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;
    /// The part of [`ADDRESS`] that the level-1 cache of any CPU with the L1 terminal fault compares:
    /// a subset names fewer addresses, so what is refused by it is a superset.
    pub const CACHED: u64 = ADDRESS & ((1 << 44) - 1);
    /// What chooses the cacheability in a level-1 entry.
    pub const CACHE: u64 = PWT | PCD | PAT_PS;
}

use bits::{A, ADDRESS, AVL, CACHE, CACHED, D, G, NX, P, RW, US};

/// Bits whose change on a present level-1 entry changes no reference (frame and writability stay).
pub(crate) const HARMLESS: u64 = A | D | AVL | NX | US | G;

/// The machine frame that an entry names.
#[must_use]
#[inline]
pub const fn frame_of(entry: u64) -> u64 {
    (entry & ADDRESS) >> 12
}

#[inline]
pub(crate) const fn is_present(entry: u64) -> bool {
    entry & P != 0
}

#[inline]
pub(crate) const fn is_writable(entry: u64) -> bool {
    entry & RW != 0
}

/// An entry that is not present, where memory ends at address `end`; 0: it may hold anything.
///
/// # Errors
/// [`Error::ReservedBits`] where it names memory.
#[inline]
pub(crate) fn absent(entry: u64, end: u64) -> Result<u64, Error> {
    let address = entry & CACHED;
    if address != 0 && address < end { Err(Error::ReservedBits) } else { Ok(entry) }
}

/// A present level-1 entry as the CPU is to see it.
///
/// # Errors
/// [`Error::ReservedBits`] where it has bits it may not have; `io` allows the choice of
/// cacheability.
#[inline]
pub(crate) fn normal_l1(entry: u64, io: bool) -> Result<u64, Error> {
    let allowed = P | RW | US | A | D | AVL | NX | G | ADDRESS | if io { CACHE } else { 0 };
    if entry & !allowed != 0 {
        return Err(Error::ReservedBits);
    }
    Ok((entry & !G) | US)
}

/// A present entry of level 2, 3 or 4 as the CPU is to see it.
///
/// # Errors
/// [`Error::ReservedBits`] where it has bits it may not have.
#[inline]
pub(crate) fn normal_upper(entry: u64) -> Result<u64, Error> {
    if entry & !(P | RW | US | A | D | AVL | NX | ADDRESS) != 0 {
        return Err(Error::ReservedBits);
    }
    Ok(entry | US)
}
