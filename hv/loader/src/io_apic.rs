//! I/O APICs, and the older interrupt controllers they replace.
//!
//! The rule: every pin is masked except those of the two serial ports, which interrupt CPU 0. The
//! older controllers are masked and moved off the exceptions' vectors, since even a masked
//! controller can raise a spurious interrupt.
#![expect(unsafe_code, reason = "APIC registers are device memory")]

use handover::layout::{OLD_VECTORS, VECTOR_COM1, VECTOR_COM2};
use serial_line::ports::output;

use crate::{
    acpi::{Acpi, IoApic},
    memory,
};

const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const ACTIVE_LOW: u32 = 1 << 13;
const VERSION: u32 = 1;
const FIRST_PIN: u32 = 0x10;

/// An I/O APIC's two registers: one selects, and the other is read or written.
struct Registers {
    select: *mut u32,
}

impl Registers {
    fn read(&self, register: u32) -> u32 {
        // SAFETY: `map` mapped both registers uncached; one CPU uses them, while it starts.
        unsafe {
            self.select.write_volatile(register);
            self.select.byte_add(0x10).read_volatile()
        }
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: as in `read`.
        unsafe {
            self.select.write_volatile(register);
            self.select.byte_add(0x10).write_volatile(value);
        }
    }

    /// Sets the target of a pin: the low word of its entry, and the APIC id of the CPU.
    fn route(&self, pin: u32, low: u32, id: u32) {
        self.write(FIRST_PIN + pin * 2, MASKED);
        self.write(FIRST_PIN + pin * 2 + 1, id << 24);
        self.write(FIRST_PIN + pin * 2, low);
    }

    fn pins(&self) -> u32 {
        (self.read(VERSION) >> 16 & 0xff) + 1
    }
}

fn map(io_apic: &IoApic) -> Registers {
    Registers { select: memory::map_device(io_apic.address, 0x20).cast() }
}

/// Masks all pins, and routes the serial ports to the CPU with APIC id `apic_id`.
pub fn set_up(acpi: &Acpi, apic_id: u32) {
    mask_old_controllers();
    let serial = [(4, VECTOR_COM1), (3, VECTOR_COM2)];
    for io_apic in &acpi.io_apics {
        let registers = map(io_apic);
        for pin in 0..registers.pins() {
            registers.route(pin, MASKED, 0);
        }
        for (irq, vector) in serial {
            let (wire, flags) = acpi.isa_interrupt(irq);
            let Some(pin) = wire.checked_sub(io_apic.first) else {
                continue;
            };
            if pin < registers.pins() {
                let polarity = if flags & 3 == 3 { ACTIVE_LOW } else { 0 };
                let trigger = if flags >> 2 & 3 == 3 { LEVEL } else { 0 };
                registers.route(pin, u32::from(vector) | polarity | trigger, apic_id);
            }
        }
    }
}

/// Initialises both controllers (8259A) and masks all their inputs.
fn mask_old_controllers() {
    for (port, vector, wiring) in [(0x20u16, OLD_VECTORS[0], 4u8), (0xa0, OLD_VECTORS[1], 2)] {
        output(port, 0x11u8);
        output(port + 1, vector);
        output(port + 1, wiring);
        output(port + 1, 1u8);
        output(port + 1, 0xffu8);
    }
}
