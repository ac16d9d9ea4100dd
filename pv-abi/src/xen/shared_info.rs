//! The page that a domain shares with the hypervisor (`xen.h`, `arch-x86/xen.h`).
//!
//! Both sides write these words concurrently; code that accesses the page uses atomics at the
//! offsets of these structures.

use super::time::VcpuTimeInfo;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Number of virtual CPUs with a [`VcpuInfo`] in the shared page.
pub const LEGACY_MAX_VCPUS: usize = 32;

/// The data that a virtual CPU shares (`vcpu_info`); 64 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuInfo {
    /// An event is pending. The hypervisor sets it, and the kernel clears it.
    pub evtchn_upcall_pending: u8,
    /// Upcalls are masked. The kernel writes it, and an upcall sets it.
    pub evtchn_upcall_mask: u8,
    /// Padding.
    pub pad: [u8; 6],
    /// The words of `evtchn_pending` to check, one bit each.
    pub evtchn_pending_sel: u64,
    /// Address of the last page fault (`arch.cr2`).
    pub cr2: u64,
    /// Unused.
    pub arch_pad: u64,
    /// The clock of the virtual CPU.
    pub time: VcpuTimeInfo,
}

/// The x86-specific part of the shared page (`arch_shared_info`); 48 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArchSharedInfo {
    /// Number of pseudo-physical frames that the kernel's table describes.
    pub max_pfn: u64,
    /// Machine frame of the top-level page of a list of the frames of the kernel's table.
    pub pfn_to_mfn_frame_list_list: u64,
    /// Why an NMI was sent.
    pub nmi_reason: u64,
    /// Page-table root under which `p2m_vaddr` is valid, as a cr3 value; 0 if not used.
    pub p2m_cr3: u64,
    /// Address of the kernel's pseudo-physical-to-machine table.
    pub p2m_vaddr: u64,
    /// Odd while the kernel changes that mapping.
    pub p2m_generation: u64,
}

/// The shared page (`shared_info`); 3136 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SharedInfo {
    /// Data of the virtual CPUs, until each registers its own place.
    pub vcpu_info: [VcpuInfo; LEGACY_MAX_VCPUS],
    /// One bit per event channel: an event is pending.
    pub evtchn_pending: [u64; 64],
    /// One bit per event channel: it is masked.
    pub evtchn_mask: [u64; 64],
    /// Odd while the wall clock is written.
    pub wc_version: u32,
    /// Wall clock at system time 0: seconds since 1970, low half.
    pub wc_sec: u32,
    /// Wall clock at system time 0: nanoseconds.
    pub wc_nsec: u32,
    /// Wall clock at system time 0: seconds, high half.
    pub wc_sec_hi: u32,
    /// The architecture-specific part.
    pub arch: ArchSharedInfo,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<VcpuInfo>() == 64);
    assert!(offset_of!(VcpuInfo, evtchn_upcall_mask) == 1);
    assert!(offset_of!(VcpuInfo, evtchn_pending_sel) == 8);
    assert!(offset_of!(VcpuInfo, cr2) == 16);
    assert!(offset_of!(VcpuInfo, time) == 32);
    assert!(size_of::<ArchSharedInfo>() == 48);
    assert_offsets!(ArchSharedInfo {
        max_pfn: 0,
        pfn_to_mfn_frame_list_list: 8,
        nmi_reason: 16,
        p2m_cr3: 24,
        p2m_vaddr: 32,
        p2m_generation: 40
    });
    assert!(size_of::<SharedInfo>() == 3136);
    assert!(offset_of!(SharedInfo, evtchn_pending) == 2048);
    assert!(offset_of!(SharedInfo, evtchn_mask) == 2560);
    assert!(offset_of!(SharedInfo, wc_version) == 3072);
    assert!(offset_of!(SharedInfo, wc_sec_hi) == 3084);
    assert!(offset_of!(SharedInfo, arch) == 3088);
};
