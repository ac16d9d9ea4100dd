//! Finds the entry that maps an address, in a partition's validated tables.
//!
//! The rule: a walk needs the partition's [`Space`], so the page-table lock is held, and it reads
//! only validated tables of the partition; see [`page_tables::find_entry`].

use core::sync::atomic::{AtomicU64, Ordering};

use page_tables::{Place, Space, find_entry};
use pv_abi::xen::mmu::PTE_PRESENT;

use crate::{
    machine::{self, Host},
    vcpu::Vcpu,
};

/// The entry at a place, as an atomic word.
pub fn entry(place: Place) -> &'static AtomicU64 {
    &machine::table(place.table)[place.index & 511]
}

/// The place of the level-1 entry for `va` in the kernel's tables of `vcpu`. Returns `None` for the
/// monitor's addresses.
#[inline]
pub fn place(space: &Space, vcpu: &Vcpu, va: u64) -> Option<Place> {
    find_entry(&Host, space, vcpu.kernel_root.get()?.frame(), va)
}

/// The present level-1 entry for `va` in the kernel's tables of `vcpu`.
pub fn kernel_entry(space: &Space, vcpu: &Vcpu, va: u64) -> Option<u64> {
    let entry = entry(place(space, vcpu, va)?).load(Ordering::Relaxed);
    (entry & PTE_PRESENT != 0).then_some(entry)
}
