//! `memory_op`: memory map, reservations, the machine-to-physical table (`memory.h`).

use super::domid::DomId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Give the domain more frames, out of those it has.
pub const INCREASE_RESERVATION: u64 = 0;
/// Release frames; returns the number of extents done.
pub const DECREASE_RESERVATION: u64 = 1;
/// Highest machine frame.
pub const MAXIMUM_RAM_PAGE: u64 = 2;
/// Number of frames that a domain has.
pub const CURRENT_RESERVATION: u64 = 3;
/// Number of frames that a domain may have.
pub const MAXIMUM_RESERVATION: u64 = 4;
/// Frames that hold the machine-to-physical table.
pub const MACHPHYS_MFN_LIST: u64 = 5;
/// Populate pseudo-physical frames; returns the number of extents done.
pub const POPULATE_PHYSMAP: u64 = 6;
/// Place a frame in pseudo-physical memory (translated guests only).
pub const ADD_TO_PHYSMAP: u64 = 7;
/// Fill a [`MemoryMap`] of pseudo-physical memory.
pub const MEMORY_MAP: u64 = 9;
/// Fill a [`MemoryMap`] of the machine (initial domain only).
pub const MACHINE_MEMORY_MAP: u64 = 10;
/// Exchange frames.
pub const EXCHANGE: u64 = 11;
/// Fill a [`MachphysMapping`].
pub const MACHPHYS_MAPPING: u64 = 12;
/// Set the map of a domain.
pub const SET_MEMORY_MAP: u64 = 13;
/// Highest pseudo-physical frame of a domain.
pub const MAXIMUM_GPFN: u64 = 14;
/// Undo [`ADD_TO_PHYSMAP`].
pub const REMOVE_FROM_PHYSMAP: u64 = 15;
/// [`ADD_TO_PHYSMAP`] for several frames.
pub const ADD_TO_PHYSMAP_BATCH: u64 = 23;
/// Reserve memory for a domain; not offered.
pub const CLAIM_PAGES: u64 = 24;
/// Virtual NUMA topology.
pub const GET_VNUMAINFO: u64 = 26;
/// Map frames of a resource of a domain.
pub const ACQUIRE_RESOURCE: u64 = 28;
/// Bits of the command argument that hold the command; the rest resumes a preempted call.
pub const COMMAND_BITS: u32 = 6;

/// Extents to populate or to release (`xen_memory_reservation`); 32 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryReservation {
    /// Guest address of an array of frame numbers (u64), one per extent.
    pub extent_start: u64,
    /// Number of extents.
    pub nr_extents: u64,
    /// log2 of the number of frames in an extent.
    pub extent_order: u32,
    /// Bits 7:0: wanted address width; the other bits are advice.
    pub mem_flags: u32,
    /// The domain whose memory it is.
    pub domid: DomId,
    /// Padding.
    pub pad: [u8; 6],
}

/// Extents to exchange (`xen_memory_exchange`); 72 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryExchange {
    /// Extents given.
    pub give: MemoryReservation,
    /// Extents taken.
    pub take: MemoryReservation,
    /// Out: extents done; 0 on entry.
    pub nr_exchanged: u64,
}

/// A buffer for [`E820Entry`]s (`xen_memory_map`); 16 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryMap {
    /// In: room in entries; out: number of entries.
    pub nr_entries: u32,
    /// Padding.
    pub pad: u32,
    /// Guest address of the array.
    pub buffer: u64,
}

/// An entry of a memory map (`e820entry`); 20 bytes, packed.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct E820Entry {
    /// First byte.
    pub addr: u64,
    /// Number of bytes.
    pub size: u64,
    /// [`E820_RAM`] and so on.
    pub kind: u32,
}
/// Usable memory.
pub const E820_RAM: u32 = 1;
/// Not usable.
pub const E820_RESERVED: u32 = 2;
/// ACPI tables.
pub const E820_ACPI: u32 = 3;
/// ACPI non-volatile storage.
pub const E820_NVS: u32 = 4;
/// Defective.
pub const E820_UNUSABLE: u32 = 5;

/// Address of the machine-to-physical table (`xen_machphys_mapping`); 24 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MachphysMapping {
    /// First address of the table.
    pub v_start: u64,
    /// One past its last address.
    pub v_end: u64,
    /// The last frame that it describes.
    pub max_mfn: u64,
}

/// Frames of the machine-to-physical table (`xen_machphys_mfn_list`); 24 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MachphysMfnList {
    /// Room in the array.
    pub max_extents: u32,
    /// Padding.
    pub pad0: u32,
    /// Guest address of the array of frame numbers, one per 2 MiB.
    pub extent_start: u64,
    /// Out: number of entries filled.
    pub nr_extents: u32,
    /// Padding.
    pub pad1: u32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<MemoryReservation>() == 32);
    assert!(offset_of!(MemoryReservation, extent_order) == 16);
    assert!(offset_of!(MemoryReservation, domid) == 24);
    assert!(size_of::<MemoryExchange>() == 72);
    assert_offsets!(MemoryExchange { give: 0, take: 32, nr_exchanged: 64 });
    assert!(size_of::<MemoryMap>() == 16);
    assert!(offset_of!(MemoryMap, buffer) == 8);
    assert!(size_of::<E820Entry>() == 20);
    assert!(offset_of!(E820Entry, kind) == 16);
    assert!(size_of::<MachphysMapping>() == 24);
    assert_offsets!(MachphysMapping { v_start: 0, v_end: 8, max_mfn: 16 });
    assert!(size_of::<MachphysMfnList>() == 24);
    assert!(offset_of!(MachphysMfnList, nr_extents) == 16);
};
