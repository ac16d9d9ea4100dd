//! Finding the entry that maps an address, in a partition's validated tables.
//!
//! The caller holds the partition's page-table lock, or only wants a hint.

use core::sync::atomic::{AtomicU64, Ordering};

use pv_abi::xen::mmu::{PTE_ADDRESS, PTE_PRESENT};

use crate::{guest_memory::is_canonical, machine, vcpu::Vcpu};

/// A level-1 table and an index in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Frame of the table.
    pub table: u64,
    /// Index of the entry.
    pub index: usize,
}

impl Place {
    /// The entry.
    #[must_use]
    pub fn entry(self) -> &'static AtomicU64 {
        &machine::table(self.table)[self.index & 511]
    }
}

/// The level-1 entry for `va` under level-4 table `root`.
#[must_use]
#[inline]
pub fn place(root: u64, va: u64) -> Option<Place> {
    if !is_canonical(va) || root == 0 {
        return None;
    }
    let mut table = root;
    for shift in [39, 30, 21] {
        let entry = machine::table(table)[(va >> shift) as usize & 511].load(Ordering::Relaxed);
        if entry & PTE_PRESENT == 0 {
            return None;
        }
        table = (entry & PTE_ADDRESS) >> 12;
        machine::frame(table)?;
    }
    Some(Place { table, index: (va >> 12) as usize & 511 })
}

/// The present level-1 entry for `va` in the kernel's tables of `vcpu`.
#[must_use]
pub fn kernel_entry(vcpu: &Vcpu, va: u64) -> Option<u64> {
    let entry = place(vcpu.kernel_root.get(), va)?.entry().load(Ordering::Relaxed);
    (entry & PTE_PRESENT != 0).then_some(entry)
}
