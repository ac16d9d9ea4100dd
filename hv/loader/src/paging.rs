//! The monitor's own page tables.
//!
//! Slots 257 to 271 of every level-4 table belong to the monitor and point to the same level-3
//! tables, so a mapping made here exists in every address space. The rule: no page is both writable
//! and executable, and no partition can access one. Slot 256, which holds each partition's view of
//! the machine-to-physical table, is empty here.
#![expect(unsafe_code, reason = "page tables are reached through the direct map")]

use core::sync::atomic::{AtomicU64, Ordering};

use handover::layout::DATA_ENTRY;

use crate::{cpu, memory};

/// Bits of a page-table entry (Intel SDM vol. 3, 4.5).
pub mod bit {
    /// Present.
    pub const PRESENT: u64 = 1;
    /// Writable.
    pub const WRITE: u64 = 1 << 1;
    /// With `PWT`, selects PAT entry 3: uncached.
    pub const UNCACHED: u64 = 1 << 3 | 1 << 4;
    /// Accessed and dirty, set in advance so that the CPU never writes to our entries.
    pub const USED: u64 = 1 << 5 | 1 << 6;
    /// A large page, not a table.
    pub const LARGE: u64 = 1 << 7;
    /// Not executable.
    pub const NX: u64 = 1 << 63;
    /// The frame's address.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

/// The access that a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(u64);

impl Rights {
    /// Read and execute, ring 0.
    pub const CODE: Self = Self(bit::PRESENT | bit::USED);
    /// Read only, ring 0.
    pub const READ: Self = Self(bit::PRESENT | bit::USED | bit::NX);
    /// Read and write, ring 0.
    pub const DATA: Self = Self(DATA_ENTRY);
    /// Read and write, ring 0, uncached.
    pub const DEVICE: Self = Self(Self::DATA.0 | bit::UNCACHED);
    /// Rights of upper-level entries: everything that a leaf may need.
    const TABLE: Self = Self(bit::PRESENT | bit::WRITE | bit::USED);
}

/// The largest page a mapping may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Largest {
    /// 4 KiB only.
    Page = 1,
    /// Up to 2 MiB.
    TwoMib = 2,
    /// Up to 1 GiB, if the CPU supports it.
    OneGib = 3,
}

/// Bytes that an entry of a level-`level` table covers.
fn span(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

/// The entries of the table at a physical address.
fn table(phys: u64) -> &'static [AtomicU64; 512] {
    // SAFETY: callers pass only tables that `PageTables` took, and the temporary level-4 table;
    // they are RAM, in the direct map, never given back, and accessed as atomics only.
    unsafe { &*memory::phys_to_virt(phys).cast() }
}

/// A set of page tables, named by its level-4 table.
#[derive(Clone, Copy, Debug)]
pub struct PageTables {
    root: u64,
}

impl PageTables {
    /// Makes an empty set. Returns `None` if memory is short.
    pub fn new() -> Option<Self> {
        Some(Self { root: new_table()? })
    }

    /// Physical address of the level-4 table.
    pub fn root(self) -> u64 {
        self.root
    }

    /// An entry of the level-4 table.
    pub fn slot(self, index: usize) -> u64 {
        table(self.root).get(index).map_or(0, |e| e.load(Ordering::Relaxed))
    }

    /// The temporary tables that are in use.
    pub fn temporary() -> Self {
        Self { root: cpu::root() }
    }

    /// Sets an entry of the level-4 table.
    pub fn set_slot(self, index: usize, value: u64) {
        if let Some(entry) = table(self.root).get(index) {
            entry.store(value, Ordering::Relaxed);
        }
    }

    /// The entry for `va` at `level`; makes or splits tables on the way down.
    pub fn entry(self, va: u64, level: u32) -> Option<&'static AtomicU64> {
        let mut here = self.root;
        for above in (level + 1..=4).rev() {
            let entry = &table(here)[index(va, above)];
            let value = entry.load(Ordering::Relaxed);
            here = if value & bit::PRESENT == 0 {
                new_table()?
            } else if value & bit::LARGE != 0 {
                split(value, above)?
            } else {
                value & bit::ADDRESS
            };
            entry.store(here | Rights::TABLE.0, Ordering::Relaxed);
        }
        Some(&table(here)[index(va, level)])
    }

    /// Maps `bytes` (a multiple of 4096) at `va` to `phys`. Returns `None` if memory is short.
    pub fn map(self, va: u64, phys: u64, bytes: u64, rights: Rights, max: Largest) -> Option<()> {
        let no_gib = max == Largest::OneGib && !cpu::has_gib_pages();
        let top = if no_gib { 2 } else { max as u32 };
        let mut done = 0;
        while done < bytes {
            let aligned = |level: &u32| ((va + done) | (phys + done)).is_multiple_of(span(*level));
            let fits = |level: &u32| bytes - done >= span(*level);
            let level = (1..=top).rev().find(|level| aligned(level) && fits(level))?;
            let large = if level > 1 { bit::LARGE } else { 0 };
            let entry = self.entry(va + done, level)?;
            entry.store((phys + done) | rights.0 | large, Ordering::Relaxed);
            done += span(level);
        }
        Some(())
    }

    /// Sets new rights for mapped 4 KiB pages. Returns `None` if memory is short.
    pub fn protect(self, va: u64, pages: u64, rights: Rights) -> Option<()> {
        for page in 0..pages {
            let entry = self.entry(va + page * 4096, 1)?;
            let value = entry.load(Ordering::Relaxed);
            if value & bit::PRESENT != 0 {
                entry.store((value & bit::ADDRESS) | rights.0, Ordering::Relaxed);
            }
        }
        Some(())
    }
}

fn index(va: u64, level: u32) -> usize {
    (va >> (12 + 9 * (level - 1)) & 511) as usize
}

/// Takes a zeroed frame for a table. Returns its physical address.
fn new_table() -> Option<u64> {
    let phys = memory::take_frames(1, 1)? << 12;
    for entry in table(phys) {
        entry.store(0, Ordering::Relaxed);
    }
    Some(phys)
}

/// Makes a table with the same mappings as the large page `value` of a level-`level` table.
fn split(value: u64, level: u32) -> Option<u64> {
    let phys = new_table()?;
    let large = if level > 2 { bit::LARGE } else { 0 };
    for (part, entry) in table(phys).iter().enumerate() {
        let part = (value & !bit::LARGE) + part as u64 * span(level - 1);
        entry.store(part | large, Ordering::Relaxed);
    }
    Some(phys)
}
