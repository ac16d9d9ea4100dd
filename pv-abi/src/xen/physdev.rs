//! `physdev_op`: I/O privilege; physical interrupts are not offered (`physdev.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Query an interrupt: [`IrqStatusQuery`].
pub const IRQ_STATUS_QUERY: u64 = 5;
/// Set the virtual I/O privilege level: [`SetIopl`].
pub const SET_IOPL: u64 = 6;
/// Set the I/O permission bitmap: [`SetIobitmap`].
pub const SET_IOBITMAP: u64 = 7;
/// Read an I/O APIC register.
pub const APIC_READ: u64 = 8;
/// Write an I/O APIC register.
pub const APIC_WRITE: u64 = 9;
/// Allocate a vector.
pub const ALLOC_IRQ_VECTOR: u64 = 10;
/// End of interrupt.
pub const EOI: u64 = 12;
/// Map a physical interrupt.
pub const MAP_PIRQ: u64 = 13;
/// Unmap a physical interrupt.
pub const UNMAP_PIRQ: u64 = 14;
/// Set the page of bits that say which interrupts need an end-of-interrupt call: frame number
/// (u64).
pub const PIRQ_EOI_GMFN_V1: u64 = 17;
/// The same as [`PIRQ_EOI_GMFN_V1`], without implied unmasking.
pub const PIRQ_EOI_GMFN_V2: u64 = 28;
/// Get a free number for a physical interrupt.
pub const GET_FREE_PIRQ: u64 = 23;
/// Report a PCI function to the hypervisor.
pub const PCI_DEVICE_ADD: u64 = 25;

/// Argument of [`IRQ_STATUS_QUERY`] (`physdev_irq_status_query`); 8 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IrqStatusQuery {
    /// The interrupt.
    pub irq: u32,
    /// Out: [`IRQ_NEEDS_EOI`], [`IRQ_SHARED`].
    pub flags: u32,
}
/// In [`IrqStatusQuery::flags`]: needs an end-of-interrupt call.
pub const IRQ_NEEDS_EOI: u32 = 1 << 0;
/// In [`IrqStatusQuery::flags`]: shared.
pub const IRQ_SHARED: u32 = 1 << 1;

/// Argument of [`SET_IOPL`] (`physdev_set_iopl`); 4 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetIopl {
    /// The level, 0 to 3.
    pub iopl: u32,
}

/// Argument of [`SET_IOBITMAP`] (`physdev_set_iobitmap`); 16 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetIobitmap {
    /// Guest address of the bitmap; a set bit forbids.
    pub bitmap: u64,
    /// Number of ports that it covers, at most 65536.
    pub nr_ports: u32,
    /// Padding.
    pub pad: u32,
}

const _: () = {
    assert!(size_of::<IrqStatusQuery>() == 8);
    assert_offsets!(IrqStatusQuery { irq: 0, flags: 4 });
    assert!(size_of::<SetIopl>() == 4);
    assert_offsets!(SetIopl { iopl: 0 });
    assert!(size_of::<SetIobitmap>() == 16);
    assert_offsets!(SetIobitmap { bitmap: 0, nr_ports: 8, pad: 12 });
};
