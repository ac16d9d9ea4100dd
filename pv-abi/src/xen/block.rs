//! Block devices: the shared ring, requests, responses (`io/blkif.h`, `io/ring.h`).
//!
//! Front end and back end share a ring of slots. A slot holds a request on the way in and a
//! response on the way out, so a response overwrites the begin of the request in its slot. Indices
//! run freely through all `u32`; an index modulo the number of slots is the number of a slot.
//! Layouts are those of x86-64 (`protocol = "x86_64-abi"`), where `u64` is aligned to 8 bytes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a sector in every field of the protocol.
pub const SECTOR_BYTES: usize = 512;
/// Sectors of a page; a segment's sectors are numbers below it.
pub const PAGE_SECTORS: u8 = 8;
/// Maximum number of segments of a request that is not indirect.
pub const SEGMENTS_MAX: usize = 11;
/// Maximum number of pages with segments of an indirect request.
pub const INDIRECT_PAGES_MAX: usize = 8;
/// Segments that one page of an indirect request holds.
pub const SEGMENTS_PER_PAGE: usize = 512;
/// Bytes of [`RingHeader`], which is followed by the slots.
pub const RING_HEADER_BYTES: usize = 64;
/// Bytes of a slot.
pub const SLOT_BYTES: usize = 112;
/// Maximum of `ring-page-order`, the log2 of the number of pages of a ring.
pub const RING_ORDER_MAX: u32 = 4;

/// The value of `protocol` for the layouts here.
pub const PROTOCOL: &str = "x86_64-abi";
/// In `info`: the device can only be read.
pub const VDISK_READONLY: u32 = 1 << 2;

/// Operation: read.
pub const READ: u8 = 0;
/// Operation: write.
pub const WRITE: u8 = 1;
/// Operation: a write that orders those before and after it.
pub const WRITE_BARRIER: u8 = 2;
/// Operation: write the volatile cache of the device to the medium.
pub const FLUSH: u8 = 3;
/// Operation: the contents of the sectors are no longer needed ([`DiscardRequest`]).
pub const DISCARD: u8 = 5;
/// Operation: a read or a write whose segments lie in pages of their own ([`IndirectRequest`]). Its
/// response has the operation READ or WRITE.
pub const INDIRECT: u8 = 6;

/// In [`DiscardRequest::flag`]: no copy may be left. It is ignored where `discard-secure` is 0.
pub const DISCARD_SECURE: u8 = 1;

/// Status: done.
pub const STATUS_OK: i16 = 0;
/// Status: failed.
pub const STATUS_ERROR: i16 = -1;
/// Status: the operation is not supported.
pub const STATUS_NOT_SUPPORTED: i16 = -2;

/// The indices at the begin of a ring (`blkif_sring`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RingHeader {
    /// Front end: requests produced.
    pub req_prod: u32,
    /// Back end: wants an event when `req_prod` reaches this.
    pub req_event: u32,
    /// Back end: responses produced.
    pub rsp_prod: u32,
    /// Front end: wants an event when `rsp_prod` reaches this.
    pub rsp_event: u32,
    /// Unused.
    pub reserved: [u32; 12],
}

/// A part of a page (`blkif_request_segment`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Segment {
    /// Grant of the page.
    pub gref: u32,
    /// First sector of the page.
    pub first_sect: u8,
    /// Last sector of the page, inclusive.
    pub last_sect: u8,
    /// Unused.
    pub reserved: u16,
}

/// A read, a write or a flush (`blkif_request`).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Request {
    /// READ, WRITE or FLUSH.
    pub operation: u8,
    /// Number of segments.
    pub nr_segments: u8,
    /// Number of the virtual device; defined for reads and writes only.
    pub handle: u16,
    /// Unused.
    pub reserved: u32,
    /// A value of the front end, which the response repeats.
    pub id: u64,
    /// First sector.
    pub sector_number: u64,
    /// The segments.
    pub segments: [Segment; SEGMENTS_MAX],
}

/// A discard (`blkif_request_discard`); the begin of a slot.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DiscardRequest {
    /// DISCARD.
    pub operation: u8,
    /// [`DISCARD_SECURE`] or 0.
    pub flag: u8,
    /// Number of the virtual device; stock front ends leave it undefined.
    pub handle: u16,
    /// Unused.
    pub reserved: u32,
    /// A value of the front end, which the response repeats.
    pub id: u64,
    /// First sector.
    pub sector_number: u64,
    /// Number of sectors.
    pub nr_sectors: u64,
}

/// A read or a write with indirect segments (`blkif_request_indirect`); the begin of a slot.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IndirectRequest {
    /// INDIRECT.
    pub operation: u8,
    /// READ or WRITE.
    pub indirect_op: u8,
    /// Number of segments.
    pub nr_segments: u16,
    /// Unused.
    pub reserved: u32,
    /// A value of the front end, which the response repeats.
    pub id: u64,
    /// First sector.
    pub sector_number: u64,
    /// Number of the virtual device.
    pub handle: u16,
    /// Unused.
    pub reserved2: u16,
    /// Grants of the pages with the segments, [`SEGMENTS_PER_PAGE`] in each.
    pub indirect_grefs: [u32; INDIRECT_PAGES_MAX],
    /// Unused.
    pub reserved3: u32,
}

/// A response (`blkif_response`); the begin of a slot.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Response {
    /// The request's id.
    pub id: u64,
    /// The request's operation; of an indirect request, the inner one.
    pub operation: u8,
    /// Unused.
    pub reserved: u8,
    /// A `STATUS_` constant.
    pub status: i16,
    /// Unused.
    pub reserved2: u32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<RingHeader>() == RING_HEADER_BYTES);
    assert_offsets!(RingHeader { req_prod: 0, req_event: 4, rsp_prod: 8, rsp_event: 12 });
    assert!(size_of::<Segment>() == 8);
    assert_offsets!(Segment { gref: 0, first_sect: 4, last_sect: 5 });
    assert!(size_of::<Request>() == SLOT_BYTES);
    assert_offsets!(Request { operation: 0, nr_segments: 1, handle: 2, id: 8 });
    assert_offsets!(Request { sector_number: 16, segments: 24 });
    assert!(size_of::<DiscardRequest>() == 32);
    assert_offsets!(DiscardRequest { operation: 0, flag: 1, handle: 2, id: 8 });
    assert_offsets!(DiscardRequest { sector_number: 16, nr_sectors: 24 });
    assert!(size_of::<IndirectRequest>() == 64);
    assert_offsets!(IndirectRequest { operation: 0, indirect_op: 1, nr_segments: 2, id: 8 });
    assert_offsets!(IndirectRequest { sector_number: 16, handle: 24, indirect_grefs: 28 });
    assert!(size_of::<Response>() == 16);
    assert_offsets!(Response { id: 0, operation: 8, status: 10 });
    assert!(SEGMENTS_PER_PAGE * size_of::<Segment>() == crate::PAGE_SIZE);
    assert!(PAGE_SECTORS as usize * SECTOR_BYTES == crate::PAGE_SIZE);
    assert!(offset_of!(RingHeader, reserved) == 16);
};
