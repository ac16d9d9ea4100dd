//! Page tables: entries, the hypervisor's hole, `mmu_update`, `mmuext_op`,
//! `update_va_mapping` (`xen.h`, `arch-x86/xen-x86_64.h`, Intel SDM vol. 3, 4.5).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Entry bit: present.
pub const PTE_PRESENT: u64 = 1 << 0;
/// Entry bit: writable.
pub const PTE_RW: u64 = 1 << 1;
/// Entry bit: ring 3 may access the page.
pub const PTE_USER: u64 = 1 << 2;
/// Entry bit: write-through.
pub const PTE_PWT: u64 = 1 << 3;
/// Entry bit: cache disabled.
pub const PTE_PCD: u64 = 1 << 4;
/// Entry bit: accessed.
pub const PTE_ACCESSED: u64 = 1 << 5;
/// Entry bit: dirty.
pub const PTE_DIRTY: u64 = 1 << 6;
/// Entry bit, levels 2 to 4: maps a large page.
pub const PTE_PSE: u64 = 1 << 7;
/// Entry bit, level 1: page attribute table.
pub const PTE_PAT: u64 = 1 << 7;
/// Entry bit, level 1: global.
pub const PTE_GLOBAL: u64 = 1 << 8;
/// Entry bits for software, low part.
pub const PTE_AVAILABLE_LOW: u64 = 0x7 << 9;
/// Entry bits for software, high part (52 to 62).
pub const PTE_AVAILABLE_HIGH: u64 = 0x7ff << 52;
/// Entry bit: not executable.
pub const PTE_NX: u64 = 1 << 63;
/// Entry bits that hold the machine address.
pub const PTE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The page attribute table (IA32_PAT) on every CPU, from which entries select by [`PTE_PAT`] and
/// the two cache bits: write-back, write-through, uncached-minus, uncached, write-combining,
/// write-protected, uncached, uncached.
pub const PAGE_ATTRIBUTES: u64 = 0x0000_0501_0007_0406;
/// Bit that distinguishes a kernel mapping, since all level-1 entries have [`PTE_USER`]; kernels
/// read it back and write it again.
pub const PTE_GUEST_KERNEL: u64 = 1 << 52;

/// The hypervisor's first level-4 slot.
pub const HOLE_FIRST_SLOT: usize = 256;
/// One past the hypervisor's last level-4 slot.
pub const HOLE_END_SLOT: usize = 272;
/// The hypervisor's first address.
pub const HOLE_START: u64 = 0xFFFF_8000_0000_0000;
/// One past the hypervisor's last address.
pub const HOLE_END: u64 = 0xFFFF_8800_0000_0000;
/// Address of the machine-to-physical table: one u64 per machine frame, read-only in ring 3.
pub const M2P_START: u64 = 0xFFFF_8000_0000_0000;
/// One past the last address that the table may have.
pub const M2P_END: u64 = 0xFFFF_8040_0000_0000;
/// Its value for a frame without pseudo-physical address.
pub const M2P_INVALID: u64 = u64::MAX;

/// Command in bits 1:0 of [`MmuUpdate::ptr`]: write an entry.
pub const NORMAL_PT_UPDATE: u64 = 0;
/// Command: set the machine-to-physical entry of a frame; `val` = pseudo-physical frame.
pub const MACHPHYS_UPDATE: u64 = 1;
/// Command: write an entry and keep the accessed and dirty bits that it has at that time.
pub const PT_UPDATE_PRESERVE_AD: u64 = 2;
/// Command: like [`NORMAL_PT_UPDATE`], for PV kernels.
pub const PT_UPDATE_NO_TRANSLATE: u64 = 3;
/// Mask of the command in [`MmuUpdate::ptr`].
pub const UPDATE_COMMAND_MASK: u64 = 3;
/// Bit of the count argument of `mmu_update` and `mmuext_op` that marks a continued call.
pub const UPDATE_PREEMPTED: u32 = 1 << 31;

