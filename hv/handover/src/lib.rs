//! The contract between the loader and the monitor.
//!
//! The loader builds the address space of the [`layout`] and loads the monitor's image, which
//! begins with an [`ImageHeader`]. Then it jumps to the entry point with the address of a
//! [`Handover`] in rdi, on the main stack of CPU 0, with interrupts off. The two images are built
//! and shipped together. A different [`VERSION`] means that two builds were mixed; both programs
//! refuse it.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]

use pv_abi::uv::{database::PartitionDescriptor, devices::DeviceFunction, start::mitigation};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub mod layout;

use layout::MAX_CPUS;

/// `b"UVHANDOV"`, little-endian: the first word of a [`Handover`].
pub const MAGIC: u64 = u64::from_le_bytes(*b"UVHANDOV");
/// `b"UVMONITR"`, little-endian: the first word of an [`ImageHeader`].
pub const IMAGE_MAGIC: u64 = u64::from_le_bytes(*b"UVMONITR");
/// Changes whenever a type or a number of this crate changes its meaning.
pub const VERSION: u64 = 7;

/// The loader's image has these bytes at an address that is a multiple of their number; no other
/// image has them. Tests look for them in memory.
pub const LOADER_MARK: [u8; 32] = *b"the loader of Ultravisor is here";

/// The first bytes of the monitor's image, with the addresses that the loader needs.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ImageHeader {
    /// [`IMAGE_MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u64,
    /// `extern "C" fn(&'static Handover) -> !`.
    pub entry: u64,
    /// `extern "C" fn(u32) -> !`, for another CPU, with its index, on its main stack.
    pub entry_of_others: u64,
    /// Address of the code page that every CPU's area maps.
    pub entry_page: u64,
    /// 256 stubs of 16 bytes, one for each interrupt vector.
    pub trap_stubs: u64,
    /// 4096 zero bytes, in which the loader builds the interrupt descriptor table.
    pub interrupts: u64,
}

/// A range of frames.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Frames {
    /// First frame.
    pub first: u64,
    /// Number of frames.
    pub count: u64,
}

/// A range of bytes in RAM.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Bytes {
    /// Physical address.
    pub start: u64,
    /// Number of bytes.
    pub bytes: u64,
}

/// The options of the command line that concern the monitor.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Options {
    /// The least severe level of messages that are shown: 1 errors, 2 warnings, 3 information, 4
    /// details.
    pub log_level: u32,
    /// If not 0, the machine resets after the monitor failed.
    pub reset_after_panic: u32,
    /// If not 0, the monitor exits QEMU through its debug-exit device.
    pub debug_exit: u32,
    /// The monitor's mitigations against leaks of the CPU; see [`mitigation`].
    pub mitigations: u32,
}

impl Options {
    /// The value for IA32_SPEC_CTRL (Intel SDM vol. 4, register 48h; AMD has the same bits).
    #[must_use]
    pub fn speculation_control(&self) -> u64 {
        let bit = |what: u32, bit: u32| u64::from(self.mitigations & what != 0) << bit;
        bit(mitigation::IBRS, 0)
            | bit(mitigation::STIBP, 1)
            | bit(mitigation::SSBD, 2)
            | bit(mitigation::BHI, 10)
    }
}

/// The registers that turn the machine off and reset it. A port of 0 means that the register does
/// not exist.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Power {
    /// Ports of the power-management control registers.
    pub control_ports: [u16; 2],
    /// Port that turns ACPI mode on.
    pub enable_port: u16,
    /// Port that resets the machine.
    pub reset_port: u16,
    /// The value to write to `enable_port`.
    pub enable_value: u8,
    /// The value to write to `reset_port`.
    pub reset_value: u8,
    /// Sleep types of `\_S5` for both control registers.
    pub off: [u8; 2],
    /// Not 0 if `off` is known.
    pub has_off: u32,
}

