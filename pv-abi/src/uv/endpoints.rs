//! Endpoints: the virtual disks of partitions, and the media that they stand for.
//!
//! An entry of the database's endpoint table says which partition has which virtual device, on which
//! sectors, and how far its life has come. The ultravisor writes the table. The table holds what a
//! successor of an I/O partition needs in order to serve the same endpoint.
//!
//! ```text
//! free -> attached -> detaching -> free, with the next incarnation
//! ```
//!
//! A detaching endpoint accepts no new requests. The entry becomes free once no partition serves
//! it.

use super::database::PartitionNumber;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Maximum number of extents of an endpoint.
pub const MAX_EXTENTS: usize = 64;

/// An entry of the endpoint table; 2048 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Endpoint {
    /// Odd while the entry is being written.
    pub generation: u32,
    /// See [`endpoint_state`].
    pub state: u32,
    /// Counts how often the entry became free, so that an answer for an earlier endpoint in this
    /// entry is not taken for one of this endpoint.
    pub incarnation: u64,
    /// The partition whose disk it is.
    pub client: PartitionNumber,
    /// The number of the virtual device, as Linux counts block devices: xvda is 51712.
    pub device: u32,
    /// The partition number that the client sees as its backend:
    /// [`super::database::IO_SERVICE`].
    pub service: PartitionNumber,
    /// See [`endpoint_flags`].
    pub flags: u32,
    /// The features that the client was offered. A successor offers the same. See
    /// [`endpoint_features`].
    pub features: u32,
    /// See [`medium`].
    pub medium: u32,
    /// For a partition of a disk: its number, from 1.
    pub partition: u32,
    /// Number of extents: 1 for a whole disk and for a partition of a disk, whose `start` and
    /// `sectors` are 0, since only the I/O partition knows them.
    pub extents: u32,
    /// Bytes per second and burst in bytes; 0: no limit.
    pub bytes: [u64; 2],
    /// Operations per second and burst in operations; 0: no limit.
    pub operations: [u64; 2],
    /// The extents, in the order of the endpoint's sectors.
    pub extent: [EndpointExtent; MAX_EXTENTS],
    /// Zero.
    pub reserved: [u64; 54],
}

impl Endpoint {
    /// The extents that are in use.
    #[must_use]
    pub fn used(&self) -> &[EndpointExtent] {
        self.extent.get(..self.extents as usize).unwrap_or(&self.extent)
    }
}

/// Consecutive sectors of a function's disk; 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EndpointExtent {
    /// The function's index in the device table.
    pub function: u32,
    /// Zero.
    pub reserved: u32,
    /// First sector of 512 bytes.
    pub start: u64,
    /// Number of sectors.
    pub sectors: u64,
}
/// Number of entries in a page of the endpoint table.
pub const ENDPOINTS_IN_PAGE: u32 = 4096 / 2048;

/// Values of [`Endpoint::state`].
pub mod endpoint_state {
    /// The entry is not in use.
    pub const FREE: u32 = 0;
    /// The client has the disk, or gets it when its kernel asks.
    pub const ATTACHED: u32 = 1;
    /// The disk is being taken from the client.
    pub const DETACHING: u32 = 2;
}

/// Bits of [`Endpoint::flags`].
pub mod endpoint_flags {
    /// The client may not write.
    pub const READ_ONLY: u32 = 1 << 0;
    /// Other shared endpoints may have the same sectors.
    pub const SHARED: u32 = 1 << 1;
}

/// Bits of [`Endpoint::features`].
pub mod endpoint_features {
    /// Flush.
    pub const FLUSH: u32 = 1 << 0;
    /// Indirect segments.
    pub const INDIRECT: u32 = 1 << 1;
    /// Several rings.
    pub const MULTI_QUEUE: u32 = 1 << 2;
    /// Discards, as far as the disks of all its extents have them.
    pub const DISCARD: u32 = 1 << 3;
}

/// Values of [`Endpoint::medium`].
pub mod medium {
    /// The whole disk of a function.
    pub const DISK: u32 = 0;
    /// A GPT partition of a function's disk.
    pub const PARTITION: u32 = 1;
    /// Extents.
    pub const EXTENTS: u32 = 2;
}

const _: () = {
    assert!(size_of::<EndpointExtent>() == 24);
    assert_offsets!(EndpointExtent { function: 0, reserved: 4, start: 8, sectors: 16 });
    assert!(size_of::<Endpoint>() == 2048);
    assert_offsets!(Endpoint {
        generation: 0,
        state: 4,
        incarnation: 8,
        client: 16,
        device: 20,
        service: 24,
        flags: 28,
        features: 32,
        medium: 36,
        partition: 40,
        extents: 44,
        bytes: 48,
        operations: 64,
        extent: 80,
        reserved: 1616
    });
};
