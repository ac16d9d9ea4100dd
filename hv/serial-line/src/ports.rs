//! Port I/O.
//!
//! The rule: the ports passed here belong to devices that ring 0 drives itself (serial, timers,
//! interrupt controllers, ACPI, PCI configuration). An access to these ports cannot change the
//! monitor's memory.
#![expect(unsafe_code, reason = "in and out instructions")]

use x86_64::structures::port::{PortRead, PortWrite};

/// Reads a port.
pub fn input<T: PortRead>(port: u16) -> T {
    // SAFETY: see the module's rule.
    unsafe { T::read_from_port(port) }
}

/// Writes a port.
pub fn output<T: PortWrite>(port: u16, value: T) {
    // SAFETY: see the module's rule.
    unsafe { T::write_to_port(port, value) }
}
