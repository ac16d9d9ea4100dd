//! PCI functions: the record that the loader makes of each, and the database's record of its owner.
//!
//! The loader finds the functions and the sizes of their base address registers (BARs). It leaves a
//! table of [`DeviceFunction`]s, whose index names a function from then on: in the database, in
//! transactions, and in the calls [`super::calls::ACTIVATE_DEVICE`] to
//! [`super::calls::DEVICE_RESET`]. The monitor takes addresses from that table alone. The database
//! has a [`DeviceEntry`] with the same index, which has only the owner of the function.
//!
//! Facts of PCI are from the PCI Local Bus Specification 3.0 (6.1, 6.2.5, 6.8.2) and the PCI Express
//! Base Specification (7.5.3).

use super::database::PartitionNumber;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Maximum number of functions that are recorded.
pub const MAX_FUNCTIONS: usize = 256;
/// Maximum number of BARs of a function.
pub const BARS: usize = 6;

/// A PCI function; 144 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceFunction {
    /// Segment << 16 | bus << 8 | device << 3 | function.
    pub address: u32,
    /// Vendor id | device id << 16.
    pub id: u32,
    /// Class code << 8 | revision.
    pub class: u32,
    /// Subsystem vendor id | subsystem id << 16; 0 for a bridge.
    pub subsystem: u32,
    /// See [`flags`].
    pub flags: u32,
    /// Reasons why the function cannot be given to a partition; see [`refused`]. 0: it can.
    pub refused: u32,
    /// Offset of the MSI-X capability in configuration space, or 0.
    pub msix_capability: u16,
    /// Number of entries of the MSI-X table.
    pub msix_vectors: u16,
    /// Offset of the PCI Express capability in configuration space, or 0.
    pub express_capability: u16,
    /// Zero.
    pub reserved: u16,
    /// Physical address of the MSI-X table, or 0.
    pub msix_table: u64,
    /// Physical address of the MSI-X pending bits, or 0.
    pub msix_pending: u64,
    /// The memory BARs, each at the index of its register. The second half of a 64-bit BAR, a BAR of
    /// I/O ports and a BAR without an address have `bytes` 0.
    pub bars: [Bar; BARS],
}

/// A memory BAR; 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Bar {
    /// Physical address.
    pub address: u64,
    /// Size in bytes, a power of two; 0 if there is no such BAR.
    pub bytes: u64,
}

/// Bits of [`DeviceFunction::flags`].
pub mod flags {
    /// A bridge: header type 1 or 2, or class 06h.
    pub const BRIDGE: u32 = 1 << 0;
    /// The function can be reset by itself (function level reset).
    pub const FUNCTION_RESET: u32 = 1 << 1;
    /// BAR n is 64 bits wide: bit `BAR_64 << n`.
    pub const BAR_64: u32 = 1 << 8;
    /// BAR n is prefetchable: bit `BAR_PREFETCHABLE << n`.
    pub const BAR_PREFETCHABLE: u32 = 1 << 16;
}

/// Bits of [`DeviceFunction::refused`].
pub mod refused {
    /// The function is a bridge.
    pub const BRIDGE: u32 = 1 << 0;
    /// A page of its BARs also holds a BAR of another function.
    pub const SHARED_PAGE: u32 = 1 << 1;
    /// A page with the MSI-X table also holds other registers of the function.
    pub const TABLE_BESIDE_REGISTERS: u32 = 1 << 2;
    /// A BAR lies over RAM, over a register page of the monitor, or outside of the address width.
    pub const BAD_ADDRESS: u32 = 1 << 3;
    /// The function has no memory BAR.
    pub const NO_MEMORY: u32 = 1 << 4;
}

/// An entry of the database's device table, which has the owner of a function; 32 bytes. Its index
/// is that of the function's [`DeviceFunction`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceEntry {
    /// Odd while the entry is being written.
    pub generation: u32,
    /// The partition that may use the function; [`super::database::UNASSIGNED`] for none.
    pub owner: PartitionNumber,
    /// Counts changes of the owner.
    pub epoch: u64,
    /// First word: the I/O partition that gets it once its owner has let go of it; 0 if it stays.
    pub next: [u64; 2],
}
/// Number of entries in a page of the device table.
pub const DEVICES_IN_PAGE: u32 = 4096 / 32;

/// Bits of the argument of [`super::calls::DEVICE_COMMAND`]: those of the command register that the
/// owner may change.
pub mod command {
    /// The function answers in its memory BARs.
    pub const MEMORY: u32 = 1 << 1;
    /// The function may access memory.
    pub const BUS_MASTER: u32 = 1 << 2;
}

const _: () = {
    assert!(size_of::<Bar>() == 16);
    assert_offsets!(Bar { address: 0, bytes: 8 });
    assert!(size_of::<DeviceFunction>() == 144);
    assert_offsets!(DeviceFunction {
        address: 0,
        id: 4,
        class: 8,
        subsystem: 12,
        flags: 16,
        refused: 20,
        msix_capability: 24,
        msix_vectors: 26,
        express_capability: 28,
        reserved: 30,
        msix_table: 32,
        msix_pending: 40,
        bars: 48
    });
    assert!(size_of::<DeviceEntry>() == 32);
    assert_offsets!(DeviceEntry { generation: 0, owner: 4, epoch: 8, next: 16 });
    // The bits for BARs fit beside each other.
    assert!(flags::BAR_64 << (BARS - 1) < flags::BAR_PREFETCHABLE);
};
