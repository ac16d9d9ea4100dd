//! The bits of a page-table entry, and those that a partition may set.
//!
//! Partitions, including their kernels, run in ring 3, so every present entry needs the user bit:
//! the monitor sets it. A kernel that reads an entry back sees the bit set. Its own value is not
//! kept: a partition has different tables for user and kernel mode, so the kernel decides nothing
//! by the bit. Software bits (9-11, 52-62) belong to the partition and are kept.
//!
//! The global bit is accepted in level 1 and cleared, since a write to CR3 flushes all translations
//! of a partition.
//!
//! Entries that are not present are kept unchanged: kernels keep swap entries and protected-none
//! entries there. CPUs with the L1 terminal fault speculatively read cached memory at the address
//! in such an entry; on those CPUs the address may not lie in memory ([`Machine::memory_end`]).
//! Kernels invert the address in these entries for the same reason (Linux since 4.19, on every
//! CPU).
//!
//! [`Machine::memory_end`]: crate::Machine::memory_end

use crate::{Error, Mfn};

/// Number of entries in a page table.
pub const ENTRIES: usize = 512;
/// Level-4 entries that belong to the monitor. They are ignored in a partition's page until it
/// becomes a table, then overwritten, and never writable after.
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
    /// In level 1: page-attribute-table index. In levels above: large page.
    pub const PAT_PS: u64 = 1 << 7;
    /// Global.
    pub const G: u64 = 1 << 8;
    /// Bits for software: 9-11, 52-62.
    pub const AVL: u64 = 0x7 << 9 | 0x7FF << 52;
    /// No execute.
    pub const NX: u64 = 1 << 63;
    /// The address of the frame.
    pub const ADDRESS: u64 = mfn::ADDRESS;
    /// The part of [`ADDRESS`] that the level-1 cache of every CPU with the L1 terminal fault
    /// compares. Fewer compared bits can only make the check stricter.
    pub const CACHED: u64 = ADDRESS & ((1 << 44) - 1);
    /// The bits that select the cacheability in a level-1 entry. A present entry has one of them if
    /// and only if it maps device memory.
    pub const CACHE: u64 = PWT | PCD | PAT_PS;
}

use bits::{A, ADDRESS, AVL, CACHE, CACHED, D, G, NX, P, PCD, PWT, RW, US};

/// Where an entry of device memory has the device.
const DEVICE_SHIFT: u32 = 52;

/// Bits whose change in a present level-1 entry changes no reference (frame and writability stay).
pub(crate) const HARMLESS: u64 = A | D | AVL | NX | US | G;

#[inline]
pub(crate) const fn is_present(entry: u64) -> bool {
    entry & P != 0
}

#[inline]
pub(crate) const fn is_writable(entry: u64) -> bool {
    entry & RW != 0
}

/// The device of a present level-1 entry that maps device memory.
#[inline]
pub(crate) const fn device_of(entry: u64) -> Option<u8> {
    if entry & CACHE == 0 {
        return None;
    }
    Some((entry >> DEVICE_SHIFT & 0xff) as u8)
}

/// A present level-1 entry for frame `mfn` of device memory: writable, uncached, not executable. It
/// has the device in bits for software, where its partition cannot change it.
///
/// # Errors
/// [`Error::NoFrame`] if no entry can name the frame.
pub(crate) fn of_device(mfn: Mfn, device: u8) -> Result<u64, Error> {
    let named = P | RW | US | A | D | NX | PWT | PCD | mfn.number() << 12;
    if Mfn::of_entry(named) != mfn {
        return Err(Error::NoFrame);
    }
    Ok(named | u64::from(device) << DEVICE_SHIFT)
}

/// Checks an entry that is not present; memory ends at address `end`, or 0 if it may hold anything.
///
/// # Errors
/// [`Error::ReservedBits`] if the entry names memory.
#[inline]
pub(crate) fn absent(entry: u64, end: u64) -> Result<u64, Error> {
    let address = entry & CACHED;
    if address != 0 && address < end { Err(Error::ReservedBits) } else { Ok(entry) }
}

/// A present level-1 entry in the form that the CPU gets.
///
/// # Errors
/// [`Error::ReservedBits`] if it has a bit that is not allowed. The bits for cacheability are not:
/// all RAM is cached alike, and [`crate::map_device`] alone makes entries of device memory.
#[inline]
pub(crate) fn normal_l1(entry: u64) -> Result<u64, Error> {
    if entry & !(P | RW | US | A | D | AVL | NX | G | ADDRESS) != 0 {
        return Err(Error::ReservedBits);
    }
    Ok((entry & !G) | US)
}

/// A present entry of level 2, 3 or 4 in the form that the CPU gets.
///
/// # Errors
/// [`Error::ReservedBits`] if it has a bit that is not allowed.
#[inline]
pub(crate) fn normal_upper(entry: u64) -> Result<u64, Error> {
    if entry & !(P | RW | US | A | D | AVL | NX | ADDRESS) != 0 {
        return Err(Error::ReservedBits);
    }
    Ok(entry | US)
}
