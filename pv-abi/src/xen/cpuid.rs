//! CPUID leaves of the hypervisor, and the prefix that asks for them (`arch-x86/cpuid.h`).
//!
//! A PV kernel reads CPUID through a forced-emulation prefix, since the instruction itself does not
//! trap everywhere. The leaves are relative to a base, which the kernel searches in steps of 0x100.

/// First possible base leaf.
pub const FIRST_LEAF: u32 = 0x4000_0000;
/// ebx, ecx, edx of the base leaf: `XenVMMXenVMM`.
pub const SIGNATURE: [u32; 3] = [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e];
/// Base + 1: eax = version, major << 16 | minor.
pub const LEAF_VERSION: u32 = 1;
/// Base + 2: eax = number of hypercall pages, ebx = MSR that fills them, ecx = features.
pub const LEAF_HYPERCALL_PAGE: u32 = 2;
/// Base + 3: time (sub-leaves 0 to 2).
pub const LEAF_TIME: u32 = 3;
/// Base + 4: for hardware-virtualized guests only.
pub const LEAF_HVM: u32 = 4;
/// Base + 5: ebx bits 7:0 = machine address width. More than 44 makes Linux ask for
/// version-2 grants.
pub const LEAF_PV: u32 = 5;
/// The last leaf, relative to the base.
pub const MAX_LEAVES: u32 = 5;
/// Bit in ecx of [`LEAF_HYPERCALL_PAGE`]: [`super::mmu::PT_UPDATE_PRESERVE_AD`] works.
pub const FEATURE_PRESERVE_AD: u32 = 1 << 0;
/// MSR that fills a hypercall page: address | page index.
pub const HYPERCALL_PAGE_MSR: u32 = 0x4000_0000;
/// `ud2; "xen"`: the monitor emulates the instruction after these bytes.
pub const EMULATE_PREFIX: [u8; 5] = [0x0f, 0x0b, 0x78, 0x65, 0x6e];
