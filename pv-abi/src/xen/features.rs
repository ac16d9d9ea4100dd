//! Feature bits of `XENVER_get_features` and ELF notes, and the assists of `vm_assist`
//! (`features.h`, `xen.h`).

/// The kernel may write its page tables directly; never offered.
pub const WRITABLE_PAGE_TABLES: u32 = 0;
/// The kernel may write its descriptor tables; never offered.
pub const WRITABLE_DESCRIPTOR_TABLES: u32 = 1;
/// The hypervisor translates pseudo-physical memory; never offered to PV kernels.
pub const AUTO_TRANSLATED_PHYSMAP: u32 = 2;
/// The kernel runs in supervisor mode; never offered.
pub const SUPERVISOR_MODE_KERNEL: u32 = 3;
/// Top-level tables may lie above 4 GiB.
pub const PAE_PGDIR_ABOVE_4GB: u32 = 4;
/// [`super::mmu::PT_UPDATE_PRESERVE_AD`] works; Linux panics without it.
pub const MMU_PT_UPDATE_PRESERVE_AD: u32 = 5;
/// The high-memory page operations work.
pub const HIGHMEM_ASSIST: u32 = 6;
/// Software bits of grant mappings are kept; Linux panics without it.
pub const GNTTAB_MAP_AVAIL_BITS: u32 = 7;
/// Events by interrupt vector (hardware-virtualized guests).
pub const HVM_CALLBACK_VECTOR: u32 = 8;
/// The PV clock is safe (hardware-virtualized guests).
pub const HVM_SAFE_PVCLOCK: u32 = 9;
/// Physical interrupts as events (hardware-virtualized guests).
pub const HVM_PIRQS: u32 = 10;
/// The kernel can run as the initial domain.
pub const DOM0: u32 = 11;
/// Memory operations take virtual NUMA nodes.
pub const MEMORY_OP_VNODE_SUPPORTED: u32 = 13;
/// Used on ARM only.
pub const ARM_SMCCC_SUPPORTED: u32 = 14;
/// Linux accepts its ACPI root pointer at any address.
pub const LINUX_RSDP_UNRESTRICTED: u32 = 15;
/// Pseudo-physical addresses are not machine addresses.
pub const NOT_DIRECT_MAPPED: u32 = 16;
/// Pseudo-physical addresses are machine addresses; an x86 PV kernel ignores it.
pub const DIRECT_MAPPED: u32 = 17;
/// Number of 32-bit words of features.
pub const SUBMAPS: u32 = 1;

/// The assists that `vm_assist` turns on and off.
pub mod assist {
    /// Command: turn on.
    pub const ENABLE: u32 = 0;
    /// Command: turn off.
    pub const DISABLE: u32 = 1;
    /// Segments of 4 GiB (32-bit kernels).
    pub const SEGMENTS_4GB: u32 = 0;
    /// Notify the kernel of their emulation (32-bit kernels).
    pub const SEGMENTS_4GB_NOTIFY: u32 = 1;
    /// Emulate writes to page-table entries.
    pub const WRITABLE_PAGETABLES: u32 = 2;
    /// Top-level tables above 4 GiB (32-bit kernels).
    pub const PAE_EXTENDED_CR3: u32 = 3;
    /// The I/O privilege level is in the flags.
    pub const ARCHITECTURAL_IOPL: u32 = 4;
    /// Mark runstate areas while they are written.
    pub const RUNSTATE_UPDATE_FLAG: u32 = 5;
    /// The machine-to-physical table is mapped for the kernel only.
    pub const M2P_STRICT: u32 = 32;
}
