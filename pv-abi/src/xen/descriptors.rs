//! Segment selectors that the hypervisor provides, and the segment bases that a call sets
//! (`arch-x86/xen.h`, `arch-x86/xen-x86_64.h`).

/// First page of the hypervisor's part of the descriptor table.
pub const FIRST_RESERVED_GDT_PAGE: usize = 14;
/// First byte of the hypervisor's part of the descriptor table.
pub const FIRST_RESERVED_GDT_BYTE: usize = FIRST_RESERVED_GDT_PAGE * 4096;
/// First descriptor of the hypervisor's part.
pub const FIRST_RESERVED_GDT_ENTRY: usize = FIRST_RESERVED_GDT_BYTE / 8;
/// Flat 32-bit code, ring 3.
pub const FLAT_RING3_CS32: u16 = 0xe023;
/// Flat data and stack, ring 3.
pub const FLAT_RING3_SS: u16 = 0xe02b;
/// Flat 64-bit code, ring 3.
pub const FLAT_RING3_CS64: u16 = 0xe033;
/// Data for 64-bit code: the null selector.
pub const FLAT_RING3_DS64: u16 = 0;

/// Set the base of fs.
pub const SEGBASE_FS: u32 = 0;
/// Set the base of gs in user mode.
pub const SEGBASE_GS_USER: u32 = 1;
/// Set the base of gs in kernel mode.
pub const SEGBASE_GS_KERNEL: u32 = 2;
/// Load the selector of gs in user mode; a selector that cannot be loaded becomes null, without
/// error.
pub const SEGBASE_GS_USER_SEL: u32 = 3;

/// Number of descriptors that a kernel may set.
pub const MAX_GDT_ENTRIES: usize = FIRST_RESERVED_GDT_ENTRY;
/// Maximum number of entries of a local descriptor table.
pub const MAX_LDT_ENTRIES: usize = 8192;

const _: () = {
    assert!(FIRST_RESERVED_GDT_BYTE == 0xe000);
    assert!(FIRST_RESERVED_GDT_ENTRY == 7168);
};
