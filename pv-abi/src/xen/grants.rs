//! Grant tables, version 1: entries, operations, status codes (`grant_table.h`).

use super::domid::DomId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Map frames: array of [`MapGrantRef`].
pub const MAP_GRANT_REF: u64 = 0;
/// Unmap frames: array of [`UnmapGrantRef`].
pub const UNMAP_GRANT_REF: u64 = 1;
/// Get, and extend, the table: [`SetupTable`].
pub const SETUP_TABLE: u64 = 2;
/// Print a table.
pub const DUMP_TABLE: u64 = 3;
/// Transfer a frame to another domain.
pub const TRANSFER: u64 = 4;
/// Copy bytes: array of [`GrantCopy`].
pub const COPY: u64 = 5;
/// Size of the table: [`QuerySize`].
pub const QUERY_SIZE: u64 = 6;
/// Unmap, and move another mapping to its place: array of [`UnmapAndReplace`].
pub const UNMAP_AND_REPLACE: u64 = 7;
/// Set the version: [`SetVersion`].
pub const SET_VERSION: u64 = 8;
/// For version 2 only.
pub const GET_STATUS_FRAMES: u64 = 9;
/// Version of a domain's table: [`GetVersion`].
pub const GET_VERSION: u64 = 10;
/// Swap two entries.
pub const SWAP_GRANT_REF: u64 = 11;
/// Clean caches (ARM).
pub const CACHE_FLUSH: u64 = 12;
/// Bits of the command argument that hold the command; the rest resumes a preempted call.
pub const COMMAND_BITS: u32 = 12;

/// An entry (`grant_entry_v1`); 8 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GrantEntry {
    /// `GTF_` bits.
    pub flags: u16,
    /// The domain that may use it.
    pub domid: DomId,
    /// Machine frame.
    pub frame: u32,
}
/// Number of entries in a frame of the table.
pub const ENTRIES_PER_FRAME: usize = 512;
/// Number of entries reserved for the builder.
pub const RESERVED_ENTRIES: u32 = 8;
/// Entry for the console ring.
pub const RESERVED_CONSOLE: u32 = 0;
/// Entry for the store ring.
pub const RESERVED_STORE: u32 = 1;

/// Type: not in use.
pub const GTF_INVALID: u16 = 0;
/// Type: the domain may access the frame.
pub const GTF_PERMIT_ACCESS: u16 = 1;
/// Type: the domain may transfer a frame to us.
pub const GTF_ACCEPT_TRANSFER: u16 = 2;
/// Type: for version 2 only.
pub const GTF_TRANSITIVE: u16 = 3;
/// Mask of the type.
pub const GTF_TYPE_MASK: u16 = 3;
/// The domain may only read the frame.
pub const GTF_READONLY: u16 = 1 << 2;
/// Set by the hypervisor: in use for reading.
pub const GTF_READING: u16 = 1 << 3;
/// Set by the hypervisor: in use for writing.
pub const GTF_WRITING: u16 = 1 << 4;
/// Cache attribute of the mapping.
pub const GTF_PWT: u16 = 1 << 5;
/// Cache attribute of the mapping.
pub const GTF_PCD: u16 = 1 << 6;
/// Cache attribute of the mapping.
pub const GTF_PAT: u16 = 1 << 7;
/// For version 2 only.
pub const GTF_SUB_PAGE: u16 = 1 << 8;

/// Map for device access.
pub const GNTMAP_DEVICE_MAP: u32 = 1 << 0;
/// Map at an address.
pub const GNTMAP_HOST_MAP: u32 = 1 << 1;
/// Map for reading only.
pub const GNTMAP_READONLY: u32 = 1 << 2;
/// User mode may use it.
pub const GNTMAP_APPLICATION_MAP: u32 = 1 << 3;
/// `host_addr` is the machine address of a level-1 entry.
pub const GNTMAP_CONTAINS_PTE: u32 = 1 << 4;
/// Number of the first bit that goes to the entry's software bits.
pub const GNTMAP_GUEST_AVAIL_SHIFT: u32 = 16;
/// Mask of those bits.
pub const GNTMAP_GUEST_AVAIL_MASK: u32 = !0 << GNTMAP_GUEST_AVAIL_SHIFT;

/// Map a frame (`gnttab_map_grant_ref`); 32 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapGrantRef {
    /// Address to map at; see [`GNTMAP_CONTAINS_PTE`].
    pub host_addr: u64,
    /// `GNTMAP_` bits.
    pub flags: u32,
    /// Entry of `dom`'s table.
    pub grant_ref: u32,
    /// The domain that grants it.
    pub dom: DomId,
    /// Out: a `GNTST_` code.
    pub status: i16,
    /// Out: a handle that identifies the mapping.
    pub handle: u32,
    /// Out: the machine address of the frame.
    pub dev_bus_addr: u64,
}

/// Unmap a frame (`gnttab_unmap_grant_ref`); 24 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapGrantRef {
    /// Address where it is mapped; 0 keeps that mapping.
    pub host_addr: u64,
    /// Its machine address; 0 keeps the device mapping.
    pub dev_bus_addr: u64,
    /// Handle of the mapping.
    pub handle: u32,
    /// Out: a `GNTST_` code.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

