//! Long lists of page-table changes, of pins, and of flushes on all CPUs.
#![expect(unsafe_code, reason = "hypercalls over long lists")]

use crate::memory::{BASE, PAGE, WRITABLE};
use crate::{calls, memory};
use alloc::vec::Vec;
use partition_runtime::hypercall::call;
use pv_abi::xen::mmu::{self, MmuUpdate, MmuextOp, PTE_RW};
use pv_abi::xen::{domid, hypercall as number};

/// Entries of a list.
const LIST: u64 = 2048;
/// Flushes in one call.
const FLUSHES: usize = 64;

/// A table that maps one page in every entry, and the lists that change and pin the table.
pub struct Tables {
    /// The table's machine frame.
    table: u64,
    updates: Vec<MmuUpdate>,
    pins: Vec<MmuextOp>,
}

fn extended(cmd: u32, arg1: u64) -> MmuextOp {
    MmuextOp { cmd, pad: 0, arg1, arg2: 0 }
}

fn list<T>(number: u64, entries: &[T]) {
    let arguments = [entries.as_ptr() as u64, entries.len() as u64, 0, u64::from(domid::SELF), 0];
    // SAFETY: the call reads the entries, which change a table that nothing else uses.
    let _ = unsafe { call(number, arguments) };
}

impl Tables {
    /// Makes the table from two free pages.
    pub fn make() -> Self {
        let (first, _) = memory::free_pages();
        let [table, page] = [first, first + 1].map(|pfn| memory::machine_frame(pfn).unwrap_or(0));
        let read_only = WRITABLE & !PTE_RW;
        let address = BASE + first * PAGE;
        let words = core::ptr::with_exposed_provenance_mut::<u64>(address as usize);
        for index in 0..512 {
            // SAFETY: a free page, mapped writable.
            unsafe { words.add(index).write_volatile((page * PAGE) | read_only) };
        }
        calls::update_va_mapping(address, (table * PAGE) | read_only)
            .expect("mapping a table for reading");
        let update = |index: u64| {
            let val = if index & 512 == 0 { 0 } else { (page * PAGE) | read_only };
            MmuUpdate { ptr: table * PAGE + index % 512 * 8, val }
        };
        let pin = |index: u64| {
            extended([mmu::EXT_PIN_L1_TABLE, mmu::EXT_UNPIN_TABLE][index as usize & 1], table)
        };
        Self { table, updates: (0..LIST).map(update).collect(), pins: (0..LIST).map(pin).collect() }
    }

    /// Pins and unpins the table, changes it while it is pinned, and flushes.
    pub fn step(&self) {
        list(number::MMUEXT_OP, &self.pins);
        list(number::MMUEXT_OP, &self.pins[..1]);
        list(number::MMU_UPDATE, &self.updates);
        let flush = || extended(mmu::EXT_TLB_FLUSH_ALL, 0);
        list(number::MMUEXT_OP, &core::array::from_fn::<_, FLUSHES, _>(|_| flush()));
        list(number::MMUEXT_OP, &[extended(mmu::EXT_UNPIN_TABLE, self.table)]);
    }
}
