//! The loader: it runs once in ring 0, between GRUB and the monitor.
//!
//! The loader reads the data that GRUB and the firmware left (multiboot2, ACPI, PCI, the command
//! line). It builds everything that is built only once: the monitor's address space, the areas of
//! CPUs, the first two partitions. Then it hands over one typed block (`handover::Handover`) and
//! jumps to the monitor's entry point. No part of the loader is left when a partition runs: the
//! page map has its memory as free, and the monitor has scrubbed it.
//!
//! On a host target the binary is a stub; the parsers compile there, and are tested there.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "only tested on the host"))]

mod acpi;
mod bytes;
mod clock;
mod early_frames;
mod elf;
mod mitigations;
mod multiboot2;
mod options;
mod pci;
mod regions;

#[cfg(target_os = "none")]
#[path = ""]
mod ring0 {
    pub mod areas;
    pub mod bootstrap;
    pub mod cpu;
    pub mod image;
    pub mod interrupts;
    pub mod io_apic;
    pub mod local_apic;
    pub mod memory;
    pub mod messages;
    pub mod microcode_update;
    pub mod paging;
    pub mod pci_ports;
    pub mod smp;
    pub mod start;
    pub mod time;
}
#[cfg(target_os = "none")]
use ring0::*;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("the loader runs in ring 0: `cargo xtask run` boots it");
    std::process::exit(2);
}
