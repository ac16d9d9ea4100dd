//! Ways to end: power off, reset, and exit from the emulator.
//!
//! The rule: if a way fails, the next more drastic one follows, so the machine never continues to
//! run a monitor that has ended.
#![expect(unsafe_code, reason = "the last way to reset is a fault that cannot be handled")]

use core::arch::asm;

use handover::layout::{DEBUG_EXIT_FAILED, DEBUG_EXIT_PORT};
use serial_line::ports::{input, output};

use super::{
    boot,
    log::{error, info},
    panic, serial,
};

/// The value for QEMU's isa-debug-exit device on a clean end.
const DEBUG_EXIT_CLEAN: u8 = 0x10;
const SLEEP_ENABLE: u16 = 1 << 13;
const ACPI_MODE: u16 = 1;

/// Leaves the emulator if the option `debug-exit` says so; returns otherwise.
pub fn exit_emulator(clean: bool) {
    if boot::handover().is_some_and(|h| h.options.debug_exit != 0) {
        output(DEBUG_EXIT_PORT, if clean { DEBUG_EXIT_CLEAN } else { DEBUG_EXIT_FAILED });
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
    let Some(power) = boot::handover().map(|h| &h.power).filter(|power| power.has_off != 0) else {
        return;
    };
    let [first, second] = power.control_ports;
    if first == 0 {
        return;
    }
    if power.enable_port != 0 && input::<u16>(first) & ACPI_MODE == 0 {
        output(power.enable_port, power.enable_value);
        let _ = (0..1_000_000).find(|_| input::<u16>(first) & ACPI_MODE != 0);
    }
    for (port, sleep) in [(first, power.off[0]), (second, power.off[1])] {
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
    if let Some(power) = boot::handover().map(|h| &h.power).filter(|power| power.reset_port != 0) {
        output(power.reset_port, power.reset_value);
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