/// The rates of the clocks, and the date.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Clock {
    /// TSC at time 0.
    pub tsc_start: u64,
    /// TSC ticks a second.
    pub tsc_hertz: u64,
    /// Ticks a second of a local APIC's timer.
    pub apic_hertz: u64,
    /// Seconds since 1970 at time 0, or 0 if there is no date.
    pub wall_clock: u64,
}

/// One of the first two partitions, with its memory filled and its tables built.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FirstPartition {
    /// The partition.
    pub descriptor: PartitionDescriptor,
    /// Frame of its level-4 table.
    pub root: u64,
    /// Entry point of virtual CPU 0.
    pub entry: u64,
    /// Top of its stack.
    pub stack: u64,
    /// Virtual address of the start block.
    pub start_block: u64,
}

/// A PCI function.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Function {
    /// The function as the loader found it.
    pub record: DeviceFunction,
    /// Virtual address of its MSI-X table, or 0 if it has none or no partition may get it.
    pub msix_entries: u64,
}

/// Everything that the loader passes to the monitor. It lies in frames of the monitor's own.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Handover {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u64,
    /// See [`Options`].
    pub options: Options,
    /// Physical address of the monitor's level-4 table, below 4 GiB. Its entry 0 maps the first 4
    /// GiB at address 0, for the loader and for starting CPUs; the monitor clears it.
    pub root: u64,
    /// Entries 256 to 271 of the monitor's level-4 table. Every level-4 table has the same entries,
    /// but for entry 256, which is empty here and the partition's own in a partition's tables.
    pub slots: [u64; layout::SLOTS],
    /// One past the highest frame of RAM; also the number of records in the frame table.
    pub frames: u64,
    /// Physical address of the machine-to-physical table, a multiple of 2 MiB. A page of ones
    /// follows its last page.
    pub m2p: u64,
    /// Number of frames of RAM in the firmware's list.
    pub ram_frames: u64,
    /// Virtual address of the local APICs' registers, or 0 in x2APIC mode.
    pub local_apic: u64,
    /// Number of CPUs whose areas are mapped; index 0 is the CPU that runs the loader.
    pub cpu_count: u32,
    /// Number of the CPUs besides the first that enter the monitor ([`ImageHeader::entry_of_others`]).
    pub others: u32,
    /// APIC ids by CPU index.
    pub apic_ids: [u32; MAX_CPUS],
    /// Addresses of the first level-1 entries of each CPU's GDT window and LDT window.
    pub windows: [[u64; MAX_CPUS]; 2],
    /// Symbol and string table of the monitor's image; empty if the image has none.
    pub symbols: [Bytes; 2],
    /// The loader's own memory. The monitor scrubs it before a partition runs; in the page map it
    /// is free already.
    pub loader: Frames,
    /// The database's arena.
    pub arena: Frames,
    /// See [`Power`].
    pub power: Power,
    /// See [`Clock`].
    pub clock: Clock,
    /// [`Function`]s, in frames of the monitor.
    pub functions: Bytes,
    /// The boot partition and the ultravisor partition.
    pub partitions: [FirstPartition; 2],
}

const _: () = {
    assert!(size_of::<ImageHeader>() == 56);
    assert!(size_of::<Power>() == 16);
    assert!(size_of::<Function>() == size_of::<DeviceFunction>() + 8);
    assert!(size_of::<FirstPartition>() == size_of::<PartitionDescriptor>() + 32);
    assert!(size_of::<Handover>() == 1616 + 2 * size_of::<FirstPartition>());
    assert!(align_of::<Handover>() == 8);
};

#[cfg(test)]
mod tests {
    use super::*;
    use pv_abi::uv::start::mitigation as on;

    #[test]
    fn speculation_control_has_the_bits_of_the_manuals() {
        let control = |mitigations| {
            Options { log_level: 0, reset_after_panic: 0, debug_exit: 0, mitigations }
                .speculation_control()
        };
        assert_eq!(control(on::VERW | on::IBPB | on::AUTO_IBRS), 0);
        assert_eq!(control(on::IBRS | on::STIBP | on::SSBD | on::BHI), 0x407);
    }
}
