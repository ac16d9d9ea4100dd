//! The few facts that the monitor takes from ACPI: CPUs, interrupt controllers, the timer, power.
//!
//! The reader finds tables from the root pointer, verifies their checksums, and checks all bounds
//! (ACPI Specification 6.4, chapters 5.2 and 7.4). Only `\_S5` would need an interpreter; the
//! reader finds it by its bytes in the DSDT. The rule: a table that is invalid counts as absent. If
//! data is absent, its user takes a default or prints a warning.
//!
//! The crate `acpi` (6.1) is no replacement. It needs the nightly compiler. It maps whatever
//! address and length a table names, and its user has no way to refuse. It continues after a wrong
//! checksum of the root pointer, and reads 64-bit entries at addresses that are not a multiple of
//! 8. Only its interpreter, which needs an allocator, finds `\_S5`. The crate `acpi_tables` (0.2)
//! writes tables and reads none.

use handover::layout::MAX_CPUS;
use heapless::Vec;

use crate::bytes::{u8_at, u16_at, u32_at, u64_at};

/// Bytes of the header that all tables share.
const HEADER: usize = 36;
/// A table larger than this counts as damaged.
const MAX_TABLE: u32 = 1 << 24;

/// Reads physical memory. Returns `None` if the range is not readable memory.
pub type Memory<'a> = &'a dyn Fn(u64, u64) -> Option<&'static [u8]>;

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Physical address of its registers.
    pub address: u64,
    /// Number of its first interrupt.
    pub first: u32,
}

/// An ISA interrupt that is not wired to the pin of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// The ISA interrupt.
    pub irq: u8,
    /// The global system interrupt that the ISA interrupt is wired to.
    pub pin: u32,
    /// Polarity (bits 1:0; 3 = active low) and trigger mode (bits 3:2; 3 = level).
    pub flags: u16,
}

/// The register that resets the machine when written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetRegister {
    /// 0: memory, 1: port, 2: PCI configuration space.
    pub space: u8,
    /// Address in that space.
    pub address: u64,
    /// The value to write.
    pub value: u8,
}

/// The facts found in the tables.
#[derive(Debug)]
pub struct Acpi {
    /// APIC ids of usable CPUs.
    pub cpus: Vec<u32, MAX_CPUS>,
    /// CPUs beyond [`MAX_CPUS`].
    pub more_cpus: u32,
    /// Physical address of the local APICs, if the table gives it.
    pub local_apic: Option<u64>,
    /// I/O APICs.
    pub io_apics: Vec<IoApic, 8>,
    /// ISA interrupts wired elsewhere.
    pub overrides: Vec<Override, 16>,
    /// Port of the 3.579545 MHz timer.
    pub timer_port: Option<u16>,
    /// Ports of the power-management control registers; 0 if there is none.
    pub control_ports: [u16; 2],
    /// Port and value that turn ACPI mode on, if that is needed.
    pub enable: Option<(u16, u8)>,
    /// Sleep types of `\_S5` for both control registers.
    pub off: Option<[u8; 2]>,
    /// The reset register, if there is one.
    pub reset: Option<ResetRegister>,
}

fn checks_out(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, &b| sum.wrapping_add(b)) == 0
}

