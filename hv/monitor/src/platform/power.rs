//! Ways out: power off, reset, and out of the emulator.
//!
//! The rule: each way is followed by the next more drastic one, so the machine never goes on
//! running a monitor that has said it is done.
#![expect(unsafe_code, reason = "the last way to reset is a fault that cannot be handled")]

use core::arch::asm;

use super::{
    boot,
    log::{error, info},
    panic,
    ports::{input, output},
    serial,
};

/// QEMU's isa-debug-exit device; it exits with twice the value, plus 1.
const DEBUG_EXIT: u16 = 0xf4;
const SLEEP_ENABLE: u16 = 1 << 13;
const ACPI_MODE: u16 = 1;

/// Leaves the emulator if the option `debug-exit` says so; returns otherwise.
pub fn exit_emulator(clean: bool) {
    if boot::options().debug_exit {
        output(DEBUG_EXIT, if clean { 0x10u8 } else { 0x11 });
    }
}

/// Turns the machine off.
pub fn power_off() -> ! {
    serial::write_anyway(serial::CONSOLE, b"");
    exit_emulator(true);
    info!("power off");
    soft_off();
    error!("the machine cannot turn itself off; it is safe to do so");
    panic::halt()
}

/// Enters the sleep state `\_S5` (ACPI 16.1.5).
fn soft_off() {
    let acpi = boot::acpi();
    let [first, second] = acpi.control_ports;
    let Some(types) = acpi.off.filter(|_| first != 0) else {
        return;
    };
    if let Some((port, value)) = acpi.enable
        && input::<u16>(first) & ACPI_MODE == 0
    {
        output(port, value);
        let _ = (0..1_000_000).find(|_| input::<u16>(first) & ACPI_MODE != 0);
    }
    for (port, sleep) in [(first, types[0]), (second, types[1])] {
        if port != 0 {
            output(port, u16::from(sleep & 7) << 10 | SLEEP_ENABLE);
        }
    }
    let _ = (0..1_000_000).find(|_| input::<u16>(first) == 0xffff);
}

/// Resets the machine.
pub fn reset() -> ! {
    serial::write_anyway(serial::CONSOLE, b"");
    exit_emulator(true);
    if let Some(register) = boot::acpi().reset
        && register.space == 1
        && let Ok(port) = u16::try_from(register.address)
    {
        output(port, register.value);
    }
    output(0xcf9u16, 2u8);
    output(0xcf9u16, 6u8);
    let _ = (0..100_000).find(|_| input::<u8>(0x64) & 2 == 0);
    output(0x64u16, 0xfeu8);
    let none = [0u16; 5];
    // SAFETY: with no interrupt descriptors, the breakpoint ends in a shutdown of the CPU, which
    // resets the machine.
    unsafe { asm!("lidt [{}]", "int3", in(reg) &raw const none) };
    panic::halt()
}
