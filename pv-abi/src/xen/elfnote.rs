//! ELF notes of a PV kernel: types under the owner name `"Xen"` (`elfnote.h`).

/// Owner name of the notes, with its terminator.
pub const OWNER: &[u8; 4] = b"Xen\0";
/// Free text.
pub const INFO: u32 = 0;
/// Virtual address of the entry point.
pub const ENTRY: u32 = 1;
/// Virtual address of the page to fill with hypercall stubs; recent Linux has none.
pub const HYPERCALL_PAGE: u32 = 2;
/// Virtual address at which pseudo-physical address 0 is mapped.
pub const VIRT_BASE: u32 = 3;
/// Value to subtract from the ELF physical addresses.
pub const PADDR_OFFSET: u32 = 4;
/// Interface version, `"xen-3.0"`.
pub const XEN_VERSION: u32 = 5;
/// Name of the operating system.
pub const GUEST_OS: u32 = 6;
/// Version of the operating system.
pub const GUEST_VERSION: u32 = 7;
/// Name of the loader that the kernel is made for.
pub const LOADER: u32 = 8;
/// `"yes"` or similar, in 32-bit kernels.
pub const PAE_MODE: u32 = 9;
/// Features as text: `name|name`, where `!` marks a required one.
pub const FEATURES: u32 = 10;
/// Load the symbol table too.
pub const BSD_SYMTAB: u32 = 11;
/// Lowest address of the hypervisor hole.
pub const HV_START_LOW: u32 = 12;
/// Mask and value that identify a valid level-1 entry.
pub const L1_MFN_VALID: u32 = 13;
/// Suspend returns 1 if it was cancelled.
pub const SUSPEND_CANCEL: u32 = 14;
/// Virtual address at which to map the pseudo-physical-to-machine table.
pub const INIT_P2M: u32 = 15;
/// 1 if the initial RAM disk may be passed unmapped, by frame number.
pub const MOD_START_PFN: u32 = 16;
/// Features as a bit mask; see [`super::features`].
pub const SUPPORTED_FEATURES: u32 = 17;
/// Entry point of a hardware-virtualized start.
pub const PHYS32_ENTRY: u32 = 18;