/// Unmap and replace (`gnttab_unmap_and_replace`); 24 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapAndReplace {
    /// Address where it is mapped.
    pub host_addr: u64,
    /// Address whose mapping moves there.
    pub new_addr: u64,
    /// Handle of the mapping.
    pub handle: u32,
    /// Out: a `GNTST_` code.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

/// Get the table's frames (`gnttab_setup_table`); 24 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetupTable {
    /// The domain that owns the table.
    pub dom: DomId,
    /// Padding.
    pub pad0: u16,
    /// The number of frames it should have.
    pub nr_frames: u32,
    /// Out: a `GNTST_` code.
    pub status: i16,
    /// Padding.
    pub pad1: [u8; 6],
    /// Guest address of an array of u64, filled with machine frames.
    pub frame_list: u64,
}

/// One end of a copy (`gnttab_copy_ptr`); 16 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CopyEnd {
    /// Grant reference (low half) or machine frame, as the flags say.
    pub frame: u64,
    /// The domain that owns the frame.
    pub domid: DomId,
    /// Offset in the frame.
    pub offset: u16,
    /// Padding.
    pub pad: u32,
}

/// Copy bytes (`gnttab_copy`); 40 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GrantCopy {
    /// The source.
    pub source: CopyEnd,
    /// The destination.
    pub dest: CopyEnd,
    /// Number of bytes.
    pub len: u16,
    /// `GNTCOPY_` bits.
    pub flags: u16,
    /// Out: a `GNTST_` code.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}
/// In [`GrantCopy::flags`]: the source is a grant reference.
pub const GNTCOPY_SOURCE_GREF: u16 = 1 << 0;
/// In [`GrantCopy::flags`]: the destination is a grant reference.
pub const GNTCOPY_DEST_GREF: u16 = 1 << 1;

/// Size of a table (`gnttab_query_size`); 16 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QuerySize {
    /// The domain that owns the table.
    pub dom: DomId,
    /// Padding.
    pub pad0: u16,
    /// Out: number of frames it has.
    pub nr_frames: u32,
    /// Out: number of frames it may have.
    pub max_nr_frames: u32,
    /// Out: a `GNTST_` code.
    pub status: i16,
    /// Padding.
    pub pad1: u16,
}

/// Set the version (`gnttab_set_version`); 4 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetVersion {
    /// In: the wanted version; out: the version in force.
    pub version: u32,
}

/// Query the version (`gnttab_get_version`); 8 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetVersion {
    /// The domain that owns the table.
    pub dom: DomId,
    /// Padding.
    pub pad: u16,
    /// Out: 1.
    pub version: u32,
}

/// The operation succeeded.
pub const GNTST_OKAY: i16 = 0;
/// The operation failed.
pub const GNTST_GENERAL_ERROR: i16 = -1;
/// No such domain.
pub const GNTST_BAD_DOMAIN: i16 = -2;
/// No such entry, or not one of that kind.
pub const GNTST_BAD_GNTREF: i16 = -3;
/// No such mapping.
pub const GNTST_BAD_HANDLE: i16 = -4;
/// Cannot map at that address.
pub const GNTST_BAD_VIRT_ADDR: i16 = -5;
/// Cannot map at that device address.
pub const GNTST_BAD_DEV_ADDR: i16 = -6;
/// No room for a device mapping.
pub const GNTST_NO_DEVICE_SPACE: i16 = -7;
/// Not permitted.
pub const GNTST_PERMISSION_DENIED: i16 = -8;
/// The frame cannot be used this way.
pub const GNTST_BAD_PAGE: i16 = -9;
/// A copy crosses the end of its page.
pub const GNTST_BAD_COPY_ARG: i16 = -10;
/// The frame's number is too large.
pub const GNTST_ADDRESS_TOO_BIG: i16 = -11;
/// Try again.
pub const GNTST_EAGAIN: i16 = -12;
/// No room for another mapping.
pub const GNTST_NO_SPACE: i16 = -13;

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<GrantEntry>() == 8);
    assert!(offset_of!(GrantEntry, frame) == 4);
    assert!(size_of::<MapGrantRef>() == 32);
    assert!(offset_of!(MapGrantRef, dom) == 16);
    assert!(offset_of!(MapGrantRef, handle) == 20);
    assert!(offset_of!(MapGrantRef, dev_bus_addr) == 24);
    assert!(size_of::<UnmapGrantRef>() == 24);
    assert!(offset_of!(UnmapGrantRef, status) == 20);
    assert!(size_of::<UnmapAndReplace>() == 24);
    assert_offsets!(UnmapAndReplace { host_addr: 0, new_addr: 8, handle: 16, status: 20, pad: 22 });
    assert!(size_of::<SetupTable>() == 24);
    assert!(offset_of!(SetupTable, status) == 8);
    assert!(offset_of!(SetupTable, frame_list) == 16);
    assert!(size_of::<CopyEnd>() == 16);
    assert!(offset_of!(CopyEnd, offset) == 10);
    assert!(size_of::<GrantCopy>() == 40);
    assert!(offset_of!(GrantCopy, status) == 36);
    assert!(size_of::<QuerySize>() == 16);
    assert!(offset_of!(QuerySize, status) == 12);
    assert!(size_of::<SetVersion>() == 4);
    assert_offsets!(SetVersion { version: 0 });
    assert!(size_of::<GetVersion>() == 8);
    assert_offsets!(GetVersion { dom: 0, pad: 2, version: 4 });
};