/// An entry to update (`mmu_update`); 16 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MmuUpdate {
    /// Machine address of the entry, with the command in bits 1:0.
    pub ptr: u64,
    /// New value.
    pub val: u64,
}

/// Validate and pin a level-1 table.
pub const EXT_PIN_L1_TABLE: u32 = 0;
/// Validate and pin a level-2 table.
pub const EXT_PIN_L2_TABLE: u32 = 1;
/// Validate and pin a level-3 table.
pub const EXT_PIN_L3_TABLE: u32 = 2;
/// Validate and pin a level-4 table.
pub const EXT_PIN_L4_TABLE: u32 = 3;
/// Unpin a table.
pub const EXT_UNPIN_TABLE: u32 = 4;
/// Load the kernel's level-4 table.
pub const EXT_NEW_BASEPTR: u32 = 5;
/// Flush this virtual CPU's translations.
pub const EXT_TLB_FLUSH_LOCAL: u32 = 6;
/// Flush this virtual CPU's translation of an address.
pub const EXT_INVLPG_LOCAL: u32 = 7;
/// Flush the translations of the virtual CPUs in a mask.
pub const EXT_TLB_FLUSH_MULTI: u32 = 8;
/// Flush an address on the virtual CPUs in a mask.
pub const EXT_INVLPG_MULTI: u32 = 9;
/// Flush the translations of all virtual CPUs.
pub const EXT_TLB_FLUSH_ALL: u32 = 10;
/// Flush an address on all virtual CPUs.
pub const EXT_INVLPG_ALL: u32 = 11;
/// Write back and flush the caches.
pub const EXT_FLUSH_CACHE: u32 = 12;
/// Set the local descriptor table: page-aligned address, number of entries.
pub const EXT_SET_LDT: u32 = 13;
/// Set the user level-4 table; 0 for none.
pub const EXT_NEW_USER_BASEPTR: u32 = 15;
/// Clear a page.
pub const EXT_CLEAR_PAGE: u32 = 16;
/// Copy a page.
pub const EXT_COPY_PAGE: u32 = 17;
/// Write back and flush the caches of all CPUs.
pub const EXT_FLUSH_CACHE_GLOBAL: u32 = 18;
/// Mark a superpage; not offered.
pub const EXT_MARK_SUPER: u32 = 19;
/// Unmark a superpage; not offered.
pub const EXT_UNMARK_SUPER: u32 = 20;

/// A page-table control operation (`mmuext_op`); 24 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MmuextOp {
    /// One of the `EXT_` constants.
    pub cmd: u32,
    /// Padding.
    pub pad: u32,
    /// Machine frame or linear address.
    pub arg1: u64,
    /// Number of entries, address of a virtual CPU mask, or source frame.
    pub arg2: u64,
}

/// `update_va_mapping`: flush nothing.
pub const UVMF_NONE: u64 = 0;
/// Flush all translations.
pub const UVMF_TLB_FLUSH: u64 = 1;
/// Flush the translation of that address.
pub const UVMF_INVLPG: u64 = 2;
/// Mask of the bits that say what to flush.
pub const UVMF_FLUSHTYPE_MASK: u64 = 3;
/// Value of the other bits: on this virtual CPU.
pub const UVMF_LOCAL: u64 = 0;
/// Value of the other bits: on all virtual CPUs. Any other value is the address of a mask of
/// virtual CPUs.
pub const UVMF_ALL: u64 = 1 << 2;

const _: () = {
    assert!(size_of::<MmuUpdate>() == 16);
    assert_offsets!(MmuUpdate { ptr: 0, val: 8 });
    assert!(size_of::<MmuextOp>() == 24);
    assert!(core::mem::offset_of!(MmuextOp, arg1) == 8);
    assert!(core::mem::offset_of!(MmuextOp, arg2) == 16);
};
