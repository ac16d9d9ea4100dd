//! The machine: everything between the firmware and the monitor proper.
//!
//! The platform takes over what GRUB left (one CPU, a memory map, modules), builds the
//! monitor's address space, starts the other CPUs, and gives the rest of the monitor time,
//! interrupts between CPUs, two serial lines, and a way out. It calls `crate::start` on the first
//! CPU and `crate::start_secondary` on the others, and uses the symbols `trap_stubs` and
//! `entry_page`. The rule: all of it is set up once and policy-free; after the start only
//! per-CPU state changes here.
//!
//! What parses data (`multiboot2`, `acpi`, `options`, `regions`, `symbols`) also compiles, and is
//! tested, on the host.
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "only tested on the host"))]

pub mod acpi;
mod bytes;
pub mod clock;
pub mod early_frames;
pub mod multiboot2;
pub mod options;
pub mod regions;
mod symbols;

#[cfg(target_os = "none")]
pub use hardware::*;

/// What exists on bare hardware only.
#[cfg(target_os = "none")]
#[path = ""]
mod hardware {
    use super::*;

    pub mod apic;
    pub mod boot;
    pub mod cpu_area;
    pub mod descriptors;
    pub mod io_apic;
    pub mod log;
    pub mod memory;
    pub mod no_heap;
    pub mod paging;
    pub mod panic;
    pub mod pci;
    pub mod ports;
    pub mod power;
    pub mod processor;
    pub mod serial;
    pub mod smp;
    pub mod time;

    pub use self::{
        apic::{
            VECTOR_COM1, VECTOR_COM2, VECTOR_FLUSH, VECTOR_RESCHEDULE, VECTOR_TIMER,
            end_of_interrupt, send_ipi,
        },
        boot::{Boot, boot, cpu_count, ram, refuse},
        cpu_area::{cpu_local_page, set_gdt_frames, set_ldt_frames},
        log::{log_raw, log_warning},
        memory::{
            frame_table, free_regions, idle_root, m2p, make_read_only, monitor_l4_slots,
            monitor_regions, phys_to_virt, take_frames,
        },
        panic::{fatal_trap, nmi, stop_host},
        power::{power_off, reset as restart},
        processor::{features, invlpg, reload_cr3},
        serial::{interrupt as serial_interrupt, read as serial_read, write as serial_write},
        time::{now, set_deadline, time_scale, tsc_khz},
    };
}
