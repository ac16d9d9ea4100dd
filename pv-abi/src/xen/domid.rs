//! Domain ids: the name of a partition in the Xen-facing ABI, its number's low 15 bits.
//!
//! Ids from [`FIRST_RESERVED`] name no partition but a role (`xen.h`).

/// A domain id as the ABI's structures carry it.
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
/// Nobody.
pub const INVALID: DomId = 0x7FF4;
/// The idle domain.
pub const IDLE: DomId = 0x7FFF;
/// Bits of an id that count.
pub const MASK: DomId = 0x7FFF;