/// The table at a physical address, if its checksum is right.
fn table(phys: u64, memory: Memory<'_>) -> Option<&'static [u8]> {
    let bytes = u32_at(memory(phys, HEADER as u64)?, 4).filter(|&n| n <= MAX_TABLE)?;
    memory(phys, u64::from(bytes)).filter(|t| t.len() >= HEADER && checks_out(t))
}

/// Reads the tables that the root pointer `rsdp` leads to.
#[must_use]
pub fn read(rsdp: &[u8], memory: Memory<'_>) -> Option<Acpi> {
    let short = rsdp.get(..20).filter(|r| r.starts_with(b"RSD PTR ") && checks_out(r))?;
    let extended = u8_at(short, 15).filter(|&revision| revision >= 2).and_then(|_| {
        let bytes = u32_at(rsdp, 20)? as usize;
        let whole = rsdp.get(..bytes).filter(|r| checks_out(r))?;
        table(u64_at(whole, 24)?, memory)
    });
    let mut acpi = Acpi::new();
    if let Some(list) = extended {
        for entry in list.get(HEADER..)?.chunks_exact(8) {
            acpi.take_table(u64_at(entry, 0)?, memory);
        }
    } else {
        let list = table(u64::from(u32_at(short, 16)?), memory)?;
        for entry in list.get(HEADER..)?.chunks_exact(4) {
            acpi.take_table(u64::from(u32_at(entry, 0)?), memory);
        }
    }
    Some(acpi)
}

impl Acpi {
    /// Makes an empty record.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            cpus: Vec::new(),
            more_cpus: 0,
            local_apic: None,
            io_apics: Vec::new(),
            overrides: Vec::new(),
            timer_port: None,
            control_ports: [0; 2],
            enable: None,
            off: None,
            reset: None,
        }
    }

    /// Reads one table. If the table is cut short, reads the entries that are whole.
    fn take_table(&mut self, phys: u64, memory: Memory<'_>) {
        let Some(table) = table(phys, memory) else {
            return;
        };
        let _ = match table.get(..4) {
            Some(b"APIC") => self.take_interrupts(table),
            Some(b"FACP") => self.take_power(table, memory),
            _ => None,
        };
    }

    fn take_interrupts(&mut self, table: &[u8]) -> Option<()> {
        self.local_apic = u32_at(table, HEADER).map(u64::from);
        let mut rest = table.get(HEADER + 8..)?;
        while let Some(length) = u8_at(rest, 1).filter(|&n| n >= 2) {
            let entry = rest.get(..usize::from(length))?;
            self.take_controller(entry);
            rest = rest.get(usize::from(length)..)?;
        }
        Some(())
    }

    /// One entry of the interrupt table (5.2.12).
    fn take_controller(&mut self, entry: &[u8]) -> Option<()> {
        match u8_at(entry, 0)? {
            0 if u32_at(entry, 4)? & 1 != 0 => self.take_cpu(u32::from(u8_at(entry, 3)?)),
            9 if u32_at(entry, 8)? & 1 != 0 => self.take_cpu(u32_at(entry, 4)?),
            1 => {
                let address = u64::from(u32_at(entry, 4)?);
                self.io_apics.push(IoApic { address, first: u32_at(entry, 8)? }).ok()?;
            }
            2 => {
                let (irq, pin) = (u8_at(entry, 3)?, u32_at(entry, 4)?);
                self.overrides.push(Override { irq, pin, flags: u16_at(entry, 8)? }).ok()?;
            }
            5 => self.local_apic = u64_at(entry, 4),
            _ => {}
        }
        Some(())
    }

    fn take_cpu(&mut self, id: u32) {
        if !self.cpus.contains(&id) && self.cpus.push(id).is_err() {
            self.more_cpus += 1;
        }
    }

    /// The fixed description table (5.2.9).
    fn take_power(&mut self, table: &[u8], memory: Memory<'_>) -> Option<()> {
        let port = |at: usize| u32_at(table, at).and_then(|p| u16::try_from(p).ok());
        self.control_ports = [port(64)?, port(68)?];
        self.timer_port = port(76).filter(|&p| p != 0);
        if let (Some(port @ 1..), Some(value @ 1..)) = (port(48), u8_at(table, 52)) {
            self.enable = Some((port, value));
        }
        let far = u64_at(table, 140).filter(|&address| address != 0);
        let dsdt = far.or(u32_at(table, 40).map(u64::from))?;
        self.off = self::table(dsdt, memory).and_then(soft_off);
        let flags = u32_at(table, 112)?;
        if flags & 1 << 10 != 0 {
            let (space, address) = (u8_at(table, 116)?, u64_at(table, 120)?);
            self.reset = Some(ResetRegister { space, address, value: u8_at(table, 128)? });
        }
        Some(())
    }

    /// The pin and flags of an ISA interrupt.
    #[must_use]
    pub fn isa_interrupt(&self, irq: u8) -> (u32, u16) {
        let wired = self.overrides.iter().find(|o| o.irq == irq);
        wired.map_or((u32::from(irq), 0), |o| (o.pin, o.flags))
    }
}

/// The sleep types in `Name (_S5, Package () { a, b, … })`, encoded as in 20.2.5.
fn soft_off(dsdt: &[u8]) -> Option<[u8; 2]> {
    let at = dsdt.windows(5).position(|w| w == b"_S5_\x12")?;
    let package = dsdt.get(at + 5..)?;
    // The package length takes 1 to 4 bytes, by the top bits of the first; the element count
    // follows.
    let lead = usize::from(u8_at(package, 0)? >> 6) + 1;
    let mut elements = package.get(lead + 1..)?;
    let mut next = || {
        let (value, size) = match *elements.first()? {
            0x0a => (u8_at(elements, 1)?, 2),
            small @ (0 | 1) => (small, 1),
            _ => return None,
        };
        elements = elements.get(size..)?;
        Some(value)
    };
    let first = next()?;
    Some([first, next().unwrap_or(first)])
}

#[cfg(test)]
mod tests;
