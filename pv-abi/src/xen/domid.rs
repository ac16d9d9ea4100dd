//! Domain ids, which identify partitions in the Xen-facing ABI: the low 15 bits of a partition's
//! number.
//!
//! Ids from [`FIRST_RESERVED`] on name roles instead of partitions (`xen.h`).

/// A domain id in the form of the ABI's structures.
pub type DomId = u16;

/// The first id that no partition has.
pub const FIRST_RESERVED: DomId = 0x7FF0;
/// The caller.
pub const SELF: DomId = 0x7FF0;
/// Owner of I/O memory.
pub const IO: DomId = 0x7FF1;
/// Owner of the hypervisor's shareable pages.
pub const XEN: DomId = 0x7FF2;
/// Owner of copy-on-write pages.
pub const COW: DomId = 0x7FF3;
/// No domain.
pub const INVALID: DomId = 0x7FF4;
/// The idle domain.
pub const IDLE: DomId = 0x7FFF;
/// The significant bits of an id.
pub const MASK: DomId = 0x7FFF;
