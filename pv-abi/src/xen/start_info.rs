//! The start info page, from which a kernel learns its parameters when it starts (`xen.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`StartInfo::magic`] of a 64-bit kernel, padded with zeros.
pub const MAGIC: &[u8; 14] = b"xen-3.0-x86_64";
/// In [`StartInfo::flags`]: may do privileged operations.
pub const SIF_PRIVILEGED: u32 = 1 << 0;
/// In [`StartInfo::flags`]: is the initial domain.
pub const SIF_INITDOMAIN: u32 = 1 << 1;
/// In [`StartInfo::flags`]: `mod_start` is a list of modules.
pub const SIF_MULTIBOOT_MOD: u32 = 1 << 2;
/// In [`StartInfo::flags`]: `mod_start` is a frame number.
pub const SIF_MOD_START_PFN: u32 = 1 << 3;
/// In [`StartInfo::flags`]: tools find the table of frames by its virtual address.
pub const SIF_VIRT_P2M_4TOOLS: u32 = 1 << 4;
/// Bytes of the command line, including its terminator.
pub const COMMAND_LINE_BYTES: usize = 1024;

/// Start info (`start_info`); 1168 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StartInfo {
    /// [`MAGIC`].
    pub magic: [u8; 32],
    /// Number of pseudo-physical frames.
    pub nr_pages: u64,
    /// Machine address of the shared page.
    pub shared_info: u64,
    /// `SIF_` bits.
    pub flags: u32,
    /// Padding.
    pub pad0: u32,
    /// Machine frame of the store ring.
    pub store_mfn: u64,
    /// Event channel of the store ring.
    pub store_evtchn: u32,
    /// Padding.
    pub pad1: u32,
    /// Machine frame of the console ring (`console.domU.mfn`).
    pub console_mfn: u64,
    /// Event channel of the console ring (`console.domU.evtchn`).
    pub console_evtchn: u32,
    /// Padding.
    pub pad2: u32,
    /// Virtual address of the level-4 page table.
    pub pt_base: u64,
    /// Number of page-table frames from there on.
    pub nr_pt_frames: u64,
    /// Virtual address of the table of machine frames.
    pub mfn_list: u64,
    /// Address (or frame, [`SIF_MOD_START_PFN`]) of the initial RAM disk.
    pub mod_start: u64,
    /// Size of the initial RAM disk in bytes.
    pub mod_len: u64,
    /// Command line, terminated by a zero byte.
    pub cmd_line: [u8; COMMAND_LINE_BYTES],
    /// First pseudo-physical frame of the table of machine frames and its page tables.
    pub first_p2m_pfn: u64,
    /// Number of these frames.
    pub nr_p2m_frames: u64,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<StartInfo>() == 1168);
    assert!(offset_of!(StartInfo, nr_pages) == 32);
    assert!(offset_of!(StartInfo, shared_info) == 40);
    assert!(offset_of!(StartInfo, flags) == 48);
    assert!(offset_of!(StartInfo, store_mfn) == 56);
    assert!(offset_of!(StartInfo, store_evtchn) == 64);
    assert!(offset_of!(StartInfo, console_mfn) == 72);
    assert!(offset_of!(StartInfo, console_evtchn) == 80);
    assert!(offset_of!(StartInfo, pt_base) == 88);
    assert!(offset_of!(StartInfo, mfn_list) == 104);
    assert!(offset_of!(StartInfo, mod_start) == 112);
    assert!(offset_of!(StartInfo, cmd_line) == 128);
    assert!(offset_of!(StartInfo, first_p2m_pfn) == 1152);
    assert!(offset_of!(StartInfo, nr_p2m_frames) == 1160);
};
