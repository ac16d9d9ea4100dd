//! Configuration mechanism 1 (PCI Local Bus Specification 3.0, 3.2.2.3.2), and where no register of
//! a function may lie on this machine.

use handover::{Bytes, Function};
use log::debug;
use pv_abi::uv::devices::{Bar, DeviceFunction};
use serial_line::ports::{input, output};
use spin::Mutex;
use zerocopy::IntoBytes;

use crate::{
    acpi::Acpi,
    cpu, memory,
    pci::{self, Configuration, Functions},
    regions::FirmwareRegion,
};

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
/// The addresses of local APICs, I/O APICs and timers. Writes to some of them become interrupts.
const REGISTERS: core::ops::Range<u64> = 0xfec0_0000..0x1_0000_0000;

/// A static, since it is too large for a stack.
pub static FUNCTIONS: Mutex<Functions> = Mutex::new(Functions::new());

struct Ports;

impl Configuration for Ports {
    fn read(&self, function: u32, offset: u16) -> u32 {
        output(ADDRESS, ENABLE | function << 8 | u32::from(offset));
        input(DATA)
    }

    fn write(&self, function: u32, offset: u16, value: u32) {
        output(ADDRESS, ENABLE | function << 8 | u32::from(offset));
        output(DATA, value);
    }
}

/// Finds the machine's functions ([`FUNCTIONS`]), and maps the MSI-X tables of those that a
/// partition may get. Returns the monitor's records of them.
pub fn find_functions(acpi: &Acpi, regions: &[FirmwareRegion]) -> Bytes {
    let end_of_addresses = 1 << cpu::address_bits();
    let io_apics = || acpi.io_apics.iter().map(|io_apic| io_apic.address);
    let is_bad = |bar: &Bar| {
        let end = bar.address.saturating_add(bar.bytes);
        let meets = |first: u64, past: u64| bar.address < past && first < end;
        let page = |address: u64| meets(address & !4095, (address & !4095) + 4096);
        end > end_of_addresses
            || meets(REGISTERS.start, REGISTERS.end)
            || acpi.local_apic.into_iter().chain(io_apics()).any(page)
            || memory::meets_ram(bar.address, end, regions)
    };
    let mut functions = FUNCTIONS.lock();
    pci::enumerate(&Ports, is_bad, &mut functions);
    let bytes = (functions.len() * size_of::<Function>()) as u64;
    let start = memory::take_zeroed(bytes, "the records of PCI functions");
    for (index, &record) in functions.iter().enumerate() {
        let function = Function { record, msix_entries: map_vectors(&record) };
        let DeviceFunction { address, id, msix_vectors, refused, .. } = record;
        debug!("PCI {address:#06x} {id:#010x}: {msix_vectors} vectors, refused {refused:#x}");
        memory::copy_to(start + (index * size_of::<Function>()) as u64, function.as_bytes());
    }
    Bytes { start, bytes }
}

/// Maps the MSI-X table of a function that a partition may get. Returns its virtual address, or 0.
fn map_vectors(record: &DeviceFunction) -> u64 {
    if record.refused != 0 || record.msix_vectors == 0 {
        return 0;
    }
    let bytes = u64::from(record.msix_vectors) * 16;
    memory::map_device(record.msix_table, bytes) as u64
}
